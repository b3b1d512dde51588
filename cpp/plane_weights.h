// Weights, reciprocal supports and confidence of a block of rows, as the plane kernels take them.
#pragma once

#include "plane_set.h"

namespace sgs {

/// The weights of the edges that leave each row of a block downward, from row 1 of w.down on, and its confidence.
template <class C>
void load_leaving(const PlaneSet<C>& p, const BlockWeights<C>& w, std::int64_t plane, std::int64_t block) {
    p.load_rows(w.down + p.pitch, p.pitch, p.o.weights[p.down_axis], plane, block * kRows, kRows);
    if (p.o.confidence) p.load(w.trust, *p.o.confidence, plane, block);
}

/// Everything of a block; `across` is scratch of kRows rows. True if some weight is 0, where edges that enter the first
/// row count with the block above.
template <class C>
bool load_weights(const PlaneSet<C>& p, const BlockWeights<C>& w, std::int64_t plane, std::int64_t block, C* across) {
    const std::int64_t first = block * kRows;
    if (first == 0)
        std::fill_n(w.down, p.pitch, C(0)); // nothing enters the first row
    else
        p.load_rows(w.down, p.pitch, p.o.weights[p.down_axis], plane, first - 1, 1);
    p.load_rows(w.down + p.pitch, p.pitch, p.o.weights[p.down_axis], plane, first, kRows);
    p.load_rows(across, p.across_pitch, p.o.weights[p.across_axis], plane, first, kRows);
    if (!p.o.reciprocals.empty()) p.load(w.reciprocal, p.o.reciprocals[p.line ? p.down_axis : 0], plane, block);
    if (p.line) p.load(w.reciprocal_across, p.o.reciprocals[p.across_axis], plane, block);
    if (p.o.confidence) p.load(w.trust, *p.o.confidence, plane, block);
    const bool cuts =
        has_zero(w.down + p.pitch, p.pitch, p.width, std::min<std::int64_t>(kRows, p.height - 1 - first)) ||
        has_zero(across, p.across_pitch, p.width - 1, p.block_rows(block));

    // Horizontal weights stand one column to the right: nothing enters the first column.
    for (std::int64_t r = 0; r < kRows; ++r) {
        C* row = across + r * p.across_pitch;
        std::copy_backward(row, row + p.across_pitch - 1, row + p.across_pitch);
        row[0] = C(0);
    }
    kernels<C>().plane.transpose(across, p.across_pitch, p.across_pitch, w.across);
    return cuts;
}

} // namespace sgs
