// Derivatives of the support along all lines of an array (11).
#pragma once

#include "lines.cuh"

namespace sgs::cuda {

/// How the lines of one array are shared among blocks when derivatives by weights are summed.
struct BackwardPlan {
    std::int64_t length = 1; // of a chunk
    std::int64_t groups = 1; // parts of each sum, one block each; partial sums are dense arrays like w, one for each
    bool lanes_are_summed = false; // a block's lanes run along the dimensions that w broadcasts along
    bool summed[kMaxDims] = {};    // those dimensions
};
template <class C> BackwardPlan plan_backward(const AnyView& domain, int axis, const AnyView& w);

/// What comes of one pass: x_bar (may be null) = [y_bar +] support of y_bar [+ sum] [+ residual], and its two ends.
template <class C> struct BackwardOutputs {
    const AnyView* x_bar = nullptr;
    const AnyView* sum = nullptr;
    bool with_source = true;
    bool residual = false; // plus y_bar's values
    C* first = nullptr;    // x_bar at the first and the last element of each line, without rounding: dense like
    C* last = nullptr;     // ends_of(domain)
};

/// A dense array over the lines of domain.
template <class C> AnyView ends_of(const AnyView& domain, int axis, C* memory);

/// w_bar_i of (11), summed over what w broadcasts along, into plan.groups dense arrays laid out as dense_like(w), or
/// where there is one group into `single` if that is not null. forward: the products F_i(x) B_{i+1}(y_bar); backward:
/// F_i(y_bar) B_{i+1}(x).
template <class C> void run_backward(Queue& queue, const AnyView& domain, int axis, const Source& x,
                                     const Source& y_bar, const AnyView& w, bool forward, bool backward,
                                     const AnyView* left, const AnyView* right, const BackwardPlan& plan, C* parts,
                                     const AnyView* single, const BackwardOutputs<C>& outputs);

} // namespace sgs::cuda
