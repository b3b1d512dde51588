// How a block of threads moves a tile of a plane between memory and shared memory: 16 bytes at a time where a row's
// neighbours are neighbours in memory.
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

/// What one 16-byte access moves.
template <class T> struct alignas(16) Pack {
    static constexpr int kCount = 16 / sizeof(T);
    T v[kCount];
};

#if defined(__CUDACC__)
template <class T> __device__ inline Pack<T> load_pack(const T* p) {
    return __builtin_bit_cast(Pack<T>, *reinterpret_cast<const uint4*>(p));
}
template <class T> __device__ inline void store_pack(T* p, const Pack<T>& pack) {
    *reinterpret_cast<uint4*>(p) = __builtin_bit_cast(uint4, pack);
}
#else
template <class T> Pack<T> load_pack(const T* p) {
    Pack<T> pack;
    emulation::copy_16_bytes(&pack, p, p);
    return pack;
}
template <class T> void store_pack(T* p, const Pack<T>& pack) { emulation::copy_16_bytes(p, &pack, p); }
#endif

/// v[j] = what v[(j + turn) % count] was.
template <int count, class C> __device__ inline void rotate(C (&v)[count], int turn) {
    SGS_UNROLL_ALL
    for (int bit = 1; bit < count; bit *= 2) {
        C rotated[count];
        SGS_UNROLL_ALL
        for (int j = 0; j < count; ++j) rotated[j] = (turn & bit) != 0 ? v[(j + bit) % count] : v[j];
        SGS_UNROLL_ALL
        for (int j = 0; j < count; ++j) v[j] = rotated[j];
    }
}

/// Threads that share a row, a power of two.
template <class T> __device__ inline int row_team(const Tile& tile) {
    return tile.columns > 16 * Pack<T>::kCount ? 32 : 16;
}

/// Threads of a warp start at different elements of their packs in shared memory, so that they meet no bank twice; of
/// two rows, the second takes the banks that the first leaves.
template <class C, class T> __device__ inline int turn_of_thread(const Tile& tile) {
    constexpr int count = Pack<T>::kCount, banks = sizeof(C) == 8 ? 16 : 32;
    const int lane = static_cast<int>(threadIdx.x) % 32, team = row_team<T>(tile);
    const int turn = lane % team / (banks / count) + lane / team * (count / 2 + count - tile.pitch % count);
    return turn % count;
}

/// wide(row, column) for every whole pack of 16 aligned bytes that starts there, single(row, column) for the other
/// elements; 16 or 32 threads share a row. p is the tile's first element in memory.
template <class T, class Wide, class Single> __device__ inline void
each_pack(const Tile& tile, const T* p, std::int64_t step, std::int64_t chunk, const Wide& wide, const Single& single) {
    constexpr int count = Pack<T>::kCount;
    if (chunk != 1 || tile.columns < 2 * count) return each_element(tile, single);
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int width = row_team<T>(tile);
    for (int row = thread / width; row < tile.rows; row += threads / width) {
        const auto beyond =
            static_cast<int>(reinterpret_cast<std::uintptr_t>(p + row * step) % 16 / sizeof(T)); // a 16-byte border
        const int head = beyond == 0 ? 0 : count - beyond, packs = (tile.columns - head) / count;
        const int units = tile.columns - packs * (count - 1);
        for (int unit = thread % width; unit < units; unit += width) {
            if (unit < packs)
                wide(row, head + unit * count);
            else // before the first pack, then behind the last one
                single(row, unit - packs < head ? unit - packs : unit - packs + packs * count);
        }
    }
}

/// put(element of shared memory, value) for all of the tile's elements of an operand.
template <class C, class Put>
__device__ inline void load_plane(const Tile& tile, C* shared, const Operand& o, std::int64_t offset, const Put& put) {
    with_pointer(o.data, o.dtype, [&](auto data) {
        const auto* p = data + offset;
        using T = std::remove_cvref_t<decltype(*p)>;
        constexpr int count = Pack<T>::kCount;
        each_pack(
            tile, p, o.step, o.chunk,
            [&](int row, int column) {
                const Pack<T> pack = load_pack(p + row * o.step + column);
                const int turn = turn_of_thread<C, T>(tile);
                C v[count];
                SGS_UNROLL_ALL
                for (int j = 0; j < count; ++j) v[j] = static_cast<C>(widen(pack.v[j]));
                rotate(v, turn);
                C* to = shared + row * tile.pitch + column;
                SGS_UNROLL_ALL
                for (int j = 0; j < count; ++j) put(to[(j + turn) % count], v[j]);
            },
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
        constexpr int count = Pack<T>::kCount;
        each_pack(
            tile, p, o.step, o.chunk,
            [&](int row, int column) {
                const int turn = turn_of_thread<C, T>(tile);
                const C* from = shared + row * tile.pitch + column;
                C v[count];
                SGS_UNROLL_ALL
                for (int j = 0; j < count; ++j) v[j] = from[(j + turn) % count];
                rotate(v, (count - turn) % count);
                Pack<T> pack;
                SGS_UNROLL_ALL
                for (int j = 0; j < count; ++j) narrow(v[j], pack.v[j]);
                store_pack(p + row * o.step + column, pack);
            },
            [&](int row, int column) {
                narrow(shared[row * tile.pitch + column], p[row * o.step + column * o.chunk]);
            });
    });
}

} // namespace sgs::cuda
