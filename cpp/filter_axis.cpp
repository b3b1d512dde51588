// One axis of the filter (7), (8): lines side by side as the kernels take them, others in tiles, few long ones in
// segments.
#include "line_job.h"
#include "long_lines.h"

namespace sgs {
namespace {

template <class C> bool filter_columns(const Operands& o, const Options& options) {
    constexpr DType own = dtype_of<C>::value;
    if ((o.x.dtype == DType::float64) != (own == DType::float64)) return false; // a support's confidence
    if (o.confidence && o.confidence->dtype != own) return false;
    LineJob job{o.x, o.weights[0], o.y, o.axes[0]};
    if (o.above) job.left = &*o.above;
    if (o.below) job.right = &*o.below;
    job.linked = o.below.has_value();
    job.finish = Finish{o.sums,
                        o.reciprocals.empty() ? std::nullopt : std::optional(o.reciprocals[0]),
                        o.confidence,
                        o.each_centre(),
                        o.filter.normalization == Normalization::line,
                        o.filter.residual,
                        o.filter.fill_value};
    return run_column_lines<C>(job, options);
}

template <class C> void filter_tile(const Operands& o, const Lines& lines, std::int64_t tile, WalkScratch<C>& s) {
    const PointwiseKernels<C>& pointwise = kernels<C>().pointwise;
    const Normalization normalization = o.filter.normalization;
    C* const side = s.side.get();
    const auto strand = [&](const AnyView* v) { return v != nullptr ? Strand(lines, *v, tile) : Strand(); };
    const Strand xs(lines, o.x, tile), ws(lines, o.weights[0], tile), ys(lines, o.y, tile);
    const Strand cs = strand(o.confidence ? &*o.confidence : nullptr), as = strand(o.sums ? &*o.sums : nullptr),
                 rs = strand(!o.reciprocals.empty() ? &o.reciprocals[0] : nullptr);
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
        if (o.sums) {
            load(side, as, first, steps);
            pointwise.add(y, side, count);
        }
        if (normalization == Normalization::cross) {
            load(side, rs, first, steps);
            pointwise.normalize(y, side, static_cast<C>(o.filter.fill_value), count, o.confidence.has_value());
        }
        if (o.filter.residual) {
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
    walk_line(lines.steps(), o.below.has_value(), o.each_centre() || !o.sums, load_x, ws, s, finish);
}

template <class C> void filter_long_lines(const Operands& o, const Options& options) {
    LongLines<C> cut(o.y, o.axes[0]);
    cut.find_ends(o.x, o.confidence ? &*o.confidence : nullptr, o.weights[0], nullptr, nullptr, options);
    Operands segments = with_each(o, [&](const AnyView& v) { return cut.segments(v); });
    ++segments.axes[0];
    segments.above = cut.above();
    segments.below = cut.below();
    filter_axis<C>(segments, options);
    Operands tail = with_each(o, [&](const AnyView& v) { return cut.tail(v); });
    tail.above = cut.above_tail();
    filter_axis<C>(tail, options);
}

} // namespace

template <class C> void filter_axis(const Operands& o, const Options& options) {
    if (are_few_and_long(o.y, o.axes[0])) {
        filter_long_lines<C>(o, options);
        return;
    }
    if (filter_columns<C>(o, options)) return;
    const Lines lines(o.y, o.axes[0]);
    const Scratches<C> scratches(lines.tiles(), lines.steps(), options);
    parallel_for(lines.tiles(), options,
                 [&](std::int64_t tile, int worker) { filter_tile(o, lines, tile, scratches[worker]); });
}

template void filter_axis<float>(const Operands&, const Options&);
template void filter_axis<double>(const Operands&, const Options&);

} // namespace sgs
