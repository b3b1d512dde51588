// Tiles in and out of strided memory, with conversion between storage and computing types.
#include "../kernels.h"
#include "stored_vectors.h"

namespace sgs::SGS_ISA {
namespace {

// Length of the run of lanes from l on that lie side by side in memory.
int run_length(const std::int64_t* offsets, int l, int lanes) {
    int end = l + 1;
    while (end < lanes && offsets[end] == offsets[end - 1] + 1) ++end;
    return end - l;
}

// Whether all lanes are the same line, as broadcast weights are.
bool is_one_line(const std::int64_t* offsets, int lanes) {
    bool one = true;
    for (int l = 1; l < lanes; ++l) one &= offsets[l] == offsets[0];
    return one;
}

// `count` neighbours.
template <class C, class S> __attribute__((always_inline)) inline void widen_run(const S* from, C* to, int count) {
    int l = 0;
    for (; l + kWidth<C> <= count; l += kWidth<C>) store_vector(to + l, load_widened<C>(from + l));
    for (; l < count; ++l) to[l] = static_cast<C>(widen(from[l]));
}
template <class C, class S> __attribute__((always_inline)) inline void narrow_run(const C* from, S* to, int count) {
    int l = 0;
    for (; l + kWidth<C> <= count; l += kWidth<C>) store_narrowed<C>(to + l, load_vector(from + l));
    for (; l < count; ++l) narrow(from[l], to[l]);
}

// kWidth steps of kWidth lines that each lie along memory: a square, transposed in registers.
template <class C, class S>
void load_square(C* __restrict tile, const S* __restrict source, const std::int64_t* offsets) {
    constexpr int n = kWidth<C>;
    Vec<C> v[n];
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) v[k] = load_widened<C>(source + offsets[k]);
    transpose<C>(v);
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) store_vector(tile + k * kLanes, v[k]);
}

template <class C, class S>
void store_square(const C* __restrict tile, S* __restrict target, const std::int64_t* offsets) {
    constexpr int n = kWidth<C>;
    Vec<C> v[n];
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) v[k] = load_vector(tile + k * kLanes);
    transpose<C>(v);
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) store_narrowed<C>(target + offsets[k], v[k]);
}

template <class C, class S> void load(C* __restrict tile, const void* source, std::int64_t steps, std::int64_t step,
                                      const std::int64_t* offsets, int lanes) {
    const S* s = static_cast<const S*>(source);
    constexpr int n = kWidth<C>;
    if (lanes < kLanes)
        for (std::int64_t i = 0; i < steps; ++i)
            for (int l = lanes; l < kLanes; ++l) tile[i * kLanes + l] = C(0);
    if (run_length(offsets, 0, lanes) == kLanes) {
        for (std::int64_t i = 0; i < steps; ++i) widen_run(s + offsets[0] + i * step, tile + i * kLanes, kLanes);
        return;
    }
    if (is_one_line(offsets, lanes)) {
        for (std::int64_t i = 0; i < steps; ++i) {
            const C v = static_cast<C>(widen(s[i * step + offsets[0]]));
            for (int l = 0; l < lanes; ++l) tile[i * kLanes + l] = v;
        }
        return;
    }
    for (int l = 0, run; l < lanes; l += run) {
        run = run_length(offsets, l, lanes);
        std::int64_t i = 0;
        if (step == 1 && run < n && l + n <= lanes) {
            run = n;
            for (; i + n <= steps; i += n) load_square(tile + i * kLanes + l, s + i, offsets + l);
            for (; i < steps; ++i)
                for (int r = l; r < l + n; ++r) tile[i * kLanes + r] = static_cast<C>(widen(s[i + offsets[r]]));
        }
        const S* from = s + offsets[l];
        if (run == 1) // apart, since the compiler makes a call of the rest of each run
            for (; i < steps; ++i) tile[i * kLanes + l] = static_cast<C>(widen(from[i * step]));
        for (; i < steps; ++i) widen_run(from + i * step, tile + i * kLanes + l, run);
    }
}

template <class C, class S> void store(const C* __restrict tile, void* target, std::int64_t steps, std::int64_t step,
                                       const std::int64_t* offsets, int lanes) {
    S* t = static_cast<S*>(target);
    constexpr int n = kWidth<C>;
    if (run_length(offsets, 0, lanes) == kLanes) {
        for (std::int64_t i = 0; i < steps; ++i) narrow_run(tile + i * kLanes, t + offsets[0] + i * step, kLanes);
        return;
    }
    for (int l = 0, run; l < lanes; l += run) {
        run = run_length(offsets, l, lanes);
        std::int64_t i = 0;
        if (step == 1 && run < n && l + n <= lanes) {
            run = n;
            for (; i + n <= steps; i += n) store_square(tile + i * kLanes + l, t + i, offsets + l);
            for (; i < steps; ++i)
                for (int r = l; r < l + n; ++r) narrow(tile[i * kLanes + r], t[i + offsets[r]]);
        }
        S* to = t + offsets[l];
        if (run == 1)
            for (; i < steps; ++i) narrow(tile[i * kLanes + l], to[i * step]);
        for (; i < steps; ++i) narrow_run(tile + i * kLanes + l, to + i * step, run);
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
