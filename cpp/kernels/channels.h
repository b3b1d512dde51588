// n planes side by side: positions of strided memory in and out of tiles [count][n], with conversion
// between storage and computing types. Only for files under kernels/.
#pragma once

#include "../kernels.h"
#include "stored_vectors.h"

namespace sgs::SGS_ISA {
namespace {

constexpr std::int64_t kAhead = 192;         // positions of a plane that are fetched ahead
constexpr std::int64_t kPositionsAhead = 24; // the same where planes lie together

inline bool lie_together(const std::int64_t* offsets, int lanes) { return lanes > 1 && offsets[1] == offsets[0] + 1; }

// visit(first lane, lanes) for lanes that follow one another in memory.
template <class Visit>
__attribute__((always_inline)) inline void each_run(const std::int64_t* offsets, int lanes, const Visit& visit) {
    for (int l = 0, end; l < lanes; l = end) {
        end = l + 1;
        while (end < lanes && offsets[end] == offsets[end - 1] + 1) ++end;
        visit(l, end - l);
    }
}

// A number that the compiler knows; std::integral_constant would leave symbols that the linker may share.
template <int n> struct Number {
    static constexpr int value = n;
};
struct AnyNumber {
    int value;
};

// run(lanes) with a number of lanes that the compiler knows, where it is one of those that whole lines of memory leave.
template <int most, class Run> __attribute__((always_inline)) inline void with_lanes(int lanes, const Run& run) {
    if (lanes == most)
        run(Number<most>{});
    else if (lanes == 12)
        run(Number<12>{});
    else if (lanes == 8)
        run(Number<8>{});
    else if (lanes == 4)
        run(Number<4>{});
    else
        run(AnyNumber{lanes});
}

// visit(i) for positions i, i + n, ...: from `head` on, but for the first and the last, which overlap others.
template <class Visit> __attribute__((always_inline)) inline void each_step(std::int64_t count, std::int64_t n,
                                                                            std::int64_t head, const Visit& visit) {
    std::int64_t i = head + n <= count ? head : 0;
    if (i > 0) visit(0);
    for (; i + n <= count; i += n) visit(i);
    if (i < count) visit(count - n);
}

// Positions before the first at which kWidth<C> elements fill aligned memory.
template <class C, class S> std::int64_t unaligned(const S* p) {
    constexpr std::uintptr_t bytes = kWidth<C> * sizeof(S);
    return static_cast<std::int64_t>((bytes - reinterpret_cast<std::uintptr_t>(p) % bytes) % bytes / sizeof(S));
}

// Where planes are contiguous, squares of kWidth positions of kWidth planes are transposed in registers; the last
// square overlaps the one before.
template <int n, class C, class S> void load_channels(C* __restrict tile, const void* source, std::int64_t count,
                                                      std::int64_t step, const std::int64_t* offsets, int lanes) {
    constexpr int width = kWidth<C>;
    const S* from = static_cast<const S*>(source);
    if (lie_together(offsets, lanes)) {
        for (std::int64_t i = 0; lanes < n && i < count * n; ++i) tile[i] = C(0);
        each_run(offsets, lanes, [&](int first, int length) {
            with_lanes<n>(length, [&](auto known) {
                for (std::int64_t i = 0; i < count; ++i) {
                    const S* const position = from + i * step + offsets[first];
                    C* const row = tile + i * n + first;
                    __builtin_prefetch(position + kPositionsAhead * step, 0, 2);
                    if constexpr (std::is_same_v<decltype(known), Number<n>>)
                        for (int l = 0; l < n; l += width) store_vector(row + l, load_widened<C>(position + l));
                    else
                        for (int l = 0; l < known.value; ++l) row[l] = static_cast<C>(widen(position[l]));
                }
            });
        });
        return;
    }
    if (step == 1 && count >= width) {
        const S* plane[n]; // lanes that are not there are those of the first plane once more
        for (int l = 0; l < n; ++l) plane[l] = from + offsets[l < lanes ? l : 0];
        each_step(count, width, unaligned<C>(plane[0]), [&](std::int64_t i) {
            for (int l = 0; l < n; l += width) {
                Vec<C> v[width];
#pragma GCC unroll 16
                for (int k = 0; k < width; ++k) {
                    __builtin_prefetch(plane[l + k] + i + kAhead, 0, 2);
                    v[k] = load_widened<C>(plane[l + k] + i);
                }
                transpose<C>(v);
#pragma GCC unroll 16
                for (int k = 0; k < width; ++k) store_vector(tile + (i + k) * n + l, v[k]);
            }
        });
        return;
    }
    for (std::int64_t i = 0; i < count; ++i)
        for (int l = 0; l < n; ++l)
            tile[i * n + l] = l < lanes ? static_cast<C>(widen(from[i * step + offsets[l]])) : C(0);
}

template <int n, class C, class S> void store_channels(const C* __restrict tile, void* memory, std::int64_t count,
                                                       std::int64_t step, const std::int64_t* offsets, int lanes) {
    constexpr int width = kWidth<C>;
    S* to = static_cast<S*>(memory);
    if (lie_together(offsets, lanes)) {
        each_run(offsets, lanes, [&](int first, int length) {
            with_lanes<n>(length, [&](auto known) {
                for (std::int64_t i = 0; i < count; ++i) {
                    S* const position = to + i * step + offsets[first];
                    const C* const row = tile + i * n + first;
                    if constexpr (std::is_same_v<decltype(known), Number<n>>)
                        for (int l = 0; l < n; l += width) store_narrowed<C>(position + l, load_vector(row + l));
                    else
                        for (int l = 0; l < known.value; ++l) narrow(row[l], position[l]);
                }
            });
        });
        return;
    }
    if (step == 1 && count >= width) {
        S* plane[n];
        for (int l = 0; l < n; ++l) plane[l] = to + offsets[l < lanes ? l : 0];
        each_step(count, width, unaligned<C>(plane[0]), [&](std::int64_t i) {
            for (int l = 0; l < lanes; l += width) {
                Vec<C> v[width];
#pragma GCC unroll 16
                for (int k = 0; k < width; ++k) v[k] = load_vector(tile + (i + k) * n + l);
                transpose<C>(v);
#pragma GCC unroll 16
                for (int k = 0; k < width; ++k) {
                    if (l + k >= lanes) break;
                    store_narrowed<C>(plane[l + k] + i, v[k]);
                }
            }
        });
        return;
    }
    for (std::int64_t i = 0; i < count; ++i)
        for (int l = 0; l < lanes; ++l) narrow(tile[i * n + l], to[i * step + offsets[l]]);
}

} // namespace
} // namespace sgs::SGS_ISA
