// One axis: scan (4) and line filter (5).
#include "line_job.h"
#include "long_lines.h"

namespace sgs {
namespace {

template <class C> void scan_lines(const AnyView& x, const AnyView& w, const AnyView& y, int axis,
                                   const AnyView* initial, bool reverse, const Options& options) {
    LineJob job{x, w, y, axis, reverse ? LineJob::Kind::reverse_scan : LineJob::Kind::scan, initial};
    if (run_row_lines<C>(job, options) || run_column_lines<C>(job, options)) return;
    if (reverse) { // the reverse scan is the scan of the flipped lines
        scan_lines<C>(flip(x, axis), flip(w, axis), flip(y, axis), axis, initial, false, options);
        return;
    }
    const Lines lines(x, axis, &w);
    Scratches<C> scratches(lines.tiles(), 0, options);
    parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
        WalkScratch<C>& s = scratches[worker];
        const Strand xs(lines, x, tile), ws(lines, w, tile), ys(lines, y, tile);
        load_initial(s.forward, lines, initial, tile);
        walk_scan(
            lines.steps(), [&](std::int64_t first, std::int64_t steps) { load(s.x.get(), xs, first, steps); }, ws, ys,
            s.forward, s);
    });
}

// `linked` says that an edge follows the last element of each line, which right is still to cross.
template <class C> void filter_lines(const AnyView& x, const AnyView& w, const AnyView& y, int axis,
                                     const AnyView* left, const AnyView* right, bool linked, const Options& options) {
    const LineJob job{x, w, y, axis, LineJob::Kind::filter, left, right, linked};
    if (run_row_lines<C>(job, options) || run_column_lines<C>(job, options)) return;
    const Lines lines(x, axis, &w);
    Scratches<C> scratches(lines.tiles(), lines.steps(), options);
    parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
        WalkScratch<C>& s = scratches[worker];
        const Strand xs(lines, x, tile), ws(lines, w, tile), ys(lines, y, tile);
        load_initial(s.forward, lines, left, tile);
        load_initial(s.backward, lines, right, tile);
        walk_line(
            lines.steps(), linked, true,
            [&](std::int64_t first, std::int64_t steps) { load(s.x.get(), xs, first, steps); }, ws, s,
            [&](std::int64_t first, std::int64_t steps) { store(s.terms.get(), ys, first, steps); });
    });
}

} // namespace

void scan(const AnyView& x, const AnyView& w, const AnyView& y, int axis, bool reverse, const AnyView* initial,
          const Options& options) {
    if (x.size() == 0) return;
    const AnyView links = broadcast(w, x, axis);
    const AnyView start = initial != nullptr ? broadcast(*initial, x, axis) : AnyView{};
    const AnyView* entering = initial != nullptr ? &start : nullptr;
    with_compute_type(x.dtype, [&](auto zero) {
        using C = decltype(zero);
        if (!best_in_segments(x, y, axis)) {
            scan_lines<C>(x, links, y, axis, entering, reverse, options);
            return;
        }
        const auto along = [&](const AnyView& v) { return reverse ? flip(v, axis) : v; };
        const AnyView from = along(x), edges = along(links), to = along(y);
        LongLines<C> cut(from, axis);
        cut.find_ends(from, nullptr, edges, entering, nullptr, options);
        const AnyView above = cut.above(), above_tail = cut.above_tail();
        scan_lines<C>(cut.segments(from), cut.segments(edges), cut.segments(to), axis + 1, &above, false, options);
        scan_lines<C>(cut.tail(from), cut.tail(edges), cut.tail(to), axis, &above_tail, false, options);
    });
}

void line_filter(const AnyView& x, const AnyView& w, const AnyView& y, int axis, const AnyView* left,
                 const AnyView* right, const Options& options) {
    if (x.size() == 0) return;
    const AnyView links = broadcast(w, x, axis);
    const AnyView left_view = left != nullptr ? broadcast(*left, x, axis) : AnyView{};
    const AnyView right_view = right != nullptr ? broadcast(*right, x, axis) : AnyView{};
    const AnyView* into_first = left != nullptr ? &left_view : nullptr;
    const AnyView* into_last = right != nullptr ? &right_view : nullptr;
    with_compute_type(x.dtype, [&](auto zero) {
        using C = decltype(zero);
        if (!best_in_segments(x, y, axis)) {
            filter_lines<C>(x, links, y, axis, into_first, into_last, false, options);
            return;
        }
        LongLines<C> cut(x, axis);
        cut.find_ends(x, nullptr, links, into_first, into_last, options);
        const AnyView above = cut.above(), above_tail = cut.above_tail(), below = cut.below();
        filter_lines<C>(cut.segments(x), cut.segments(links), cut.segments(y), axis + 1, &above, &below, true, options);
        filter_lines<C>(cut.tail(x), cut.tail(links), cut.tail(y), axis, &above_tail, into_last, false, options);
    });
}

} // namespace sgs
