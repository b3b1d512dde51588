// Conversions between storage and computing types, branch-free so that loops over them vectorise. Only for files under
// kernels/.
#pragma once

#include "../sgs.h"

namespace sgs::SGS_ISA {
namespace {

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }

inline float widen(BFloat16 v) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(v.bits) << 16); }

// Branch-free: the exponent is rebased by an exact multiplication, which serves subnormals too.
inline float widen(Half v) {
    const std::uint32_t magnitude = (v.bits & 0x7fffu) << 13;
    const std::uint32_t sign = (v.bits & 0x8000u) << 16;
    const float finite = __builtin_bit_cast(float, magnitude) * 0x1p112f;
    const std::uint32_t special = magnitude | 0x7f800000u; // Inf and NaN keep their fraction
    const std::uint32_t bits = magnitude >= 0x0f800000u ? special : __builtin_bit_cast(std::uint32_t, finite);
    return __builtin_bit_cast(float, bits | sign);
}

inline void narrow(float v, float& out) { out = v; }
inline void narrow(double v, double& out) { out = v; }
inline void narrow(double v, float& out) { out = static_cast<float>(v); }
inline void narrow(float v, double& out) { out = v; }

// To nearest, ties to even; NaN stays NaN.
inline void narrow(float v, BFloat16& out) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, v);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (bits >> 16) | 0x40u;
    out.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

// To nearest, ties to even. Adding 0.5 to a subnormal result aligns its last bit with the sum's last bit.
inline void narrow(float v, Half& out) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, v);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    const std::uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    const std::uint32_t subnormal =
        __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, magnitude) + 0.5f) - 0x3f000000u;
    std::uint32_t result = magnitude < 0x38800000u ? subnormal : normal; // 2^-14
    result = magnitude >= 0x477ff000u ? 0x7c00u : result;                // 65520 and above round to infinity
    result = magnitude > 0x7f800000u ? 0x7e00u : result;
    out.bits = static_cast<std::uint16_t>(result | sign);
}

} // namespace
} // namespace sgs::SGS_ISA
