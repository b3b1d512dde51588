// Edge weights (1), (2) from a guide.
#include "walk.h"

namespace sgs {

void edge_weights(const AnyView& guide, const AnyView& w, int channel_axis, int axis, double scale, double step,
                  Metric metric, const AnyView* confidence, const Options& options) {
    if (w.size() == 0) return;
    // One head: the guide of its first channel, whose further channels lie `channel_stride` apart.
    const std::int64_t channels = guide.shape[channel_axis] / w.shape[channel_axis];
    const std::int64_t channel_stride = guide.strides[channel_axis];
    AnyView first_channel = guide;
    first_channel.shape[channel_axis] = w.shape[channel_axis];
    first_channel.strides[channel_axis] = channels * channel_stride;
    const AnyView trust = confidence != nullptr ? broadcast(*confidence, first_channel) : AnyView{};
    AnyView edges = first_channel; // lines over the edges, in the guide's order
    edges.shape[axis] -= 1;
    const Lines lines(edges, axis);
    with_compute_type(guide.dtype, [&](auto zero) {
        using C = decltype(zero);
        const WeightKernels<C>& kernel = kernels<C>().weight;
        const auto accumulate = kernel.accumulate_distance[static_cast<int>(metric)];
        const std::int64_t n = lines.steps();
        Scratches<C> scratches(lines.tiles(), 0, options);
        CancelFlag cancel(options);
        parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
            WalkScratch<C>& s = scratches[worker];
            const Strand gs(lines, first_channel, tile), ws(lines, w, tile);
            for (std::int64_t first = 0; first < n; first += kSteps) {
                const std::int64_t steps = std::min<std::int64_t>(kSteps, n - first);
                std::fill_n(s.terms.get(), steps * kLanes, C(0));
                AnyView channel = first_channel;
                Strand cs = gs;
                cs.view = &channel;
                for (std::int64_t c = 0; c < channels; ++c) {
                    if (c % 64 == 0) cancel.check(worker);
                    channel.data = guide.at(c * channel_stride);
                    load(s.x.get(), cs, first, steps + 1);
                    accumulate(s.terms.get(), s.x.get(), steps);
                }
                if (confidence != nullptr) {
                    load(s.x.get(), Strand(lines, trust, tile), first, steps + 1);
                    kernel.ignore_untrusted(s.terms.get(), s.x.get(), steps);
                }
                kernel.finish(s.terms.get(), steps, static_cast<C>(step), static_cast<C>(scale),
                              metric == Metric::euclidean);
                store(s.terms.get(), ws, first, steps);
            }
        });
    });
}

} // namespace sgs
