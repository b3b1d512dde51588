// The planes of a filter over two axes, in blocks of kRows rows, as the plane kernels take them.
#pragma once

#include <algorithm>
#include <vector>

#include "filter.h"
#include "lines.h"

namespace sgs {

inline std::int64_t whole_vectors(std::int64_t n) { return (n + kRows - 1) / kRows * kRows; }

/// Elements from row to row: never a multiple of 1 KiB or so, for which rows would compete for the same sets of the
/// cache.
inline std::int64_t padded_pitch(std::int64_t width) {
    const std::int64_t pitch = whole_vectors(width);
    return pitch % 128 == 0 ? pitch + kRows : pitch;
}

/// Where the weights of a block are laid out (PlaneBlock names the shapes).
template <class C> struct BlockWeights {
    C *down, *across, *reciprocal, *reciprocal_across, *trust;
};

template <class C> bool has_zero(const C* rows, std::int64_t pitch, std::int64_t columns, std::int64_t count) {
    for (std::int64_t r = 0; r < count; ++r)
        if (std::find(rows + r * pitch, rows + r * pitch + columns, C(0)) != rows + r * pitch + columns) return true;
    return false;
}

template <class C> class PlaneSet {
  public:
    explicit PlaneSet(const Operands& operands)
        : o(operands), line(o.filter.normalization == Normalization::line),
          across_(std::abs(o.y.strides[o.axes[1]]) <= std::abs(o.y.strides[o.axes[0]]) ? 1 : 0), down_(1 - across_),
          rows_(o.axes[down_]), columns_(o.axes[across_]), height(o.y.shape[rows_]), width(o.y.shape[columns_]),
          pitch(padded_pitch(width)), across_pitch(padded_pitch(width + 1)), blocks((height + kRows - 1) / kRows) {
        // Planes that share their weights follow one another, neighbours in memory first.
        const DimOrder order = order_by_stride(o.y);
        for (const bool group : {false, true})
            for (int k = 0; k < order.count; ++k) {
                const int d = order.dims[k];
                if (d == rows_ || d == columns_ || o.y.shape[d] == 1 || varies(d) != group) continue;
                outer_.push_back(d);
                planes *= o.y.shape[d];
                if (!group) group_size *= o.y.shape[d];
            }
    }

    const Operands& o;
    const bool line;

  private:
    std::size_t across_, down_; // places among the axes
    int rows_, columns_;        // dimensions

  public:
    const std::int64_t height, width, pitch, across_pitch, blocks;
    std::int64_t planes = 1;
    std::int64_t group_size = 1; // planes in a row that share weights, supports and confidence

    std::int64_t column_stride(const AnyView& v) const { return v.strides[columns_]; }
    std::int64_t row_stride(const AnyView& v) const { return v.strides[rows_]; }
    std::int64_t block_rows(std::int64_t block) const { return std::min<std::int64_t>(kRows, height - block * kRows); }

    /// Where a plane of an operand starts, in elements.
    std::int64_t offset(const AnyView& v, std::int64_t plane) const {
        std::int64_t out = 0;
        for (const int d : outer_) {
            out += plane % o.y.shape[d] * v.strides[d];
            plane /= o.y.shape[d];
        }
        return out;
    }
    void* row(const AnyView& v, std::int64_t plane, std::int64_t first) const {
        return v.at(offset(v, plane) + first * v.strides[rows_]);
    }
    /// Elements from a plane to the next of its group.
    std::int64_t plane_stride(const AnyView& v) const { return outer_.empty() ? 0 : v.strides[outer_[0]]; }
    C centres() const { return o.filter.normalization == Normalization::none ? C(2) : C(1); }

    /// One row of an operand.
    void load_row(C* to, const AnyView& v, std::int64_t plane, std::int64_t i) const {
        load_rows(to, v.shape[columns_], v, plane, i, 1);
    }
    /// Weights of the edges between rows i and i + 1; 0 where there are none.
    void load_down(C* to, std::int64_t plane, std::int64_t i) const {
        if (i < 0 || i >= height - 1)
            std::fill_n(to, width, C(0));
        else
            load_row(to, o.weights[down_], plane, i);
    }
    void load_across(C* to, std::int64_t plane, std::int64_t i) const { load_row(to, o.weights[across_], plane, i); }
    void load_reciprocals(C* down, C* across, std::int64_t plane, std::int64_t i) const {
        if (!o.reciprocals.empty()) load_row(down, o.reciprocals[line ? down_ : 0], plane, i);
        if (line) load_row(across, o.reciprocals[across_], plane, i);
    }

    /// A block of an operand in the computing type, kRows rows of pitch, 0 beyond the plane.
    void load(C* rows, const AnyView& v, std::int64_t plane, std::int64_t block) const {
        load_rows(rows, pitch, v, plane, block * kRows, kRows);
    }
    void store(const C* rows, const AnyView& v, std::int64_t plane, std::int64_t block) const {
        kernels<C>().plane.store_rows[static_cast<int>(v.dtype)](
            rows, pitch, row(v, plane, block * kRows), row_stride(v), column_stride(v), block_rows(block), width);
    }
    /// x of a block as the sums take it: times the confidence.
    void load_trusted(C* rows, const C* trust, std::int64_t plane, std::int64_t block) const {
        load(rows, o.x, plane, block);
        if (o.confidence) kernels<C>().pointwise.trust(rows, trust, kRows * pitch);
    }
    /// What the residual adds: x, where there is any confidence in it.
    void load_residual(C* rows, const C* trust, std::int64_t plane, std::int64_t block) const {
        load(rows, o.x, plane, block);
        if (o.confidence) kernels<C>().pointwise.mask(rows, trust, kRows * pitch);
    }

    /// Weights of the edges that leave each row of a block downward, from row 1 on.
    void load_leaving(C* down, std::int64_t plane, std::int64_t block) const {
        load_rows(down + pitch, pitch, o.weights[down_], plane, block * kRows, kRows);
    }
    /// Weights, reciprocal supports and confidence of a block; true if some weight is 0. scratch holds 2 kRows rows of
    /// across_pitch.
    bool load_weights(const BlockWeights<C>& to, std::int64_t plane, std::int64_t block, C* scratch) const {
        const std::int64_t first = block * kRows;
        const AnyView& down = o.weights[down_];
        if (first == 0)
            std::fill_n(to.down, pitch, C(0)); // nothing enters the first row
        else
            load_rows(to.down, pitch, down, plane, first - 1, 1);
        load_leaving(to.down, plane, block);
        bool cuts = has_zero(to.down + (first == 0 ? pitch : 0), pitch, width,
                             std::min<std::int64_t>(kRows, height - 1 - first) + (first == 0 ? 0 : 1));

        // Horizontal weights stand one column to the right: nothing enters the first column.
        C* rows = scratch;
        C* shifted = scratch + kRows * across_pitch;
        load_rows(rows, across_pitch, o.weights[across_], plane, first, kRows);
        cuts |= has_zero(rows, across_pitch, width - 1, block_rows(block));
        for (std::int64_t r = 0; r < kRows; ++r) {
            shifted[r * across_pitch] = C(0);
            std::copy_n(rows + r * across_pitch, across_pitch - 1, shifted + r * across_pitch + 1);
        }
        kernels<C>().plane.transpose(shifted, across_pitch, across_pitch, to.across);

        if (!o.reciprocals.empty()) load(to.reciprocal, o.reciprocals[line ? down_ : 0], plane, block);
        if (line) load(to.reciprocal_across, o.reciprocals[across_], plane, block);
        if (o.confidence) load(to.trust, *o.confidence, plane, block);
        return cuts;
    }

    /// A block as the kernels take it, but for x, weights, sums and y.
    PlaneBlock<C> block(C* columns, C* terms, C* carry) const {
        PlaneBlock<C> b{};
        b.width = width;
        b.pitch = pitch;
        b.columns = columns;
        b.terms = terms;
        b.carry = carry;
        b.centres = centres();
        b.fill = static_cast<C>(o.filter.fill_value);
        b.supported_only = o.confidence.has_value();
        return b;
    }
    void set_weights(PlaneBlock<C>& b, const BlockWeights<C>& w) const {
        b.down = w.down;
        b.across = w.across;
        b.reciprocal = o.reciprocals.empty() ? nullptr : w.reciprocal;
        b.reciprocal_across = line ? w.reciprocal_across : nullptr;
    }

    /// Upward through a block into y, straight to its memory where that is contiguous and of the computing type.
    void finish(PlaneBlock<C>& b, C* rows, C* tail, std::int64_t plane, std::int64_t block_index) const {
        const bool direct = o.y.dtype == dtype_of<C>::value && column_stride(o.y) == 1;
        b.y_tail = tail;
        if (!direct) {
            b.y = rows;
            b.y_stride = b.y_whole = pitch;
            kernels<C>().plane.up(b);
            store(rows, o.y, plane, block_index);
            return;
        }
        b.y = static_cast<C*>(row(o.y, plane, block_index * kRows));
        b.y_stride = row_stride(o.y);
        b.y_whole = width / kRows * kRows;
        kernels<C>().plane.up(b);
        for (std::int64_t r = 0; r < b.rows; ++r)
            std::copy_n(tail + r * kRows, width - b.y_whole, b.y + r * b.y_stride + b.y_whole);
    }

  private:
    bool varies(int d) const {
        const auto moves = [&](const AnyView& v) { return v.strides[d] != 0; };
        return std::any_of(o.weights.begin(), o.weights.end(), moves) ||
               std::any_of(o.reciprocals.begin(), o.reciprocals.end(), moves) || (o.confidence && moves(*o.confidence));
    }
    void load_rows(C* rows, std::int64_t row_pitch, const AnyView& v, std::int64_t plane, std::int64_t first,
                   std::int64_t count) const {
        kernels<C>().plane.load_rows[static_cast<int>(v.dtype)](
            rows, row_pitch, row(v, plane, first), row_stride(v), column_stride(v),
            std::clamp<std::int64_t>(v.shape[rows_] - first, 0, count), v.shape[columns_], count);
    }
    std::vector<int> outer_;
};

/// Planes of a group side by side (lanes.cpp).
template <class C> void filter_lanes(const PlaneSet<C>& p, const Options& options);

} // namespace sgs
