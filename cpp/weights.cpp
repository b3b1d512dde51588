// Edge weights (1), (2) from a guide: no sum runs along the lines, so rows are taken as they lie in memory.
#include <algorithm>

#include "lines.h"
#include "parallel.h"

namespace sgs {
namespace {

constexpr std::int64_t kSegment = 1024; // elements of a row that are computed together

// Rows of a view along one dimension, in segments.
class Segments {
  public:
    Segments(const AnyView& shape, int row_dim) : row_dim_(row_dim), length_(shape.shape[row_dim]) {
        const DimOrder order = order_by_stride(shape, row_dim);
        for (int k = 0; k < order.count; ++k) {
            outer_[count_] = order.dims[k];
            lengths_[count_++] = shape.shape[order.dims[k]];
            rows_ *= shape.shape[order.dims[k]];
        }
    }
    std::int64_t count() const { return rows_ * per_row(); }
    std::int64_t length(std::int64_t segment) const {
        return std::min(kSegment, length_ - segment % per_row() * kSegment);
    }
    void* address(const AnyView& v, std::int64_t segment) const {
        std::int64_t offset = segment % per_row() * kSegment * v.strides[row_dim_];
        std::int64_t row = segment / per_row();
        for (int k = 0; k < count_; ++k) {
            offset += row % lengths_[k] * v.strides[outer_[k]];
            row /= lengths_[k];
        }
        return v.at(offset);
    }
    std::int64_t stride(const AnyView& v) const { return v.strides[row_dim_]; }

  private:
    std::int64_t per_row() const { return (length_ + kSegment - 1) / kSegment; }
    int row_dim_;
    std::int64_t length_;
    std::array<int, kMaxDims> outer_{};
    std::array<std::int64_t, kMaxDims> lengths_{};
    int count_ = 0;
    std::int64_t rows_ = 1;
};

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
    const std::int64_t channel_stride = guide.strides[channel_axis];
    AnyView first_channel = guide;
    first_channel.shape = w.shape;
    first_channel.strides[channel_axis] = channels * channel_stride;
    const AnyView trust = confidence != nullptr ? broadcast(*confidence, guide) : AnyView{};
    const DimOrder order = order_by_stride(w);
    int row_dim = order.dims[0];
    for (int k = 0; k < order.count && w.shape[row_dim] == 1; ++k) row_dim = order.dims[k];
    const Segments segments(w, row_dim);
    with_compute_type(guide.dtype, [&](auto zero) {
        using C = decltype(zero);
        const WeightKernels<C>& kernel = kernels<C>().weight;
        const auto accumulate = kernel.accumulate_distance[static_cast<int>(metric)];
        const auto load = [&](C* row, const AnyView& v, std::int64_t segment, std::int64_t offset) {
            const std::int64_t count = segments.length(segment);
            const char* from = static_cast<const char*>(segments.address(v, segment)) +
                               offset * static_cast<std::int64_t>(item_size(v.dtype));
            kernels<C>().plane.load_rows[static_cast<int>(v.dtype)](row, count, from, 0, segments.stride(v), 1, count,
                                                                    1);
        };
        const std::int64_t tasks = (segments.count() + kTaskRows - 1) / kTaskRows;
        const PerWorker<Rows<C>> scratch(tasks, options);
        CancelFlag cancel(options);
        parallel_for(tasks, options, [&](std::int64_t task, int worker) {
            Rows<C>& rows = scratch[worker];
            const std::int64_t end = std::min(segments.count(), (task + 1) * kTaskRows);
            for (std::int64_t segment = task * kTaskRows; segment < end; ++segment) {
                const std::int64_t count = segments.length(segment);
                std::fill_n(rows.d, count, C(0));
                for (std::int64_t c = 0; c < channels; ++c) {
                    if (c % 64 == 0) cancel.check(worker);
                    load(rows.near, first_channel, segment, c * channel_stride);
                    load(rows.far, first_channel, segment, c * channel_stride + guide.strides[axis]);
                    accumulate(rows.d, rows.near, rows.far, count);
                }
                if (confidence != nullptr) {
                    load(rows.near, trust, segment, 0);
                    load(rows.far, trust, segment, trust.strides[axis]);
                    kernel.ignore_untrusted(rows.d, rows.near, rows.far, count);
                }
                kernel.finish(rows.d, count, representable<C>(step), representable<C>(scale),
                              metric == Metric::euclidean);
                kernels<C>().plane.store_rows[static_cast<int>(w.dtype)](rows.d, count, segments.address(w, segment), 0,
                                                                         segments.stride(w), 1, count);
            }
        });
    });
}

} // namespace sgs
