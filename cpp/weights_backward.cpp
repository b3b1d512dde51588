// Edge weights, backward (11): first what the derivatives of an edge have in common for all channels, then those by the
// guide, as rows along memory both times.
#include "gradient.h"
#include "parallel.h"
#include "segments.h"

namespace sgs {
namespace {

constexpr std::int64_t kTaskRows = 16; // rows that one task computes

template <class C> struct Rows {
    // A place before and after for the neighbours of the ends.
    alignas(64) C near[kSegment + 2]{}, far[kSegment]{}, before[kSegment]{}, after[kSegment]{}, result[kSegment]{};
};

// The dimension that rows lie along: neighbours in memory, but not channels.
int row_dimension(const AnyView& nodes, int channel_axis) {
    const DimOrder order = order_by_stride(nodes, channel_axis);
    for (int k = 0; k < order.count; ++k)
        if (nodes.shape[order.dims[k]] > 1) return order.dims[k];
    return channel_axis;
}

struct GuideEdges {
    const AnyView &nodes, &edges; // the first channel of each head; w_bar
    std::int64_t channels, channel_stride;
    int axis, row_dim;
    Metric metric;
    const AnyView* trust; // of the nodes, or null
};

// d_bar times what the slopes have in common, edge by edge, in `factors`; and the derivatives by scale and step.
template <class C> std::array<double, 2> differentiate_distances(const GuideEdges& g, const AnyView& factors,
                                                                 double scale, double step, const Options& options) {
    const WeightKernels<C>& kernel = kernels<C>().weight;
    const auto m = static_cast<std::size_t>(g.metric);
    const bool rounded = g.edges.dtype != DType::float64;
    const Segments segments(factors, g.row_dim);
    const std::int64_t tasks = (segments.count() + kTaskRows - 1) / kTaskRows;
    std::vector<std::array<double, 2>> totals(static_cast<std::size_t>(tasks));
    const PerWorker<Rows<C>> scratch(tasks, options);
    CancelFlag cancel(options);
    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        Rows<C>& rows = scratch[worker];
        alignas(64) C by_scale[kLanes]{}, by_step[kLanes]{};
        const std::int64_t end = std::min(segments.count(), (task + 1) * kTaskRows);
        for (std::int64_t segment = task * kTaskRows; segment < end; ++segment) {
            cancel.check(worker);
            const std::int64_t count = segments.length(segment);
            C* const d = rows.result;
            Segments::distances(d, Segments::Row<C>(segments, g.nodes, segment), g.nodes.strides[g.axis], count,
                                g.channels, g.channel_stride, g.metric, rows.near, rows.far);
            const auto ignore_untrusted = [&] {
                if (g.trust == nullptr) return;
                const Segments::Row<C> trusts(segments, *g.trust, segment);
                kernel.ignore_untrusted(d, trusts.read(rows.near, 0, count),
                                        trusts.read(rows.far, g.trust->strides[g.axis], count), count);
            };
            ignore_untrusted();
            kernels<C>().backward.distance_gradient[m](
                d, Segments::Row<C>(segments, g.edges, segment).read(rows.before, 0, count), count,
                representable<C>(step), representable<C>(scale), rounded, by_scale, by_step);
            ignore_untrusted();
            Segments::Row<C>(segments, factors, segment).store(d, 0, count);
        }
        for (int l = 0; l < kLanes; ++l) {
            totals[static_cast<std::size_t>(task)][0] += static_cast<double>(by_scale[l]);
            totals[static_cast<std::size_t>(task)][1] += static_cast<double>(by_step[l]);
        }
    });
    std::array<double, 2> sum{};
    for (const std::array<double, 2>& t : totals)
        for (std::size_t i = 0; i < 2; ++i) sum[i] += t[i];
    return sum;
}

template <class C> void differentiate_guide(const GuideEdges& g, const AnyView& factors, const AnyView& nodes_bar,
                                            std::int64_t bar_stride, const Options& options) {
    const auto kernel = kernels<C>().backward.difference_gradient[static_cast<std::size_t>(g.metric)];
    const Segments segments(g.nodes, g.row_dim);
    const std::int64_t n = g.nodes.shape[g.axis], stride = g.nodes.strides[g.axis];
    const bool along = g.axis == g.row_dim; // edges lie along the rows
    const std::int64_t tasks = (segments.count() + kTaskRows - 1) / kTaskRows;
    const PerWorker<Rows<C>> scratch(tasks, options);
    CancelFlag cancel(options);
    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        Rows<C>& rows = scratch[worker];
        alignas(64) C entering[kSegment + 1], leaving[kSegment];
        const std::int64_t end = std::min(segments.count(), (task + 1) * kTaskRows);
        for (std::int64_t segment = task * kTaskRows; segment < end; ++segment) {
            cancel.check(worker);
            const std::int64_t count = segments.length(segment), first = segments.position(segment, g.axis);
            const bool from_before = first > 0, to_after = first + (along ? count : 1) < n;
            const Segments::Row<C> values(segments, g.nodes, segment), edges(segments, factors, segment),
                bars(segments, nodes_bar, segment);
            // Edges to nodes that are not there have a factor of 0, and those nodes are never looked at.
            const C* enter = entering;
            const C* leave = along ? entering + 1 : leaving;
            const std::int64_t back = factors.strides[g.axis];
            if (along) {
                entering[0] = entering[count] = C(0);
                const std::int64_t skipped = from_before ? 0 : 1;
                edges.load(entering + skipped, (skipped - 1) * back, count + (to_after ? 1 : 0) - skipped);
            } else {
                std::fill_n(entering, count, C(0));
                std::fill_n(leaving, count, C(0));
                if (from_before) enter = edges.read(entering, -back, count);
                if (to_after) leave = edges.read(leaving, 0, count);
            }
            for (std::int64_t c = 0; c < g.channels; ++c) {
                const std::int64_t channel = c * g.channel_stride;
                C* const result = bars.direct() ? reinterpret_cast<C*>(bars.at(c * bar_stride)) : rows.result;
                // Nodes [start, start + length); at either end the node may be its own neighbour.
                const auto differentiate = [&](const C* before, const C* here, const C* after, std::int64_t start,
                                               std::int64_t length) {
                    kernel(result + start, before + start, here + start, after + start, enter + start, leave + start,
                           length);
                };
                if (along) {
                    const std::int64_t skipped = from_before ? 1 : 0, beyond = to_after ? 1 : 0;
                    const C* const row =
                        values.read(rows.near, channel - skipped * stride, skipped + count + beyond) + skipped;
                    const std::int64_t inner = 1 - skipped, last = std::max(count - 1 + beyond, inner);
                    if (inner > 0) differentiate(row, row, row + (count + beyond > 1 ? 1 : 0), 0, 1);
                    differentiate(row - 1, row, row + 1, inner, last - inner);
                    if (last < count) differentiate(row - 1, row, row, last, 1);
                } else {
                    const C* const here = values.read(rows.near, channel, count);
                    differentiate(from_before ? values.read(rows.before, channel - stride, count) : here, here,
                                  to_after ? values.read(rows.after, channel + stride, count) : here, 0, count);
                }
                if (!bars.direct()) bars.store(rows.result, c * bar_stride, count);
            }
        }
    });
}

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
    const AnyView trust = confidence != nullptr ? broadcast(*confidence, nodes) : AnyView{};
    std::array<double, 2> sums{};
    with_compute_type(guide.dtype, [&](auto zero) {
        using C = decltype(zero);
        if (nodes.size() == 0) return;
        const GuideEdges g{nodes,
                           w_bar,
                           channels,
                           guide.strides[channel_axis],
                           axis,
                           row_dimension(nodes, channel_axis),
                           simplest(metric, channels),
                           confidence != nullptr ? &trust : nullptr};
        // Rows first, whatever the order of the other dimensions.
        AnyView factors = w_bar;
        const Buffer<C> memory(w_bar.size());
        factors.data = memory.get();
        factors.dtype = dtype_of<C>::value;
        std::int64_t stride = factors.shape[g.row_dim];
        factors.strides[g.row_dim] = 1;
        for (int d = factors.ndim - 1; d >= 0; --d) {
            if (d == g.row_dim) continue;
            factors.strides[d] = stride;
            stride *= factors.shape[d];
        }
        if (w_bar.size() > 0) sums = differentiate_distances<C>(g, factors, scale, step, options);
        if (guide_bar != nullptr)
            differentiate_guide<C>(g, factors, first_channel(*guide_bar), guide_bar->strides[channel_axis], options);
    });
    if (scale_bar != nullptr) write(sums[0], *scale_bar);
    if (step_bar != nullptr) write(sums[1], *step_bar);
}

} // namespace sgs
