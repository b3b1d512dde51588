// kChannels planes side by side: positions of strided memory in and out of tiles [count][kChannels], with conversion
// between storage and computing types. Only for files under kernels/.
#pragma once

#include <algorithm>

#include "../kernels.h"
#include "storage.h"
#include "vector.h"

namespace sgs::SGS_ISA {
namespace {

template <class C, class S> __attribute__((always_inline)) inline Vec<C> load_widened(const S* from) {
    if constexpr (std::is_same_v<C, S>) return load_vector(from);
    C row[kWidth<C>];
    for (int i = 0; i < kWidth<C>; ++i) row[i] = static_cast<C>(widen(from[i]));
    return load_vector(row);
}

template <class C, class S> __attribute__((always_inline)) inline void store_narrowed(S* to, Vec<C> v) {
    if constexpr (std::is_same_v<C, S>) {
        store_vector(to, v);
        return;
    }
    C row[kWidth<C>];
    store_vector(row, v);
    for (int i = 0; i < kWidth<C>; ++i) narrow(row[i], to[i]);
}

constexpr std::int64_t kAhead = 192; // positions that are fetched ahead

inline bool lie_together(const std::int64_t* offsets, int lanes) {
    bool together = true;
    for (int l = 1; l < lanes; ++l) together &= offsets[l] == offsets[0] + l;
    return together;
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
template <class C, class S> void load_channels(C* __restrict tile, const void* source, std::int64_t count,
                                               std::int64_t step, const std::int64_t* offsets, int lanes) {
    constexpr int n = kWidth<C>;
    const S* from = static_cast<const S*>(source);
    if (lie_together(offsets, lanes)) {
        from += offsets[0];
        if (lanes == kChannels)
            for (std::int64_t i = 0; i < count; ++i)
                for (int l = 0; l < kChannels; l += n)
                    store_vector(tile + i * kChannels + l, load_widened<C>(from + i * step + l));
        else
            for (std::int64_t i = 0; i < count; ++i)
                for (int l = 0; l < kChannels; ++l)
                    tile[i * kChannels + l] = l < lanes ? static_cast<C>(widen(from[i * step + l])) : C(0);
        return;
    }
    if (step == 1 && count >= n) {
        const S* plane[kChannels]; // lanes that are not there are those of the first plane once more
        for (int l = 0; l < kChannels; ++l) plane[l] = from + offsets[l < lanes ? l : 0];
        each_step(count, n, unaligned<C>(plane[0]), [&](std::int64_t i) {
            for (int l = 0; l < kChannels; l += n) {
                Vec<C> v[n];
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) {
                    __builtin_prefetch(plane[l + k] + i + kAhead, 0, 2);
                    v[k] = load_widened<C>(plane[l + k] + i);
                }
                transpose<C>(v);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) store_vector(tile + (i + k) * kChannels + l, v[k]);
            }
        });
        return;
    }
    for (std::int64_t i = 0; i < count; ++i)
        for (int l = 0; l < kChannels; ++l)
            tile[i * kChannels + l] = l < lanes ? static_cast<C>(widen(from[i * step + offsets[l]])) : C(0);
}

template <class C, class S> void store_channels(const C* __restrict tile, void* memory, std::int64_t count,
                                                std::int64_t step, const std::int64_t* offsets, int lanes) {
    constexpr int n = kWidth<C>;
    S* to = static_cast<S*>(memory);
    if (lie_together(offsets, lanes)) {
        to += offsets[0];
        if (lanes == kChannels)
            for (std::int64_t i = 0; i < count; ++i)
                for (int l = 0; l < kChannels; l += n)
                    store_narrowed<C>(to + i * step + l, load_vector(tile + i * kChannels + l));
        else
            for (std::int64_t i = 0; i < count; ++i)
                for (int l = 0; l < lanes; ++l) narrow(tile[i * kChannels + l], to[i * step + l]);
        return;
    }
    if (step == 1 && count >= n) {
        S* plane[kChannels];
        for (int l = 0; l < kChannels; ++l) plane[l] = to + offsets[l < lanes ? l : 0];
        each_step(count, n, unaligned<C>(plane[0]), [&](std::int64_t i) {
            for (int l = 0; l < lanes; l += n) {
                Vec<C> v[n];
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) v[k] = load_vector(tile + (i + k) * kChannels + l);
                transpose<C>(v);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) {
                    if (l + k >= lanes) break;
                    S* const target = plane[l + k] + i;
                    __builtin_prefetch(target - count, 1, 2); // what is stored next
                    store_narrowed<C>(target, v[k]);
                }
            }
        });
        return;
    }
    for (std::int64_t i = 0; i < count; ++i)
        for (int l = 0; l < lanes; ++l) narrow(tile[i * kChannels + l], to[i * step + offsets[l]]);
}

} // namespace
} // namespace sgs::SGS_ISA
