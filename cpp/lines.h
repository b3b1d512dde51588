// From strided arrays to tiles: which lines lie side by side, and where each operand's lines are.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include "kernels.h"
#include "scratch.h"

namespace sgs {

/// v broadcast to shape, right-aligned: broadcast dimensions get stride 0. `keep` (or -1) is a dimension whose length
/// is v's own.
AnyView broadcast(const AnyView& v, const AnyView& shape, int keep = -1);

/// v restricted to [first, first + count) of dimension d.
AnyView narrow(const AnyView& v, int d, std::int64_t first, std::int64_t count);

/// v with dimension d running the other way.
AnyView flip(const AnyView& v, int d);

/// Dimensions of v, without `without` (or -1), from the smallest to the largest stride: neighbours in memory first.
struct DimOrder {
    std::array<int, kMaxDims> dims{};
    int count = 0;
};
DimOrder order_by_stride(const AnyView& v, int without = -1);

/// A view on dense memory with v's shape, ordered as v is; dimensions where `shared` says so have stride 0.
template <class C> AnyView dense_like(const AnyView& v, C* memory, const std::array<bool, kMaxDims>& shared = {}) {
    AnyView out = v;
    out.data = memory;
    out.dtype = dtype_of<C>::value;
    const DimOrder order = order_by_stride(v);
    std::int64_t stride = 1;
    for (int k = 0; k < order.count; ++k) {
        const int d = order.dims[k];
        out.strides[d] = shared[d] ? 0 : stride;
        if (!shared[d]) stride *= v.shape[d];
    }
    return out;
}

/// Along which of two dimensions rows lie, 0 or 1: neighbours in memory. Of one element there are no rows, whatever its
/// stride.
std::size_t row_of_two(const AnyView& v, int first, int second);

/// All lines of an array along one axis, in tiles of kLanes, neighbours in memory side by side.
class Lines {
  public:
    /// Lines that lie along memory are put side by side where they have their weights in common, if w is given.
    Lines(const AnyView& x, int axis, const AnyView* w = nullptr);

    std::int64_t tiles() const { return (lines_ + kLanes - 1) / kLanes; }
    std::int64_t steps() const { return steps_; }
    int axis() const { return axis_; }
    int lanes(std::int64_t tile) const;
    /// Offsets of a tile's lines in an operand of x's rank (stride 0 where it is broadcast).
    void offsets(const AnyView& operand, std::int64_t tile, std::int64_t* out) const;

  private:
    int axis_;
    std::int64_t steps_;
    std::int64_t lines_ = 1;
    DimOrder order_;
    std::array<std::int64_t, kMaxDims> shape_{}; // in the order of order_
};

/// One operand's lines in the current tile.
struct Strand {
    const AnyView* view = nullptr;
    std::int64_t step = 0;
    int lanes = 0;
    alignas(64) std::int64_t offsets[kLanes];

    Strand() = default;
    Strand(const Lines& lines, const AnyView& operand, std::int64_t tile)
        : view(&operand), step(operand.strides[lines.axis()]), lanes(lines.lanes(tile)) {
        lines.offsets(operand, tile, offsets);
    }
};

template <class C> void load(C* tile, const Strand& s, std::int64_t first, std::int64_t steps) {
    if (steps > 0)
        kernels<C>().convert.load[static_cast<int>(s.view->dtype)](tile, s.view->at(first * s.step), steps, s.step,
                                                                   s.offsets, s.lanes);
}

template <class C> void store(const C* tile, const Strand& s, std::int64_t first, std::int64_t steps) {
    kernels<C>().convert.store[static_cast<int>(s.view->dtype)](tile, s.view->at(first * s.step), steps, s.step,
                                                                s.offsets, s.lanes);
}

/// Weights of the edges that enter steps first .. first + steps (one row more than steps); links that do not exist,
/// before the first element and after the last of `total`, count 1: what flows in there is `initial`.
template <class C>
void load_links(C* tile, const Strand& w, std::int64_t first, std::int64_t steps, std::int64_t total) {
    const std::int64_t begin = first == 0 ? 1 : 0;                    // row of the first edge that exists
    const std::int64_t end = steps + (first + steps < total ? 1 : 0); // row after the last
    load(tile + begin * kLanes, w, first + begin - 1, end - begin);
    if (begin == 1)
        for (int l = 0; l < kLanes; ++l) tile[l] = C(1);
    if (end == steps)
        for (int l = 0; l < kLanes; ++l) tile[steps * kLanes + l] = C(1);
}

/// Rows of a tile plus one (the weights that enter and leave it).
constexpr std::int64_t kTileSize = std::int64_t{kSteps + 1} * kLanes;

/// A finite positive number in C, however large or small it is.
template <class C> C representable(double v) {
    if (v == 0.0) return C(0);
    return static_cast<C>(std::clamp<double>(v, std::numeric_limits<C>::min(), std::numeric_limits<C>::max()));
}

/// (4) is linear in what flows into a part of a line: what leaves it is what would leave it alone, plus what enters
/// times the product of the weights that this crosses. From what leaves each part alone to what leaves it, for `count`
/// lines side by side: above[k] enters part k, whose first element has below[k]; `stride` elements from part to part.
template <class C> void connect_parts(C* above, C* below, const double* through, std::int64_t parts,
                                      std::int64_t stride, std::int64_t count) {
    const auto pass_on = kernels<C>().plane.pass_on;
    for (std::int64_t k = 0; k < parts; ++k)
        pass_on(above + (k + 1) * stride, through + k * stride, above + k * stride, count);
    for (std::int64_t k = parts - 1; k >= 0; --k)
        pass_on(below + k * stride, through + k * stride, below + (k + 1) * stride, count);
}

/// Calls f with a zero of the computing type of x's dtype.
template <class F> void with_compute_type(DType t, const F& f) {
    if (t == DType::float64)
        f(double{});
    else
        f(float{});
}

} // namespace sgs
