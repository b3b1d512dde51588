// Edge weights (1), (2) from a guide: no sum runs along the lines, so rows are taken as they lie in memory.
#include "parallel.h"
#include "segments.h"

#include <optional>
#include <vector>

namespace sgs {
namespace {

template <class C> struct Rows {
    alignas(64) C d[kSegment], near[kSegment], far[kSegment];
};

constexpr std::int64_t kTaskRows = 16;  // rows that one task computes at most,
constexpr std::int64_t kTask = 1 << 12; // and differences at least: enough to be worth a turn,
constexpr std::int64_t kTurns = 8;      // of which each thread has some, so that all end together

// The weights along one axis, in the order of their own memory.
template <class C> class EdgeRows {
  public:
    EdgeRows(const AnyView& guide, const AnyView& w, int channel_axis, int axis, double scale, double step,
             Metric metric, const AnyView* confidence)
        : w_(w), first_channel_(guide), axis_(axis), channels_(guide.shape[channel_axis] / w.shape[channel_axis]),
          channel_stride_(guide.strides[channel_axis]), scale_(representable<C>(scale)), step_(representable<C>(step)),
          metric_(simplest(metric, channels_)), segments_(w_, row_dim(w)) {
        // One head: the guide of its first channel, whose further channels lie `channel_stride_` apart.
        first_channel_.shape = w.shape;
        first_channel_.strides[channel_axis] *= channels_;
        if (confidence != nullptr) trust_ = broadcast(*confidence, guide);
    }
    std::int64_t count() const { return segments_.count(); }
    /// Differences of a row.
    std::int64_t work() const { return channels_ * segments_.length(0); }

    void make(std::int64_t segment, Rows<C>& rows) const {
        const WeightKernels<C>& kernel = kernels<C>().weight;
        const std::int64_t count = segments_.length(segment);
        Segments::distances(rows.d, Segments::Row<C>(segments_, first_channel_, segment), first_channel_.strides[axis_],
                            count, channels_, channel_stride_, metric_, rows.near, rows.far);
        if (trust_) {
            const Segments::Row<C> trusts(segments_, *trust_, segment);
            kernel.ignore_untrusted(rows.d, trusts.read(rows.near, 0, count),
                                    trusts.read(rows.far, trust_->strides[axis_], count), count);
        }
        kernel.finish(rows.d, count, step_, scale_, metric_ == Metric::euclidean);
        Segments::Row<C>(segments_, w_, segment).store(rows.d, 0, count);
    }

  private:
    static int row_dim(const AnyView& w) {
        const DimOrder order = order_by_stride(w);
        int dim = order.dims[0];
        for (int k = 0; k < order.count && w.shape[dim] == 1; ++k) dim = order.dims[k];
        return dim;
    }

    AnyView w_, first_channel_;
    std::optional<AnyView> trust_;
    int axis_;
    std::int64_t channels_, channel_stride_;
    C scale_, step_;
    Metric metric_;
    Segments segments_;
};

} // namespace

void edge_weights(const AnyView& guide, std::span<const AnyView> weights, int channel_axis, std::span<const int> axes,
                  std::span<const double> scales, std::span<const double> steps, Metric metric,
                  const AnyView* confidence, const Options& options) {
    with_compute_type(guide.dtype, [&](auto zero) {
        using C = decltype(zero);
        std::vector<EdgeRows<C>> all;
        std::int64_t most = 0;
        for (std::size_t k = 0; k < axes.size(); ++k) {
            if (weights[k].size() == 0) continue;
            all.emplace_back(guide, weights[k], channel_axis, axes[k], scales[k], steps[k], metric, confidence);
            most = std::max(most, all.back().count());
        }
        if (all.empty()) return;
        const std::int64_t turns = most / (kTurns * workers(most, options));
        const std::int64_t fewest = std::max(kTask / std::max<std::int64_t>(all[0].work(), 1), turns);
        const std::int64_t together = std::clamp<std::int64_t>(fewest, 1, kTaskRows);
        const std::int64_t tasks = (most + together - 1) / together;
        const PerWorker<Rows<C>> scratch(tasks, options);
        CancelFlag cancel(options);
        // The same rows along all axes, while the guide is in cache.
        parallel_for(tasks, options, [&](std::int64_t task, int worker) {
            for (const EdgeRows<C>& rows : all)
                for (std::int64_t k = task * together; k < std::min(rows.count(), (task + 1) * together); ++k) {
                    cancel.check(worker);
                    rows.make(k, scratch[worker]);
                }
        });
    });
}

void edge_weights(const AnyView& guide, const AnyView& w, int channel_axis, int axis, double scale, double step,
                  Metric metric, const AnyView* confidence, const Options& options) {
    edge_weights(guide, {&w, 1}, channel_axis, {&axis, 1}, {&scale, 1}, {&step, 1}, metric, confidence, options);
}

} // namespace sgs
