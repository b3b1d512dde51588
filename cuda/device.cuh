// What kernels share: elements of any dtype, and products of weights that neither overflow nor vanish.
#pragma once

#include "launch.cuh"
#include "step.h"

namespace sgs::cuda {

__device__ inline double widen(double v) { return v; }
__device__ inline float widen(float v) { return v; }
__device__ inline float widen(BFloat16 v) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(v.bits) << 16);
}
#if defined(__CUDACC__)
__device__ inline float widen(Half v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ inline void narrow(float v, Half& out) { out.bits = __half_as_ushort(__float2half_rn(v)); }
#else
__device__ inline float widen(Half v) { return emulation::half_to_float(v.bits); }
__device__ inline void narrow(float v, Half& out) { out.bits = emulation::float_to_half(v); }
#endif
__device__ inline void narrow(double v, Half& out) { narrow(static_cast<float>(v), out); }
__device__ inline void narrow(double v, double& out) { out = v; }
__device__ inline void narrow(double v, float& out) { out = static_cast<float>(v); }
__device__ inline void narrow(float v, double& out) { out = v; }
__device__ inline void narrow(float v, float& out) { out = v; }
// To nearest, ties to even; NaN stays NaN.
__device__ inline void narrow(float v, BFloat16& out) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, v);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out.bits = static_cast<std::uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded);
}
__device__ inline void narrow(double v, BFloat16& out) { narrow(static_cast<float>(v), out); }

/// f(typed pointer) for a pointer to elements of dtype: one branch, the same for all threads.
template <class F> __device__ inline void with_pointer(const void* data, DType dtype, const F& f) {
    switch (dtype) {
    case DType::float16: return f(static_cast<const Half*>(data));
    case DType::bfloat16: return f(static_cast<const BFloat16*>(data));
    case DType::float32: return f(static_cast<const float*>(data));
    case DType::float64: return f(static_cast<const double*>(data));
    }
}

template <class C> __device__ inline C load(const void* data, DType dtype, std::int64_t index) {
    C v = C(0);
    with_pointer(data, dtype, [&](auto p) { v = static_cast<C>(widen(p[index])); });
    return v;
}

template <class C> __device__ inline void store(void* data, DType dtype, std::int64_t index, C v) {
    switch (dtype) {
    case DType::float16: return narrow(v, static_cast<Half*>(data)[index]);
    case DType::bfloat16: return narrow(v, static_cast<BFloat16*>(data)[index]);
    case DType::float32: return narrow(v, static_cast<float*>(data)[index]);
    case DType::float64: return narrow(v, static_cast<double*>(data)[index]);
    }
}

/// v, but not found ahead of where it is asked for: what is found ahead takes registers.
template <class T> __device__ inline T opaque(T v) {
#if defined(__CUDACC__)
    if constexpr (sizeof(T) == 4)
        asm volatile("" : "+r"(v));
    else
        asm volatile("" : "+l"(v));
#endif
    return v;
}

/// a / b where neither is negative.
__device__ inline int quotient(int a, int b) {
    return static_cast<int>(static_cast<unsigned>(a) / static_cast<unsigned>(b));
}

/// index / size and index % size; in 32 bits, which is several times faster, where they hold both.
__device__ inline std::int64_t split(std::int64_t& index, std::int64_t size) {
    std::int64_t rest;
    const std::int64_t whole = index;
    if (((whole | size) >> 32) == 0) {
        const std::uint32_t quotient = static_cast<std::uint32_t>(whole) / static_cast<std::uint32_t>(size);
        index = quotient;
        rest = static_cast<std::uint32_t>(whole) - quotient * static_cast<std::uint32_t>(size);
    } else {
        index = whole / size;
        rest = whole - index * size;
    }
    return rest;
}

/// A product of weights, fraction 2^exponent: the support that a whole chunk lets through (3). A plain product would
/// underflow to 0, which would stop a NaN that must pass, or overflow, which would turn a 0 into NaN. 0 only where an
/// edge is cut.
template <class C> struct Reach {
    C fraction = C(1);
    int exponent = 0;
};

template <class C> __device__ inline void normalize(Reach<C>& r) {
    constexpr int limit = 1 << 24; // far beyond any exponent that matters, far below overflow
    int e = 0;
    if (isfinite(r.fraction)) r.fraction = frexp(r.fraction, &e);
    e += r.exponent;
    r.exponent = e < -limit ? -limit : e > limit ? limit : e;
}

/// One more edge.
template <class C> __device__ inline void extend(Reach<C>& r, C w) {
    if (w == C(0) || r.fraction == C(0)) {
        r.fraction = C(0);
        return;
    }
    int e = 0;
    const C fraction = isfinite(w) ? frexp(w, &e) : w;
    r.fraction *= fraction;
    r.exponent += e;
    normalize(r);
}

/// The reach of one chunk after the other.
template <class C> __device__ inline Reach<C> joined(const Reach<C>& a, const Reach<C>& b) {
    Reach<C> r;
    r.fraction = a.fraction == C(0) || b.fraction == C(0) ? C(0) : a.fraction * b.fraction;
    r.exponent = a.exponent + b.exponent;
    normalize(r);
    return r;
}

/// What f becomes on the way; 0 where an edge is cut, whatever f is.
template <class C> __device__ inline C through(const Reach<C>& r, C f) {
    if (r.exponent == 0) return carried(r.fraction, f);
    if (r.fraction == C(0)) return C(0);
    int e = 0;
    const C fraction = isfinite(f) ? frexp(f, &e) : f;
    const C product = r.fraction * fraction;
    return isfinite(product) ? ldexp(product, e + r.exponent) : product;
}

} // namespace sgs::cuda
