// pybind11: derivatives, bound as functions of `_core`.
#include "backward_module.h"

#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "arguments.h"
#include "call.h"
#include "sgs.h"

namespace py = pybind11;

namespace sgs::python {
namespace {

void scan_backward(py::handle x, py::handle w, py::handle initial, py::handle y_bar, py::handle x_bar, py::handle w_bar,
                   py::handle initial_bar, int axis, bool reverse, int num_threads) {
    const AnyView xv = to_view(x), wv = to_view(w), gv = to_view(y_bar), xb = to_view(x_bar);
    const auto start = to_view_or_null(initial), wb = to_view_or_null(w_bar), sb = to_view_or_null(initial_bar);
    call(num_threads, [&](const Options& o) {
        sgs::scan_backward(xv, wv, pointer(start), gv, xb, pointer(wb), pointer(sb), axis, reverse, o);
    });
}

void line_filter_backward(py::handle x, py::handle w, py::handle left, py::handle right, py::handle y_bar,
                          py::handle x_bar, py::handle w_bar, py::handle left_bar, py::handle right_bar, int axis,
                          int num_threads) {
    const AnyView xv = to_view(x), wv = to_view(w), gv = to_view(y_bar), xb = to_view(x_bar);
    const auto lv = to_view_or_null(left), rv = to_view_or_null(right), wb = to_view_or_null(w_bar),
               lb = to_view_or_null(left_bar), rb = to_view_or_null(right_bar);
    call(num_threads, [&](const Options& o) {
        sgs::line_filter_backward(xv, wv, pointer(lv), pointer(rv), gv, xb, pointer(wb), pointer(lb), pointer(rb), axis,
                                  o);
    });
}

void edge_weights_backward(py::handle guide, py::handle w_bar, py::handle guide_bar, py::handle scale_bar,
                           py::handle step_bar, int channel_axis, int axis, double scale, double step, int metric,
                           py::handle confidence, int num_threads) {
    const AnyView gv = to_view(guide), wb = to_view(w_bar);
    const auto gb = to_view_or_null(guide_bar), sb = to_view_or_null(scale_bar), tb = to_view_or_null(step_bar),
               cv = to_view_or_null(confidence);
    call(num_threads, [&](const Options& o) {
        sgs::edge_weights_backward(gv, wb, pointer(gb), pointer(sb), pointer(tb), channel_axis, axis, scale, step,
                                   static_cast<Metric>(metric), pointer(cv), o);
    });
}

void semi_global_filter_backward(py::handle x, const std::vector<py::object>& weights, py::handle y_bar,
                                 py::handle x_bar, const std::vector<py::object>& weights_bar,
                                 py::handle confidence_bar, const std::vector<int>& axes, int normalization,
                                 bool residual, py::handle confidence, int num_threads) {
    const AnyView xv = to_view(x), gv = to_view(y_bar), xb = to_view(x_bar);
    std::vector<AnyView> wv;
    for (const py::object& w : weights) wv.push_back(to_view(w));
    std::vector<std::optional<AnyView>> bars;
    for (const py::object& w : weights_bar) bars.push_back(to_view_or_null(w));
    std::vector<const AnyView*> wb;
    for (const std::optional<AnyView>& w : bars) wb.push_back(pointer(w));
    const auto cv = to_view_or_null(confidence), cb = to_view_or_null(confidence_bar);
    call(num_threads, [&](const Options& o) {
        sgs::semi_global_filter_backward(xv, wv, gv, xb, wb, pointer(cb), axes,
                                         static_cast<Normalization>(normalization), residual, pointer(cv), o);
    });
}

} // namespace

void bind_backward(py::module_& m) {
    m.def("scan_backward", &scan_backward);
    m.def("line_filter_backward", &line_filter_backward);
    m.def("edge_weights_backward", &edge_weights_backward);
    m.def("semi_global_filter_backward", &semi_global_filter_backward);
}

} // namespace sgs::python
