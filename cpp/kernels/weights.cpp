// Distances (1) and weights (2), element by element.
#include "../kernels.h"
#include "edge_weights.h"

namespace sgs::SGS_ISA {
namespace {

template <class C, int metric>
void accumulate_distance(C* __restrict d, const C* __restrict a, const C* __restrict b, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) d[k] += distance_term<metric>(b[k] - a[k]);
}

template <class C>
void ignore_untrusted(C* __restrict d, const C* __restrict a, const C* __restrict b, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) d[k] = (a[k] != C(0)) & (b[k] != C(0)) ? d[k] : C(0);
}

// (2) d becomes w; the square root is taken first for the Euclidean distance.
template <class C, bool square_root> void finish(C* d, std::int64_t count, const Fall<C>& fall) {
    constexpr int n = kWidth<C>;
    std::int64_t k = 0;
    for (; k + n <= count; k += n) store_vector(d + k, weight<C, square_root>(load_vector(d + k), fall));
    if (k == count) return;
    alignas(kVectorBytes) C rest[n] = {};
    for (std::int64_t i = k; i < count; ++i) rest[i - k] = d[i];
    store_vector(rest, weight<C, square_root>(load_vector(rest), fall));
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
