// How a block of threads moves a tile of a plane between memory and shared memory.
#pragma once

#include "lines.cuh"

namespace sgs::cuda {

/// A tile of a plane in shared memory: rows of `pitch` elements, which is odd, so that threads that walk along rows
/// side by side meet no bank twice.
struct Tile {
    int rows = 0, columns = 0, pitch = 1;
};

/// f(row, column) for all elements: warps take rows, threads neighbouring columns.
template <class F> __device__ inline void each_element(const Tile& tile, const F& f) {
    const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / 32;
    for (int row = thread / 32; row < tile.rows; row += warps) {
        SGS_UNROLL
        for (int column = thread % 32; column < tile.columns; column += 32) f(row, column);
    }
}

/// at(row)(column) for all elements, shared likewise; what belongs to a row is found once, by at(row). merged: rows
/// follow each other without a gap, and are taken for one.
template <class At> __device__ inline void each_row(const Tile& tile, bool merged, const At& at) {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int rows = merged ? 1 : tile.rows, columns = merged ? tile.rows * tile.columns : tile.columns;
    const int first = merged ? 0 : thread / 32, begin = merged ? thread : thread % 32, step = merged ? threads : 32;
    for (int row = first; row < rows; row += threads / 32) {
        const auto f = at(row);
        SGS_UNROLL
        for (int column = begin; column < columns; column += step) f(column);
    }
}

/// A stride of 1, as the compiler knows it.
struct One {};
__device__ inline int operator*(int index, One) { return index; }

/// f(stride).
template <class F> __device__ inline void with_stride(std::int64_t stride, const F& f) {
    if (stride == 1)
        f(One{});
    else
        f(stride);
}

/// The rows of a tile as those of an operand follow each other: all of them as one where neither has gaps.
struct Rows {
    int count, columns;
};
__device__ inline Rows rows_of(const Tile& tile, const Operand& o) {
    const bool merged = o.step == tile.columns && tile.pitch == tile.columns;
    return merged ? Rows{1, tile.rows * tile.columns} : Rows{tile.rows, tile.columns};
}

/// f(rows, row_at) where rows of neighbours go by packs of T, else single(row, column) for all elements; step leads to
/// the next row in memory, chunk to the next column.
template <class T, class F, class Single>
__device__ inline void in_packs(const Tile& tile, const Operand& o, const F& f, const Single& single) {
    if (o.chunk != 1 || tile.columns < kLeastColumns<T>) return each_element(tile, single);
    const Rows rows = rows_of(tile, o);
    f(rows.count, [&](int row) { return Row{row * o.step, rows.columns, row * tile.pitch}; });
}

/// put(element of shared memory, value) for all of the tile's elements of an operand.
template <class C, class Put>
__device__ inline void load_plane(const Tile& tile, C* shared, const Operand& o, std::int64_t offset, const Put& put) {
    with_pointer(o.data, o.dtype, [&](auto data) {
        const auto* p = data + offset;
        in_packs<std::remove_cvref_t<decltype(*p)>>(
            tile, o, [&](int rows, const auto& row_at) { load_rows<true>(rows, 1, shared, p, row_at, put); },
            [&](int row, int column) {
                put(shared[row * tile.pitch + column], static_cast<C>(widen(p[row * o.step + column * o.chunk])));
            });
    });
}

/// The operand's elements = those of the tile.
template <class C>
__device__ inline void store_plane(const Tile& tile, const C* shared, const Operand& o, std::int64_t offset) {
    with_pointer(o.data, o.dtype, [&](auto data) {
        using T = std::remove_cvref_t<decltype(*data)>;
        T* p = const_cast<T*>(data) + offset;
        in_packs<T>(
            tile, o, [&](int rows, const auto& row_at) { store_rows<true>(rows, 1, shared, p, row_at); },
            [&](int row, int column) {
                narrow(shared[row * tile.pitch + column], p[row * o.step + column * o.chunk]);
            });
    });
}

} // namespace sgs::cuda
