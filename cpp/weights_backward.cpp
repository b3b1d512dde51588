// Edge weights, backward (11).
#include "gradient.h"
#include "walk.h"

namespace sgs {
namespace {

// Nodes of a tile: rows before and after it are needed too.
constexpr std::int64_t kNodes = kSteps - 3;

} // namespace

void edge_weights_backward(const AnyView& guide, const AnyView& w_bar, const AnyView* guide_bar,
                           const AnyView* scale_bar, const AnyView* step_bar, int channel_axis, int axis, double scale,
                           double step, Metric metric, const AnyView* confidence, const Options& options) {
    // One head: the guide of its first channel, whose further channels lie `channel_stride` apart.
    const std::int64_t heads = w_bar.shape[channel_axis];
    const std::int64_t channels = guide.shape[channel_axis] / std::max<std::int64_t>(heads, 1);
    const auto first_channel = [&](AnyView v) {
        v.shape[channel_axis] = heads;
        v.strides[channel_axis] *= channels;
        return v;
    };
    const AnyView nodes = first_channel(guide);
    const AnyView nodes_bar = guide_bar != nullptr ? first_channel(*guide_bar) : nodes;
    const AnyView trust = confidence != nullptr ? broadcast(*confidence, nodes) : AnyView{};
    const Lines lines(nodes, axis);
    const std::int64_t n = lines.steps();
    const std::int64_t tiles = nodes.size() > 0 ? lines.tiles() : 0;
    std::vector<std::array<double, 2>> totals(static_cast<std::size_t>(tiles));
    with_compute_type(guide.dtype, [&](auto zero) {
        using C = decltype(zero);
        const WeightKernels<C>& kernel = kernels<C>().weight;
        const BackwardKernels<C>& backward = kernels<C>().backward;
        const auto m = static_cast<std::size_t>(metric);
        const bool rounded = w_bar.dtype != DType::float64;
        Scratches<C> scratches(tiles, 0, options);
        parallel_for(tiles, options, [&](std::int64_t tile, int worker) {
            WalkScratch<C>& s = scratches[worker];
            AnyView channel = nodes, channel_bar = nodes_bar;
            Strand gs(lines, channel, tile), bs(lines, channel_bar, tile);
            const Strand ws(lines, w_bar, tile);
            const Strand cs = confidence != nullptr ? Strand(lines, trust, tile) : Strand();
            const auto go_to = [&](std::int64_t c) {
                channel.data = guide.at(c * guide.strides[channel_axis]);
                if (guide_bar != nullptr) channel_bar.data = guide_bar->at(c * guide_bar->strides[channel_axis]);
            };
            C* const g = s.x.get() + kLanes; // a row before the first node
            alignas(64) C by_scale[kLanes], by_step[kLanes];
            std::array<double, 2>& total = totals[static_cast<std::size_t>(tile)];
            for (std::int64_t first = 0; first < n; first += kNodes) {
                const std::int64_t count = std::min(kNodes, n - first);
                // Edges that touch the nodes first .. first + count; the first may belong to the tile before.
                const std::int64_t edge = std::max<std::int64_t>(first - 1, 0);
                const std::int64_t edges = std::min(first + count, n - 1) - edge;
                const std::int64_t again = first - edge;
                C* const d = s.terms.get() + kLanes; // row -1 is an edge that does not exist before node 0
                std::fill_n(s.terms.get(), kTileSize, C(0));
                for (std::int64_t c = 0; c < channels && edges > 0; ++c) {
                    go_to(c);
                    load(g, gs, edge, edges + 1);
                    kernel.accumulate_distance[m](d, g, g + kLanes, edges * kLanes);
                }
                if (confidence != nullptr && edges > 0) {
                    load(g, cs, edge, edges + 1);
                    kernel.ignore_untrusted(d, g, g + kLanes, edges * kLanes);
                }
                load(s.w.get(), ws, edge, edges);
                std::fill_n(by_scale, kLanes, C(0));
                std::fill_n(by_step, kLanes, C(0));
                const auto differentiate = [&](std::int64_t row, std::int64_t rows, C* scale_sum, C* step_sum) {
                    backward.distance_gradient[m](d + row * kLanes, s.w.get() + row * kLanes, rows,
                                                  representable<C>(step), representable<C>(scale), rounded, scale_sum,
                                                  step_sum);
                };
                alignas(64) C unused[2][kLanes]{};
                if (edges > 0) {
                    differentiate(0, again, unused[0], unused[1]);
                    differentiate(again, edges - again, by_scale, by_step);
                    if (confidence != nullptr) kernel.ignore_untrusted(d, g, g + kLanes, edges * kLanes);
                }
                for (int l = 0; l < gs.lanes; ++l) {
                    total[0] += static_cast<double>(by_scale[l]);
                    total[1] += static_cast<double>(by_step[l]);
                }
                if (guide_bar == nullptr) continue;
                std::fill_n(s.x.get(), kTileSize, C(0));
                for (std::int64_t c = 0; c < channels; ++c) {
                    go_to(c);
                    load(g, gs, edge, std::max<std::int64_t>(edges, 0) + 1);
                    backward.difference_gradient[m](s.w.get(), g + (again - 1) * kLanes, d + (again - 1) * kLanes,
                                                    count);
                    store(s.w.get(), bs, first, count);
                }
            }
        });
    });
    double by_scale = 0, by_step = 0;
    for (const std::array<double, 2>& t : totals) {
        by_scale += t[0];
        by_step += t[1];
    }
    if (scale_bar != nullptr) write(by_scale, *scale_bar);
    if (step_bar != nullptr) write(by_step, *step_bar);
}

} // namespace sgs
