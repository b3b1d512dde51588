// The semi-global filter over two axes with kLanes planes side by side: for channels that lie together in memory, and
// for planes too small to fill vectors by themselves.
#include "parallel.h"
#include "plane_set.h"

namespace sgs {
namespace {

constexpr std::int64_t kKept = 1 << 16; // elements of kLanes planes that stay in cache from the way down to the way up

template <class C> struct LanesScratch {
    LanesScratch(const PlaneSet<C>& p, bool keep_x, bool keep_sums)
        : tile(p.width * kLanes), x(keep_x ? p.height * tile : tile), sums(keep_sums ? p.height * tile : tile),
          residual(p.o.filter.residual ? tile : 0), carry(tile), down(p.width), up(p.width), across(p.width),
          reciprocal(p.width), reciprocal_across(p.width), trust(p.width) {}
    std::int64_t tile;
    Buffer<C> x, sums, residual, carry, down, up, across, reciprocal, reciprocal_across, trust;
};

// A row of positions of kLanes planes, in memory.
struct LanesView {
    const AnyView* view;
    alignas(64) std::int64_t offsets[kLanes];
};

} // namespace

template <class C> void filter_lanes(const PlaneSet<C>& p, const Options& options) {
    const Operands& o = p.o;
    const bool keep_x = p.height * p.width * kLanes <= kKept;
    // Sums wait in y where they are too many for the cache, if y can hold them.
    const bool keep_sums = keep_x || !holds_sums<C>(o);
    const std::int64_t per_group = (p.group_size + kLanes - 1) / kLanes;
    const std::int64_t tasks = p.planes / p.group_size * per_group;
    const PerWorker<LanesScratch<C>> scratch(tasks, options, p, keep_x, keep_sums);
    CancelFlag cancel(options);

    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        LanesScratch<C>& s = scratch[worker];
        const std::int64_t in_group = task % per_group * kLanes;
        const std::int64_t first = task / per_group * p.group_size + in_group;
        const int lanes = static_cast<int>(std::min<std::int64_t>(kLanes, p.group_size - in_group));
        const auto lanes_of = [&](const AnyView& v) {
            LanesView view{&v, {}};
            for (int l = 0; l < lanes; ++l) view.offsets[l] = p.offset(v, first + l) - p.offset(v, first);
            return view;
        };
        const LanesView xs = lanes_of(o.x), ys = lanes_of(o.y);
        const auto load = [&](C* tile, const LanesView& v, std::int64_t row) {
            kernels<C>().convert.load[static_cast<int>(v.view->dtype)](tile, p.row(*v.view, first, row), p.width,
                                                                       p.column_stride(*v.view), v.offsets, lanes);
        };
        const auto store = [&](const C* tile, std::int64_t row) {
            kernels<C>().convert.store[static_cast<int>(o.y.dtype)](tile, p.row(o.y, first, row), p.width,
                                                                    p.column_stride(o.y), ys.offsets, lanes);
        };
        LanesRow<C> r{};
        r.width = p.width;
        r.down = s.down.get();
        r.up = s.up.get();
        r.across = s.across.get();
        r.carry = s.carry.get();
        r.reciprocal = o.reciprocals.empty() ? nullptr : s.reciprocal.get();
        r.reciprocal_across = p.line ? s.reciprocal_across.get() : nullptr;
        r.centres = p.centres();
        r.fill = static_cast<C>(o.filter.fill_value);
        r.supported_only = o.confidence.has_value();
        // Weights and supports of a row; weights that do not exist, beyond the plane, are 0.
        const auto enter = [&](std::int64_t i) {
            cancel.check(worker);
            p.load_down(s.down.get(), first, i - 1);
            p.load_down(s.up.get(), first, i);
            p.load_across(s.across.get(), first, i);
            p.load_reciprocals(s.reciprocal.get(), s.reciprocal_across.get(), first, i);
            if (o.confidence) p.load_row(s.trust.get(), *o.confidence, first, i);
            r.cuts = has_zero(s.down.get(), p.width, p.width, 1) || has_zero(s.up.get(), p.width, p.width, 1) ||
                     has_zero(s.across.get(), p.width, p.width - 1, 1);
            r.sums = s.sums.get() + (keep_sums ? i * s.tile : 0);
            C* x = s.x.get() + (keep_x ? i * s.tile : 0);
            r.x = x;
            return x;
        };
        const auto load_trusted = [&](C* x, std::int64_t i) {
            load(x, xs, i);
            if (o.confidence) kernels<C>().lanes.trust(x, s.trust.get(), p.width, false);
        };

        std::fill_n(s.carry.get(), s.tile, C(0));
        for (std::int64_t i = 0; i < p.height; ++i) {
            load_trusted(enter(i), i);
            kernels<C>().lanes.down(r);
            if (!keep_sums) store(r.sums, i);
        }
        std::fill_n(s.carry.get(), s.tile, C(0));
        for (std::int64_t i = p.height - 1; i >= 0; --i) {
            C* x = enter(i);
            if (!keep_x) load_trusted(x, i);
            if (!keep_sums) load(r.sums, ys, i);
            if (o.filter.residual) {
                load(s.residual.get(), xs, i);
                if (o.confidence) kernels<C>().lanes.trust(s.residual.get(), s.trust.get(), p.width, true);
                r.residual = s.residual.get();
            }
            kernels<C>().lanes.up(r);
            store(r.sums, i);
        }
    });
}

template void filter_lanes<float>(const PlaneSet<float>&, const Options&);
template void filter_lanes<double>(const PlaneSet<double>&, const Options&);

} // namespace sgs
