// Weights, reciprocal supports and confidence of a block of rows, as the plane kernels take them: from arrays of
// weights or made of a guide.
#pragma once

#include "plane_set.h"

namespace sgs {

/// Elements of scratch that load_weights asks for.
template <class C> std::int64_t weights_scratch(const PlaneSet<C>& p) { return (2 * kRows + 2) * p.across_pitch; }

/// (1), (2) of the edges that leave the rows of a block downward and enter its first, in rows of down, and of those
/// along its rows. g holds kRows + 2 rows.
template <class C>
void make_weights(const PlaneSet<C>& p, C* down, C* across, std::int64_t plane, std::int64_t block, C* g) {
    const GuideOperand& guide = *p.o.guide;
    const WeightKernels<C>& kernel = kernels<C>().weight;
    const std::int64_t first = block * kRows, end = first + p.block_rows(block);
    const std::int64_t begin = std::max<std::int64_t>(first - 1, 0), below = std::min(end + 1, p.height);
    const auto row = [&](std::int64_t i) { return g + (i - begin) * p.across_pitch; };
    // visit(w, one end, other end, edges, axis) for each row of edges.
    const auto each_row = [&](const auto& visit) {
        for (std::int64_t i = begin; i + 1 < below; ++i)
            visit(down + (i + 1 - first) * p.pitch, row(i), row(i + 1), p.width, p.down_axis);
        for (std::int64_t i = first; i < end; ++i)
            visit(across + (i - first) * p.across_pitch, row(i), row(i) + 1, p.width - 1, p.across_axis);
    };
    const auto load = [&](const AnyView& v) { p.load_rows(g, p.across_pitch, v, plane, begin, below - begin); };

    std::fill_n(down, (kRows + 1) * p.pitch, C(0));
    std::fill_n(across, kRows * p.across_pitch, C(0));
    AnyView channel = guide.view;
    for (std::int64_t c = 0; c < guide.channels; ++c) {
        channel.data = guide.view.at(c * guide.channel_stride);
        load(channel);
        each_row([&](C* d, const C* a, const C* b, std::int64_t count, std::size_t) {
            kernel.accumulate_distance[static_cast<int>(guide.metric)](d, a, b, count);
        });
    }
    if (guide.confidence) {
        load(*guide.confidence);
        each_row([&](C* d, const C* a, const C* b, std::int64_t count, std::size_t) {
            kernel.ignore_untrusted(d, a, b, count);
        });
    }
    each_row([&](C* d, const C*, const C*, std::int64_t count, std::size_t axis) {
        kernel.finish(d, count, representable<C>(guide.steps[axis]), representable<C>(guide.scales[axis]),
                      guide.metric == Metric::euclidean);
    });
}

/// The weights of the edges that leave each row of a block downward, from row 1 of w.down on, and its confidence.
template <class C>
void load_leaving(const PlaneSet<C>& p, const BlockWeights<C>& w, std::int64_t plane, std::int64_t block) {
    p.load_rows(w.down + p.pitch, p.pitch, p.o.weights[p.down_axis], plane, block * kRows, kRows);
    if (p.o.confidence) p.load(w.trust, *p.o.confidence, plane, block);
}

/// Everything of a block but supports that are found from the weights. True if some weight is 0, where edges that enter
/// the first row count with the block above.
template <class C>
bool load_weights(const PlaneSet<C>& p, const BlockWeights<C>& w, std::int64_t plane, std::int64_t block, C* scratch) {
    const std::int64_t first = block * kRows;
    C* const across = scratch;
    if (p.o.guide) {
        make_weights(p, w.down, across, plane, block, scratch + kRows * p.across_pitch);
    } else {
        if (first == 0)
            std::fill_n(w.down, p.pitch, C(0)); // nothing enters the first row
        else
            p.load_rows(w.down, p.pitch, p.o.weights[p.down_axis], plane, first - 1, 1);
        p.load_rows(w.down + p.pitch, p.pitch, p.o.weights[p.down_axis], plane, first, kRows);
        p.load_rows(across, p.across_pitch, p.o.weights[p.across_axis], plane, first, kRows);
        if (!p.o.reciprocals.empty()) p.load(w.reciprocal, p.o.reciprocals[p.line ? p.down_axis : 0], plane, block);
        if (p.line) p.load(w.reciprocal_across, p.o.reciprocals[p.across_axis], plane, block);
    }
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
