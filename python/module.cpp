// pybind11: arrays or raw pointers become views, the interpreter's lock is released, the core runs.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "backward_module.h"
#include "call.h"
#include "cuda_module.h"
#include "large_pages.h"
#include "scratch.h"
#include "sgs.h"
#include "sgs_cuda.h"

namespace py = pybind11;

namespace {

using sgs::AnyView;
using sgs::Options;
using sgs::python::call;
using sgs::python::pointer;
using sgs::python::to_view;
using sgs::python::to_view_or_null;

void scan(py::handle x, py::handle w, py::handle y, int axis, bool reverse, py::handle initial, int num_threads) {
    const AnyView xv = to_view(x), wv = to_view(w), yv = to_view(y);
    const std::optional<AnyView> start = to_view_or_null(initial);
    call(num_threads, [&](const Options& o) { sgs::scan(xv, wv, yv, axis, reverse, pointer(start), o); });
}

void line_filter(py::handle x, py::handle w, py::handle y, int axis, py::handle left, py::handle right,
                 int num_threads) {
    const AnyView xv = to_view(x), wv = to_view(w), yv = to_view(y);
    const std::optional<AnyView> lv = to_view_or_null(left), rv = to_view_or_null(right);
    call(num_threads, [&](const Options& o) { sgs::line_filter(xv, wv, yv, axis, pointer(lv), pointer(rv), o); });
}

template <auto function>
void tree(py::handle x, py::handle w, py::handle y, int axis, std::int64_t root, int num_threads) {
    const AnyView xv = to_view(x), wv = to_view(w), yv = to_view(y);
    call(num_threads, [&](const Options& o) { function(xv, wv, yv, axis, root, o); });
}

void edge_weights(py::handle guide, py::handle w, int channel_axis, int axis, double scale, double step, int metric,
                  py::handle confidence, int num_threads) {
    const AnyView gv = to_view(guide), wv = to_view(w);
    const std::optional<AnyView> cv = to_view_or_null(confidence);
    call(num_threads, [&](const Options& o) {
        sgs::edge_weights(gv, wv, channel_axis, axis, scale, step, static_cast<sgs::Metric>(metric), pointer(cv), o);
    });
}

void semi_global_filter(py::handle x, const std::vector<py::object>& weights, py::handle y,
                        const std::vector<int>& axes, int normalization, bool residual, py::handle confidence,
                        double fill_value, py::handle support, int num_threads, std::int64_t blocks) {
    const AnyView xv = to_view(x), yv = to_view(y);
    std::vector<AnyView> wv;
    for (const py::object& w : weights) wv.push_back(to_view(w));
    const std::optional<AnyView> cv = to_view_or_null(confidence), sv = to_view_or_null(support);
    const sgs::FilterOptions filter{static_cast<sgs::Normalization>(normalization), residual, fill_value, blocks};
    call(num_threads,
         [&](const Options& o) { sgs::semi_global_filter(xv, wv, yv, axes, filter, pointer(cv), pointer(sv), o); });
}

// The same from a guide: an axis of its channels at channel_axis, else as x is.
void guided_filter(py::handle x, py::handle guide, int channel_axis, const std::vector<double>& scales,
                   const std::vector<double>& steps, int metric, py::handle guide_confidence, py::handle y,
                   const std::vector<int>& axes, int normalization, bool residual, py::handle confidence,
                   double fill_value, py::handle support, int num_threads) {
    const AnyView xv = to_view(x), gv = to_view(guide), yv = to_view(y);
    const std::optional<AnyView> cv = to_view_or_null(confidence), sv = to_view_or_null(support),
                                 tv = to_view_or_null(guide_confidence);
    const sgs::Guide from{gv, channel_axis, scales, steps, static_cast<sgs::Metric>(metric), pointer(tv)};
    const sgs::FilterOptions filter{static_cast<sgs::Normalization>(normalization), residual, fill_value};
    call(num_threads,
         [&](const Options& o) { sgs::semi_global_filter(xv, from, yv, axes, filter, pointer(cv), pointer(sv), o); });
}

void set_isa(const std::string& name) {
    if (sgs::set_isa(name.c_str())) return;
    std::string names;
    for (const char* isa : sgs::available_isas()) names += std::string(names.empty() ? "" : ", ") + isa;
    throw py::value_error("name: expected an instruction set of this machine (" + names + "), got '" + name + "'");
}

// A forced instruction set that this machine lacks must not pass unseen.
void check_environment() {
    const char* wanted = std::getenv("SGS_ISA");
    if (wanted == nullptr || *wanted == '\0' || sgs::set_isa(wanted)) return;
    const std::string message = std::string("SGS_ISA: expected an instruction set of this machine, got '") + wanted +
                                "'; using " + sgs::get_isa();
    if (PyErr_WarnEx(PyExc_RuntimeWarning, message.c_str(), 1) != 0) throw py::error_already_set();
}

py::dict build_info() {
    py::dict info;
#if defined(__clang__)
    info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
    info["compiler"] = "gcc " __VERSION__;
#else
    info["compiler"] = "unknown";
#endif
#if defined(_OPENMP)
    info["openmp"] = std::to_string(_OPENMP);
#else
    info["openmp"] = "no";
#endif
    const std::string architectures = sgs::cuda::cuda_architectures();
    info["cuda"] = sgs::cuda::cuda_version() + (architectures.empty() ? "" : " for " + architectures);
    return info;
}

} // namespace

PYBIND11_MODULE(_core, m) {
    using namespace py::literals;
    check_environment();
    m.attr("NONE") = static_cast<int>(sgs::Normalization::none);
    m.attr("LINE") = static_cast<int>(sgs::Normalization::line);
    m.attr("CROSS") = static_cast<int>(sgs::Normalization::cross);
    m.attr("CROSS_SUM") = static_cast<int>(sgs::Normalization::cross_sum);
    m.attr("EUCLIDEAN") = static_cast<int>(sgs::Metric::euclidean);
    m.attr("CITYBLOCK") = static_cast<int>(sgs::Metric::cityblock);
    m.attr("SQEUCLIDEAN") = static_cast<int>(sgs::Metric::sqeuclidean);
    m.def("scan", &scan);
    m.def("line_filter", &line_filter);
    m.def("tree_aggregate", &tree<&sgs::tree_aggregate>);
    m.def("tree_update", &tree<&sgs::tree_update>);
    m.def("edge_weights", &edge_weights);
    m.def("semi_global_filter", &semi_global_filter, "x"_a, "weights"_a, "y"_a, "axes"_a, "normalization"_a,
          "residual"_a, "confidence"_a, "fill_value"_a, "support"_a, "num_threads"_a, "blocks"_a = 1);
    m.def("guided_filter", &guided_filter);
    sgs::python::bind_backward(m);
    py::module_ cuda = m.def_submodule("cuda", "The same functions on device memory.");
    bind_cuda(cuda);
    m.def("get_isa", &sgs::get_isa);
    m.def("set_isa", &set_isa);
    m.def("available_isas", [] {
        const auto names = sgs::available_isas();
        return std::vector<std::string>(names.begin(), names.end());
    });
    m.def("forked", &sgs::forked);
    m.def("keep_scratch", &sgs::keep_scratch);
    m.def("prefer_large_pages", [](std::uintptr_t address, std::size_t size) {
        sgs::prefer_large_pages(reinterpret_cast<void*>(address), size);
    });
    m.def("cuda_available", &sgs::cuda::cuda_available);
    m.def("build_info", &build_info);
}
