// The semi-global filter over two axes with 8 or 16 planes side by side: many that share their weights, which are
// then one number for each position, or neighbours in memory with weights of their own. Nothing is padded, and neither
// axis asks for shuffles. A band of rows stays in cache from the way down, which leaves F every few rows, to the way
// up, which does everything else. A part that is one band stays for all blocks (9).
#include "lanes_part.h"
#include "parallel.h"

namespace sgs {
namespace {

constexpr std::int64_t kWhole = 5 << 18;     // bytes of a part: larger ones are cut into bands
constexpr std::int64_t kBand = 1 << 19;      // bytes of a band
constexpr std::int64_t kFewestRows = 24;     // of a band: what flows between bands is kept,
constexpr std::int64_t kFewestInCache = 8;   // or, where y has room for it, fewer, since more outgrow L2
constexpr std::int64_t kSmallPlane = 1 << 9; // positions: rows too short for whole vectors
constexpr std::int64_t kTask = 1 << 15;      // elements worth a turn
constexpr std::int64_t kFewestTasks = 4;     // that keep threads busy by themselves
constexpr std::int64_t kWidestOfFew = 1000;  // columns where parts are few
constexpr std::int64_t kBandsTogether = 64;  // whose ends are known at a time, where parts are few

/// y's rows are written last where there is one block.
template <class C> bool keeps_ends_in_y(const PlaneSet<C>& p) { return holds_sums<C>(p.o) && p.o.filter.blocks == 1; }

template <class C> std::int64_t band_rows(const PlaneSet<C>& p) {
    const std::int64_t row = p.bytes_of(p.width);
    if (p.height * row <= kWhole) return p.height;
    const bool in_turn = Parts<C>(p).count() >= kFewestTasks;
    const std::int64_t fewest = in_turn && keeps_ends_in_y(p) ? kFewestInCache : kFewestRows;
    return std::max(fewest, kBand / row / kGroupRows * kGroupRows);
}

template <class C> struct LanesScratch {
    LanesScratch(const PlaneSet<C>& p, std::int64_t rows, std::int64_t bands)
        : row(p.width * p.lanes), weights_row(p.own_weights ? row : p.width),
          y_rows(p.height * p.width <= kSmallPlane ? p.height : kGroupRows), down((rows + 1) * weights_row),
          across(rows * (weights_row + weights_row / p.width)),
          reciprocal(p.o.reciprocals.empty() ? 0 : rows * weights_row),
          reciprocal_across(p.line ? rows * weights_row : 0), trust(p.o.confidence ? rows * weights_row : 0),
          x(rows * row), above((rows / kGroupRows + 2) * row), below(row), y(y_rows * row),
          residual(p.o.confidence && p.o.filter.residual ? kGroupRows * row : 0),
          ends(keeps_ends_in_y(p) ? 0 : bands * row), next(p.o.filter.blocks > 1 ? row : 0) {}
    std::int64_t row;                                             // elements of a row of tiles
    std::int64_t weights_row;                                     // and of weights
    std::int64_t y_rows;                                          // that are stored together: all of a small plane
    Buffer<C> down, across, reciprocal, reciprocal_across, trust; // of a band
    Buffer<C> x, above;                                           // of a band: F above each of its blocks
    Buffer<C> below, y, residual;                                 // of a block
    Buffer<C> ends;                                               // F above each band, unless y holds it; or B below
    Buffer<C> next;                                               // of the block after: what flows on from a band
    std::int64_t set = -1, band = -1;                             // whose weights these are
    bool cuts = false;
};

// What flows between the bands of a part that go side by side. Each band keeps a row of tiles from above and one from
// below, here unless y holds them.
template <class C> struct PartFlows {
    std::int64_t bands, row, weights_row;
    C* flows;        // [2][bands][row]
    double* through; // [2][bands][weights_row]: products of the weights along the columns of a band

    C* above(std::int64_t band) const { return flows + band * row; }
    C* below(std::int64_t band) const { return flows + (bands + band) * row; }
    double* downward(std::int64_t band) const { return through + band * weights_row; }
    double* upward(std::int64_t band) const { return through + (bands + band) * weights_row; }
};

template <class C> class Lanes {
  public:
    /// A part of a set.
    Lanes(const PlaneSet<C>& p, LanesScratch<C>& s, std::int64_t rows, CancelFlag& cancel, int worker, std::int64_t set,
          const Part& part)
        : p_(p), s_(s), band_rows_(rows), cancel_(cancel), worker_(worker), set_(set), part_(p, part) {}

    /// All blocks (9) of a part that is one band.
    void filter_at_once() {
        for (std::int64_t left = p_.o.filter.blocks; left > 0; --left) {
            std::fill_n(s_.above.get(), s_.row, C(0));
            std::fill_n(s_.below.get(), s_.row, C(0));
            filter_band(0, left == p_.o.filter.blocks ? From::x : From::tile, left == 1);
        }
    }

    /// All bands of the part in turn, upward.
    void filter_by_bands() {
        find_above();
        std::fill_n(s_.below.get(), s_.row, C(0));
        for (std::int64_t band = bands() - 1; band >= 0; --band) {
            get(s_.above.get(), first_row(band), s_.ends.get() + band * s_.row);
            filter_band(band);
        }
    }

    /// The same for all blocks (9), up and down by turns: what the next block needs from where this one goes is found
    /// while a band is in cache.
    void filter_by_turns() {
        find_above();
        for (std::int64_t block = 0; block < p_.o.filter.blocks; ++block) {
            const bool up = block % 2 == 0, last_block = block + 1 == p_.o.filter.blocks;
            C* const known = up ? s_.above.get() : s_.below.get();
            C* const found = up ? s_.below.get() : s_.above.get();
            C* const next = s_.next.get();
            std::fill_n(found, s_.row, C(0));
            std::fill_n(next, s_.row, C(0));
            for (std::int64_t k = 0; k < bands(); ++k) {
                const std::int64_t band = up ? bands() - 1 - k : k, first = first_row(band), rows = rows_of(band);
                C* const slot = s_.ends.get() + band * s_.row;
                std::copy_n(slot, s_.row, known);
                std::copy_n(next, s_.row, slot);
                filter_band(band, block == 0 ? From::x : From::y, last_block);
                if (!up) std::copy_n(s_.above.get() + blocks(band) * s_.row, s_.row, s_.above.get());
                if (last_block) continue;
                if (up)
                    climb(band, next);
                else
                    descend(band, 0, next, From::tile);
                part_.store(s_.x.get(), first, rows);
            }
        }
    }

    /// F of the last row and B of the first of a band by itself, kept for its neighbours, and what F and B are
    /// multiplied by on their way through it.
    void find_ends(std::int64_t band, const PartFlows<C>& ends) {
        load_band(band, true);
        C* const last = s_.above.get();
        C* const first = s_.below.get();
        std::fill_n(last, s_.row, C(0));
        descend(band, 0, last);
        std::fill_n(first, s_.row, C(0));
        climb(band, first);
        if (band + 1 < ends.bands) put(last, first_row(band + 1), ends.above(band + 1));
        if (band > 0) put(first, last_row(band - 1), ends.below(band - 1));
        PlaneBlock<C> weights{};
        weights.rows = rows_of(band);
        weights.width = weights.pitch = s_.weights_row;
        weights.down = s_.down.get();
        kernels<C>().plane.products(weights, true, ends.upward(band)); // of the edges that leave the rows
        weights.down -= s_.weights_row;
        kernels<C>().plane.products(weights, true, ends.downward(band)); // that enter them
    }

    /// From what leaves each band by itself to what enters its neighbours.
    void connect(const PartFlows<C>& ends) {
        C* carry = s_.above.get();
        C* next = s_.below.get();
        const auto pass_on = p_.kernel().pass_on;
        get(carry, first_row(1), ends.above(1));
        for (std::int64_t band = 1; band + 1 < ends.bands; ++band) {
            get(next, first_row(band + 1), ends.above(band + 1));
            pass_on(next, ends.downward(band), carry, p_.width, p_.own_weights);
            put(next, first_row(band + 1), ends.above(band + 1));
            std::swap(carry, next);
        }
        get(carry, last_row(ends.bands - 2), ends.below(ends.bands - 2));
        for (std::int64_t band = ends.bands - 2; band > 0; --band) {
            get(next, last_row(band - 1), ends.below(band - 1));
            pass_on(next, ends.upward(band), carry, p_.width, p_.own_weights);
            put(next, last_row(band - 1), ends.below(band - 1));
            std::swap(carry, next);
        }
    }

    void filter_connected(std::int64_t band, const PartFlows<C>& ends) {
        if (band > 0)
            get(s_.above.get(), first_row(band), ends.above(band));
        else
            std::fill_n(s_.above.get(), s_.row, C(0));
        if (band + 1 < ends.bands)
            get(s_.below.get(), last_row(band), ends.below(band));
        else
            std::fill_n(s_.below.get(), s_.row, C(0));
        filter_band(band);
    }

  private:
    struct Rows {
        std::int64_t first, count; // within a band
    };
    enum class From { x, y, tile }; // where values are

    std::int64_t bands() const { return (p_.height + band_rows_ - 1) / band_rows_; }

    // F above each band.
    void find_above() {
        C* const above = s_.above.get();
        std::fill_n(above, s_.row, C(0));
        for (std::int64_t band = 0; band + 1 < bands(); ++band) {
            put(above, first_row(band), s_.ends.get() + band * s_.row);
            load_band(band, true);
            descend(band, 0, above);
        }
        put(above, first_row(bands() - 1), s_.ends.get() + (bands() - 1) * s_.row);
    }

    /// s.above begins with F of the row above the band; s.below is B of the row below it and becomes B of its first
    /// row.
    void filter_band(std::int64_t band, From from = From::x, bool to_memory = true) {
        load_band(band, false);
        descend(band, s_.row, s_.above.get(), from);
        ascend(band, s_.below.get(), to_memory);
    }

    // What flows between two bands is kept in a row of y at their border, where that has room for it, else in `slot`.
    void put(const C* flow, std::int64_t border, C* slot) const {
        if (keeps_ends_in_y(p_))
            part_.store(flow, border, 1);
        else
            std::copy_n(flow, s_.row, slot);
    }
    void get(C* flow, std::int64_t border, const C* slot) const {
        if (keeps_ends_in_y(p_))
            part_.load_y(flow, border, 1);
        else
            std::copy_n(slot, s_.row, flow);
    }
    std::int64_t first_row(std::int64_t band) const { return band * band_rows_; }
    std::int64_t last_row(std::int64_t band) const { return first_row(band) + rows_of(band) - 1; }

    void trust(C* tile, const Rows& rows, bool only_mask) const {
        p_.kernel().trust(tile, s_.trust.get() + rows.first * s_.weights_row, rows.count * p_.width, p_.own_weights,
                          only_mask);
    }

    std::int64_t rows_of(std::int64_t band) const { return std::min(band_rows_, p_.height - band * band_rows_); }
    std::int64_t blocks(std::int64_t band) const { return (rows_of(band) + kGroupRows - 1) / kGroupRows; }
    Rows rows_of_block(std::int64_t band, std::int64_t k) const {
        return {k * kGroupRows, std::min<std::int64_t>(kGroupRows, rows_of(band) - k * kGroupRows)};
    }

    // Weights of a band, supports and confidence too; only the vertical ones and the confidence for `leaving`.
    void load_band(std::int64_t band, bool leaving) {
        if (s_.set == set_ && s_.band == band && !leaving) return;
        s_.set = set_;
        s_.band = leaving ? -1 : band;
        s_.cuts = false;
        const Operands& o = p_.o;
        const std::int64_t start = band * band_rows_, rows = rows_of(band), width = p_.width, row = s_.weights_row;
        const std::int64_t position = row / width;
        for (std::int64_t r = 0; r <= rows; ++r) {
            C* const down = s_.down.get() + r * row;
            if (start + r == 0 || start + r == p_.height) {
                std::fill_n(down, row, C(0)); // no edges
            } else {
                part_.load_weights(down, o.weights[p_.down_axis], start + r - 1, width);
                s_.cuts |= !p_.own_weights && has_zero(down, row, row, 1);
            }
        }
        for (std::int64_t r = 0; r < rows; ++r) {
            if (o.confidence) part_.load_weights(s_.trust.get() + r * row, *o.confidence, start + r, width);
            if (leaving) continue;
            C* const across = s_.across.get() + r * (row + position);
            std::fill_n(across, position, C(0));
            std::fill_n(across + row, position, C(0));
            part_.load_weights(across + position, o.weights[p_.across_axis], start + r, width - 1);
            s_.cuts |= !p_.own_weights && has_zero(across + position, row, row - position, 1);
            if (!o.reciprocals.empty())
                part_.load_weights(s_.reciprocal.get() + r * row, o.reciprocals[p_.line ? p_.down_axis : 0], start + r,
                                   width);
            if (p_.line)
                part_.load_weights(s_.reciprocal_across.get() + r * row, o.reciprocals[p_.across_axis], start + r,
                                   width);
        }
    }

    LanesBlock<C> block(const Rows& rows) const {
        LanesBlock<C> b{};
        b.rows = rows.count;
        b.width = b.pitch = p_.width;
        b.x = s_.x.get() + rows.first * s_.row;
        b.own = p_.own_weights;
        b.down = s_.down.get() + rows.first * s_.weights_row;
        b.cuts = s_.cuts;
        return b;
    }

    // F of the rows of a band: from `above` it, above each block of rows, `stride` apart. The band is loaded unless it
    // is in its tile.
    void descend(std::int64_t band, std::int64_t stride, C* above, From from = From::x) {
        cancel_.check(worker_);
        const auto load = [&](C* x, std::int64_t first, std::int64_t rows) {
            if (from == From::x) part_.load_x(x, first, rows);
            if (from == From::y) part_.load_y(x, first, rows);
        };
        const bool at_once = s_.y_rows == p_.height;
        if (at_once) load(s_.x.get(), 0, p_.height);
        for (std::int64_t k = 0; k < blocks(band); ++k) {
            const Rows rows = rows_of_block(band, k);
            C* const x = s_.x.get() + rows.first * s_.row;
            if (!at_once) load(x, first_row(band) + rows.first, rows.count);
            if (p_.o.confidence) trust(x, rows, false);
            LanesBlock<C> b = block(rows);
            b.above = above;
            above += stride;
            p_.kernel().descend(b, above);
        }
    }

    // B of the first row of a band, which is in its tile, from B of the row below.
    void climb(std::int64_t band, C* below) const {
        for (std::int64_t k = blocks(band) - 1; k >= 0; --k) {
            LanesBlock<C> b = block(rows_of_block(band, k));
            b.below = below;
            p_.kernel().climb(b, below);
        }
    }

    // To memory, or to where x was.
    void ascend(std::int64_t band, C* below, bool to_memory) {
        const bool at_once = s_.y_rows == p_.height;
        for (std::int64_t k = blocks(band) - 1; k >= 0; --k) {
            const Rows rows = rows_of_block(band, k);
            const std::int64_t at = rows.first * s_.weights_row, first = band * band_rows_ + rows.first;
            LanesBlock<C> b = block(rows);
            b.across = s_.across.get() + at + rows.first * (s_.weights_row / p_.width);
            b.reciprocal = p_.o.reciprocals.empty() ? nullptr : s_.reciprocal.get() + at;
            b.reciprocal_across = p_.line ? s_.reciprocal_across.get() + at : nullptr;
            b.above = s_.above.get() + k * s_.row;
            b.below = below;
            b.backward = s_.y.get() + (at_once ? rows.first * s_.row : 0);
            b.y = to_memory ? b.backward : s_.x.get() + rows.first * s_.row;
            b.centres = p_.centres();
            b.fill = static_cast<C>(p_.o.filter.fill_value);
            b.supported_only = p_.marks_unsupported();
            if (!at_once && (to_memory || bands() > 1)) b.written = part_.written(first);
            if (p_.o.filter.residual) {
                b.residual = b.x;
                if (p_.o.confidence) { // x times confidence is not what the residual adds
                    part_.load_x(s_.residual.get(), first, rows.count);
                    trust(s_.residual.get(), rows, true);
                    b.residual = s_.residual.get();
                }
            }
            p_.kernel().filter(b);
            if (to_memory && !at_once) part_.store(b.y, first, rows.count);
        }
        if (to_memory && at_once) part_.store(s_.y.get(), 0, p_.height);
    }

    const PlaneSet<C>& p_;
    LanesScratch<C>& s_;
    std::int64_t band_rows_;
    CancelFlag& cancel_;
    int worker_;
    std::int64_t set_;
    PartRows<C> part_;
};

} // namespace

template <class C> bool side_by_side(const PlaneSet<C>& p) {
    // Bands of 8 or 16 planes, and what flows between those of few parts, take much memory where rows are wide. That is
    // borne where neighbours lie together, since any other way reads their lines of memory again for each plane.
    const std::int64_t parts = p.planes / p.neighbours * ((p.neighbours + p.lanes - 1) / p.lanes);
    const std::int64_t widest = parts >= kFewestTasks ? kWidestSideBySide : kWidestOfFew;
    return p.neighbours >= kFewestSideBySide && (p.lie_together() || p.width <= widest);
}

namespace {

// Few parts: their bands keep threads busy, once what flows between these is known.
template <class C>
void filter_bands(const PlaneSet<C>& p, const Parts<C>& parts, std::int64_t rows, const Options& options) {
    const std::int64_t bands = (p.height + rows - 1) / rows;
    const std::int64_t together = std::clamp<std::int64_t>(kBandsTogether / bands, 1, parts.count());
    const PerWorker<LanesScratch<C>> scratch(together * bands, options, p, rows, 0);
    const std::int64_t row = scratch[0].row, weights_row = scratch[0].weights_row;
    CancelFlag cancel(options);
    const std::int64_t flows = keeps_ends_in_y(p) ? 0 : 2 * bands * row, through = 2 * bands * weights_row;
    const Buffer<C> all_flows(together * flows);
    const Buffer<double> all_through(together * through);
    for (std::int64_t start = 0; start < parts.count(); start += together) {
        const std::int64_t now = std::min(together, parts.count() - start);
        const auto each = [&](std::int64_t tasks_per_part, const auto& run) {
            parallel_for(now * tasks_per_part, options, [&](std::int64_t task, int worker) {
                const std::int64_t part = task / tasks_per_part;
                const std::int64_t set = (start + part) / parts.per_set();
                Lanes<C> lanes(p, scratch[worker], rows, cancel, worker, set,
                               parts.get(set, (start + part) % parts.per_set()));
                run(lanes, task % tasks_per_part,
                    PartFlows<C>{bands, row, weights_row, all_flows.get() + part * flows,
                                 all_through.get() + part * through});
            });
        };
        each(bands, [](Lanes<C>& lanes, std::int64_t band, const PartFlows<C>& ends) { lanes.find_ends(band, ends); });
        each(1, [](Lanes<C>& lanes, std::int64_t, const PartFlows<C>& ends) { lanes.connect(ends); });
        each(bands,
             [](Lanes<C>& lanes, std::int64_t band, const PartFlows<C>& ends) { lanes.filter_connected(band, ends); });
    }
}

} // namespace

namespace {

// The first `count` parts, by one thread each.
template <class C> void filter_apart(const PlaneSet<C>& p, const Parts<C>& parts, std::int64_t count, std::int64_t rows,
                                     const Options& options) {
    const bool whole = p.height == rows;
    const std::int64_t together = std::clamp<std::int64_t>(kTask / (p.height * p.width * p.lanes), 1, parts.per_set());
    const std::int64_t tasks_per_set = (parts.per_set() + together - 1) / together;
    const std::int64_t tasks = whole ? count / parts.per_set() * tasks_per_set : count;
    const PerWorker<LanesScratch<C>> scratch(tasks, options, p, rows, (p.height + rows - 1) / rows);
    CancelFlag cancel(options);
    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        const std::int64_t set = task / tasks_per_set, from = task % tasks_per_set * together;
        for (std::int64_t k = from; k < std::min(from + together, parts.per_set()); ++k) {
            Lanes<C> lanes(p, scratch[worker], rows, cancel, worker, set, parts.get(set, k));
            if (whole)
                lanes.filter_at_once();
            else if (p.o.filter.blocks == 1)
                lanes.filter_by_bands();
            else
                lanes.filter_by_turns();
        }
    });
}

} // namespace

template <class C> bool filters_at_once(const PlaneSet<C>& p) {
    return side_by_side(p) && p.o.y.dtype == dtype_of<C>::value && !p.o.confidence &&
           (band_rows(p) == p.height || is_tile(p) || Parts<C>(p).count() >= kFewestTasks);
}

template <class C> void filter_lanes(const PlaneSet<C>& p, const Options& options) {
    const Parts<C> parts(p);
    const std::int64_t rows = band_rows(p), count = parts.count();
    const bool whole = p.height == rows;
    if (rows < p.height && !is_tile(p) && count < kFewestTasks) {
        filter_bands(p, parts, rows, options);
        return;
    }
    const std::int64_t apart = whole ? count : first_shared(p, count, options);
    if (!whole) { // by halves if that takes no longer; one thread by itself has both halves of a part
        const std::int64_t threads = workers(options.num_threads, options), turns = turns_by_halves(p, parts, options);
        const std::int64_t each = (apart + threads - 1) / threads; // parts that a thread has by itself
        if (turns > 0 && turns * threads <= std::min<std::int64_t>(threads, 2) * (each * threads + count - apart)) {
            filter_halves(p, parts, options);
            return;
        }
    }
    if (apart > 0) filter_apart(p, parts, apart, rows, options);
    if (apart < count) filter_shared(p, parts, apart, options);
}

template bool side_by_side<float>(const PlaneSet<float>&);
template bool side_by_side<double>(const PlaneSet<double>&);
template bool filters_at_once<float>(const PlaneSet<float>&);
template bool filters_at_once<double>(const PlaneSet<double>&);
template void filter_lanes<float>(const PlaneSet<float>&, const Options&);
template void filter_lanes<double>(const PlaneSet<double>&, const Options&);

} // namespace sgs
