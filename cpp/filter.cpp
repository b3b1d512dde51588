// The semi-global filter (7), (8), (9): weights and supports, and which way it is best run.
#include "filter.h"
#include "line_job.h"
#include "long_lines.h"
#include "plane_set.h"

namespace sgs {
namespace {

constexpr std::int64_t kKeptWeights = 1 << 22; // elements of long lines whose weights are made once and kept

// As v, a single 1 in every place.
template <class C> AnyView field_of_ones(AnyView v) {
    static const C one = C(1);
    v.data = const_cast<C*>(&one);
    v.dtype = dtype_of<C>::value;
    v.strides.fill(0);
    return v;
}

template <class C> void run(const Operands& o, const Options& options) {
    if (is_plane_filter(o))
        filter_planes<C>(o, options);
    else if (o.axes.size() > 1)
        filter_volumes<C>(o, options);
    else
        filter_axis<C>(o, options);
}

// One axis, straight from memory to memory: T(x), or T(x) / T(1), which is what both normalisations are. False where
// the lines do not lie along memory, or more is asked for.
template <class C> bool run_one_axis(const Operands& o, const Options& options) {
    const int axis = o.axes[0];
    LineJob job{o.x, o.guide ? o.guide->view : o.weights[0], o.y, axis};
    if (o.guide) job.guide = &*o.guide;
    job.normalized = o.filter.normalization == Normalization::line || o.filter.normalization == Normalization::cross;
    job.residual = o.filter.residual;
    if (o.confidence || (job.residual && !job.normalized)) return false;
    if (o.guide && o.guide->confidence) return false;
    if (!best_in_segments(o.x, o.y, axis)) return run_row_lines<C>(job, options);
    if (o.x.strides[axis] != 1 || o.y.strides[axis] != 1) return false;
    if (o.guide && o.y.size() <= kKeptWeights) return false;
    LongLines<C> cut(o.y, axis), ones(o.y, axis);
    cut.find_ends(o.x, nullptr, job.w, nullptr, nullptr, options, job.normalized ? &ones : nullptr, job.guide);
    const AnyView above = cut.above(), below = cut.below(), ones_above = ones.above(), ones_below = ones.below();
    LineJob segments = job;
    segments.x = cut.segments(o.x);
    segments.w = cut.segments(job.w);
    segments.y = cut.segments(o.y);
    ++segments.axis;
    segments.linked = true;
    segments.left = &above;
    segments.right = &below;
    if (job.normalized) {
        segments.ones_left = &ones_above;
        segments.ones_right = &ones_below;
    }
    run_row_lines<C>(segments, options);
    const AnyView above_tail = cut.above_tail(), ones_above_tail = ones.above_tail();
    job.x = cut.tail(o.x);
    job.w = cut.tail(job.w);
    job.y = cut.tail(o.y);
    job.left = &above_tail;
    if (job.normalized) job.ones_left = &ones_above_tail;
    run_row_lines<C>(job, options);
    return true;
}

// Dimensions along which neither weights nor confidence change: support is computed once for them.
std::array<bool, kMaxDims> shared_dims(const Operands& o) {
    std::array<bool, kMaxDims> shared{};
    for (int d = 0; d < o.x.ndim; ++d) {
        shared[d] = std::find(o.axes.begin(), o.axes.end(), d) == o.axes.end();
        for (const AnyView& w : o.weights) shared[d] = shared[d] && (w.strides[d] == 0 || w.shape[d] == 1);
        if (o.confidence) shared[d] = shared[d] && (o.confidence->strides[d] == 0 || o.confidence->shape[d] == 1);
    }
    return shared;
}

// v with length 1 where dimensions are shared.
AnyView collapse(AnyView v, const std::array<bool, kMaxDims>& shared) {
    for (int d = 0; d < v.ndim; ++d)
        if (shared[d]) v.shape[d] = 1;
    return v;
}

// from, which may be broadcast, to every element that `to` has of its own.
template <class C> void copy(const AnyView& from, AnyView to, const Options& options) {
    for (int d = 0; d < to.ndim; ++d)
        if (to.strides[d] == 0) to.shape[d] = 1;
    const Lines lines(to, to.ndim - 1);
    Scratches<C> scratches(lines.tiles(), 0, options);
    parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
        C* rows = scratches[worker].x.get();
        const Strand source(lines, from, tile), target(lines, to, tile);
        for (std::int64_t first = 0; first < lines.steps(); first += kSteps) {
            const std::int64_t steps = std::min<std::int64_t>(kSteps, lines.steps() - first);
            load(rows, source, first, steps);
            store(rows, target, first, steps);
        }
    });
}

constexpr std::int64_t kReciprocals = 1 << 15; // elements worth a turn

// Supports S of (7), (8) as reciprocals in `memory`: of all axes together for "cross", of each by itself for "line".
template <class C>
std::vector<Buffer<C>> make_reciprocals(Operands& o, const AnyView* support, const Options& options) {
    const std::array<bool, kMaxDims> shared = shared_dims(o);
    const AnyView source = o.confidence ? *o.confidence : field_of_ones<C>(o.x);
    Operands sums;
    sums.filter.normalization = Normalization::cross_sum;
    const std::optional<Operands> two = o.axes.size() > 2 ? first_planes_of(o) : o;
    if (two && is_plane_filter(*two)) {
        const PlaneSet<C> planes(*two);
        sums.sharing = planes.group_size;
        sums.by_neighbours = planes.own_weights;
    }
    sums.x = collapse(source, shared);
    std::vector<Buffer<C>> buffers;
    const std::int64_t count = sums.x.size();
    const auto add_reciprocal = [&](std::size_t first_axis, std::size_t end_axis) {
        buffers.emplace_back(count);
        C* memory = buffers.back().get();
        o.reciprocals.push_back(dense_like(o.y, memory, shared));
        sums.y = collapse(o.reciprocals.back(), shared);
        sums.axes.clear();
        sums.weights.clear();
        for (std::size_t k = first_axis; k < end_axis; ++k) {
            sums.axes.push_back(o.axes[k]);
            sums.weights.push_back(collapse(o.weights[k], shared));
        }
        run<C>(sums, options);
        if (support != nullptr) copy<C>(o.reciprocals.back(), *support, options);
        parallel_for((count + kReciprocals - 1) / kReciprocals, options, [&](std::int64_t part, int) {
            const std::int64_t first = part * kReciprocals;
            kernels<C>().pointwise.reciprocal(memory + first, std::min(kReciprocals, count - first),
                                              o.confidence.has_value());
        });
    };
    if (o.filter.normalization == Normalization::cross) add_reciprocal(0, o.axes.size());
    if (o.filter.normalization == Normalization::line)
        for (std::size_t k = 0; k < o.axes.size(); ++k) add_reciprocal(k, k + 1);
    return buffers;
}

// Whether some element of a may lie where one of b does.
bool may_overlap(const AnyView& a, const AnyView& b) {
    const auto range = [](const AnyView& v) {
        const char* low = static_cast<const char*>(v.data);
        const char* high = low + item_size(v.dtype);
        for (int d = 0; d < v.ndim; ++d) {
            const std::int64_t reach = (v.shape[d] - 1) * v.strides[d] * static_cast<std::int64_t>(item_size(v.dtype));
            (reach < 0 ? low : high) += reach;
        }
        return std::pair(low, high);
    };
    const auto [a_low, a_high] = range(a);
    const auto [b_low, b_high] = range(b);
    return a_low < b_high && b_low < a_high;
}

// But for weights, or the guide that they are made of.
Operands operands(const AnyView& x, const AnyView& y, std::span<const int> axes, const FilterOptions& filter,
                  const AnyView* confidence) {
    Operands o;
    o.x = x;
    o.y = y;
    o.filter = filter;
    o.axes.assign(axes.begin(), axes.end());
    if (confidence != nullptr) o.confidence = broadcast(*confidence, x);
    return o;
}

} // namespace

void semi_global_filter(const AnyView& x, std::span<const AnyView> weights, const AnyView& y, std::span<const int> axes,
                        const FilterOptions& filter, const AnyView* confidence, const AnyView* support,
                        const Options& options) {
    if (x.size() == 0) return;
    Operands o = operands(x, y, axes, filter, confidence);
    for (std::size_t k = 0; k < axes.size(); ++k) o.weights.push_back(broadcast(weights[k], x, axes[k]));
    AnyView s = support != nullptr ? broadcast(*support, x) : AnyView{};
    with_compute_type(x.dtype, [&](auto zero) {
        using C = decltype(zero);
        const bool at_once = filter.blocks > 1 && filters_at_once<C>(o);
        if (!at_once) o.filter.blocks = 1;
        std::vector<Buffer<C>> buffers;
        for (std::int64_t left = at_once ? 1 : filter.blocks; left > 0; --left, o.x = y) {
            if (axes.size() == 1 && support == nullptr && run_one_axis<C>(o, options)) continue;
            if (buffers.empty()) buffers = make_reciprocals<C>(o, support != nullptr ? &s : nullptr, options);
            run<C>(o, options);
        }
    });
}

void semi_global_filter(const AnyView& x, const Guide& guide, const AnyView& y, std::span<const int> axes,
                        const FilterOptions& filter, const AnyView* confidence, const AnyView* support,
                        const Options& options) {
    if (x.size() == 0) return;
    with_compute_type(x.dtype, [&](auto zero) {
        using C = decltype(zero);
        Operands o = operands(x, y, axes, filter, confidence);
        AnyView first_channel = guide.view;
        first_channel.shape[guide.channel_axis] = 1;
        o.guide = GuideOperand{broadcast(first_channel, x),
                               guide.view.shape[guide.channel_axis],
                               guide.view.strides[guide.channel_axis],
                               {guide.scales.begin(), guide.scales.end()},
                               {guide.steps.begin(), guide.steps.end()},
                               simplest(guide.metric, guide.view.shape[guide.channel_axis]),
                               {}};
        if (guide.confidence != nullptr) o.guide->confidence = broadcast(*guide.confidence, x);
        // Made where they are used, weights are in the computing type.
        const bool same_type = (guide.view.dtype == DType::float64) == (dtype_of<C>::value == DType::float64);
        if (same_type && support == nullptr) {
            const bool overlaps = may_overlap(guide.view, y);
            if (axes.size() == 1 && !overlaps && run_one_axis<C>(o, options)) return;
            if (makes_weights<C>(o, overlaps)) {
                filter_planes<C>(o, options);
                return;
            }
        }
        std::vector<Buffer<C>> memory;
        std::vector<AnyView> weights;
        for (std::size_t k = 0; k < axes.size(); ++k) {
            AnyView w = first_channel;
            if (w.ndim == y.ndim) w.strides = y.strides; // ordered as y is, with which they are read
            w.shape[axes[k]] = std::max<std::int64_t>(w.shape[axes[k]] - 1, 0);
            memory.emplace_back(w.size());
            weights.push_back(dense_like(w, memory.back().get()));
        }
        edge_weights(guide.view, weights, guide.channel_axis, axes, guide.scales, guide.steps, guide.metric,
                     guide.confidence, options);
        semi_global_filter(x, weights, y, axes, filter, confidence, support, options);
    });
}

} // namespace sgs
