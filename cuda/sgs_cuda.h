// The functions of sgs.h, and their derivatives, on device memory and the caller's stream. Equation numbers:
// docs/math.md.
//
// Contracts are those of sgs.h (broadcasting, y may be exactly x, cut edges), and further:
//  - Views hold device pointers. Everything is queued on `stream` (a cudaStream_t) of the current device; nothing
//  waits, nothing is
//    allocated, and nothing depends on values, so that every call may be captured into a CUDA graph.
//  - Scratch comes from the caller: every function returns how many bytes of workspace it needs. Without a workspace
//  (null) that is
//    all it does, and no pointer is looked at; with one it queues the work, or throws if the workspace is smaller than
//    that. A workspace is aligned to 256 bytes (as allocators do) and may be used again by work queued later on the
//    same stream.
//  - Results are the same in every run on the same device: sums have a fixed order, and there are no atomics.
//  - Outputs of the backward functions may be null where they are not wanted. They have any dtype and strides, and are
//  overwritten.
//  - Throws std::runtime_error with CUDA's own words where a launch fails, or where this build or machine has no CUDA.
#pragma once

#include "sgs.h"

namespace sgs::cuda {

/// False where this build has no CUDA or the machine no usable device or driver; `reason` then says which.
bool cuda_available();
const char* reason_unavailable();
/// CUDA's version as in "13.0", and the architectures compiled for as in "75,80"; "no" and "" in a build without.
const char* cuda_version();
const char* cuda_architectures();

struct Workspace {
    void* data = nullptr;
    std::size_t bytes = 0;
};

/// A number the host knows, or one in device memory (a learnable parameter), read when the kernel runs.
struct Scalar {
    double value = 0.0;
    const void* device = nullptr;
    DType dtype = DType::float32;
};

/// (4)
std::size_t scan(const AnyView& x, const AnyView& w, const AnyView& y, int axis, bool reverse, const AnyView* initial,
                 void* stream, const Workspace* workspace);

/// (5)
std::size_t line_filter(const AnyView& x, const AnyView& w, const AnyView& y, int axis, const AnyView* left,
                        const AnyView* right, void* stream, const Workspace* workspace);

/// (6)
std::size_t tree_aggregate(const AnyView& x, const AnyView& w, const AnyView& y, int axis, std::int64_t root,
                           void* stream, const Workspace* workspace);
std::size_t tree_update(const AnyView& a, const AnyView& w, const AnyView& y, int axis, std::int64_t root, void* stream,
                        const Workspace* workspace);

/// (1), (2)
std::size_t edge_weights(const AnyView& guide, const AnyView& w, int channel_axis, int axis, const Scalar& scale,
                         const Scalar& step, Metric metric, const AnyView* confidence, void* stream,
                         const Workspace* workspace);

/// (7), (8)
std::size_t semi_global_filter(const AnyView& x, std::span<const AnyView> weights, const AnyView& y,
                               std::span<const int> axes, const FilterOptions& filter, const AnyView* confidence,
                               const AnyView* support, void* stream, const Workspace* workspace);

/// (11) for scan. x_bar has x's shape; w_bar and initial_bar are summed to the shapes of w and initial, which they
/// have.
std::size_t scan_backward(const AnyView& x, const AnyView& w, const AnyView* initial, const AnyView& y_bar,
                          const AnyView* x_bar, const AnyView* w_bar, const AnyView* initial_bar, int axis,
                          bool reverse, void* stream, const Workspace* workspace);

/// (11) for line_filter.
std::size_t line_filter_backward(const AnyView& x, const AnyView& w, const AnyView* left, const AnyView* right,
                                 const AnyView& y_bar, const AnyView* x_bar, const AnyView* w_bar,
                                 const AnyView* left_bar, const AnyView* right_bar, int axis, void* stream,
                                 const Workspace* workspace);

/// (11) for edge_weights. guide_bar has guide's shape, scale_bar and step_bar have one element.
std::size_t edge_weights_backward(const AnyView& guide, const AnyView& w_bar, const AnyView* guide_bar,
                                  const AnyView* scale_bar, const AnyView* step_bar, int channel_axis, int axis,
                                  const Scalar& scale, const Scalar& step, Metric metric, const AnyView* confidence,
                                  void* stream, const Workspace* workspace);

/// (11) for semi_global_filter. support_bar (may be null) is the derivative by the support output, of the support's
/// shape. weights_bar is empty or has one entry for each axis, of that weight's shape; data is null where one is not
/// wanted.
std::size_t semi_global_filter_backward(const AnyView& x, std::span<const AnyView> weights, const AnyView& y_bar,
                                        const AnyView* support_bar, const AnyView* x_bar,
                                        std::span<const AnyView> weights_bar, const AnyView* confidence_bar,
                                        std::span<const int> axes, const FilterOptions& filter,
                                        const AnyView* confidence, void* stream, const Workspace* workspace);

} // namespace sgs::cuda
