// Parts of the semi-global filter (7), (8) that its derivative needs too.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "lines.cuh"

namespace sgs::cuda {

/// One block's operands, and the shape of its support: length 1 where neither weights nor confidence change.
struct Block {
    AnyView x;
    std::span<const AnyView> weights;
    std::span<const int> axes;
    const AnyView* confidence;
    AnyView support_shape;

    Block(const AnyView& x, std::span<const AnyView> weights, std::span<const int> axes, const AnyView* confidence);
    bool trusts() const { return confidence != nullptr; }
    Ranges ranges(std::size_t k) const { return {0, x.shape[axes[k]], 0, x.shape[axes[k]]}; }
};

/// 1 / S of all axes together ("cross"), or 1 / T(1) of each by itself ("line"), in scratch; `unsupported` where (8)
/// finds none.
template <class C> std::vector<AnyView> make_reciprocals(Queue& queue, const Block& block, Normalization normalization,
                                                         double unsupported, const AnyView* support);

/// x + sum_a N_a(x), or sum_a T_a(x) (7), of a source along all axes of domain. The last axis ends with `last`, whose
/// sum and with_source are set here; sums before that are kept in `sums`, which may be `out`. scales: one for each
/// axis, or empty.
template <class C> void run_axes(Queue& queue, const AnyView& domain, const Block& block, const Source& source,
                                 bool cross, std::span<const AnyView> scales, const AnyView& sums, const AnyView& out,
                                 Epilogue last);

} // namespace sgs::cuda
