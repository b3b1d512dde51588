// Derivatives of the support along two axes at once (11): a plane, or a tile of it, in shared memory.
#pragma once

#include "lines.cuh"

namespace sgs::cuda {

/// How planes are cut into tiles, and which are summed by one block.
struct PlaneBackwardPlan {
    int tile_rows = 1, tile_columns = 1;
    int threads = 0;
    std::int64_t groups = 1;  // parts of each sum, one block each
    std::size_t shared = 0;   // bytes of a block
    bool keeps_edges = false; // of rows, from plane to plane
    bool summed[kMaxDims] = {};
};

/// What comes of one pass over x and z = the source of y_bar: x_bar (may be null) = [c] (times z + support of z)
/// [+ y_bar], and sums over the planes that a group holds: dense arrays like dense_like(kept), one for each group,
/// that along an axis being one shorter there for its weights. Null where they are not wanted.
template <class C> struct PlaneBackwardOutputs {
    const AnyView* x_bar = nullptr;
    const AnyView* confidence = nullptr; // c above; the residual passes where it is not 0
    int times = 1;
    bool residual = false;
    C* weights[2] = {};       // of the first and the second axis: w_bar of (11)
    C* supports[2] = {};      // z (x + support of x) of both axes in the first, or with scales of each by itself
    C* confidences = nullptr; // x's values times (times z + support of z), where confidence is not 0
};

/// Whether planes of these axes of domain can be taken, whole or in tiles; sums: how many of `supports` are
/// wanted.
template <class C> bool takes_planes_backward(const AnyView& domain, int axis_a, int axis_b, int sums);

/// kept: domain, with length 1 where planes are summed.
template <class C>
PlaneBackwardPlan plan_planes_backward(const AnyView& domain, int axis_a, int axis_b, const AnyView& kept, int sums);

/// With scales, one for each axis and without confidence, each axis has a z of its own: z's values times its scale.
/// x_bar is then the sum over axes of z + support of z [+ y_bar].
template <class C> void run_planes_backward(Queue& queue, const AnyView& domain, int axis_a, int axis_b,
                                            const AnyView& kept, const Source& x, const Source& z, const AnyView& w_a,
                                            const AnyView& w_b, std::span<const AnyView> scales,
                                            const PlaneBackwardPlan& plan, const PlaneBackwardOutputs<C>& outputs);

/// Where the partial sums of an axis' weights lie: kept, one shorter along the axis.
AnyView edges_of(const AnyView& kept, int axis);

} // namespace sgs::cuda
