// The semi-global filter over two axes, both at once, in bands of rows that stay in cache from the way down to the way
// up: x is read once and y written once. A plane of several bands is read once more before, for what flows into each.
#include "image.h"
#include "plane_weights.h"

namespace sgs {
namespace {

constexpr std::int64_t kWhole = 1 << 17;       // padded elements: larger planes are cut
constexpr std::int64_t kMany = 16;             // planes, which keep all threads busy each by itself
constexpr std::int64_t kWholeOfMany = 1 << 19; // padded elements then
constexpr std::int64_t kBand = 1 << 16;        // of a band then
constexpr std::int64_t kPlanesTogether = 16;   // planes that share the weights of a band while these are in cache
constexpr std::int64_t kEnds = 1024;           // bands, of all planes together, whose ends are known at a time
constexpr std::int64_t kLongestTask = 1 << 24; // positions: between tasks a call can be cancelled
constexpr std::int64_t kStrip = 1024;          // columns that one task connects

// How the planes are cut.
template <class C> struct Bands {
    explicit Bands(const PlaneSet<C>& p)
        : blocks(p.blocks * kRows * p.pitch <= (p.planes < kMany ? kWhole : kWholeOfMany)
                     ? p.blocks
                     : std::max<std::int64_t>(kBand / (kRows * p.pitch), 1)),
          count((p.blocks + blocks - 1) / blocks) {}
    std::int64_t blocks, count;

    std::int64_t first(std::int64_t band) const { return band * blocks; }
    std::int64_t end(const PlaneSet<C>& p, std::int64_t band) const { return std::min(p.blocks, (band + 1) * blocks); }
};

// One thread's memory for a band, in one piece, since for tiny planes it is allocations that cost. Weights
// are laid out once for all planes that share them.
template <class C> struct BandScratch {
    BandScratch(const PlaneSet<C>& p, const Bands<C>& bands) {
        const std::int64_t block = kRows * p.pitch, size = bands.blocks * block;
        const std::pair<C**, std::int64_t> parts[] = {{&down, size + p.pitch},
                                                      {&across, bands.blocks * kRows * p.across_pitch},
                                                      {&reciprocal, p.o.reciprocals.empty() ? 0 : size},
                                                      {&reciprocal_across, p.line ? size : 0},
                                                      {&trust, p.o.confidence ? size : 0},
                                                      {&packed, bands.count == 1 && p.streams() ? size : 0},
                                                      {&x, size},
                                                      {&below, bands.blocks * p.pitch},
                                                      {&residual, p.o.confidence ? block : 0},
                                                      {&rows, kRows * p.across_pitch},
                                                      {&columns, block},
                                                      {&terms, block},
                                                      {&carry, 2 * p.pitch}};
        std::int64_t total = 0;
        for (const auto& part : parts) total += part.second; // whole vectors each, so that all are aligned
        memory = Buffer<C>(total);
        C* at = memory.get();
        for (const auto& [part, count] : parts) {
            *part = at;
            at += count;
        }
    }
    Buffer<C> memory;
    C *down, *across, *reciprocal, *reciprocal_across, *trust, *packed, *x, *below, *residual, *rows, *columns, *terms,
        *carry;
    std::int64_t group = -1, band = -1; // whose weights these are
    bool cuts = false;

    BlockWeights<C> weights(const PlaneSet<C>& p, std::int64_t block) const {
        const std::int64_t at = block * kRows * p.pitch;
        return {down + at, across + block * kRows * p.across_pitch, reciprocal + at,
                p.line ? reciprocal_across + at : nullptr, p.o.confidence ? trust + at : nullptr};
    }
};

// What flows between the bands of a few planes, by connect_parts.
template <class C> class BandEnds {
  public:
    BandEnds(const PlaneSet<C>& p, std::int64_t bands, std::int64_t planes)
        : pitch_(p.pitch), bands_(bands), above_(planes * (bands + 1) * pitch_), below_(planes * (bands + 1) * pitch_),
          through_(bands * pitch_) {}

    /// What enters band k from above: the weight of its upper edge times F of the row before.
    C* above(std::int64_t plane, std::int64_t k) const { return above_.get() + at(plane, k); }
    /// B of the first row of band k, which enters band k - 1 from below.
    C* below(std::int64_t plane, std::int64_t k) const { return below_.get() + at(plane, k); }
    /// Product of the weights from the first row of band k to the first of the next.
    double* through(std::int64_t k) const { return through_.get() + k * pitch_; }

    /// From what leaves each band alone to what leaves it, for columns [first, first + count) of a plane.
    void connect(std::int64_t plane, std::int64_t first, std::int64_t count) const {
        std::fill_n(above(plane, 0) + first, count, C(0));
        std::fill_n(below(plane, bands_) + first, count, C(0));
        connect_parts(above(plane, 0) + first, below(plane, 0) + first, through(0) + first, bands_, pitch_, count);
    }

  private:
    std::int64_t at(std::int64_t plane, std::int64_t k) const { return (plane * (bands_ + 1) + k) * pitch_; }
    std::int64_t pitch_, bands_;
    Buffer<C> above_, below_;
    Buffer<double> through_;
};

// What leaves a band by itself, for planes first + i, i in [from, end).
template <class C> void find_ends(const PlaneSet<C>& p, const Bands<C>& bands, std::int64_t band, std::int64_t first,
                                  std::int64_t from, std::int64_t end, const BandEnds<C>& ends,
                                  const BandScratch<C>& s) {
    const std::int64_t first_block = bands.first(band), end_block = bands.end(p, band);
    for (std::int64_t k = first_block; k < end_block; ++k) load_leaving(p, s.weights(p, k - first_block), first, k);
    PlaneBlock<C> b = p.block();
    b.cuts = true; // as far as is known
    for (std::int64_t i = from; i < end; ++i) {
        const auto enter = [&](std::int64_t k) {
            const BlockWeights<C> w = s.weights(p, k - first_block);
            b.down = w.down;
            b.rows = p.block_rows(k);
            C* x = s.x + (k - first_block) * kRows * p.pitch;
            b.x = x;
            return std::pair(w, x);
        };
        for (std::int64_t k = first_block; k < end_block; ++k) {
            const auto [w, x] = enter(k);
            p.load_trusted(x, w.trust, first + i, k);
            kernels<C>().plane.descend(b, k == first_block, ends.above(i, band + 1));
            if (i == 0) kernels<C>().plane.products(b, k == first_block, ends.through(band));
        }
        C* const leaving = ends.below(i, band);
        std::fill_n(leaving, p.pitch, C(0));
        b.below = leaving;
        for (std::int64_t k = end_block - 1; k >= first_block; --k) {
            enter(k);
            kernels<C>().plane.climb(b, leaving);
        }
    }
}

// One band of one plane: upward for B below each block, downward with everything else. above and below enter the band;
// above is used up. `next` is a plane that follows, or kNoPlane.
template <class C> void filter_band(const PlaneSet<C>& p, const Bands<C>& bands, std::int64_t band, std::int64_t plane,
                                    std::int64_t next, C* above, const C* below, const BandScratch<C>& s) {
    PlaneBlock<C> b = p.block();
    b.columns = s.columns;
    b.terms = s.terms;
    b.above = above;
    b.cuts = s.cuts;
    const std::int64_t first = bands.first(band), end = bands.end(p, band);
    const bool packed = bands.count == 1 && p.streams();
    const auto store_rows = kernels<C>().plane.store_rows[static_cast<int>(dtype_of<C>::value)];
    const auto enter = [&](std::int64_t k) {
        const BlockWeights<C> w = s.weights(p, k - first);
        p.set_weights(b, w);
        b.rows = p.block_rows(k);
        C* x = s.x + (k - first) * kRows * p.pitch;
        b.x = x;
        b.below = k + 1 == end ? below : s.below + (k - first) * p.pitch;
        return std::pair(w, x);
    };
    for (std::int64_t k = end - 1; k >= first; --k) {
        const auto [w, x] = enter(k);
        p.load_trusted(x, w.trust, plane, k);
        if (k > first) kernels<C>().plane.climb(b, s.below + (k - 1 - first) * p.pitch);
    }
    for (std::int64_t k = first; k < end; ++k) {
        const auto [w, x] = enter(k);
        b.y = s.rows;
        b.read = p.ahead(p.o.x, next, end - 1 - (k - first));
        if (!packed) b.written = p.ahead(p.o.y, plane, std::min(k + 1, end - 1));
        if (p.o.filter.residual) {
            b.residual = x;
            if (p.o.confidence) { // x times confidence is not what the residual adds
                p.load_residual(s.residual, w.trust, plane, k);
                b.residual = s.residual;
            }
        }
        kernels<C>().plane.filter(b);
        if (packed)
            store_rows(s.rows, p.pitch, s.packed + k * kRows * p.width, p.width, 1, b.rows, p.width);
        else
            p.store(s.rows, p.o.y, plane, k);
    }
    if (packed) kernels<C>().plane.stream(s.packed, static_cast<C*>(p.row(p.o.y, plane, 0)), p.height * p.width);
}

// Weights, supports and confidence of a band, where they are not there yet.
template <class C>
void load_band(const PlaneSet<C>& p, const Bands<C>& bands, std::int64_t group, std::int64_t band, BandScratch<C>& s) {
    if (s.group == group && s.band == band) return;
    s.group = group;
    s.band = band;
    s.cuts = false;
    const std::int64_t first = bands.first(band), end = bands.end(p, band);
    for (std::int64_t k = first; k < end; ++k)
        s.cuts |= load_weights(p, s.weights(p, k - first), group * p.group_size, k, s.rows);
    if (band > 0) std::fill_n(s.down, p.pitch, C(1)); // what enters has crossed the edge
}

// Planes of one band each.
template <class C> void filter_whole(const PlaneSet<C>& p, const Bands<C>& bands, const Options& options) {
    const PerWorker<BandScratch<C>> scratch(p.planes, options, p, bands);
    // Many groups: each stays with one thread, which then lays out its weights alone. Few: their planes are dealt out.
    const std::int64_t groups = p.planes / p.group_size, threads = options.num_threads;
    const std::int64_t wanted = groups >= 8 * threads ? p.group_size : p.planes / (32 * threads);
    const std::int64_t together =
        std::clamp<std::int64_t>(std::min(wanted, kLongestTask / (p.height * p.width)), 1, p.group_size);
    const std::int64_t parts = (p.group_size + together - 1) / together;
    parallel_for(groups * parts, options, [&](std::int64_t task, int worker) {
        BandScratch<C>& s = scratch[worker];
        C* const above = s.carry;
        C* const below = s.carry + p.pitch;
        const std::int64_t group = task / parts, from = task % parts * together;
        load_band(p, bands, group, 0, s);
        const std::int64_t end = group * p.group_size + std::min(p.group_size, from + together);
        for (std::int64_t i = group * p.group_size + from; i < end; ++i) {
            std::fill_n(s.carry, 2 * p.pitch, C(0)); // nothing enters
            filter_band(p, bands, 0, i, i + 1 < end ? i + 1 : kNoPlane, above, below, s);
        }
    });
}

// A few planes of a group at a time, all bands of these side by side.
template <class C> void filter_bands(const PlaneSet<C>& p, const Bands<C>& bands, const Options& options) {
    // Fewer where bands are many and low: what flows into all of them takes memory.
    const std::int64_t together =
        std::min(p.group_size, std::clamp<std::int64_t>(kEnds / bands.count, 1, kPlanesTogether));
    const std::int64_t wanted = 8 * options.num_threads / bands.count;
    const std::int64_t parts = std::clamp<std::int64_t>(wanted, 1, together);
    const std::int64_t per_part = (together + parts - 1) / parts;
    const std::int64_t strips = (p.pitch + kStrip - 1) / kStrip;
    const BandEnds<C> ends(p, bands.count, together);
    const PerWorker<BandScratch<C>> scratch(bands.count * parts, options, p, bands);
    for (std::int64_t first = 0; first < p.planes;) {
        const std::int64_t count = std::min(together, p.group_size - first % p.group_size);
        const auto each_part = [&](const auto& run) {
            parallel_for(bands.count * parts, options, [&](std::int64_t task, int worker) {
                const std::int64_t from = task % parts * per_part;
                if (from < count) run(task / parts, from, std::min(from + per_part, count), scratch[worker]);
            });
        };
        each_part([&](std::int64_t band, std::int64_t from, std::int64_t end, BandScratch<C>& s) {
            s.band = -1;
            find_ends(p, bands, band, first, from, end, ends, s);
        });
        parallel_for(count * strips, options, [&](std::int64_t task, int) {
            const std::int64_t column = task % strips * kStrip;
            ends.connect(task / strips, column, std::min(kStrip, p.pitch - column));
        });
        each_part([&](std::int64_t band, std::int64_t from, std::int64_t end, BandScratch<C>& s) {
            load_band(p, bands, first / p.group_size, band, s);
            for (std::int64_t i = from; i < end; ++i)
                filter_band(p, bands, band, first + i, i + 1 < end ? first + i + 1 : kNoPlane, ends.above(i, band),
                            ends.below(i, band + 1), s);
        });
        first += count;
    }
}

} // namespace

bool is_plane_filter(const Operands& o) { return o.axes.size() == 2; }

template <class C> bool makes_weights(const Operands& o, bool overlaps) {
    if (!is_plane_filter(o) || o.filter.normalization == Normalization::line) return false;
    const PlaneSet<C> p(o);
    return is_image(p) && (!overlaps || reads_guide_before(p)); // the guide is read while y is written
}

template <class C> bool filters_at_once(const Operands& o) {
    return is_plane_filter(o) && filters_at_once(PlaneSet<C>(o));
}

template <class C> void filter_planes(const Operands& o, const Options& options) {
    const PlaneSet<C> p(o);
    const Bands<C> bands(p);
    if (side_by_side(p))
        filter_lanes(p, options);
    else if (is_image(p))
        filter_image(p, options);
    else if (bands.count == 1)
        filter_whole(p, bands, options);
    else
        filter_bands(p, bands, options);
}

template bool makes_weights<float>(const Operands&, bool);
template bool makes_weights<double>(const Operands&, bool);
template bool filters_at_once<float>(const Operands&);
template bool filters_at_once<double>(const Operands&);
template void filter_planes<float>(const Operands&, const Options&);
template void filter_planes<double>(const Operands&, const Options&);

} // namespace sgs
