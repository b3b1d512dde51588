// The semi-global filter (7), (8): all axes of a block of planes in turn, while it is in cache.
#include "filter.h"
#include "line_job.h"
#include "long_lines.h"
#include "plane_set.h"

namespace sgs {
namespace {

constexpr std::int64_t kUnitSize = 1 << 16;    // elements of a unit: a few planes that stay in L2
constexpr std::int64_t kKeptWeights = 1 << 22; // elements of long lines whose weights are made once and kept

// The result is cut into units: whole planes over `axes`, and a block of the dimension that lies closest in memory
// among the others. Layout is judged by y: x may be broadcast.
class Units {
  public:
    Units(const AnyView& y, const std::vector<int>& axes, bool scratch) : y_(y) {
        std::int64_t plane = 1;
        for (const int a : axes) plane *= y.shape[a];
        std::array<bool, kMaxDims> spatial{};
        for (const int a : axes) spatial[a] = true;
        const DimOrder order = order_by_stride(y);
        for (int k = 0; k < order.count; ++k) {
            const int d = order.dims[k];
            if (spatial[d] || y.shape[d] == 1) continue;
            if (block_dim_ < 0) {
                block_dim_ = d;
                // Channels last: take neighbours together even where planes are large, unless that asks for scratch.
                const std::int64_t least = k == 0 && !scratch ? 16 : 1;
                block_ = std::clamp<std::int64_t>(kUnitSize / plane, least, std::max(least, y.shape[d]));
                if (block_ > kLanes) block_ -= block_ % kLanes; // whole tiles where lines are all that a plane is
                count_ *= (y.shape[d] + block_ - 1) / block_;
            } else {
                outer_.push_back(d);
                count_ *= y.shape[d];
            }
        }
    }

    std::int64_t count() const { return count_; }
    /// The part of an operand of y's rank that belongs to a unit.
    AnyView part(const AnyView& v, std::int64_t unit) const {
        AnyView out = v;
        if (block_dim_ >= 0) {
            const std::int64_t blocks = (y_.shape[block_dim_] + block_ - 1) / block_;
            const std::int64_t first = unit % blocks * block_;
            out = sgs::narrow(out, block_dim_, first, std::min(block_, y_.shape[block_dim_] - first));
            unit /= blocks;
        }
        for (const int d : outer_) {
            out = sgs::narrow(out, d, unit % y_.shape[d], 1);
            unit /= y_.shape[d];
        }
        return out;
    }
    /// Elements of the largest unit.
    std::int64_t size() const {
        std::int64_t n = block_dim_ >= 0 ? std::min(block_, y_.shape[block_dim_]) : 1;
        for (int d = 0; d < y_.ndim; ++d)
            if (d != block_dim_ && std::find(outer_.begin(), outer_.end(), d) == outer_.end()) n *= y_.shape[d];
        return n;
    }

  private:
    const AnyView& y_;
    int block_dim_ = -1;
    std::int64_t block_ = 1;
    std::vector<int> outer_;
    std::int64_t count_ = 1;
};

// A view on dense memory with v's shape, ordered as v is; dimensions where `shared` says so have stride 0.
template <class C> AnyView dense_like(const AnyView& v, C* memory, const std::array<bool, kMaxDims>& shared = {}) {
    AnyView out = v;
    out.data = memory;
    out.dtype = dtype_of<C>::value;
    const DimOrder order = order_by_stride(v);
    std::int64_t stride = 1;
    for (int k = 0; k < order.count; ++k) {
        const int d = order.dims[k];
        out.strides[d] = shared[d] ? 0 : stride;
        if (!shared[d]) stride *= v.shape[d];
    }
    return out;
}

// One axis of one unit: sums so far are read from and written to `sums`; the last axis finishes into y.
template <class C> void filter_axis(const Operands& o, std::size_t k, const AnyView& sums, const Lines& lines,
                                    std::int64_t tile, WalkScratch<C>& s, C* side) {
    const PointwiseKernels<C>& pointwise = kernels<C>().pointwise;
    const bool first_axis = k == 0;
    const bool last_axis = k + 1 == o.axes.size();
    const Normalization normalization = o.filter.normalization;
    const bool each_centre = normalization == Normalization::none || normalization == Normalization::line;
    const Strand xs(lines, o.x, tile), ws(lines, o.weights[k], tile), ys(lines, last_axis ? o.y : sums, tile);
    const Strand cs = o.confidence ? Strand(lines, *o.confidence, tile) : Strand();
    const Strand rs = !o.reciprocals.empty()
                          ? Strand(lines, o.reciprocals[normalization == Normalization::line ? k : 0], tile)
                          : Strand();
    const Strand as(lines, sums, tile);
    const auto load_x = [&](std::int64_t first, std::int64_t steps) {
        load(s.x.get(), xs, first, steps);
        if (!o.confidence) return;
        load(side, cs, first, steps);
        pointwise.trust(s.x.get(), side, steps * kLanes);
    };
    const auto finish = [&](std::int64_t first, std::int64_t steps) {
        const std::int64_t count = steps * kLanes;
        C* y = s.terms.get();
        if (normalization == Normalization::line) {
            load(side, rs, first, steps);
            pointwise.multiply(y, side, count);
        }
        if (!first_axis) {
            load(side, as, first, steps);
            pointwise.add(y, side, count);
        }
        if (last_axis && normalization == Normalization::cross) {
            load(side, rs, first, steps);
            pointwise.normalize(y, side, static_cast<C>(o.filter.fill_value), count, o.confidence.has_value());
        }
        if (last_axis && o.filter.residual) {
            load(s.x.get(), xs, first, steps);
            if (o.confidence) {
                load(side, cs, first, steps);
                pointwise.mask(s.x.get(), side, count);
            }
            pointwise.add(y, s.x.get(), count);
        }
        store(y, ys, first, steps);
    };
    load_initial(s.forward, lines, o.above ? &*o.above : nullptr, tile);
    load_initial(s.backward, lines, o.below ? &*o.below : nullptr, tile);
    walk_line(lines.steps(), o.below.has_value(), each_centre || last_axis, load_x, ws, s, finish);
}

template <class C> void run(const Operands& o, const Options& options);

// As v, a single 1 in every place.
template <class C> AnyView field_of_ones(AnyView v) {
    static const C one = C(1);
    v.data = const_cast<C*>(&one);
    v.dtype = dtype_of<C>::value;
    v.strides.fill(0);
    return v;
}

// o with every array replaced by change(array).
template <class F> Operands with_each(Operands o, const F& change) {
    o.x = change(o.x);
    o.y = change(o.y);
    for (AnyView& w : o.weights) w = change(w);
    for (AnyView& r : o.reciprocals) r = change(r);
    for (std::optional<AnyView>* v : {&o.confidence, &o.above, &o.below})
        if (*v) *v = change(**v);
    return o;
}

template <class C> void run_long_lines(const Operands& o, const Options& options) {
    LongLines<C> cut(o.y, o.axes[0]);
    cut.find_ends(o.x, o.confidence ? &*o.confidence : nullptr, o.weights[0], nullptr, nullptr, options);
    Operands segments = with_each(o, [&](const AnyView& v) { return cut.segments(v); });
    ++segments.axes[0];
    segments.above = cut.above();
    segments.below = cut.below();
    run<C>(segments, options);
    Operands tail = with_each(o, [&](const AnyView& v) { return cut.tail(v); });
    tail.above = cut.above_tail();
    run<C>(tail, options);
}

template <class C> void run(const Operands& o, const Options& options) {
    if (is_plane_filter(o)) {
        filter_planes<C>(o, options);
        return;
    }
    if (o.axes.size() == 1 && are_few_and_long(o.y, o.axes[0])) {
        run_long_lines<C>(o, options);
        return;
    }
    // Sums between the axes are kept in y where it can hold them, which costs no memory.
    const bool scratch = o.axes.size() > 1 && !holds_sums<C>(o);
    const Units units(o.y, o.axes, scratch);
    std::int64_t longest = 0;
    for (const int a : o.axes) longest = std::max(longest, o.x.shape[a]);

    const auto unit_operands = [&](std::int64_t unit) {
        return with_each(o, [&](const AnyView& v) { return units.part(v, unit); });
    };
    const auto make_sums = [&](int count) {
        std::vector<Buffer<C>> sums;
        for (int i = 0; scratch && i < count; ++i) sums.emplace_back(units.size());
        return sums;
    };
    const auto make_sides = [&](int count) {
        std::vector<Buffer<C>> sides;
        for (int i = 0; i < count; ++i) sides.emplace_back(kTileSize);
        return sides;
    };
    const auto sums_of = [&](const Operands& u, const std::vector<Buffer<C>>& sums, int i) {
        return scratch ? dense_like(u.y, sums[static_cast<std::size_t>(i)].get()) : u.y;
    };

    const bool many = units.count() >= 2 * options.num_threads || units.size() <= kUnitSize / 16;
    if (many && units.size() <= 4 * kUnitSize) { // a unit for each thread
        Scratches<C> scratches(units.count(), longest, options);
        const int threads = workers(units.count(), options);
        const std::vector<Buffer<C>> sums = make_sums(threads), sides = make_sides(threads);
        parallel_for(units.count(), options, [&](std::int64_t unit, int worker) {
            const Operands u = unit_operands(unit);
            const AnyView unit_sums = sums_of(u, sums, worker);
            for (std::size_t k = 0; k < u.axes.size(); ++k) {
                const Lines lines(u.y, u.axes[k]);
                for (std::int64_t tile = 0; tile < lines.tiles(); ++tile)
                    filter_axis(u, k, unit_sums, lines, tile, scratches[worker],
                                sides[static_cast<std::size_t>(worker)].get());
            }
        });
        return;
    }
    Scratches<C> scratches(options.num_threads, longest, options);
    const std::vector<Buffer<C>> sums = make_sums(1), sides = make_sides(workers(options.num_threads, options));
    for (std::int64_t unit = 0; unit < units.count(); ++unit) { // all threads in one unit after the other
        const Operands u = unit_operands(unit);
        const AnyView unit_sums = sums_of(u, sums, 0);
        for (std::size_t k = 0; k < u.axes.size(); ++k) {
            const Lines lines(u.y, u.axes[k]);
            parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
                filter_axis(u, k, unit_sums, lines, tile, scratches[worker],
                            sides[static_cast<std::size_t>(worker)].get());
            });
        }
    }
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
    if (is_plane_filter(o)) {
        const PlaneSet<C> planes(o);
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
