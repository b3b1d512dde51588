// Vectors of the instruction set's own width, by the compiler's vector extensions. Only for files under kernels/.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sgs::SGS_ISA {
namespace {

#if defined(__AVX512F__)
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

/// To aligned memory, past the caches where the processor can; before others may read it, finish_stream.
template <class C> __attribute__((always_inline)) inline void stream_vector(C* p, Vec<C> v) {
#if defined(__AVX512F__)
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

/// w f across an edge; cuts says that some weights are 0, across which nothing passes, not even NaN.
template <bool cuts, class V> __attribute__((always_inline)) inline V carry_over(V w, V f) {
    if constexpr (cuts) return w != V{} ? w * f : V{};
    return w * f;
}

/// w (x + f), with one fused step after f.
template <bool cuts, class V> __attribute__((always_inline)) inline V carry_over(V w, V x, V f) {
    const V term = w * x + w * f;
    if constexpr (cuts) return w != V{} ? term : V{};
    return term;
}

// One stage of a transposition: rows a and b exchange the blocks of `s` elements that stand across the diagonal from
// each other.
template <class C, int s, std::size_t... i>
__attribute__((always_inline)) inline void exchange(Vec<C>& a, Vec<C>& b, std::index_sequence<i...>) {
    constexpr int n = kWidth<C>;
    const Vec<C> low =
        __builtin_shufflevector(a, b, (static_cast<int>(i) & s ? n + static_cast<int>(i) - s : static_cast<int>(i))...);
    const Vec<C> high =
        __builtin_shufflevector(a, b, (static_cast<int>(i) & s ? n + static_cast<int>(i) : static_cast<int>(i) + s)...);
    a = low;
    b = high;
}

/// Transposes kWidth rows of kWidth elements in registers.
template <class C, int s = 1> __attribute__((always_inline)) inline void transpose(Vec<C>* rows) {
    if constexpr (s < kWidth<C>) {
        for (int k = 0; k < kWidth<C>; ++k)
            if ((k & s) == 0) exchange<C, s>(rows[k], rows[k + s], std::make_index_sequence<kWidth<C>>{});
        transpose<C, 2 * s>(rows);
    }
}

} // namespace
} // namespace sgs::SGS_ISA
