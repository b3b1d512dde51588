// The semi-global filter over two axes, both at once, in bands of rows that stay in cache from the way down to the way
// up: x is read once and y written once. A plane of several bands is read once more before, for what flows into each.
#include "parallel.h"
#include "plane_set.h"

namespace sgs {
namespace {

constexpr std::int64_t kBand = 1 << 16;           // padded elements of a band
constexpr std::int64_t kSmallPlane = 1 << 11;     // positions: smaller planes are filtered side by side
constexpr std::int64_t kFewestLanes = 12;         // planes worth filtering side by side
constexpr std::int64_t kLargestScratch = 1 << 20; // elements of scratch a thread for planes side by side
constexpr std::int64_t kPlanesTogether = 16;      // planes that share the weights of a band while these are in cache
constexpr std::int64_t kStrip = 1024;             // columns that one task connects

// How the planes are cut.
template <class C> struct Bands {
    explicit Bands(const PlaneSet<C>& p)
        : blocks(std::clamp<std::int64_t>(kBand / (kRows * p.pitch), 1, p.blocks)),
          count((p.blocks + blocks - 1) / blocks) {}
    std::int64_t blocks, count;

    std::int64_t first(std::int64_t band) const { return band * blocks; }
    std::int64_t end(const PlaneSet<C>& p, std::int64_t band) const { return std::min(p.blocks, (band + 1) * blocks); }
};

// One thread's memory for a band. Weights are laid out once for all planes that share them.
template <class C> struct BandScratch {
    BandScratch(const PlaneSet<C>& p, const Bands<C>& bands)
        : size(bands.blocks * kRows * p.pitch), down(size + p.pitch), across(bands.blocks * kRows * p.across_pitch),
          reciprocal(size), reciprocal_across(p.line ? size : 0), trust(p.o.confidence ? size : 0), x(size), sums(size),
          rows(2 * kRows * p.across_pitch), columns(kRows * p.pitch), terms(kRows * p.pitch), carry(2 * p.pitch),
          tail(kRows * kRows) {}
    std::int64_t size;
    Buffer<C> down, across, reciprocal, reciprocal_across, trust, x, sums, rows, columns, terms, carry, tail;
    std::int64_t group = -1, band = -1;
    bool cuts = false;

    BlockWeights<C> weights(const PlaneSet<C>& p, std::int64_t block) const {
        const std::int64_t at = block * kRows * p.pitch;
        return {down.get() + at, across.get() + block * kRows * p.across_pitch, reciprocal.get() + at,
                p.line ? reciprocal_across.get() + at : nullptr, p.o.confidence ? trust.get() + at : nullptr};
    }
};

// (4) is linear in what flows into a band: what leaves it is what would leave it alone, plus what enters times the
// product of the weights that this crosses.
template <class C> class BandEnds {
  public:
    BandEnds(const PlaneSet<C>& p, std::int64_t bands, std::int64_t planes)
        : pitch_(p.pitch), bands_(bands), above_(planes * (bands + 1) * pitch_), below_(planes * (bands + 1) * pitch_),
          through_(bands * pitch_) {}

    /// What enters band k from above: the weight of its upper edge times F of the row before.
    C* above(std::int64_t plane, std::int64_t k) const { return above_.get() + (plane * (bands_ + 1) + k) * pitch_; }
    /// B of the first row of band k, which enters band k - 1 from below.
    C* below(std::int64_t plane, std::int64_t k) const { return below_.get() + (plane * (bands_ + 1) + k) * pitch_; }
    /// Product of the weights from the first row of band k to the first of the next.
    C* through(std::int64_t k) const { return through_.get() + k * pitch_; }

    /// From what leaves each band alone to what leaves it, for columns [first, first + count) of a plane.
    void connect(std::int64_t plane, std::int64_t first, std::int64_t count) const {
        std::fill_n(above(plane, 0) + first, count, C(0));
        std::fill_n(below(plane, bands_) + first, count, C(0));
        for (std::int64_t k = 0; k < bands_; ++k)
            kernels<C>().plane.pass_on(above(plane, k + 1) + first, through(k) + first, above(plane, k) + first, count);
        for (std::int64_t k = bands_ - 1; k >= 0; --k)
            kernels<C>().plane.pass_on(below(plane, k) + first, through(k) + first, below(plane, k + 1) + first, count);
    }

  private:
    std::int64_t pitch_, bands_;
    Buffer<C> above_, below_, through_;
};

// What leaves a band by itself, for `count` planes from `first` + `from` on.
template <class C> void find_ends(const PlaneSet<C>& p, const Bands<C>& bands, std::int64_t band, std::int64_t first,
                                  std::int64_t from, std::int64_t count, const BandEnds<C>& ends,
                                  const BandScratch<C>& s) {
    const BlockWeights<C> w = s.weights(p, 0);
    PlaneBlock<C> b = p.block(nullptr, nullptr, nullptr);
    b.down = w.down;
    b.x = s.x.get();
    for (std::int64_t k = bands.first(band); k < bands.end(p, band); ++k) {
        p.load_leaving(w.down, first, k);
        if (p.o.confidence) p.load(w.trust, *p.o.confidence, first, k);
        b.rows = p.block_rows(k);
        for (std::int64_t i = from; i < from + count; ++i) {
            p.load_trusted(s.x.get(), w.trust, first + i, k);
            // Planes other than the first cross the same weights: their products go to scratch.
            kernels<C>().plane.ends(b, k == bands.first(band), ends.above(i, band + 1), ends.below(i, band),
                                    i == 0 ? ends.through(band) : s.sums.get() + (i - from) * p.pitch);
        }
    }
}

// Both passes over one band of one plane; above and below enter it and are used up.
template <class C> void filter_band(const PlaneSet<C>& p, const Bands<C>& bands, std::int64_t band, std::int64_t plane,
                                    C* above, C* below, const BandScratch<C>& s) {
    PlaneBlock<C> b = p.block(s.columns.get(), s.terms.get(), above);
    b.cuts = s.cuts;
    const std::int64_t first = bands.first(band);
    const auto enter = [&](std::int64_t k) {
        const BlockWeights<C> w = s.weights(p, k - first);
        p.set_weights(b, w);
        b.rows = p.block_rows(k);
        b.sums = s.sums.get() + (k - first) * kRows * p.pitch;
        C* x = s.x.get() + (k - first) * kRows * p.pitch;
        b.x = x;
        return std::pair(w, x);
    };
    for (std::int64_t k = first; k < bands.end(p, band); ++k) {
        const auto [w, x] = enter(k);
        p.load_trusted(x, w.trust, plane, k);
        kernels<C>().plane.down(b);
    }
    b.carry = below;
    for (std::int64_t k = bands.end(p, band) - 1; k >= first; --k) {
        const auto [w, x] = enter(k);
        if (p.o.filter.residual) {
            b.residual = x;
            if (p.o.confidence) { // x times confidence is not what the residual adds
                p.load_residual(s.terms.get(), w.trust, plane, k);
                b.residual = s.terms.get();
            }
        }
        p.finish(b, s.rows.get(), s.tail.get(), plane, k);
    }
}

template <class C>
void load_band(const PlaneSet<C>& p, const Bands<C>& bands, std::int64_t group, std::int64_t band, BandScratch<C>& s) {
    if (s.group == group && s.band == band) return;
    s.group = group;
    s.band = band;
    s.cuts = false;
    const std::int64_t first = bands.first(band);
    for (std::int64_t k = first; k < bands.end(p, band); ++k)
        s.cuts |= p.load_weights(s.weights(p, k - first), group * p.group_size, k, s.rows.get());
    if (band > 0) std::fill_n(s.down.get(), p.pitch, C(1)); // what enters has crossed the edge
}

// Planes of one band each.
template <class C> void filter_whole(const PlaneSet<C>& p, const Bands<C>& bands, const Options& options) {
    const PerWorker<BandScratch<C>> scratch(p.planes, options, p, bands);
    parallel_for(p.planes, options, [&](std::int64_t plane, int worker) {
        BandScratch<C>& s = scratch[worker];
        load_band(p, bands, plane / p.group_size, 0, s);
        std::fill_n(s.carry.get(), 2 * p.pitch, C(0));
        filter_band(p, bands, 0, plane, s.carry.get(), s.carry.get() + p.pitch, s);
    });
}

// A few planes of a group at a time, all bands of these side by side.
template <class C> void filter_bands(const PlaneSet<C>& p, const Bands<C>& bands, const Options& options) {
    const std::int64_t together = std::min(p.group_size, kPlanesTogether);
    const std::int64_t parts = std::clamp<std::int64_t>(8 * options.num_threads / bands.count, 1, together);
    const std::int64_t per_part = (together + parts - 1) / parts;
    const std::int64_t strips = (p.pitch + kStrip - 1) / kStrip;
    const BandEnds<C> ends(p, bands.count, together);
    const PerWorker<BandScratch<C>> scratch(bands.count * parts, options, p, bands);
    for (std::int64_t first = 0; first < p.planes;) {
        const std::int64_t count = std::min(together, p.group_size - first % p.group_size);
        const auto each_part = [&](const auto& run) {
            parallel_for(bands.count * parts, options, [&](std::int64_t task, int worker) {
                const std::int64_t from = task % parts * per_part;
                run(task / parts, from, std::min(per_part, count - from), scratch[worker]);
            });
        };
        each_part([&](std::int64_t band, std::int64_t from, std::int64_t planes, BandScratch<C>& s) {
            s.band = -1;
            if (planes > 0) find_ends(p, bands, band, first, from, planes, ends, s);
        });
        parallel_for(count * strips, options, [&](std::int64_t task, int) {
            const std::int64_t column = task % strips * kStrip;
            ends.connect(task / strips, column, std::min(kStrip, p.pitch - column));
        });
        each_part([&](std::int64_t band, std::int64_t from, std::int64_t planes, BandScratch<C>& s) {
            load_band(p, bands, first / p.group_size, band, s);
            for (std::int64_t i = from; i < from + planes; ++i)
                filter_band(p, bands, band, first + i, ends.above(i, band), ends.below(i, band + 1), s);
        });
        first += count;
    }
}

} // namespace

bool is_plane_filter(const Operands& o) { return o.axes.size() == 2; }

template <class C> void filter_planes(const Operands& o, const Options& options) {
    const PlaneSet<C> p(o);
    const bool channels_together = std::abs(p.plane_stride(o.y)) < std::abs(p.column_stride(o.y));
    const bool small = p.width < kRows || p.height * p.width <= kSmallPlane;
    // Side by side, sums that y cannot hold take kLanes planes of scratch.
    const bool affordable = holds_sums<C>(o) || p.height * p.width * kLanes <= kLargestScratch;
    const Bands<C> bands(p);
    if (affordable && p.group_size >= kFewestLanes && (channels_together || small))
        filter_lanes(p, options);
    else if (bands.count == 1)
        filter_whole(p, bands, options);
    else
        filter_bands(p, bands, options);
}

template void filter_planes<float>(const Operands&, const Options&);
template void filter_planes<double>(const Operands&, const Options&);

} // namespace sgs
