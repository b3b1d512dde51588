// Planes side by side, by all threads together: a part stays in a tile. Threads take a few columns of it to find F and
// B at the borders of bands of rows, then bands to find everything else, block (9) after block. F and B come from the
// same steps in the same order as where one thread has a part (lanes.cpp).
#include "lanes_weights.h"

namespace sgs {
namespace {

constexpr std::int64_t kLargestTile = 3 << 23; // bytes of a part that fits into the cache which threads share
constexpr std::int64_t kBand = 1 << 19;        // bytes of a band of rows,
constexpr std::int64_t kColumns = 1 << 19;     // and of the columns that a thread takes: either fits into its own cache

// Rows of a band.
template <class C> std::int64_t band_rows(const PlaneSet<C>& p) {
    return std::max<std::int64_t>(kBand / p.bytes_of(p.width) / kGroupRows, 1) * kGroupRows;
}

template <class C> class SharedPart {
  public:
    SharedPart(const PlaneSet<C>& p, const SetWeights<C>& weights, const Options& options)
        : p_(p), weights_(weights), options_(options), row_(p.width * p.lanes), band_rows_(band_rows(p)),
          bands_((p.height + band_rows_ - 1) / band_rows_),
          columns_(std::clamp<std::int64_t>(kColumns / p.bytes_of(p.height), 1, p.width)),
          chunks_((p.width + columns_ - 1) / columns_), x_(p.height * row_), above_(bands_ * row_),
          below_(bands_ * row_),
          scratch_(std::max(bands_, chunks_), options, (band_rows_ / kGroupRows + 1) * row_, row_, kGroupRows * row_) {}

    void filter(const PartRows<C>& part) {
        each_band([&](std::int64_t first, std::int64_t rows, Scratch&) {
            part.load_x(x_.get() + first * row_, first, rows);
        });
        for (std::int64_t left = p_.o.filter.blocks; left > 0; --left) {
            parallel_for(chunks_, options_, [&](std::int64_t chunk, int worker) {
                const std::int64_t first = chunk * columns_;
                find_borders(first, std::min(columns_, p_.width - first), scratch_[worker].flow.get());
            });
            each_band([&](std::int64_t first, std::int64_t rows, Scratch& scratch) {
                filter_band(first, rows, scratch, left == 1 ? &part : nullptr);
            });
        }
    }

  private:
    struct Scratch {
        Scratch(std::int64_t blocks, std::int64_t row, std::int64_t block)
            : above(blocks), flow(row), backward(block) {}
        Buffer<C> above; // F above each block of rows of a band
        Buffer<C> flow, backward;
    };

    // run(first row, rows, scratch)
    template <class Run> void each_band(const Run& run) const {
        parallel_for(bands_, options_, [&](std::int64_t band, int worker) {
            const std::int64_t first = band * band_rows_;
            run(first, std::min(band_rows_, p_.height - first), scratch_[worker]);
        });
    }

    // F of the row above each band, and B of the row below it, of a few columns.
    void find_borders(std::int64_t column, std::int64_t count, C* flow) const {
        const auto& kernel = p_.kernel();
        const std::int64_t size = count * p_.lanes, at = column * p_.lanes;
        const auto columns = [&](std::int64_t row) {
            LanesBlock<C> b = weights_.block(x_.get(), row, p_.height);
            b.width = count;
            b.x += at;
            b.down += column;
            return b;
        };
        std::fill_n(flow, size, C(0));
        for (std::int64_t row = 0; row < p_.height; row += kGroupRows) {
            if (row % band_rows_ == 0) std::copy_n(flow, size, above_.get() + row / band_rows_ * row_ + at);
            LanesBlock<C> b = columns(row);
            b.above = flow;
            kernel.descend(b, flow);
        }
        std::fill_n(flow, size, C(0));
        for (std::int64_t row = (p_.height - 1) / kGroupRows * kGroupRows; row >= 0; row -= kGroupRows) {
            const std::int64_t next = row + kGroupRows;
            if (next % band_rows_ == 0 || next >= p_.height)
                std::copy_n(flow, size, below_.get() + row / band_rows_ * row_ + at);
            LanesBlock<C> b = columns(row);
            b.below = flow;
            kernel.climb(b, flow);
        }
    }

    // To the memory of a part, or to where x was.
    void filter_band(std::int64_t first, std::int64_t rows, Scratch& scratch, const PartRows<C>* to) const {
        const auto& kernel = p_.kernel();
        const std::int64_t band = first / band_rows_, end = first + rows;
        const C* above = above_.get() + band * row_;
        C* next = scratch.above.get();
        for (std::int64_t row = first; row + kGroupRows < end; row += kGroupRows) {
            LanesBlock<C> b = weights_.block(x_.get(), row, end);
            b.above = above;
            kernel.descend(b, next);
            above = next;
            next += row_;
        }
        for (std::int64_t row = first + (rows - 1) / kGroupRows * kGroupRows; row >= first; row -= kGroupRows) {
            LanesBlock<C> b = weights_.filter_block(x_.get(), row, end, scratch.backward.get(), to);
            b.above = above;
            if (row > first) above = row > first + kGroupRows ? above - row_ : above_.get() + band * row_;
            b.below = below_.get() + band * row_;
            kernel.filter(b);
            if (to != nullptr) to->store(b.y, row, b.rows);
        }
    }

    const PlaneSet<C>& p_;
    const SetWeights<C>& weights_;
    const Options& options_;
    std::int64_t row_; // elements of a row of tiles
    std::int64_t band_rows_, bands_, columns_, chunks_;
    Buffer<C> x_;             // tile [height][width]
    Buffer<C> above_, below_; // tiles [bands][width]
    PerWorker<Scratch> scratch_;
};

} // namespace

template <class C> bool is_tile(const PlaneSet<C>& p) {
    return !p.own_weights && !p.o.confidence && p.bytes_of(p.height * p.width) <= kLargestTile;
}

template <class C> std::int64_t first_shared(const PlaneSet<C>& p, std::int64_t parts, const Options& options) {
    const std::int64_t bands = (p.height + band_rows(p) - 1) / band_rows(p);
    const std::int64_t threads = workers(options.num_threads, options), left = parts % threads;
    if (!is_tile(p)) return parts;
    if (p.o.filter.blocks > 1 && bands >= threads) return 0;       // a part stays in the cache from block to block
    return left < std::min(bands, threads) ? parts - left : parts; // more threads for what is left, if that helps
}

template <class C>
void filter_shared(const PlaneSet<C>& p, const Parts<C>& parts, std::int64_t first, const Options& options) {
    SetWeights<C> weights(p);
    SharedPart<C> shared(p, weights, options);
    for (std::int64_t k = first; k < parts.count(); ++k) {
        const std::int64_t of_set = k % parts.per_set();
        const PartRows<C> part(p, parts.get(k / parts.per_set(), of_set));
        if (k == first || of_set == 0) weights.load(part, options);
        shared.filter(part);
    }
}

template bool is_tile<float>(const PlaneSet<float>&);
template bool is_tile<double>(const PlaneSet<double>&);
template std::int64_t first_shared<float>(const PlaneSet<float>&, std::int64_t, const Options&);
template std::int64_t first_shared<double>(const PlaneSet<double>&, std::int64_t, const Options&);
template void filter_shared<float>(const PlaneSet<float>&, const Parts<float>&, std::int64_t, const Options&);
template void filter_shared<double>(const PlaneSet<double>&, const Parts<double>&, std::int64_t, const Options&);

} // namespace sgs
