// Edge weights (1), (2) from a guide: no sum runs along the lines, so rows are taken as they lie in memory.
#include "parallel.h"
#include "segments.h"

namespace sgs {
namespace {

template <class C> struct Rows {
    alignas(64) C d[kSegment], near[kSegment], far[kSegment];
};

// Rows that one task computes: enough to be worth a turn.
constexpr std::int64_t kTaskRows = 16;

} // namespace

void edge_weights(const AnyView& guide, const AnyView& w, int channel_axis, int axis, double scale, double step,
                  Metric metric, const AnyView* confidence, const Options& options) {
    if (w.size() == 0) return;
    // One head: the guide of its first channel, whose further channels lie `channel_stride` apart.
    const std::int64_t channels = guide.shape[channel_axis] / w.shape[channel_axis];
    AnyView first_channel = guide;
    first_channel.shape = w.shape;
    first_channel.strides[channel_axis] = channels * guide.strides[channel_axis];
    const AnyView trust = confidence != nullptr ? broadcast(*confidence, guide) : AnyView{};
    const DimOrder order = order_by_stride(w);
    int row_dim = order.dims[0];
    for (int k = 0; k < order.count && w.shape[row_dim] == 1; ++k) row_dim = order.dims[k];
    const Segments segments(w, row_dim);
    with_compute_type(guide.dtype, [&](auto zero) {
        using C = decltype(zero);
        const WeightKernels<C>& kernel = kernels<C>().weight;
        const Metric simple = simplest(metric, channels);
        const std::int64_t tasks = (segments.count() + kTaskRows - 1) / kTaskRows;
        const PerWorker<Rows<C>> scratch(tasks, options);
        CancelFlag cancel(options);
        parallel_for(tasks, options, [&](std::int64_t task, int worker) {
            Rows<C>& rows = scratch[worker];
            const std::int64_t end = std::min(segments.count(), (task + 1) * kTaskRows);
            for (std::int64_t segment = task * kTaskRows; segment < end; ++segment) {
                const std::int64_t count = segments.length(segment);
                cancel.check(worker);
                Segments::distances(rows.d, Segments::Row<C>(segments, first_channel, segment), guide.strides[axis],
                                    count, channels, guide.strides[channel_axis], simple, rows.near, rows.far);
                if (confidence != nullptr) {
                    const Segments::Row<C> trusts(segments, trust, segment);
                    kernel.ignore_untrusted(rows.d, trusts.read(rows.near, 0, count),
                                            trusts.read(rows.far, trust.strides[axis], count), count);
                }
                kernel.finish(rows.d, count, representable<C>(step), representable<C>(scale),
                              simple == Metric::euclidean);
                Segments::Row<C>(segments, w, segment).store(rows.d, 0, count);
            }
        });
    });
}

} // namespace sgs
