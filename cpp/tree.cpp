// The paper's binary tree on each line (6): aggregate towards the root, update from it.
#include "step.h"
#include "walk.h"

namespace sgs {
namespace {

// The two sides of the root without the root itself, as they are walked: towards it, or from it (then flipped).
AnyView left_side(const AnyView& v, int axis, std::int64_t root) { return narrow(v, axis, 0, root); }
AnyView right_side(const AnyView& v, int axis, std::int64_t root) {
    return flip(narrow(v, axis, root + 1, v.shape[axis] - root - 1), axis);
}

} // namespace

void tree_aggregate(const AnyView& x, const AnyView& w, const AnyView& y, int axis, std::int64_t root,
                    const Options& options) {
    if (x.size() == 0) return;
    const AnyView links = broadcast(w, x, axis);
    const std::int64_t n = x.shape[axis];
    const Lines lines(x, axis);
    with_compute_type(x.dtype, [&](auto zero) {
        using C = decltype(zero);
        Scratches<C> scratches(lines.tiles(), 0, options);
        parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
            WalkScratch<C>& s = scratches[worker];
            // A of the root's two children, 0 where there is none.
            const auto aggregate_side = [&](const AnyView& xv, const AnyView& wv, const AnyView& yv, C* carry) {
                std::fill_n(carry, kLanes, C(0));
                const Strand xs(lines, xv, tile), ws(lines, wv, tile), ys(lines, yv, tile);
                walk_scan(
                    xv.shape[axis], [&](std::int64_t first, std::int64_t steps) { load(s.x.get(), xs, first, steps); },
                    ws, ys, carry, s);
            };
            if (root > 0)
                aggregate_side(left_side(x, axis, root), left_side(links, axis, root - 1), left_side(y, axis, root),
                               s.forward);
            if (root < n - 1)
                aggregate_side(right_side(x, axis, root), right_side(links, axis, root), right_side(y, axis, root),
                               s.backward);
            const Strand xs(lines, x, tile), ws(lines, links, tile), ys(lines, y, tile);
            C* at_root = s.x.get();
            C* edge = s.w.get();
            load(at_root, xs, root, 1);
            const auto add_child = [&](std::int64_t link, const C* child) {
                load(edge, ws, link, 1);
                for (int l = 0; l < kLanes; ++l) at_root[l] = step(at_root[l], edge[l], child[l]);
            };
            if (root > 0) add_child(root - 1, s.forward);
            if (root < n - 1) add_child(root, s.backward);
            store(at_root, ys, root, 1);
        });
    });
}

void tree_update(const AnyView& a, const AnyView& w, const AnyView& y, int axis, std::int64_t root,
                 const Options& options) {
    if (a.size() == 0) return;
    const AnyView links = broadcast(w, a, axis);
    const std::int64_t n = a.shape[axis];
    const Lines lines(a, axis);
    with_compute_type(a.dtype, [&](auto zero) {
        using C = decltype(zero);
        Scratches<C> scratches(lines.tiles(), 0, options);
        parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
            WalkScratch<C>& s = scratches[worker];
            const auto update_side = [&](const AnyView& av, const AnyView& wv, const AnyView& yv) {
                const Strand as(lines, av, tile), ws(lines, wv, tile), ys(lines, yv, tile);
                std::copy_n(s.backward, kLanes, s.forward);
                for (std::int64_t first = 0; first < av.shape[axis]; first += kSteps) {
                    const std::int64_t steps = std::min<std::int64_t>(kSteps, av.shape[axis] - first);
                    s.check_cancelled();
                    load(s.w.get(), ws, first, steps);
                    load(s.x.get(), as, first, steps);
                    kernels<C>().scan.update_source(s.x.get(), s.w.get(), steps);
                    kernels<C>().scan.scan(s.x.get(), s.w.get(), steps, s.forward);
                    store(s.x.get(), ys, first, steps);
                }
            };
            load(s.backward, Strand(lines, a, tile), root, 1);
            store(s.backward, Strand(lines, y, tile), root, 1);
            if (root < n - 1)
                update_side(narrow(a, axis, root + 1, n - root - 1), narrow(links, axis, root, n - root - 1),
                            narrow(y, axis, root + 1, n - root - 1));
            if (root > 0)
                update_side(flip(left_side(a, axis, root), axis), flip(left_side(links, axis, root), axis),
                            flip(left_side(y, axis, root), axis));
        });
    });
}

} // namespace sgs
