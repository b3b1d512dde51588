// The semi-global filter over two axes, both at once: a plane that stays in cache is read once and written once.
#include <atomic>
#include <initializer_list>
#include <memory>
#include <utility>

#include "parallel.h"
#include "plane_set.h"

namespace sgs {
namespace {

constexpr std::int64_t kCachedPlane = 1 << 18;    // padded elements: larger planes outgrow a core's own cache
constexpr std::int64_t kSmallPlane = 1 << 11;     // positions: smaller planes are filtered side by side
constexpr std::int64_t kFewestLanes = 12;         // planes worth filtering side by side
constexpr std::int64_t kLargestScratch = 1 << 20; // elements of scratch a thread for planes side by side
constexpr std::int64_t kPlanesTogether = 16;      // planes that share the weights of a block while these are in cache

// Scratch in one piece: for tiny planes it is allocations that cost. Parts are whole vectors, so that all are aligned,
// and a vector apart, so that they do not compete for the same sets of the cache.
template <class C> Buffer<C> lay_out(std::initializer_list<std::pair<C**, std::int64_t>> parts) {
    std::int64_t total = 0;
    for (const auto& [part, count] : parts) total += count + kRows;
    Buffer<C> memory(total);
    C* at = memory.get();
    for (const auto& [part, count] : parts) {
        *part = at;
        at += count + kRows;
    }
    return memory;
}

// One thread's memory for whole planes. Weights are laid out once for all planes that share them.
template <class C> struct CachedScratch {
    explicit CachedScratch(const PlaneSet<C>& p) {
        const std::int64_t block = kRows * p.pitch, size = p.blocks * block, across_block = kRows * p.across_pitch;
        memory = lay_out<C>({{&down, size + p.pitch},
                             {&across, p.blocks * across_block},
                             {&reciprocal, size},
                             {&reciprocal_across, p.line ? size : 0},
                             {&trust, p.o.confidence ? size : 0},
                             {&x, size},
                             {&sums, size},
                             {&rows, 2 * across_block},
                             {&columns, block},
                             {&terms, block},
                             {&carry, p.pitch},
                             {&tail, kRows * kRows}});
    }
    Buffer<C> memory;
    C *down, *across, *reciprocal, *reciprocal_across, *trust, *x, *sums, *rows, *columns, *terms, *carry, *tail;
    std::int64_t group = -1;
    bool cuts = false;

    BlockWeights<C> weights(const PlaneSet<C>& p, std::int64_t block) const {
        const std::int64_t at = block * kRows * p.pitch;
        return {down + at, across + block * kRows * p.across_pitch, reciprocal + at,
                p.line ? reciprocal_across + at : nullptr, p.o.confidence ? trust + at : nullptr};
    }
};

template <class C> void filter_cached(const PlaneSet<C>& p, const Options& options) {
    std::vector<std::unique_ptr<CachedScratch<C>>> scratch;
    for (int k = workers(p.planes, options); k > 0; --k) scratch.push_back(std::make_unique<CachedScratch<C>>(p));

    parallel_for(p.planes, options, [&](std::int64_t plane, int worker) {
        CachedScratch<C>& s = *scratch[static_cast<std::size_t>(worker)];
        if (s.group != plane / p.group_size) {
            s.group = plane / p.group_size;
            s.cuts = false;
            for (std::int64_t k = 0; k < p.blocks; ++k) s.cuts |= p.load_weights(s.weights(p, k), plane, k, s.rows);
        }
        PlaneBlock<C> b = p.block(s.columns, s.terms, s.carry);
        b.cuts = s.cuts;
        const auto enter = [&](std::int64_t k) {
            const BlockWeights<C> w = s.weights(p, k);
            p.set_weights(b, w);
            b.rows = p.block_rows(k);
            b.sums = s.sums + k * kRows * p.pitch;
            b.x = s.x + k * kRows * p.pitch;
            return w;
        };
        std::fill_n(s.carry, p.pitch, C(0));
        for (std::int64_t k = 0; k < p.blocks; ++k) {
            const BlockWeights<C> w = enter(k);
            p.load_trusted(s.x + k * kRows * p.pitch, w.trust, plane, k);
            kernels<C>().plane.down(b);
        }
        std::fill_n(s.carry, p.pitch, C(0));
        for (std::int64_t k = p.blocks - 1; k >= 0; --k) {
            const BlockWeights<C> w = enter(k);
            if (p.o.filter.residual) {
                b.residual = b.x;
                if (p.o.confidence) { // x times confidence is not what the residual adds
                    p.load_residual(s.terms, w.trust, plane, k);
                    b.residual = s.terms;
                }
            }
            p.finish(b, s.rows, s.tail, plane, k);
        }
    });
}

// One thread's memory for a block of a few planes in turn.
template <class C> struct BlockScratch {
    BlockScratch(const PlaneSet<C>& p, std::int64_t together, bool keep_sums) {
        const std::int64_t block = kRows * p.pitch, across_block = kRows * p.across_pitch;
        memory = lay_out<C>({{&down, block + p.pitch},
                             {&across, across_block},
                             {&reciprocal, block},
                             {&reciprocal_across, block},
                             {&trust, block},
                             {&x, block},
                             {&sums, block},
                             {&rows, 2 * across_block},
                             {&columns, block},
                             {&terms, block},
                             {&residual, block},
                             {&carry, together * p.pitch},
                             {&tail, kRows * kRows},
                             {&kept, keep_sums ? p.blocks * block : 0}});
    }
    Buffer<C> memory;
    C *down, *across, *reciprocal, *reciprocal_across, *trust, *x, *sums, *rows, *columns, *terms, *residual, *carry,
        *tail;
    C* kept; // a plane of sums, where y cannot hold them

    BlockWeights<C> weights() const { return {down, across, reciprocal, reciprocal_across, trust}; }
};

template <class C> void filter_blocks(const PlaneSet<C>& p, const Options& options) {
    // Sums between the way down and the way up wait in y where it can hold them.
    const bool keep_sums = !holds_sums<C>(p.o);
    const std::int64_t groups = p.planes / p.group_size;
    const std::int64_t share = (p.group_size * groups + options.num_threads - 1) / options.num_threads;
    const std::int64_t together = keep_sums ? 1 : std::min({p.group_size, kPlanesTogether, share});
    const std::int64_t per_group = (p.group_size + together - 1) / together;
    const std::int64_t tasks = groups * per_group;
    std::vector<std::unique_ptr<BlockScratch<C>>> scratch;
    for (int k = workers(tasks, options); k > 0; --k)
        scratch.push_back(std::make_unique<BlockScratch<C>>(p, together, keep_sums));
    CancelFlag cancel(options);

    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        BlockScratch<C>& s = *scratch[static_cast<std::size_t>(worker)];
        const std::int64_t in_group = task % per_group * together;
        const std::int64_t first = task / per_group * p.group_size + in_group;
        const std::int64_t count = std::min(together, p.group_size - in_group);
        const BlockWeights<C> w = s.weights();
        PlaneBlock<C> b = p.block(s.columns, s.terms, s.carry);
        p.set_weights(b, w);
        b.x = s.x;
        const auto each_plane = [&](std::int64_t k, const auto& run) {
            cancel.check(worker);
            b.cuts = p.load_weights(w, first, k, s.rows);
            b.rows = p.block_rows(k);
            for (std::int64_t i = 0; i < count; ++i) {
                b.carry = s.carry + i * p.pitch;
                b.sums = keep_sums ? s.kept + k * kRows * p.pitch : s.sums;
                p.load_trusted(s.x, w.trust, first + i, k);
                run(first + i);
            }
        };
        std::fill_n(s.carry, count * p.pitch, C(0));
        for (std::int64_t k = 0; k < p.blocks; ++k)
            each_plane(k, [&](std::int64_t plane) {
                kernels<C>().plane.down(b);
                if (!keep_sums) p.store(b.sums, p.o.y, plane, k);
            });
        std::fill_n(s.carry, count * p.pitch, C(0));
        for (std::int64_t k = p.blocks - 1; k >= 0; --k)
            each_plane(k, [&](std::int64_t plane) {
                if (!keep_sums) p.load(s.sums, p.o.y, plane, k);
                if (p.o.filter.residual) {
                    p.load_residual(s.residual, w.trust, plane, k);
                    b.residual = s.residual;
                }
                p.finish(b, s.rows, s.tail, plane, k);
            });
    });
}

} // namespace

bool is_plane_filter(const Operands& o) { return o.axes.size() == 2; }

template <class C> void filter_planes(const Operands& o, const Options& options) {
    const PlaneSet<C> p(o);
    const bool channels_together = std::abs(p.plane_stride(o.y)) < std::abs(p.column_stride(o.y));
    const bool small = p.width < kRows || p.height * p.width <= kSmallPlane;
    // Side by side, sums that y cannot hold take kLanes planes of scratch.
    const bool affordable = holds_sums<C>(o) || p.height * p.width * kLanes <= kLargestScratch;
    if (affordable && p.group_size >= kFewestLanes && (channels_together || small))
        filter_lanes(p, options);
    else if (p.column_stride(o.y) == 1 && p.column_stride(o.x) == 1 && p.blocks * kRows * p.pitch <= kCachedPlane)
        filter_cached(p, options);
    else
        filter_blocks(p, options);
}

template void filter_planes<float>(const Operands&, const Options&);
template void filter_planes<double>(const Operands&, const Options&);

} // namespace sgs
