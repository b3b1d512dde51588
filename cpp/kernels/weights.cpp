// Distances (1) and weights (2) down a tile.
#include "../kernels.h"
#include "../step.h"

namespace sgs::SGS_ISA {
namespace {

template <class C, int metric> void accumulate_distance(C* __restrict d, const C* __restrict x, std::int64_t steps) {
    for (std::int64_t k = 0; k < steps * kLanes; ++k) d[k] += distance_term<metric>(x[k + kLanes] - x[k]);
}

template <class C> void ignore_untrusted(C* __restrict d, const C* __restrict c, std::int64_t steps) {
    for (std::int64_t k = 0; k < steps * kLanes; ++k) d[k] = (c[k] != C(0)) & (c[k + kLanes] != C(0)) ? d[k] : C(0);
}

float root(float v) { return __builtin_sqrtf(v); }
double root(double v) { return __builtin_sqrt(v); }

template <class C> void finish(C* d, std::int64_t steps, C step_length, C scale, bool square_root) {
    if (square_root)
        for (std::int64_t k = 0; k < steps * kLanes; ++k) d[k] = root(d[k]);
    for (std::int64_t k = 0; k < steps * kLanes; ++k) d[k] = edge_weight(d[k], step_length, scale);
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
