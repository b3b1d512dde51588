// One axis: scan (4) and line filter (5).
#include "walk.h"

namespace sgs {

void scan(const AnyView& x, const AnyView& w, const AnyView& y, int axis, bool reverse, const AnyView* initial,
          const Options& options) {
    if (x.size() == 0) return;
    AnyView links = broadcast(w, x, axis);
    AnyView start = initial != nullptr ? broadcast(*initial, x, axis) : AnyView{};
    AnyView from = x;
    AnyView to = y;
    if (reverse) { // the reverse scan is the scan of the flipped lines
        from = flip(from, axis);
        to = flip(to, axis);
        links = flip(links, axis);
    }
    const Lines lines(from, axis);
    with_compute_type(x.dtype, [&](auto zero) {
        using C = decltype(zero);
        Scratches<C> scratches(lines.tiles(), 0, options);
        parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
            WalkScratch<C>& s = scratches[worker];
            const Strand xs(lines, from, tile), ws(lines, links, tile), ys(lines, to, tile);
            load_initial(s.forward, lines, initial != nullptr ? &start : nullptr, tile);
            walk_scan(
                lines.steps(), [&](std::int64_t first, std::int64_t steps) { load(s.x.get(), xs, first, steps); }, ws,
                ys, s.forward, s);
        });
    });
}

void line_filter(const AnyView& x, const AnyView& w, const AnyView& y, int axis, const AnyView* left,
                 const AnyView* right, const Options& options) {
    if (x.size() == 0) return;
    const AnyView links = broadcast(w, x, axis);
    const AnyView into_first = left != nullptr ? broadcast(*left, x, axis) : AnyView{};
    const AnyView into_last = right != nullptr ? broadcast(*right, x, axis) : AnyView{};
    const Lines lines(x, axis);
    with_compute_type(x.dtype, [&](auto zero) {
        using C = decltype(zero);
        Scratches<C> scratches(lines.tiles(), lines.steps(), options);
        parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
            WalkScratch<C>& s = scratches[worker];
            const Strand xs(lines, x, tile), ws(lines, links, tile), ys(lines, y, tile);
            load_initial(s.forward, lines, left != nullptr ? &into_first : nullptr, tile);
            load_initial(s.backward, lines, right != nullptr ? &into_last : nullptr, tile);
            walk_line(
                lines.steps(), [&](std::int64_t first, std::int64_t steps) { load(s.x.get(), xs, first, steps); }, ws,
                s,
                [&](std::int64_t first, std::int64_t steps) {
                    kernels<C>().pointwise.add(s.terms.get(), s.x.get(), steps * kLanes);
                    store(s.terms.get(), ys, first, steps);
                });
        });
    });
}

} // namespace sgs
