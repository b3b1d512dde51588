// Vectors of the computing type from and to memory, where they are in the storage type. Only for files under kernels/.
#pragma once

#include <cstdint>
#include <type_traits>

#include "storage.h"
#include "vector.h"

namespace sgs::SGS_ISA {
namespace {

typedef std::uint16_t Bits16 __attribute__((vector_size(kWidth<float> * 2)));
typedef std::uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));

template <class T> __attribute__((always_inline)) inline T read(const void* from) {
    T v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <class C, class S> __attribute__((always_inline, nothrow)) inline Vec<C> load_widened(const S* from) {
    if constexpr (std::is_same_v<C, S>) return load_vector(from);
    if constexpr (std::is_same_v<C, float> && std::is_same_v<S, BFloat16>)
        return __builtin_bit_cast(Vec<C>, __builtin_convertvector(read<Bits16>(from), Bits32) << 16);
#if defined(SGS_LONG_VECTORS)
    if constexpr (std::is_same_v<C, float> && std::is_same_v<S, Half>)
        return __builtin_bit_cast(Vec<C>, _mm512_maskz_cvtph_ps(0xffff, read<__m256i>(from)));
#elif defined(__F16C__)
    if constexpr (std::is_same_v<C, float> && std::is_same_v<S, Half>)
        return __builtin_bit_cast(Vec<C>, _mm256_cvtph_ps(read<__m128i>(from)));
#endif
    C row[kWidth<C>];
    for (int i = 0; i < kWidth<C>; ++i) row[i] = static_cast<C>(widen(from[i]));
    return load_vector(row);
}

template <class C, class S> __attribute__((always_inline, nothrow)) inline void store_narrowed(S* to, Vec<C> v) {
    if constexpr (std::is_same_v<C, S>) {
        store_vector(to, v);
        return;
    }
    if constexpr (std::is_same_v<C, float> && std::is_same_v<S, BFloat16>) { // as narrow does
        const Bits32 bits = __builtin_bit_cast(Bits32, v);
        const Bits32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const Bits16 result = __builtin_convertvector(v == v ? rounded : (bits >> 16) | 0x40u, Bits16);
        __builtin_memcpy(to, &result, sizeof result);
        return;
    }
#if defined(SGS_LONG_VECTORS)
    if constexpr (std::is_same_v<C, float> && std::is_same_v<S, Half>) {
        const __m256i result = _mm512_maskz_cvtps_ph(0xffff, __builtin_bit_cast(__m512, v), _MM_FROUND_TO_NEAREST_INT);
        __builtin_memcpy(to, &result, sizeof result);
        return;
    }
#elif defined(__F16C__)
    if constexpr (std::is_same_v<C, float> && std::is_same_v<S, Half>) {
        const __m128i result = _mm256_cvtps_ph(__builtin_bit_cast(__m256, v), _MM_FROUND_TO_NEAREST_INT);
        __builtin_memcpy(to, &result, sizeof result);
        return;
    }
#endif
    C row[kWidth<C>];
    store_vector(row, v);
    for (int i = 0; i < kWidth<C>; ++i) narrow(row[i], to[i]);
}

} // namespace
} // namespace sgs::SGS_ISA
