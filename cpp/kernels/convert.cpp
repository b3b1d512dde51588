// Tiles in and out of strided memory, with conversion between storage and computing types.
#include "../kernels.h"

namespace sgs::SGS_ISA {
namespace {

float widen(float v) { return v; }
double widen(double v) { return v; }

float widen(BFloat16 v) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(v.bits) << 16); }

// Branch-free: the exponent is rebased by an exact multiplication, which serves subnormals too.
float widen(Half v) {
    const std::uint32_t magnitude = (v.bits & 0x7fffu) << 13;
    const std::uint32_t sign = (v.bits & 0x8000u) << 16;
    const float finite = __builtin_bit_cast(float, magnitude) * 0x1p112f;
    const std::uint32_t special = magnitude | 0x7f800000u; // Inf and NaN keep their fraction
    const std::uint32_t bits = magnitude >= 0x0f800000u ? special : __builtin_bit_cast(std::uint32_t, finite);
    return __builtin_bit_cast(float, bits | sign);
}

void narrow(float v, float& out) { out = v; }
void narrow(double v, double& out) { out = v; }
void narrow(double v, float& out) { out = static_cast<float>(v); }
void narrow(float v, double& out) { out = v; }

// To nearest, ties to even; NaN stays NaN.
void narrow(float v, BFloat16& out) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, v);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (bits >> 16) | 0x40u;
    out.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

// To nearest, ties to even. Adding 0.5 to a subnormal result aligns its last bit with the sum's last bit.
void narrow(float v, Half& out) {
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

// Length of the run of lanes from l on that lie side by side in memory.
int run_length(const std::int64_t* offsets, int l, int lanes) {
    int end = l + 1;
    while (end < lanes && offsets[end] == offsets[end - 1] + 1) ++end;
    return end - l;
}

template <class C, class S> void load(C* __restrict tile, const void* source, std::int64_t steps, std::int64_t step,
                                      const std::int64_t* offsets, int lanes) {
    const S* s = static_cast<const S*>(source);
    if (lanes < kLanes)
        for (std::int64_t i = 0; i < steps; ++i)
            for (int l = lanes; l < kLanes; ++l) tile[i * kLanes + l] = C(0);
    if (run_length(offsets, 0, lanes) == kLanes) {
        s += offsets[0];
        for (std::int64_t i = 0; i < steps; ++i)
            for (int l = 0; l < kLanes; ++l) tile[i * kLanes + l] = static_cast<C>(widen(s[i * step + l]));
        return;
    }
    for (int l = 0, run; l < lanes; l += run) {
        run = run_length(offsets, l, lanes);
        const S* from = s + offsets[l];
        if (run == 1) {
            for (std::int64_t i = 0; i < steps; ++i) tile[i * kLanes + l] = static_cast<C>(widen(from[i * step]));
        } else {
            for (std::int64_t i = 0; i < steps; ++i)
                for (int r = 0; r < run; ++r) tile[i * kLanes + l + r] = static_cast<C>(widen(from[i * step + r]));
        }
    }
}

template <class C, class S> void store(const C* __restrict tile, void* target, std::int64_t steps, std::int64_t step,
                                       const std::int64_t* offsets, int lanes) {
    S* t = static_cast<S*>(target);
    if (run_length(offsets, 0, lanes) == kLanes) {
        t += offsets[0];
        for (std::int64_t i = 0; i < steps; ++i)
            for (int l = 0; l < kLanes; ++l) narrow(tile[i * kLanes + l], t[i * step + l]);
        return;
    }
    for (int l = 0, run; l < lanes; l += run) {
        run = run_length(offsets, l, lanes);
        S* to = t + offsets[l];
        if (run == 1) {
            for (std::int64_t i = 0; i < steps; ++i) narrow(tile[i * kLanes + l], to[i * step]);
        } else {
            for (std::int64_t i = 0; i < steps; ++i)
                for (int r = 0; r < run; ++r) narrow(tile[i * kLanes + l + r], to[i * step + r]);
        }
    }
}

} // namespace

extern const ConvertKernels<float> convert_float{
    {load<float, Half>, load<float, BFloat16>, load<float, float>, load<float, double>},
    {store<float, Half>, store<float, BFloat16>, store<float, float>, store<float, double>}};
// The computing type is double for double results only (and for the weights of a double guide).
extern const ConvertKernels<double> convert_double{
    {load<double, Half>, load<double, BFloat16>, load<double, float>, load<double, double>},
    {nullptr, nullptr, store<double, float>, store<double, double>}};

} // namespace sgs::SGS_ISA
