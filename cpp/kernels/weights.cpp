// Distances (1) and weights (2), element by element.
#include "../kernels.h"
#include "../step.h"

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

float root(float v) { return __builtin_sqrtf(v); }
double root(double v) { return __builtin_sqrt(v); }

template <class C> void finish(C* d, std::int64_t count, C step_length, C scale, bool square_root) {
    if (square_root)
        for (std::int64_t k = 0; k < count; ++k) d[k] = root(d[k]);
    for (std::int64_t k = 0; k < count; ++k) d[k] = edge_weight(d[k], step_length, scale);
}

} // namespace

extern const WeightKernels<float> weight_float{
    {accumulate_distance<float, 0>, accumulate_distance<float, 1>, accumulate_distance<float, 2>},
    ignore_untrusted<float>,
    finish<float>};
extern const WeightKernels<double> weight_double{
    {accumulate_distance<double, 0>, accumulate_distance<double, 1>, accumulate_distance<double, 2>},
    ignore_untrusted<double>,
    finish<double>};

} // namespace sgs::SGS_ISA
