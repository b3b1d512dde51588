// Planes side by side, kChannels of them at a time, by all threads together: a part stays in a tile. Threads take a few
// columns of it to find F and B at the borders of bands of rows, then bands to find everything else, block (9) after
// block. F and B come from the same steps in the same order as where one thread has a part (lanes.cpp).
#include "lanes_part.h"
#include "parallel.h"

namespace sgs {
namespace {

constexpr std::int64_t kSharedTile = 1 << 23; // bytes of a part, that fit into a cache which threads share
constexpr std::int64_t kBand = 1 << 19;       // bytes of a band of rows,
constexpr std::int64_t kColumns = 1 << 19;    // and of the columns that a thread takes: either fits into its own cache

// Rows of a band.
template <class C> std::int64_t band_rows(const PlaneSet<C>& p) {
    return std::max<std::int64_t>(kBand / bytes_of<C>(p.width) / kGroupRows, 1) * kGroupRows;
}

template <class C> class SharedPart {
  public:
    SharedPart(const PlaneSet<C>& p, const Options& options)
        : p_(p), options_(options), row_(p.width * kChannels), band_rows_(band_rows(p)),
          bands_((p.height + band_rows_ - 1) / band_rows_),
          columns_(std::clamp<std::int64_t>(kColumns / bytes_of<C>(p.height), 1, p.width)),
          chunks_((p.width + columns_ - 1) / columns_), x_(p.height * row_), down_((p.height + 1) * p.width),
          across_(p.height * (p.width + 1)), reciprocal_(p.o.reciprocals.empty() ? 0 : p.height * p.width),
          reciprocal_across_(p.line ? p.height * p.width : 0), above_(bands_ * row_), below_(bands_ * row_),
          scratch_(std::max(bands_, chunks_), options, (band_rows_ / kGroupRows + 1) * row_, row_, kGroupRows * row_) {}

    void load_weights(const PartRows<C>& part) {
        const Operands& o = p_.o;
        const std::int64_t width = p_.width;
        std::fill_n(down_.get(), width, C(0));
        std::fill_n(down_.get() + p_.height * width, width, C(0));
        each_band([&](std::int64_t first, std::int64_t rows, Scratch&) {
            for (std::int64_t i = first; i < first + rows; ++i) {
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
        Scratch(std::int64_t blocks, std::int64_t row, std::int64_t block) : above(blocks), flow(row), terms(block) {}
        Buffer<C> above; // F above each block of rows of a band
        Buffer<C> flow, terms;
    };

    // run(first row, rows, scratch)
    template <class Run> void each_band(const Run& run) const {
        parallel_for(bands_, options_, [&](std::int64_t band, int worker) {
            const std::int64_t first = band * band_rows_;
            run(first, std::min(band_rows_, p_.height - first), scratch_[worker]);
        });
    }

    LanesBlock<C> block(std::int64_t first, std::int64_t end) const {
        LanesBlock<C> b{};
        b.rows = std::min<std::int64_t>(kGroupRows, end - first);
        b.width = b.pitch = p_.width;
        b.x = x_.get() + first * row_;
        b.down = down_.get() + first * p_.width;
        b.cuts = cuts_;
        return b;
    }

    // F of the row above each band, and B of the row below it, of a few columns.
    void find_borders(std::int64_t column, std::int64_t count, C* flow) const {
        const auto& kernel = kernels<C>().lanes;
        const std::int64_t size = count * kChannels, at = column * kChannels;
        const auto columns = [&](std::int64_t row) {
            LanesBlock<C> b = block(row, p_.height);
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
        const auto& kernel = kernels<C>().lanes;
        const std::int64_t band = first / band_rows_, end = first + rows, width = p_.width;
        const C* above = above_.get() + band * row_;
        C* next = scratch.above.get();
        for (std::int64_t row = first; row + kGroupRows < end; row += kGroupRows) {
            LanesBlock<C> b = block(row, end);
            b.above = above;
            kernel.descend(b, next);
            above = next;
            next += row_;
        }
        for (std::int64_t row = first + (rows - 1) / kGroupRows * kGroupRows; row >= first; row -= kGroupRows) {
            LanesBlock<C> b = block(row, end);
            b.across = across_.get() + row * (width + 1);
            b.reciprocal = p_.o.reciprocals.empty() ? nullptr : reciprocal_.get() + row * width;
            b.reciprocal_across = p_.line ? reciprocal_across_.get() + row * width : nullptr;
            b.above = above;
            if (row > first) above = row > first + kGroupRows ? above - row_ : above_.get() + band * row_;
            b.below = below_.get() + band * row_;
            b.terms = scratch.terms.get();
            b.y = to != nullptr ? b.terms : x_.get() + row * row_;
            if (p_.o.filter.residual) b.residual = b.x;
            b.centres = p_.centres();
            if (to != nullptr) b.written = to->written(row);
            kernel.filter(b);
            if (to != nullptr) to->store(b.y, row, b.rows);
        }
    }

    const PlaneSet<C>& p_;
    const Options& options_;
    std::int64_t row_; // elements of a row of tiles
    std::int64_t band_rows_, bands_, columns_, chunks_;
    Buffer<C> x_;                                              // tile [height][width]
    Buffer<C> down_, across_, reciprocal_, reciprocal_across_; // of the planes, as in LanesBlock
    Buffer<C> above_, below_;                                  // tiles [bands][width]
    bool cuts_ = false;
    PerWorker<Scratch> scratch_;
};

} // namespace

template <class C> bool is_shareable(const PlaneSet<C>& p) {
    return !p.own_weights && !p.o.confidence && bytes_of<C>(p.height * p.width) <= kSharedTile;
}

template <class C> std::int64_t first_shared(const PlaneSet<C>& p, std::int64_t parts, const Options& options) {
    const std::int64_t bands = (p.height + band_rows(p) - 1) / band_rows(p);
    const std::int64_t threads = workers(options.num_threads, options), left = parts % threads;
    if (p.o.filter.blocks > 1 && bands >= threads) return 0;       // a part stays in the cache from block to block
    return left < std::min(bands, threads) ? parts - left : parts; // more threads for what is left, if that helps
}

template <class C>
void filter_shared(const PlaneSet<C>& p, const Parts<C>& parts, std::int64_t first, const Options& options) {
    SharedPart<C> shared(p, options);
    for (std::int64_t k = first; k < parts.count(); ++k) {
        const std::int64_t of_set = k % parts.per_set();
        const PartRows<C> part(p, parts.get(k / parts.per_set(), of_set));
        if (k == first || of_set == 0) shared.load_weights(part);
        shared.filter(part);
    }
}

template bool is_shareable<float>(const PlaneSet<float>&);
template bool is_shareable<double>(const PlaneSet<double>&);
template std::int64_t first_shared<float>(const PlaneSet<float>&, std::int64_t, const Options&);
template std::int64_t first_shared<double>(const PlaneSet<double>&, std::int64_t, const Options&);
template void filter_shared<float>(const PlaneSet<float>&, const Parts<float>&, std::int64_t, const Options&);
template void filter_shared<double>(const PlaneSet<double>&, const Parts<double>&, std::int64_t, const Options&);

} // namespace sgs
