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

// 2^r for |r| <= 1/2, exactly 1 at 0: interpolated at Chebyshev points, to 1e-8 and 2e-17. V is C or a vector of it.
template <class C, class V> SGS_INLINE V exp2_fraction(V r) {
    if constexpr (sizeof(C) == sizeof(float)) {
        V p = r * 0x1.44138ap-13f + 0x1.5f089p-10f;
        p = p * r + 0x1.3b2a54p-7f;
        p = p * r + 0x1.c6af6cp-5f;
        p = p * r + 0x1.ebfbep-3f;
        p = p * r + 0x1.62e43p-1f;
        return p * r + 1.0f;
    } else {
        V p = r * 0x1.c4a29324a1038p-36 + 0x1.e9ec1fcb69a7fp-32;
        p = p * r + 0x1.e4cf10dec0f59p-28;
        p = p * r + 0x1.b524ebd13a55fp-24;
        p = p * r + 0x1.62c02242b879cp-20;
        p = p * r + 0x1.ffcbfc6da6ed1p-17;
        p = p * r + 0x1.430912f86b7dbp-13;
        p = p * r + 0x1.5d87fe78a3f9cp-10;
        p = p * r + 0x1.3b2ab6fba4e79p-7;
        p = p * r + 0x1.c6b08d704a0c6p-5;
        p = p * r + 0x1.ebfbdff82c58fp-3;
        p = p * r + 0x1.62e42fefa39efp-1;
        return p * r + 1.0;
    }
}

template <class C> struct Exponent;
template <> struct Exponent<float> {
    using Integer = std::int32_t;
    static constexpr float least = -160.0f, shift = 0x1.8p+23f;
    static constexpr Integer shift_bits = 0x4b400000, bias = 127, fraction = 23;
};
template <> struct Exponent<double> {
    using Integer = std::int64_t;
    static constexpr double least = -1100.0, shift = 0x1.8p+52;
    static constexpr Integer shift_bits = 0x4338000000000000, bias = 1023, fraction = 52;
};

// 2^t for t <= 0 down through the subnormals: 2^r times 2^k, k the integer nearest to t, applied in two factors since
// 2^k itself may be subnormal. NaN gives NaN, -inf gives 0. V is C or a vector of it, I its integers.
template <class C, class V, class I> SGS_INLINE V exp2_negative(V t) {
    using E = Exponent<C>;
    t = t < E::least ? V{} + E::least : t;
    const V shifted = t + E::shift; // the low bits of a number this large are the nearest integer
    const V p = exp2_fraction<C>(t - (shifted - E::shift));
    const I e = __builtin_bit_cast(I, shifted) - E::shift_bits;
    const I half = e >> 1;
    return p * __builtin_bit_cast(V, (half + E::bias) << E::fraction) *
           __builtin_bit_cast(V, (e - half + E::bias) << E::fraction);
}

/// -1 / (s ln 2): (2) is 2 to the power of this times d + step. The same for all edges, since a division for each would
/// take as long as the rest.
template <class C> SGS_INLINE C weight_slope(C scale) { return C(-0x1.71547652b82fep+0) / scale; }

/// (2) the weight of an edge of distance d.
template <class C> SGS_INLINE C edge_weight(C d, C step_length, C scale) {
    return exp2_negative<C, C, typename Exponent<C>::Integer>((d + step_length) * weight_slope(scale));
}

} // namespace sgs
