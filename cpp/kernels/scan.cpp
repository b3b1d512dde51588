// The recurrences (4) to (6) down a tile: one vector operation serves kLanes independent lines.
#include "../kernels.h"
#include "../step.h"

namespace sgs::SGS_ISA {
namespace {

template <class C, class X>
void scan_rows(X* __restrict x, const C* __restrict w, std::int64_t steps, C* __restrict carry) {
    C f[kLanes];
    for (int l = 0; l < kLanes; ++l) f[l] = carry[l];
    for (std::int64_t i = 0; i < steps; ++i)
        for (int l = 0; l < kLanes; ++l) {
            f[l] = step(x[i * kLanes + l], w[i * kLanes + l], f[l]);
            if constexpr (!std::is_const_v<X>) x[i * kLanes + l] = f[l];
        }
    for (int l = 0; l < kLanes; ++l) carry[l] = f[l];
}

template <class C> void scan(C* x, const C* w, std::int64_t steps, C* carry) { scan_rows(x, w, steps, carry); }

template <class C> void scan_carry(const C* x, const C* w, std::int64_t steps, C* carry) {
    scan_rows(x, w, steps, carry);
}

template <class C, bool centre> void line_rows(C* __restrict terms, const C* __restrict x, const C* __restrict w,
                                               std::int64_t steps, const C* __restrict forward,
                                               C* __restrict backward) {
    C f[kLanes], b[kLanes];
    for (int l = 0; l < kLanes; ++l) f[l] = forward[l];
    for (std::int64_t i = 0; i < steps; ++i)
        for (int l = 0; l < kLanes; ++l) {
            const C term = carried(w[i * kLanes + l], f[l]);
            f[l] = x[i * kLanes + l] + term;
            terms[i * kLanes + l] = centre ? f[l] : term;
        }
    for (int l = 0; l < kLanes; ++l) b[l] = backward[l];
    for (std::int64_t i = steps - 1; i >= 0; --i)
        for (int l = 0; l < kLanes; ++l) {
            const C term = carried(w[(i + 1) * kLanes + l], b[l]);
            terms[i * kLanes + l] += term;
            b[l] = x[i * kLanes + l] + term;
        }
    for (int l = 0; l < kLanes; ++l) backward[l] = b[l];
}

template <class C>
void line_terms(C* terms, const C* x, const C* w, std::int64_t steps, const C* forward, C* backward, bool centre) {
    (centre ? line_rows<C, true> : line_rows<C, false>)(terms, x, w, steps, forward, backward);
}

template <class C> void update_source_rows(C* __restrict a, const C* __restrict w, std::int64_t steps) {
    for (std::int64_t k = 0; k < steps * kLanes; ++k) a[k] = update_source(w[k], a[k]);
}

} // namespace

extern const ScanKernels<float> scan_float{scan<float>, scan_carry<float>, line_terms<float>,
                                           update_source_rows<float>};
extern const ScanKernels<double> scan_double{scan<double>, scan_carry<double>, line_terms<double>,
                                             update_source_rows<double>};

} // namespace sgs::SGS_ISA
