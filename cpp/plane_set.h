// The planes of a filter over two axes, in blocks of kRows rows, as the plane kernels take them.
#pragma once

#include <algorithm>
#include <vector>

#include "filter.h"
#include "lines.h"
#include "past_caches.h"

namespace sgs {

inline std::int64_t whole_vectors(std::int64_t n) { return (n + kRows - 1) / kRows * kRows; }

/// Elements from row to row: never a multiple of 1 KiB or so, for which rows would compete for the same sets of the
/// cache.
inline std::int64_t padded_pitch(std::int64_t width) {
    const std::int64_t pitch = whole_vectors(width);
    return pitch % 128 == 0 ? pitch + kRows : pitch;
}

constexpr std::int64_t kFewestSideBySide = 12;   // planes
constexpr std::int64_t kWidestSideBySide = 4096; // columns, of which so many planes take much memory

constexpr std::int64_t kNoPlane = -1;

/// Where the weights of a block are laid out (PlaneBlock names the shapes).
template <class C> struct BlockWeights {
    C *down, *across, *reciprocal, *reciprocal_across, *trust;
};

template <class C> bool has_zero(const C* rows, std::int64_t pitch, std::int64_t columns, std::int64_t count) {
    for (std::int64_t r = 0; r < count; ++r)
        if (kernels<C>().plane.has_zero(rows + r * pitch, columns)) return true;
    return false;
}

template <class C> class PlaneSet {
  public:
    explicit PlaneSet(const Operands& operands)
        : o(operands), line(o.filter.normalization == Normalization::line),
          across_axis(row_of_two(o.y, o.axes[0], o.axes[1])), down_axis(1 - across_axis), rows_(o.axes[down_axis]),
          columns_(o.axes[across_axis]), height(o.y.shape[rows_]), width(o.y.shape[columns_]),
          pitch(padded_pitch(width)), across_pitch(padded_pitch(width + 1)), blocks((height + kRows - 1) / kRows) {
        DimOrder order = order_by_stride(o.y);
        const auto end = std::remove_if(order.dims.begin(), order.dims.begin() + order.count,
                                        [&](int d) { return d == rows_ || d == columns_ || o.y.shape[d] == 1; });
        const std::vector<int> dims(order.dims.begin(), end);
        const auto add = [&](int d) {
            outer_.push_back(d);
            planes *= o.y.shape[d];
        };
        // Supports go the way of their planes: the same sums, in the same order.
        own_weights = (o.sharing == 0 || o.by_neighbours) && width <= kWidestSideBySide && !dims.empty() &&
                      varies(dims[0]) && o.y.shape[dims[0]] >= kFewestSideBySide &&
                      std::abs(o.y.strides[dims[0]]) < std::abs(column_stride(o.y));
        if (own_weights) add(dims[0]);
        // Planes that share their weights follow one another, neighbours in memory first.
        for (const bool group : {false, true})
            for (const int d : dims) {
                if (varies(d) != group || (own_weights && d == dims[0])) continue;
                add(d);
                if (!group) group_size *= o.y.shape[d];
            }
        neighbours = own_weights ? o.y.shape[dims[0]] : group_size;
        lanes = !lie_together() && height * width > kernels<C>().lanes.largest ? kFewChannels : kChannels;
    }

    const Operands& o;
    const bool line;

    const std::size_t across_axis, down_axis; // places among the axes

  private:
    int rows_, columns_; // dimensions

  public:
    const std::int64_t height, width, pitch, across_pitch, blocks;
    std::int64_t planes = 1;
    std::int64_t group_size = 1; // planes that share weights, supports and confidence; in a row, unless own_weights
    bool own_weights;            // neighbours in memory do not share theirs, as in a batch that lies innermost
    int lanes;                   // planes that go side by side at a time
    std::int64_t neighbours;     // planes in a row that can go side by side: of a group, or with weights of their own

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
    /// Elements from a plane to its neighbour.
    std::int64_t plane_stride(const AnyView& v) const { return outer_.empty() ? 0 : v.strides[outer_[0]]; }
    /// Whether neighbours are closer in y's memory than columns: as many as there are fill its lines.
    bool lie_together() const { return std::abs(plane_stride(o.y)) < std::abs(column_stride(o.y)); }
    /// The kernels for so many planes side by side.
    const LanesKernels<C>& kernel() const { return lanes == kChannels ? kernels<C>().lanes : kernels<C>().few_lanes; }
    /// Of tiles.
    std::int64_t bytes_of(std::int64_t positions) const {
        return positions * lanes * static_cast<std::int64_t>(sizeof(C));
    }
    /// Whether reciprocals mark positions without support.
    bool marks_unsupported() const { return o.confidence && o.filter.normalization == Normalization::cross; }
    C centres() const { return o.filter.normalization == Normalization::none ? C(2) : C(1); }

    /// One row of an operand.
    void load_row(C* to, const AnyView& v, std::int64_t plane, std::int64_t i) const {
        load_rows(to, v.shape[columns_], v, plane, i, 1);
    }
    /// `count` rows of an operand, 0 where it has no more and beyond its width.
    void load_rows(C* rows, std::int64_t row_pitch, const AnyView& v, std::int64_t plane, std::int64_t first,
                   std::int64_t count) const {
        kernels<C>().plane.load_rows[static_cast<int>(v.dtype)](
            rows, row_pitch, row(v, plane, first), row_stride(v), column_stride(v),
            std::clamp<std::int64_t>(v.shape[rows_] - first, 0, count), v.shape[columns_], count);
    }

    /// A block of an operand in the computing type, kRows rows of pitch, 0 beyond the plane.
    void load(C* rows, const AnyView& v, std::int64_t plane, std::int64_t block) const {
        load_rows(rows, pitch, v, plane, block * kRows, kRows);
    }
    /// Whether the planes of y are best written past the caches, which are too small to keep y: each in one piece,
    /// since half a line of memory would have to be read.
    bool streams() const { return outgrows_caches<C>(o.y) && column_stride(o.y) == 1 && row_stride(o.y) == width; }
    /// A block of an operand that is about to be used, if a plane.
    Ahead ahead(const AnyView& v, std::int64_t plane, std::int64_t block) const {
        if (plane == kNoPlane) return {};
        return {static_cast<const char*>(row(v, plane, block * kRows)),
                row_stride(v) * static_cast<std::int64_t>(item_size(v.dtype))};
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

    /// A block as the kernels take it, but for what belongs to it alone.
    PlaneBlock<C> block() const {
        PlaneBlock<C> b{};
        b.width = width;
        b.pitch = pitch;
        b.fill = static_cast<C>(o.filter.fill_value);
        b.supported_only = marks_unsupported();
        return b;
    }
    void set_weights(PlaneBlock<C>& b, const BlockWeights<C>& w) const {
        b.down = w.down;
        b.across = w.across;
        b.centres = centres();
        b.reciprocal = o.reciprocals.empty() ? nullptr : w.reciprocal;
        b.reciprocal_across = line ? w.reciprocal_across : nullptr;
    }

  private:
    bool varies(int d) const {
        const auto moves = [&](const AnyView& v) { return v.strides[d] != 0; };
        return std::any_of(o.weights.begin(), o.weights.end(), moves) ||
               std::any_of(o.reciprocals.begin(), o.reciprocals.end(), moves) ||
               (o.confidence && moves(*o.confidence)) || (o.guide && moves(o.guide->view));
    }
    std::vector<int> outer_;
};

/// Whether planes are best filtered side by side, whether all blocks (9) then go at once, and that (lanes.cpp).
template <class C> bool side_by_side(const PlaneSet<C>& p);
template <class C> bool filters_at_once(const PlaneSet<C>& p);
template <class C> void filter_lanes(const PlaneSet<C>& p, const Options& options);

} // namespace sgs
