// The recurrence step, its adjoint, distance and weight: one definition for every instruction set and for CUDA.
// Everything is static, so that no copy compiled for one instruction set can be linked into another.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SGS_INLINE static __host__ __device__ __forceinline__
#else
#define SGS_INLINE static inline __attribute__((always_inline))
#endif

namespace sgs {

/// w f, the support that crosses an edge; 0 where the edge is cut, whatever f is (NaN too).
template <class C> SGS_INLINE C carried(C w, C f) { return w != C(0) ? w * f : C(0); }

/// (4) F_i = x_i + w F_{i-1}; exactly x_i where the edge is cut. Its adjoint is the same step run the other way (11).
template <class C> SGS_INLINE C step(C x, C w, C f) { return x + carried(w, f); }

/// 1 - w^2 to two roundings: 1 - w is exact from 1/2 on, and below it nothing cancels.
template <class C> SGS_INLINE C one_minus_square(C w) { return w < C(0.5) ? C(1) - w * w : (C(1) - w) * (C(1) + w); }

/// (6) update: U_u = w U_p + (1 - w^2) A_u; this is the second term.
template <class C> SGS_INLINE C update_source(C w, C a) { return one_minus_square(w) * a; }

/// (8) c x, where x is not read into the sum if c = 0.
template <class C> SGS_INLINE C trusted(C c, C x) { return c != C(0) ? c * x : C(0); }

/// Smallest normal number: the least support that counts (8).
template <class C> SGS_INLINE C least_support() { return sizeof(C) == sizeof(double) ? C(0x1p-1022) : C(0x1p-126); }

/// (1) the term of one channel's difference in the distance; 0 euclidean, 1 cityblock, 2 sqeuclidean.
template <int metric, class C> SGS_INLINE C distance_term(C difference) {
    if constexpr (metric == 1) return difference < C(0) ? -difference : difference;
    return difference * difference;
}

// exp(t) for t <= 0, to about one unit in the last place down through the subnormals: t = k ln 2 + r, |r| <= ln 2 / 2,
// a Taylor polynomial for e^r, and 2^k applied in two factors since 2^k itself may be subnormal. NaN gives NaN, -inf
// gives 0.
SGS_INLINE float exp_negative(float t) {
    t = t < -110.0f ? -110.0f : t;
    const float shifted = t * 0x1.715476p+0f + 0x1.8p+23f; // the low bits of a float this large are the nearest integer
    const float k = shifted - 0x1.8p+23f;
    const float r = (t - k * 0x1.62ep-1f) - k * 0x1.0bfbe8p-15f; // ln 2 in two parts; k times the first is exact
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const std::int32_t e = __builtin_bit_cast(std::int32_t, shifted) - 0x4b400000;
    const std::int32_t half = e >> 1;
    return p * __builtin_bit_cast(float, (half + 127) << 23) * __builtin_bit_cast(float, (e - half + 127) << 23);
}

SGS_INLINE double exp_negative(double t) {
    t = t < -760.0 ? -760.0 : t;
    const double shifted = t * 0x1.71547652b82fep+0 + 0x1.8p+52;
    const double k = shifted - 0x1.8p+52;
    const double r = (t - k * 0x1.62e42fefa38p-1) - k * 0x1.ef35793c7673p-45;
    double p = 1.0 / 6227020800;
    p = p * r + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    const std::int64_t e = __builtin_bit_cast(std::int64_t, shifted) - 0x4338000000000000;
    const std::int64_t half = e >> 1;
    return p * __builtin_bit_cast(double, (half + 1023) << 52) * __builtin_bit_cast(double, (e - half + 1023) << 52);
}

/// (2) the weight of an edge of distance d.
template <class C> SGS_INLINE C edge_weight(C d, C step_length, C scale) {
    return exp_negative(-(d + step_length) / scale);
}

} // namespace sgs
