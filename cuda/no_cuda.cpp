// The functions of sgs_cuda.h in a build without a CUDA compiler: none is available.
#include <stdexcept>

#include "sgs_cuda.h"

namespace sgs::cuda {

namespace {
constexpr const char* kReason = "this build of sgs has no CUDA: build it from source where nvcc is found (SGS_CUDA=ON)";
[[noreturn]] std::size_t refuse() { throw std::runtime_error(kReason); }
} // namespace

bool cuda_available() { return false; }
const char* reason_unavailable() { return kReason; }
const char* cuda_version() { return "no"; }
const char* cuda_architectures() { return ""; }

std::size_t scan(const AnyView&, const AnyView&, const AnyView&, int, bool, const AnyView*, void*, const Workspace*) {
    return refuse();
}
std::size_t line_filter(const AnyView&, const AnyView&, const AnyView&, int, const AnyView*, const AnyView*, void*,
                        const Workspace*) {
    return refuse();
}
std::size_t tree_aggregate(const AnyView&, const AnyView&, const AnyView&, int, std::int64_t, void*, const Workspace*) {
    return refuse();
}
std::size_t tree_update(const AnyView&, const AnyView&, const AnyView&, int, std::int64_t, void*, const Workspace*) {
    return refuse();
}
std::size_t edge_weights(const AnyView&, const AnyView&, int, int, const Scalar&, const Scalar&, Metric, const AnyView*,
                         void*, const Workspace*) {
    return refuse();
}
std::size_t semi_global_filter(const AnyView&, std::span<const AnyView>, const AnyView&, std::span<const int>,
                               const FilterOptions&, const AnyView*, const AnyView*, void*, const Workspace*) {
    return refuse();
}
std::size_t scan_backward(const AnyView&, const AnyView&, const AnyView*, const AnyView&, const AnyView*,
                          const AnyView*, const AnyView*, int, bool, void*, const Workspace*) {
    return refuse();
}
std::size_t line_filter_backward(const AnyView&, const AnyView&, const AnyView*, const AnyView*, const AnyView&,
                                 const AnyView*, const AnyView*, const AnyView*, const AnyView*, int, void*,
                                 const Workspace*) {
    return refuse();
}
std::size_t edge_weights_backward(const AnyView&, const AnyView&, const AnyView*, const AnyView*, const AnyView*, int,
                                  int, const Scalar&, const Scalar&, Metric, const AnyView*, void*, const Workspace*) {
    return refuse();
}
std::size_t semi_global_filter_backward(const AnyView&, std::span<const AnyView>, const AnyView&, const AnyView*,
                                        const AnyView*, std::span<const AnyView>, const AnyView*, std::span<const int>,
                                        const FilterOptions&, const AnyView*, void*, const Workspace*) {
    return refuse();
}

} // namespace sgs::cuda
