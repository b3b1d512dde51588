// Parts of planes that go side by side, and their rows in and out of tiles.
#pragma once

#include "plane_set.h"
#include "rows_ahead.h"

namespace sgs {

// Planes in a row: `near` of them from the first, then `far` of the row's last.
struct Part {
    std::int64_t first; // plane
    int near, far;
};

// How planes are cut into parts, so that no two parts write to one line of memory: where neighbours lie
// together, the first of them that end a line are taken with the last, which do not fill one. Parts of a set have the
// same weights.
template <class C> class Parts {
  public:
    explicit Parts(const PlaneSet<C>& p)
        : lanes_(p.lanes), size_(p.neighbours), own_weights_(p.own_weights), sharing_(p.group_size) {
        constexpr std::uintptr_t line = 64;
        const std::uintptr_t item = item_size(p.o.y.dtype);
        const std::uintptr_t past = reinterpret_cast<std::uintptr_t>(p.o.y.data) % line;
        if (p.plane_stride(p.o.y) == 1 && past % item == 0)
            head_ = std::min(static_cast<std::int64_t>((line - past) % line / item) % lanes_, size_);
        tail_ = (size_ - head_) % lanes_;
        joined_ = head_ + tail_ <= lanes_;
        in_a_row_ = (size_ - head_) / lanes_ + (head_ + tail_ > 0 ? 1 : 0) + (joined_ ? 0 : 1);
        count_ = p.planes / size_ * in_a_row_;
    }
    std::int64_t count() const { return count_; }
    /// Of a set.
    std::int64_t per_set() const { return own_weights_ ? sharing_ : in_a_row_; }
    Part get(std::int64_t set, std::int64_t k) const {
        if (own_weights_) return in_row(set / in_a_row_ * sharing_ + k, set % in_a_row_);
        return in_row(set, k);
    }

  private:
    Part in_row(std::int64_t row, std::int64_t k) const {
        const std::int64_t first = row * size_, ends = head_ + tail_ > 0 ? 1 : 0;
        if (k < ends) return {first, static_cast<int>(head_), joined_ ? static_cast<int>(tail_) : 0};
        const std::int64_t start = head_ + (k - ends) * lanes_;
        return {first + start, static_cast<int>(std::min<std::int64_t>(lanes_, size_ - start)), 0};
    }

    std::int64_t lanes_;
    std::int64_t size_; // planes in a row
    bool own_weights_;
    std::int64_t sharing_; // rows that follow one another and have the same weights, where neighbours have their own
    std::int64_t head_ = 0, tail_, in_a_row_, count_;
    bool joined_;
};

/// Rows of a part: in tiles, a position is one number of each plane.
template <class C> class PartRows {
  public:
    PartRows(const PlaneSet<C>& p, const Part& part)
        : p_(&p), part_(part), lanes_(part.near + part.far), row_(p.width * p.lanes) {
        find_offsets(x_offsets_, p.o.x);
        find_offsets(y_offsets_, p.o.y);
    }

    void load_x(C* tile, std::int64_t first, std::int64_t rows) const { load(tile, p_->o.x, x_offsets_, first, rows); }
    void load_y(C* tile, std::int64_t first, std::int64_t rows) const { load(tile, p_->o.y, y_offsets_, first, rows); }
    void store(const C* tile, std::int64_t first, std::int64_t rows) const {
        const AnyView& y = p_->o.y;
        const std::int64_t step = p_->column_stride(y);
        each_run(tile, y, first, rows, [&](const C* from, void* to, std::int64_t count) {
            p_->kernel().store[static_cast<int>(y.dtype)](from, to, count, step, y_offsets_, lanes_);
        });
    }
    /// Rows from `first` on that are stored soon.
    RowsAhead written(std::int64_t first) const {
        const AnyView& y = p_->o.y;
        return rows_ahead(y, p_->row(y, part_.first, first), p_->row_stride(y), p_->column_stride(y), y_offsets_,
                          p_->lanes);
    }
    /// Row i of what is one number for each position of all lanes, or of each lane.
    void load_weights(C* to, const AnyView& v, std::int64_t i, std::int64_t count) const {
        if (!p_->own_weights) return p_->load_row(to, v, part_.first, i);
        std::int64_t offsets[kChannels];
        for (int l = 0; l < lanes_; ++l) offsets[l] = neighbour(l) * p_->plane_stride(v);
        p_->kernel().load[static_cast<int>(v.dtype)](to, p_->row(v, part_.first, i), count, p_->column_stride(v),
                                                     offsets, lanes_);
    }

  private:
    // Which plane after the first of the part a lane is.
    std::int64_t neighbour(int lane) const { return lane < part_.near ? lane : p_->neighbours - lanes_ + lane; }

    void find_offsets(std::int64_t* offsets, const AnyView& v) const {
        for (int l = 0; l < lanes_; ++l)
            offsets[l] = p_->offset(v, part_.first + neighbour(l)) - p_->offset(v, part_.first);
    }

    // run(tile, memory, positions) for rows of an operand, all at once where they follow one another.
    template <class Tile, class Run>
    void each_run(Tile* tile, const AnyView& v, std::int64_t first, std::int64_t rows, const Run& run) const {
        const bool dense = p_->row_stride(v) == p_->width * p_->column_stride(v);
        const std::int64_t together = dense ? rows : 1;
        for (std::int64_t r = 0; r < rows; r += together)
            run(tile + r * row_, p_->row(v, part_.first, first + r), together * p_->width);
    }
    void load(C* tile, const AnyView& v, const std::int64_t* offsets, std::int64_t first, std::int64_t rows) const {
        each_run(tile, v, first, rows, [&](C* to, const void* from, std::int64_t count) {
            p_->kernel().load[static_cast<int>(v.dtype)](to, from, count, p_->column_stride(v), offsets, lanes_);
        });
    }

    const PlaneSet<C>* p_;
    Part part_;
    int lanes_;
    std::int64_t row_; // elements of a row of tiles
    std::int64_t x_offsets_[kChannels]{}, y_offsets_[kChannels]{};
};

/// Whether a part, with weights that its planes share and no confidence, fits as a whole into the cache that threads
/// share. The ways that keep it there give the very numbers that a thread for each part would.
template <class C> bool is_tile(const PlaneSet<C>& p);

/// From which of so many parts on it is best that all threads work on one after the other, with as many as there are.
template <class C> std::int64_t first_shared(const PlaneSet<C>& p, std::int64_t parts, const Options& options);

/// Parts from `first` on that way, all blocks (9) of each (lanes_shared.cpp).
template <class C>
void filter_shared(const PlaneSet<C>& p, const Parts<C>& parts, std::int64_t first, const Options& options);

/// How many parts each pair of threads has one after the other, if these work on the two halves of a part; 0 where that
/// does not serve.
template <class C> std::int64_t turns_by_halves(const PlaneSet<C>& p, const Parts<C>& parts, const Options& options);

/// That way, all blocks (9) of all parts (lanes_halves.cpp).
template <class C> void filter_halves(const PlaneSet<C>& p, const Parts<C>& parts, const Options& options);

} // namespace sgs
