// Distances (1) and weights (2), element by element.
#include "../kernels.h"
#include "edge_weights.h"

namespace sgs::SGS_ISA {
namespace {

constexpr int kTogether = 8; // vectors whose sums stay in registers

// `vectors` of them, one after the other but for the last, which starts at `last`.
template <class C, int metric, int vectors>
void add_terms(C* d, const C* a, const C* b, std::int64_t last, std::int64_t channels, std::int64_t stride) {
    const auto at = [=](int v) { return v + 1 < vectors ? v * kWidth<C> : last; };
    Vec<C> s[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) s[v] = load_vector(d + at(v));
    for (std::int64_t c = 0; c < channels; ++c, a += stride, b += stride)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v)
            s[v] = add_distance<metric>(s[v], load_vector(b + at(v)) - load_vector(a + at(v)));
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) store_vector(d + at(v), s[v]);
}

template <class C, int metric, int most = kTogether> void add_some_terms(int vectors, C* d, const C* a, const C* b,
                                                                         std::int64_t last, std::int64_t channels,
                                                                         std::int64_t stride) {
    if (vectors == most)
        add_terms<C, metric, most>(d, a, b, last, channels, stride);
    else if constexpr (most > 1)
        add_some_terms<C, metric, most - 1>(vectors, d, a, b, last, channels, stride);
}

template <class C, int metric>
void accumulate_distance(C* d, const C* a, const C* b, std::int64_t count, std::int64_t channels, std::int64_t stride) {
    constexpr int n = kWidth<C>;
    if (count < n) {
        for (std::int64_t c = 0; c < channels; ++c, a += stride, b += stride)
            for (std::int64_t k = 0; k < count; ++k) d[k] += distance_term<metric>(b[k] - a[k]);
        return;
    }
    // The last vector may overlap the one before, which must not have its sum already: it is never alone.
    for (std::int64_t left = (count + n - 1) / n; left > 0;) {
        const std::int64_t vectors = left <= kTogether ? left : left < 2 * kTogether ? left / 2 : kTogether;
        const std::int64_t last = vectors < left ? (vectors - 1) * n : count - n;
        add_some_terms<C, metric>(static_cast<int>(vectors), d, a, b, last, channels, stride);
        left -= vectors;
        count -= vectors * n;
        d += vectors * n;
        a += vectors * n;
        b += vectors * n;
    }
}

template <class C>
void ignore_untrusted(C* __restrict d, const C* __restrict a, const C* __restrict b, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) d[k] = ((a[k] != C(0)) & (b[k] != C(0))) ? d[k] : C(0);
}

// (2) d becomes w; the square root is taken first for the Euclidean distance.
template <class C, bool square_root> void finish(C* d, std::int64_t count, const Fall<C>& fall) {
    constexpr int n = kWidth<C>;
    const std::int64_t k = count / n * n;
    each_weight<C, square_root>(
        count / n, fall, [&](std::int64_t v) { return load_vector(d + v * n); },
        [&](std::int64_t v, Vec<C> weight) { store_vector(d + v * n, weight); });
    if (k == count) return;
    alignas(kVectorBytes) C rest[n] = {};
    for (std::int64_t i = k; i < count; ++i) rest[i - k] = d[i];
    store_vector(rest, power_of_two<C>(exponent<C, square_root>(load_vector(rest), fall)));
    for (std::int64_t i = k; i < count; ++i) d[i] = rest[i - k];
}

template <class C> void finish_weights(C* d, std::int64_t count, C step_length, C scale, bool square_root) {
    const Fall<C> fall(step_length, scale);
    square_root ? finish<C, true>(d, count, fall) : finish<C, false>(d, count, fall);
}

} // namespace

extern const WeightKernels<float> weight_float{
    {accumulate_distance<float, 0>, accumulate_distance<float, 1>, accumulate_distance<float, 2>},
    ignore_untrusted<float>,
    finish_weights<float>};
extern const WeightKernels<double> weight_double{
    {accumulate_distance<double, 0>, accumulate_distance<double, 1>, accumulate_distance<double, 2>},
    ignore_untrusted<double>,
    finish_weights<double>};

} // namespace sgs::SGS_ISA
