// pybind11: the functions of sgs_cuda.h on raw device pointers, as the submodule `cuda`.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>
#include <vector>

#include "arguments.h"
#include "sgs_cuda.h"

namespace py = pybind11;

namespace {

using sgs::AnyView;
using sgs::cuda::Scalar;
using sgs::cuda::Workspace;
using Memory = std::optional<std::pair<std::uintptr_t, std::size_t>>;

void* address(std::uintptr_t a) { return reinterpret_cast<void*>(a); } // NOLINT: an address is what was handed over

AnyView view(py::handle object) {
    if (!py::isinstance<py::tuple>(object))
        throw py::type_error("expected (address, dtype code, shape, strides) of device memory, got " +
                             py::str(py::type::of(object)).cast<std::string>());
    return sgs::python::to_view(object);
}

/// A view, or nothing.
class Optional {
  public:
    explicit Optional(py::handle object) {
        if (!object.is_none()) view_ = view(object);
    }
    const AnyView* get() const { return view_ ? &*view_ : nullptr; }

  private:
    std::optional<AnyView> view_;
};

std::vector<AnyView> views(const std::vector<py::object>& objects) {
    std::vector<AnyView> v;
    for (const py::object& o : objects) v.push_back(o.is_none() ? AnyView{} : view(o));
    return v;
}

/// A number, or (address, dtype code) of one in device memory.
Scalar scalar(py::handle object) {
    Scalar s;
    if (py::isinstance<py::tuple>(object)) {
        const auto [at, code] = object.cast<std::pair<std::uintptr_t, int>>();
        s.device = address(at);
        s.dtype = static_cast<sgs::DType>(code);
    } else {
        s.value = object.cast<double>();
    }
    return s;
}

template <class F> std::size_t call(std::uintptr_t stream, const Memory& memory, const F& f) {
    const py::gil_scoped_release unlock;
    if (!memory) return f(address(stream), static_cast<const Workspace*>(nullptr));
    const Workspace workspace{address(memory->first), memory->second};
    return f(address(stream), &workspace);
}

std::size_t scan(py::handle x, py::handle w, py::handle y, int axis, bool reverse, py::handle initial,
                 std::uintptr_t stream, const Memory& workspace) {
    const AnyView xv = view(x), wv = view(w), yv = view(y);
    const Optional start(initial);
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::scan(xv, wv, yv, axis, reverse, start.get(), s, m);
    });
}

std::size_t line_filter(py::handle x, py::handle w, py::handle y, int axis, py::handle left, py::handle right,
                        std::uintptr_t stream, const Memory& workspace) {
    const AnyView xv = view(x), wv = view(w), yv = view(y);
    const Optional lv(left), rv(right);
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::line_filter(xv, wv, yv, axis, lv.get(), rv.get(), s, m);
    });
}

template <auto function> std::size_t tree(py::handle x, py::handle w, py::handle y, int axis, std::int64_t root,
                                          std::uintptr_t stream, const Memory& workspace) {
    const AnyView xv = view(x), wv = view(w), yv = view(y);
    return call(stream, workspace, [&](void* s, const Workspace* m) { return function(xv, wv, yv, axis, root, s, m); });
}

std::size_t edge_weights(py::handle guide, py::handle w, int channel_axis, int axis, py::handle scale, py::handle step,
                         int metric, py::handle confidence, std::uintptr_t stream, const Memory& workspace) {
    const AnyView gv = view(guide), wv = view(w);
    const Optional cv(confidence);
    const Scalar scale_value = scalar(scale), step_value = scalar(step);
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::edge_weights(gv, wv, channel_axis, axis, scale_value, step_value,
                                       static_cast<sgs::Metric>(metric), cv.get(), s, m);
    });
}

std::size_t semi_global_filter(py::handle x, const std::vector<py::object>& weights, py::handle y,
                               const std::vector<int>& axes, int normalization, bool residual, py::handle confidence,
                               double fill_value, py::handle support, std::uintptr_t stream, const Memory& workspace) {
    const AnyView xv = view(x), yv = view(y);
    const std::vector<AnyView> wv = views(weights);
    const Optional cv(confidence), sv(support);
    const sgs::FilterOptions filter{static_cast<sgs::Normalization>(normalization), residual, fill_value};
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::semi_global_filter(xv, wv, yv, axes, filter, cv.get(), sv.get(), s, m);
    });
}

std::size_t scan_backward(py::handle x, py::handle w, py::handle initial, py::handle y_bar, py::handle x_bar,
                          py::handle w_bar, py::handle initial_bar, int axis, bool reverse, std::uintptr_t stream,
                          const Memory& workspace) {
    const AnyView xv = view(x), wv = view(w), yv = view(y_bar);
    const Optional start(initial), xb(x_bar), wb(w_bar), ib(initial_bar);
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::scan_backward(xv, wv, start.get(), yv, xb.get(), wb.get(), ib.get(), axis, reverse, s, m);
    });
}

std::size_t line_filter_backward(py::handle x, py::handle w, py::handle left, py::handle right, py::handle y_bar,
                                 py::handle x_bar, py::handle w_bar, py::handle left_bar, py::handle right_bar,
                                 int axis, std::uintptr_t stream, const Memory& workspace) {
    const AnyView xv = view(x), wv = view(w), yv = view(y_bar);
    const Optional lv(left), rv(right), xb(x_bar), wb(w_bar), lb(left_bar), rb(right_bar);
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::line_filter_backward(xv, wv, lv.get(), rv.get(), yv, xb.get(), wb.get(), lb.get(), rb.get(),
                                               axis, s, m);
    });
}

std::size_t edge_weights_backward(py::handle guide, py::handle w_bar, py::handle guide_bar, py::handle scale_bar,
                                  py::handle step_bar, int channel_axis, int axis, py::handle scale, py::handle step,
                                  int metric, py::handle confidence, std::uintptr_t stream, const Memory& workspace) {
    const AnyView gv = view(guide), wb = view(w_bar);
    const Optional gb(guide_bar), scale_b(scale_bar), step_b(step_bar), cv(confidence);
    const Scalar scale_value = scalar(scale), step_value = scalar(step);
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::edge_weights_backward(gv, wb, gb.get(), scale_b.get(), step_b.get(), channel_axis, axis,
                                                scale_value, step_value, static_cast<sgs::Metric>(metric), cv.get(), s,
                                                m);
    });
}

std::size_t semi_global_filter_backward(py::handle x, const std::vector<py::object>& weights, py::handle y_bar,
                                        py::handle support_bar, py::handle x_bar,
                                        const std::vector<py::object>& weights_bar, py::handle confidence_bar,
                                        const std::vector<int>& axes, int normalization, bool residual,
                                        py::handle confidence, std::uintptr_t stream, const Memory& workspace) {
    const AnyView xv = view(x), yv = view(y_bar);
    const std::vector<AnyView> wv = views(weights);
    std::vector<AnyView> wb = views(weights_bar);
    // None is told from an array whose address is not known yet by the rank alone: both may have address 0.
    for (std::size_t k = 0; k < wb.size(); ++k) wb[k].ndim = weights_bar[k].is_none() ? -1 : wb[k].ndim;
    const Optional sb(support_bar), xb(x_bar), cb(confidence_bar), cv(confidence);
    const sgs::FilterOptions filter{static_cast<sgs::Normalization>(normalization), residual, 0.0};
    return call(stream, workspace, [&](void* s, const Workspace* m) {
        return sgs::cuda::semi_global_filter_backward(xv, wv, yv, sb.get(), xb.get(), wb, cb.get(), axes, filter,
                                                      cv.get(), s, m);
    });
}

} // namespace

/// Adds the functions to m; each returns the bytes of workspace that it needs, and without a workspace does only that.
void bind_cuda(py::module_& m) {
    m.def("available", &sgs::cuda::cuda_available);
    m.def("reason", &sgs::cuda::reason_unavailable);
    m.def("version", &sgs::cuda::cuda_version);
    m.def("architectures", &sgs::cuda::cuda_architectures);
    m.def("scan", &scan);
    m.def("line_filter", &line_filter);
    m.def("tree_aggregate", &tree<&sgs::cuda::tree_aggregate>);
    m.def("tree_update", &tree<&sgs::cuda::tree_update>);
    m.def("edge_weights", &edge_weights);
    m.def("semi_global_filter", &semi_global_filter);
    m.def("scan_backward", &scan_backward);
    m.def("line_filter_backward", &line_filter_backward);
    m.def("edge_weights_backward", &edge_weights_backward);
    m.def("semi_global_filter_backward", &semi_global_filter_backward);
}
