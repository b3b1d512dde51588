// Element by element on tiles: confidence, accumulation and normalisation of (7) and (8).
#include "../kernels.h"
#include "../step.h"

namespace sgs::SGS_ISA {
namespace {

template <class C> void add(C* __restrict y, const C* __restrict x, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) y[k] += x[k];
}

template <class C> void multiply(C* __restrict y, const C* __restrict x, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) y[k] *= x[k];
}

template <class C> void trust(C* __restrict x, const C* __restrict c, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) x[k] = trusted(c[k], x[k]);
}

template <class C> void mask(C* __restrict x, const C* __restrict c, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) x[k] = c[k] != C(0) ? x[k] : C(0);
}

template <class C> void reciprocal(C* s, std::int64_t count, bool only_supported) {
    const C least = least_support<C>();
    if (only_supported)
        for (std::int64_t k = 0; k < count; ++k) s[k] = s[k] >= least ? C(1) / s[k] : C(-1);
    else
        for (std::int64_t k = 0; k < count; ++k) s[k] = C(1) / s[k];
}

template <class C>
void normalize(C* __restrict y, const C* __restrict r, C fill, std::int64_t count, bool only_supported) {
    if (only_supported)
        for (std::int64_t k = 0; k < count; ++k) y[k] = r[k] < C(0) ? fill : y[k] * r[k];
    else
        for (std::int64_t k = 0; k < count; ++k) y[k] *= r[k];
}

} // namespace

extern const PointwiseKernels<float> pointwise_float{add<float>,  multiply<float>,   trust<float>,
                                                     mask<float>, reciprocal<float>, normalize<float>};
extern const PointwiseKernels<double> pointwise_double{add<double>,  multiply<double>,   trust<double>,
                                                       mask<double>, reciprocal<double>, normalize<double>};

} // namespace sgs::SGS_ISA
