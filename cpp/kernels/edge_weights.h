// From distances to weights, in vectors. Only for files under kernels/.
#pragma once

#include "../step.h"
#include "vector.h"

namespace sgs::SGS_ISA {
namespace {

template <class C> __attribute__((always_inline)) inline Vec<C> root(Vec<C> v) {
    constexpr bool single = sizeof(C) == sizeof(float);
#if defined(__AVX512F__)
    if constexpr (single)
        return __builtin_bit_cast(Vec<C>, _mm512_maskz_sqrt_ps(0xffff, __builtin_bit_cast(__m512, v)));
    else
        return __builtin_bit_cast(Vec<C>, _mm512_maskz_sqrt_pd(0xff, __builtin_bit_cast(__m512d, v)));
#elif defined(__AVX2__)
    if constexpr (single)
        return __builtin_bit_cast(Vec<C>, _mm256_sqrt_ps(__builtin_bit_cast(__m256, v)));
    else
        return __builtin_bit_cast(Vec<C>, _mm256_sqrt_pd(__builtin_bit_cast(__m256d, v)));
#elif defined(__SSE2__)
    if constexpr (single)
        return __builtin_bit_cast(Vec<C>, _mm_sqrt_ps(__builtin_bit_cast(__m128, v)));
    else
        return __builtin_bit_cast(Vec<C>, _mm_sqrt_pd(__builtin_bit_cast(__m128d, v)));
#else
    for (int k = 0; k < kWidth<C>; ++k) v[k] = single ? __builtin_sqrtf(v[k]) : __builtin_sqrt(v[k]);
    return v;
#endif
}

/// (1) with the term of one more channel. One metric for each Metric.
template <int metric, class V> __attribute__((always_inline)) inline V add_distance(V d, V difference) {
    if constexpr (metric == 1) return d + (difference < V{} ? -difference : difference);
    return d + difference * difference;
}

// 2^t as step.h has it, with one instruction each where there are such for the nearest integer, what is left beside it
// (0 for -inf) and scaling. (All lanes of a mask: without one, GCC 12 warns of its own header.)
template <class C> __attribute__((always_inline)) inline Vec<C> power_of_two(Vec<C> t) {
#if defined(__AVX512F__)
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    if constexpr (sizeof(C) == sizeof(float)) {
        const __m512 v = __builtin_bit_cast(__m512, t), k = _mm512_maskz_roundscale_ps(0xffff, v, nearest);
        const Vec<C> p = exp2_fraction<C>(__builtin_bit_cast(Vec<C>, _mm512_maskz_reduce_ps(0xffff, v, nearest)));
        return __builtin_bit_cast(Vec<C>, _mm512_maskz_scalef_ps(0xffff, __builtin_bit_cast(__m512, p), k));
    } else {
        const __m512d v = __builtin_bit_cast(__m512d, t), k = _mm512_maskz_roundscale_pd(0xff, v, nearest);
        const Vec<C> p = exp2_fraction<C>(__builtin_bit_cast(Vec<C>, _mm512_maskz_reduce_pd(0xff, v, nearest)));
        return __builtin_bit_cast(Vec<C>, _mm512_maskz_scalef_pd(0xff, __builtin_bit_cast(__m512d, p), k));
    }
#else
    return exp2_negative<C, Vec<C>, decltype(Vec<C>{} < Vec<C>{})>(t);
#endif
}

/// (2): what the distance is multiplied by, and what is added, to be the exponent of 2.
template <class C> struct Fall {
    Fall(C step_length, C scale) : slope(weight_slope(scale)), start(step_length * slope) {}
    C slope, start;
};

/// (2) of the sum of all channels' terms, before the power is taken.
template <class C, bool square_root>
__attribute__((always_inline)) inline Vec<C> exponent(Vec<C> distance, const Fall<C>& fall) {
    if constexpr (square_root) distance = root<C>(distance);
    return distance * fall.slope + fall.start;
}

constexpr int kEarly = 3; // powers for which an exponent waits

/// store(k, weight (2)) of distance(k), the sum of all channels' terms, for k from 0 to count in turn. A weight is a
/// chain of 90 cycles, more than a processor can fill from the instructions that it looks ahead at; here the first half
/// of one chain is near the second half of another.
template <class C, bool square_root, class Distance, class Store> __attribute__((always_inline)) inline void
each_weight(std::int64_t count, const Fall<C>& fall, const Distance& distance, const Store& store) {
    std::int64_t k = 0;
    if (count >= kEarly) {
        Vec<C> waiting[kEarly];
#pragma GCC unroll 8
        for (int i = 0; i < kEarly; ++i) waiting[i] = exponent<C, square_root>(distance(i), fall);
        for (; k < count - kEarly; ++k) {
            const Vec<C> next = exponent<C, square_root>(distance(k + kEarly), fall);
            store(k, power_of_two<C>(waiting[0]));
#pragma GCC unroll 8
            for (int i = 0; i + 1 < kEarly; ++i) waiting[i] = waiting[i + 1];
            waiting[kEarly - 1] = next;
        }
#pragma GCC unroll 8
        for (int i = 0; i < kEarly; ++i) store(k++, power_of_two<C>(waiting[i]));
    }
    for (; k < count; ++k) store(k, power_of_two<C>(exponent<C, square_root>(distance(k), fall)));
}

} // namespace
} // namespace sgs::SGS_ISA
