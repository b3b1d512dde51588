// How a block of threads moves rows of elements, neighbours in memory, to shared memory and back: by aligned accesses
// of 16 bytes, whatever the rows' own alignment; what is before the first border and behind the last goes by itself.
#pragma once

#include "device.cuh"

namespace sgs::cuda {

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

/// Rows shorter than that are not worth packs.
template <class T> constexpr int kLeastColumns = 2 * Pack<T>::kCount;

/// One row: its first element in memory and in shared memory.
struct Row {
    std::int64_t at;
    int columns;
    int to;
};

/// wide(row, column, turn) for every whole pack of 16 aligned bytes that starts there, single(row, column) for the
/// other elements. Eight threads share a row, with `merges` all of them a single one. Each starts at another element of
/// its pack in shared memory, so that the threads of a warp meet no bank twice; a row's neighbours are in neighbouring
/// banks.
template <bool merges, class C, class T, class RowAt, class Wide, class Single>
__device__ inline void each_pack(int rows, const T* p, const RowAt& row_at, const Wide& wide, const Single& single) {
    constexpr int count = Pack<T>::kCount, banks = sizeof(C) == 8 ? 16 : 32;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int team = merges && rows == 1 ? threads : 8;
    for (int r = thread / team; r < rows; r += threads / team) {
        const Row row = row_at(r);
        const auto beyond =
            static_cast<int>(reinterpret_cast<std::uintptr_t>(p + row.at) % 16 / sizeof(T)); // a 16-byte border
        const int head = beyond == 0 ? 0 : count - beyond, packs = (row.columns - head) / count;
        const int units = row.columns - packs * (count - 1);
        const unsigned turn = static_cast<unsigned>(thread % 32 / (banks / count) - row.to - head) % count;
        SGS_UNROLL_NOT // a pack under way takes registers enough
            for (int unit = thread % team; unit < units; unit += team) {
            if (unit < packs)
                wide(row, head + unit * count, static_cast<int>(turn));
            else // before the first pack, then behind the last one
                single(row, unit - packs < head ? unit - packs : unit - packs + packs * count);
        }
    }
}

/// put(element of shared memory, value) for all elements of the rows that row_at(r) tells, with neighbours `step` apart
/// in shared memory.
template <bool merges = false, class C, class T, class RowAt, class Put>
__device__ inline void load_rows(int rows, int step, C* shared, const T* p, const RowAt& row_at, const Put& put) {
    constexpr int count = Pack<T>::kCount;
    each_pack<merges, C>(
        rows, p, row_at,
        [&](const Row& row, int column, int turn) {
            const Pack<T> pack = load_pack(p + row.at + column);
            C v[count];
            SGS_UNROLL_ALL
            for (int j = 0; j < count; ++j) v[j] = static_cast<C>(widen(pack.v[j]));
            rotate(v, turn);
            C* to = shared + row.to + column * step;
            SGS_UNROLL_ALL
            for (int j = 0; j < count; ++j) put(to[(j + turn) % count * step], v[j]);
        },
        [&](const Row& row, int column) {
            put(shared[row.to + column * step], static_cast<C>(widen(p[row.at + column])));
        });
}

/// The other way.
template <bool merges = false, class C, class T, class RowAt>
__device__ inline void store_rows(int rows, int step, const C* shared, T* p, const RowAt& row_at) {
    constexpr int count = Pack<T>::kCount;
    each_pack<merges, C>(
        rows, p, row_at,
        [&](const Row& row, int column, int turn) {
            const C* from = shared + row.to + column * step;
            C v[count];
            SGS_UNROLL_ALL
            for (int j = 0; j < count; ++j) v[j] = from[(j + turn) % count * step];
            rotate(v, (count - turn) % count);
            Pack<T> pack;
            SGS_UNROLL_ALL
            for (int j = 0; j < count; ++j) narrow(v[j], pack.v[j]);
            store_pack(p + row.at + column, pack);
        },
        [&](const Row& row, int column) { narrow(shared[row.to + column * step], p[row.at + column]); });
}

} // namespace sgs::cuda
