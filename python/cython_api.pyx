# cython: language_level=3, boundscheck=False, wraparound=False
"""Typed functions of the core for `cimport` (see cython_api.pxd)."""
from cython cimport floating
from libc.stdint cimport int64_t
from libcpp cimport bool as cpp_bool

cdef extern from "sgs.h" namespace "sgs" nogil:
    cdef enum class DType(int):
        float32
        float64

    cdef enum class Metric(int):
        euclidean

    cdef cppclass Shape "std::array<std::int64_t, sgs::kMaxDims>":
        int64_t& operator[](size_t)

    cdef cppclass AnyView:
        void* data
        DType dtype
        int ndim
        Shape shape
        Shape strides

    cdef cppclass Options:
        int num_threads

    cdef cppclass FilterOptions:
        pass

    cdef cppclass ViewSpan "std::span<const sgs::AnyView>":
        ViewSpan(const AnyView*, size_t)

    cdef cppclass IntSpan "std::span<const int>":
        IntSpan(const int*, size_t)

    void core_scan "sgs::scan"(const AnyView&, const AnyView&, const AnyView&, int, cpp_bool, const AnyView*,
                               const Options&) except +
    void core_line_filter "sgs::line_filter"(const AnyView&, const AnyView&, const AnyView&, int, const AnyView*,
                                             const AnyView*, const Options&) except +
    void core_tree_aggregate "sgs::tree_aggregate"(const AnyView&, const AnyView&, const AnyView&, int, int64_t,
                                                   const Options&) except +
    void core_tree_update "sgs::tree_update"(const AnyView&, const AnyView&, const AnyView&, int, int64_t,
                                             const Options&) except +
    void core_edge_weights "sgs::edge_weights"(const AnyView&, const AnyView&, int, int, double, double, Metric,
                                               const AnyView*, const Options&) except +
    void core_semi_global_filter "sgs::semi_global_filter"(const AnyView&, ViewSpan, const AnyView&, IntSpan,
                                                           const FilterOptions&, const AnyView*, const AnyView*,
                                                           const Options&) except +


cdef AnyView view2(floating[:, :] a) noexcept nogil:
    cdef AnyView v
    cdef int d
    v.data = <void*>&a[0, 0] if a.shape[0] > 0 and a.shape[1] > 0 else NULL
    v.dtype = DType.float32 if floating is float else DType.float64
    v.ndim = 2
    for d in range(2):
        v.shape[d] = a.shape[d]
        v.strides[d] = a.strides[d] // <Py_ssize_t>sizeof(floating)
    return v


cdef AnyView view3(floating[:, :, :] a) noexcept nogil:
    cdef AnyView v
    cdef int d
    v.data = <void*>&a[0, 0, 0] if a.shape[0] > 0 and a.shape[1] > 0 and a.shape[2] > 0 else NULL
    v.dtype = DType.float32 if floating is float else DType.float64
    v.ndim = 3
    for d in range(3):
        v.shape[d] = a.shape[d]
        v.strides[d] = a.strides[d] // <Py_ssize_t>sizeof(floating)
    return v


cdef int require(bint right, const char* message) except -1 nogil:
    if not right:
        with gil:
            raise ValueError(message.decode())
    return 0


cdef int require_lines(floating[:, :] x, floating[:, :] w, floating[:, :] y) except -1 nogil:
    require(y.shape[0] == x.shape[0] and y.shape[1] == x.shape[1], "y: expected the shape of x")
    require(w.shape[1] == max(x.shape[1] - 1, <Py_ssize_t>0), "w: expected length n - 1 on the last axis")
    require(w.shape[0] == x.shape[0] or w.shape[0] == 1, "w: expected as many lines as x, or one")
    return 0


cdef Options with_threads(int num_threads) noexcept nogil:
    cdef Options options
    options.num_threads = num_threads
    return options


cdef int scan(floating[:, :] x, floating[:, :] w, floating[:, :] y, bint reverse, int num_threads) except -1 nogil:
    require_lines(x, w, y)
    core_scan(view2(x), view2(w), view2(y), 1, reverse, NULL, with_threads(num_threads))
    return 0


cdef int line_filter(floating[:, :] x, floating[:, :] w, floating[:, :] y, int num_threads) except -1 nogil:
    require_lines(x, w, y)
    core_line_filter(view2(x), view2(w), view2(y), 1, NULL, NULL, with_threads(num_threads))
    return 0


cdef int tree_aggregate(floating[:, :] x, floating[:, :] w, floating[:, :] y, Py_ssize_t root,
                        int num_threads) except -1 nogil:
    require_lines(x, w, y)
    require(0 <= root < x.shape[1], "root: expected a position on the line")
    core_tree_aggregate(view2(x), view2(w), view2(y), 1, root, with_threads(num_threads))
    return 0


cdef int tree_update(floating[:, :] a, floating[:, :] w, floating[:, :] y, Py_ssize_t root,
                     int num_threads) except -1 nogil:
    require_lines(a, w, y)
    require(0 <= root < a.shape[1], "root: expected a position on the line")
    core_tree_update(view2(a), view2(w), view2(y), 1, root, with_threads(num_threads))
    return 0


cdef int edge_weights(floating[:, :, :] guide, floating[:, :] w, int axis, double scale, double step,
                      int num_threads) except -1 nogil:
    require(axis == 1 or axis == 2, "axis: expected 1 or 2")
    require(scale > 0, "scale: expected a number above 0")
    require(step >= 0, "step: expected a number of at least 0")
    cdef AnyView g = view3(guide)
    cdef AnyView flat = view2(w)
    cdef AnyView out
    cdef int d
    for d in range(2):
        require(w.shape[d] == guide.shape[d + 1] - (1 if axis == d + 1 and guide.shape[axis] > 0 else 0),
                "w: expected (H - 1, W) for axis 1 or (H, W - 1) for axis 2")
    out.data = flat.data
    out.dtype = flat.dtype
    out.ndim = 3
    out.shape[0] = 1
    out.strides[0] = 0
    for d in range(2):
        out.shape[d + 1] = flat.shape[d]
        out.strides[d + 1] = flat.strides[d]
    core_edge_weights(g, out, 0, axis, scale, step, Metric.euclidean, NULL, with_threads(num_threads))
    return 0


cdef int semi_global_filter(floating[:, :, :] x, floating[:, :] vertical, floating[:, :] horizontal,
                            floating[:, :, :] y, int num_threads) except -1 nogil:
    cdef AnyView[2] weights
    cdef int[2] axes
    cdef FilterOptions options
    cdef int d
    for d in range(3):
        require(y.shape[d] == x.shape[d], "y: expected the shape of x")
    require(vertical.shape[0] == max(x.shape[1] - 1, <Py_ssize_t>0) and vertical.shape[1] == x.shape[2],
            "vertical: expected (H - 1, W)")
    require(horizontal.shape[0] == x.shape[1] and horizontal.shape[1] == max(x.shape[2] - 1, <Py_ssize_t>0),
            "horizontal: expected (H, W - 1)")
    axes[0] = 1
    axes[1] = 2
    weights[0] = view2(vertical)
    weights[1] = view2(horizontal)
    core_semi_global_filter(view3(x), ViewSpan(weights, 2), view3(y), IntSpan(axes, 2), options, NULL, NULL,
                            with_threads(num_threads))
    return 0
