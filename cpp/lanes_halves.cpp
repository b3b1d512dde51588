// Planes side by side, a part in a tile, by two threads: one has the upper rows, the other the lower. Both come towards
// the middle and find F or B on the way, of which they keep what flows into each few rows from their side. Then they
// go back and filter, with B or F from the middle, where the other left it; block (9) after block, part after part. F
// and B come from the same steps in the same order as where one thread has a part (lanes.cpp).
#include <memory>

#include "lanes_weights.h"

namespace sgs {
namespace {

constexpr std::int64_t kTiles = 3 << 22;         // bytes of all tiles at a time, of one block
constexpr std::int64_t kTilesOfBlocks = 3 << 23; // and of several blocks

template <class C> class Halves {
  public:
    Halves(const PlaneSet<C>& p, const SetWeights<C>& weights)
        : p_(p), weights_(weights), row_(p.width * p.lanes), upper_((p.height / 2 + kGroupRows - 1) / kGroupRows),
          blocks_((p.height + kGroupRows - 1) / kGroupRows), x_(p.height * row_), inflows_(blocks_ * row_),
          ends_(4 * row_), flow_{Buffer<C>(row_), Buffer<C>(row_)},
          backward_{Buffer<C>(kGroupRows * row_), Buffer<C>(kGroupRows * row_)} {}

    /// F of the upper rows, or B of the lower, from the outside to the middle; of a part in memory, or of the tile.
    void come(bool upper, std::int64_t round, const PartRows<C>* from) {
        const std::int64_t step = upper ? 1 : -1, past = inner(upper) + step;
        std::fill_n(outer(upper) == past ? end(upper, round) : inflow(outer(upper)), row_, C(0));
        for (std::int64_t k = outer(upper); k != past; k += step) {
            const std::int64_t row = k * kGroupRows;
            LanesBlock<C> b = weights_.block(x_.get(), row, p_.height);
            if (from != nullptr) from->load_x(x_.get() + row * row_, row, b.rows);
            C* const next = k == inner(upper) ? end(upper, round) : inflow(k + step);
            if (upper) {
                b.above = inflow(k);
                p_.kernel().descend(b, next);
            } else {
                b.below = inflow(k);
                p_.kernel().climb(b, next);
            }
        }
    }

    /// Everything, from the middle to the outside: to a part in memory, or in the tile.
    void go(bool upper, std::int64_t round, const PartRows<C>* to) {
        C* const flow = flow_[upper].get();
        std::copy_n(end(!upper, round), row_, flow);
        const std::int64_t step = upper ? -1 : 1;
        const auto block = [&](std::int64_t k) {
            LanesBlock<C> b = weights_.filter_block(x_.get(), k * kGroupRows, p_.height, backward_[upper].get(), to);
            b.above = upper ? inflow(k) : flow;
            b.below = upper ? flow : inflow(k);
            b.last = upper ? nullptr : flow;
            return b;
        };
        for (std::int64_t k = inner(upper); k != outer(upper) + step; k += step) {
            LanesBlock<C> b = block(k);
            const LanesBlock<C> next = k == outer(upper) ? b : block(k + step);
            if (k != outer(upper)) b.next = &next;
            p_.kernel().filter(b);
            if (to != nullptr) to->store(b.y, k * kGroupRows, b.rows);
        }
    }

  private:
    // The blocks of rows where a half begins and ends.
    std::int64_t outer(bool upper) const { return upper ? 0 : blocks_ - 1; }
    std::int64_t inner(bool upper) const { return upper ? upper_ - 1 : upper_; }
    C* inflow(std::int64_t k) { return inflows_.get() + k * row_; }
    // At the middle: of two rounds by turns, as one may be found while the other is in use.
    C* end(bool upper, std::int64_t round) { return ends_.get() + (2 * (round % 2) + (upper ? 1 : 0)) * row_; }

    const PlaneSet<C>& p_;
    const SetWeights<C>& weights_;
    std::int64_t row_, upper_, blocks_; // blocks of kGroupRows rows
    Buffer<C> x_;                       // tile [height][width]
    Buffer<C> inflows_;                 // tile [blocks][width]
    Buffer<C> ends_, flow_[2], backward_[2];
};

// Parts that are in work at a time.
template <class C> std::int64_t at_once(const Parts<C>& parts, const Options& options) {
    return std::clamp<std::int64_t>(workers(options.num_threads, options) / 2, 1, parts.per_set());
}

} // namespace

template <class C> std::int64_t turns_by_halves(const PlaneSet<C>& p, const Parts<C>& parts, const Options& options) {
    const std::int64_t together = at_once(parts, options);
    if (!is_tile(p) || together * p.bytes_of(p.height * p.width) > (p.o.filter.blocks > 1 ? kTilesOfBlocks : kTiles))
        return 0;
    return parts.count() / parts.per_set() * ((parts.per_set() + together - 1) / together);
}

template <class C> void filter_halves(const PlaneSet<C>& p, const Parts<C>& parts, const Options& options) {
    SetWeights<C> weights(p);
    const std::int64_t together = at_once(parts, options), per_set = parts.per_set(), blocks = p.o.filter.blocks;
    std::vector<std::unique_ptr<Halves<C>>> halves;
    for (std::int64_t k = 0; k < together; ++k) halves.push_back(std::make_unique<Halves<C>>(p, weights));
    const std::int64_t rounds = (per_set + together - 1) / together * blocks;
    for (std::int64_t set = 0; set < parts.count() / per_set; ++set) {
        weights.load(PartRows<C>(p, parts.get(set, 0)), options);
        for (std::int64_t round = 0; round <= rounds; ++round)
            parallel_for(2 * together, options, [&](std::int64_t task, int) {
                const bool upper = task % 2 == 0;
                const std::int64_t pair = task / 2, before = round - 1;
                Halves<C>& h = *halves[static_cast<std::size_t>(pair)];
                const auto part_in = [&](std::int64_t r) { return r / blocks * together + pair; };
                if (before >= 0 && part_in(before) < per_set) {
                    const PartRows<C> rows(p, parts.get(set, part_in(before)));
                    h.go(upper, before, before % blocks == blocks - 1 ? &rows : nullptr);
                }
                if (part_in(round) < per_set) {
                    const PartRows<C> rows(p, parts.get(set, part_in(round)));
                    h.come(upper, round, round % blocks == 0 ? &rows : nullptr);
                }
            });
    }
}

template std::int64_t turns_by_halves<float>(const PlaneSet<float>&, const Parts<float>&, const Options&);
template std::int64_t turns_by_halves<double>(const PlaneSet<double>&, const Parts<double>&, const Options&);
template void filter_halves<float>(const PlaneSet<float>&, const Parts<float>&, const Options&);
template void filter_halves<double>(const PlaneSet<double>&, const Parts<double>&, const Options&);

} // namespace sgs
