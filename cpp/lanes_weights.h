// What planes side by side share, for those ways that keep a whole part in a tile.
#pragma once

#include "lanes_part.h"
#include "parallel.h"

namespace sgs {

/// Of a set of parts: weights and 1 / S, laid out as LanesBlock has them.
template <class C> class SetWeights {
  public:
    explicit SetWeights(const PlaneSet<C>& p)
        : p_(p), down_((p.height + 1) * p.width), across_(p.height * (p.width + 1)),
          reciprocal_(p.o.reciprocals.empty() ? 0 : p.height * p.width),
          reciprocal_across_(p.line ? p.height * p.width : 0) {}

    void load(const PartRows<C>& part, const Options& options) {
        const Operands& o = p_.o;
        const std::int64_t width = p_.width;
        std::fill_n(down_.get(), width, C(0));
        std::fill_n(down_.get() + p_.height * width, width, C(0));
        parallel_for(p_.blocks, options, [&](std::int64_t block, int) {
            for (std::int64_t i = block * kRows; i < std::min((block + 1) * kRows, p_.height); ++i) {
                if (i > 0) part.load_weights(down_.get() + i * width, o.weights[p_.down_axis], i - 1, width);
                C* const across = across_.get() + i * (width + 1);
                across[0] = across[width] = C(0);
                part.load_weights(across + 1, o.weights[p_.across_axis], i, width - 1);
                if (!o.reciprocals.empty())
                    part.load_weights(reciprocal_.get() + i * width, o.reciprocals[p_.line ? p_.down_axis : 0], i,
                                      width);
                if (p_.line)
                    part.load_weights(reciprocal_across_.get() + i * width, o.reciprocals[p_.across_axis], i, width);
            }
        });
        cuts_ = has_zero(down_.get() + width, width, width, p_.height - 1) ||
                has_zero(across_.get() + 1, width + 1, width - 1, p_.height);
    }

    /// Up to kGroupRows rows of a tile, for F and B along the columns.
    LanesBlock<C> block(const C* tile, std::int64_t first, std::int64_t end) const {
        LanesBlock<C> b{};
        b.rows = std::min<std::int64_t>(kGroupRows, end - first);
        b.width = b.pitch = p_.width;
        b.x = tile + first * p_.width * p_.lanes;
        b.down = down_.get() + first * p_.width;
        b.cuts = cuts_;
        return b;
    }
    /// The same for everything: to `backward` and from there to a part's memory, or else to where x was.
    LanesBlock<C> filter_block(C* tile, std::int64_t first, std::int64_t end, C* backward,
                               const PartRows<C>* to) const {
        LanesBlock<C> b = block(tile, first, end);
        b.across = across_.get() + first * (p_.width + 1);
        b.reciprocal = p_.o.reciprocals.empty() ? nullptr : reciprocal_.get() + first * p_.width;
        b.reciprocal_across = p_.line ? reciprocal_across_.get() + first * p_.width : nullptr;
        b.backward = backward;
        b.y = to != nullptr ? backward : tile + first * p_.width * p_.lanes;
        if (p_.o.filter.residual) b.residual = b.x;
        b.centres = p_.centres();
        if (to != nullptr) b.written = to->written(first);
        return b;
    }

  private:
    const PlaneSet<C>& p_;
    Buffer<C> down_, across_, reciprocal_, reciprocal_across_;
    bool cuts_ = false;
};

} // namespace sgs
