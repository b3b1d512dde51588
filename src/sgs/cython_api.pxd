# The core for Cython: `from sgs cimport cython_api`. float or double memoryviews of any strides; nothing is allocated but scratch.
# Shapes: x, y (lines, n); w (lines, n - 1) or (1, n - 1), shared by all lines. Wrong shapes raise ValueError.
from cython cimport floating

# (4) y = scan of x along the last axis.
cdef int scan(floating[:, :] x, floating[:, :] w, floating[:, :] y, bint reverse, int num_threads) except -1 nogil

# (5) y = T(x) along the last axis.
cdef int line_filter(floating[:, :] x, floating[:, :] w, floating[:, :] y, int num_threads) except -1 nogil

# (6) y = A(x) towards the root, and y = U(a) from it.
cdef int tree_aggregate(floating[:, :] x, floating[:, :] w, floating[:, :] y, Py_ssize_t root,
                        int num_threads) except -1 nogil
cdef int tree_update(floating[:, :] a, floating[:, :] w, floating[:, :] y, Py_ssize_t root,
                     int num_threads) except -1 nogil

# (1), (2) Euclidean weights of a guide (C, H, W) along axis 1 (w: (H - 1, W)) or 2 (w: (H, W - 1)).
cdef int edge_weights(floating[:, :, :] guide, floating[:, :] w, int axis, double scale, double step,
                      int num_threads) except -1 nogil

# (7) "cross": x, y (C, H, W), vertical weights (H - 1, W), horizontal weights (H, W - 1).
cdef int semi_global_filter(floating[:, :, :] x, floating[:, :] vertical, floating[:, :] horizontal,
                            floating[:, :, :] y, int num_threads) except -1 nogil
