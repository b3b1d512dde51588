// Vectors of the instruction set's own width, or of at most 32 bytes for files that define SGS_SHORT_VECTORS, by the
// compiler's vector extensions. Only for files under kernels/.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && !defined(SGS_SHORT_VECTORS)
#define SGS_LONG_VECTORS
#endif

namespace sgs::SGS_ISA {
namespace {

#if defined(SGS_LONG_VECTORS)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class C> struct VectorOf {
    typedef C type __attribute__((vector_size(kVectorBytes)));
    typedef C unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(C)), may_alias));
};
template <class C> using Vec = typename VectorOf<C>::type;
template <class C> constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(C));

template <class C> __attribute__((always_inline)) inline Vec<C> load_vector(const C* p) {
    return *reinterpret_cast<const typename VectorOf<C>::unaligned*>(p);
}
template <class C> __attribute__((always_inline)) inline void store_vector(C* p, Vec<C> v) {
    *reinterpret_cast<typename VectorOf<C>::unaligned*>(p) = v;
}

/// One number in all places: less zero, which changes none, not even -0, so that a broadcast is all there is to do.
template <class C> __attribute__((always_inline)) inline Vec<C> splat(C v) { return v - Vec<C>{}; }

/// To aligned memory, past the caches where the processor can; before others may read it, finish_stream.
template <class C> __attribute__((always_inline)) inline void stream_vector(C* p, Vec<C> v) {
#if defined(SGS_LONG_VECTORS)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), __builtin_bit_cast(__m512i, v));
#elif defined(__AVX2__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), __builtin_bit_cast(__m256i, v));
#elif defined(__SSE2__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), __builtin_bit_cast(__m128i, v));
#else
    store_vector(p, v);
#endif
}
__attribute__((always_inline)) inline void finish_stream() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/// A copy past the caches: lines of memory are written whole, and not read before.
template <class C> void stream_copy(const C* __restrict from, C* __restrict to, std::int64_t count) {
    std::int64_t j = 0;
    for (; j < count && reinterpret_cast<std::uintptr_t>(to + j) % kVectorBytes != 0; ++j) to[j] = from[j];
    for (; j + kWidth<C> <= count; j += kWidth<C>) stream_vector(to + j, load_vector(from + j));
    for (; j < count; ++j) to[j] = from[j];
}

/// w f + x, rounded once where the instruction set can: left to the compiler, that would differ from place to place.
/// (nothrow, which intrinsics do not say of themselves, or unoptimised code asks for tables of exceptions.)
__attribute__((always_inline, nothrow)) inline Vec<float> fused(Vec<float> w, Vec<float> f, Vec<float> x) {
#if defined(SGS_LONG_VECTORS)
    return __builtin_bit_cast(Vec<float>, _mm512_fmadd_ps(__builtin_bit_cast(__m512, w), __builtin_bit_cast(__m512, f),
                                                          __builtin_bit_cast(__m512, x)));
#elif defined(__FMA__)
    return __builtin_bit_cast(Vec<float>, _mm256_fmadd_ps(__builtin_bit_cast(__m256, w), __builtin_bit_cast(__m256, f),
                                                          __builtin_bit_cast(__m256, x)));
#elif defined(__FP_FAST_FMAF)
    for (int k = 0; k < kWidth<float>; ++k) x[k] = __builtin_fmaf(w[k], f[k], x[k]);
    return x;
#else
    return w * f + x;
#endif
}
__attribute__((always_inline, nothrow)) inline Vec<double> fused(Vec<double> w, Vec<double> f, Vec<double> x) {
#if defined(SGS_LONG_VECTORS)
    return __builtin_bit_cast(Vec<double>,
                              _mm512_fmadd_pd(__builtin_bit_cast(__m512d, w), __builtin_bit_cast(__m512d, f),
                                              __builtin_bit_cast(__m512d, x)));
#elif defined(__FMA__)
    return __builtin_bit_cast(Vec<double>,
                              _mm256_fmadd_pd(__builtin_bit_cast(__m256d, w), __builtin_bit_cast(__m256d, f),
                                              __builtin_bit_cast(__m256d, x)));
#elif defined(__FP_FAST_FMA)
    for (int k = 0; k < kWidth<double>; ++k) x[k] = __builtin_fma(w[k], f[k], x[k]);
    return x;
#else
    return w * f + x;
#endif
}

/// x + w f; x + 0 where the edge is cut, as where nothing flows in, so that -0 becomes 0 with cuts and without.
template <bool cuts, class V> __attribute__((always_inline)) inline V arrive(V x, V w, V f) {
    const V sum = fused(w, f, x);
    if constexpr (cuts) return w != V{} ? sum : x + V{};
    return sum;
}

/// w f across an edge; cuts says that some weights are 0, across which nothing passes, not even NaN.
template <bool cuts, class V> __attribute__((always_inline)) inline V carry_over(V w, V f) {
    if constexpr (cuts) return w != V{} ? w * f : V{};
    return w * f;
}

/// w (x + f), with one fused step after f.
template <bool cuts, class V> __attribute__((always_inline)) inline V carry_over(V w, V x, V f) {
    const V term = fused(w, f, w * x);
    if constexpr (cuts) return w != V{} ? term : V{};
    return term;
}

// Element i of the result is element index(i) of a, or of b from kWidth on.
template <class C, class Index, std::size_t... i>
__attribute__((always_inline)) inline Vec<C> pick(Vec<C> a, Vec<C> b, Index, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, Index{}(static_cast<int>(i))...);
}

// a and b become what low and high pick of them.
template <class C, class Low, class High>
__attribute__((always_inline)) inline void exchange(Vec<C>& a, Vec<C>& b, Low low, High high) {
    constexpr auto all = std::make_index_sequence<kWidth<C>>{};
    const Vec<C> first = pick<C>(a, b, low, all);
    b = pick<C>(a, b, high, all);
    a = first;
}

/// Transposes kWidth rows of kWidth elements in registers: first within lanes of 16 bytes, then lanes as a whole. Every
/// step is one instruction with fixed indices; those that look indices up take twice the time.
template <class C> __attribute__((always_inline)) inline void transpose(Vec<C>* rows) {
    constexpr int n = kWidth<C>, e = 16 / static_cast<int>(sizeof(C)), lanes = n / e;
    for (int k = 0; k < n; k += 2) // a0 b0 a1 b1, a2 b2 a3 b3
        exchange<C>(
            rows[k], rows[k + 1], [](int i) { return i / e * e + i % e / 2 + i % 2 * n; },
            [](int i) { return i / e * e + e / 2 + i % e / 2 + i % 2 * n; });
    if constexpr (e == 4)
        for (int k = 0; k < n; k += 4) { // pairs: a0 b0 c0 d0, a1 b1 c1 d1
            constexpr auto low = [](int i) { return i / e * e + i % 2 + i % e / 2 * n; };
            constexpr auto high = [](int i) { return i / e * e + 2 + i % 2 + i % e / 2 * n; };
            exchange<C>(rows[k], rows[k + 2], low, high);
            exchange<C>(rows[k + 1], rows[k + 3], low, high);
            const Vec<C> second = rows[k + 2];
            rows[k + 2] = rows[k + 1];
            rows[k + 1] = second;
        }
    constexpr auto even = [](int i) { return i / e * 2 % lanes * e + i % e + i / (n / 2) * n; };
    constexpr auto odd = [](int i) { return (i / e * 2 % lanes + 1) * e + i % e + i / (n / 2) * n; };
    if constexpr (lanes == 2)
        for (int k = 0; k < e; ++k) exchange<C>(rows[k], rows[k + e], even, odd);
    if constexpr (lanes == 4)
        for (int k = 0; k < e; ++k) {
            Vec<C>&a = rows[k], &b = rows[k + e], &c = rows[k + 2 * e], &d = rows[k + 3 * e];
            exchange<C>(a, b, even, odd); // lanes a0 a2 b0 b2, a1 a3 b1 b3
            exchange<C>(c, d, even, odd);
            exchange<C>(a, c, even, odd); // a0 b0 c0 d0, a2 b2 c2 d2
            exchange<C>(b, d, even, odd);
        }
}

} // namespace
} // namespace sgs::SGS_ISA
