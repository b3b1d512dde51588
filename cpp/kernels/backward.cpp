// Derivatives (11) down a tile.
#include "../kernels.h"
#include "../step.h"

namespace sgs::SGS_ISA {
namespace {

template <class C> void scan_rows(C* __restrict f, const C* __restrict x, const C* __restrict w, std::int64_t steps,
                                  const C* __restrict carry) {
    C last[kLanes];
    for (int l = 0; l < kLanes; ++l) last[l] = carry[l];
    for (std::int64_t i = 0; i < steps; ++i)
        for (int l = 0; l < kLanes; ++l) {
            last[l] = step(x[i * kLanes + l], w[i * kLanes + l], last[l]);
            f[i * kLanes + l] = last[l];
        }
}

template <class C> void line_gradient(C* __restrict fp, C* __restrict fq, C* __restrict w_bar, const C* __restrict p,
                                      const C* __restrict q, const C* __restrict w, std::int64_t steps,
                                      const C* __restrict before_p, const C* __restrict before_q, C* __restrict after_p,
                                      C* __restrict after_q) {
    scan_rows(fp, p, w, steps, before_p);
    scan_rows(fq, q, w, steps, before_q);
    C bp[kLanes], bq[kLanes];
    for (int l = 0; l < kLanes; ++l) {
        bp[l] = after_p[l];
        bq[l] = after_q[l];
    }
    for (std::int64_t i = steps - 1; i >= 0; --i) {
        const C* last_p = i > 0 ? fp + (i - 1) * kLanes : before_p;
        const C* last_q = i > 0 ? fq + (i - 1) * kLanes : before_q;
        for (int l = 0; l < kLanes; ++l) {
            const std::int64_t k = i * kLanes + l;
            w_bar[k + kLanes] += fp[k] * bq[l] + fq[k] * bp[l];
            const C leaving_p = carried(w[k + kLanes], bp[l]), leaving_q = carried(w[k + kLanes], bq[l]);
            fp[k] = carried(w[k], last_p[l]) + leaving_p;
            fq[k] = carried(w[k], last_q[l]) + leaving_q;
            bp[l] = p[k] + leaving_p;
            bq[l] = q[k] + leaving_q;
        }
    }
    for (int l = 0; l < kLanes; ++l) {
        after_p[l] = bp[l];
        after_q[l] = bq[l];
    }
}

template <class C> void scan_gradient(C* __restrict fp, C* __restrict q, C* __restrict w_bar, const C* __restrict p,
                                      const C* __restrict w, std::int64_t steps, const C* __restrict before_p,
                                      C* __restrict after_q) {
    scan_rows(fp, p, w, steps, before_p);
    C bq[kLanes];
    for (int l = 0; l < kLanes; ++l) bq[l] = after_q[l];
    for (std::int64_t i = steps - 1; i >= 0; --i)
        for (int l = 0; l < kLanes; ++l) {
            const std::int64_t k = i * kLanes + l;
            w_bar[k + kLanes] += fp[k] * bq[l];
            bq[l] = step(q[k], w[k + kLanes], bq[l]);
            q[k] = bq[l];
        }
    for (int l = 0; l < kLanes; ++l) after_q[l] = bq[l];
}

template <class C>
void multiply_add(C* __restrict sum, const C* __restrict x, const C* __restrict y, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) sum[k] += x[k] * y[k];
}

template <class C> void support_gradient(C* __restrict s, const C* __restrict r, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k) s[k] = r[k] < C(0) ? C(0) : -s[k] * r[k];
}

float root(float v) { return __builtin_sqrtf(v); }
double root(double v) { return __builtin_sqrt(v); }

template <class C, int metric> void distance_gradient(C* __restrict d, const C* __restrict w_bar, std::int64_t count,
                                                      C step_length, C scale, bool rounded, C* __restrict scale_bar,
                                                      C* __restrict step_bar) {
    const auto differentiate = [=](std::int64_t first, int lanes) __attribute__((always_inline)) {
        for (int l = 0; l < lanes; ++l) {
            const std::int64_t k = first + l;
            const C distance = metric == 0 ? root(d[k]) : d[k];
            C w = edge_weight(distance, step_length, scale);
            w = rounded ? static_cast<C>(static_cast<float>(w)) : w;
            const C d_bar = w != C(0) ? -w * w_bar[k] / scale : C(0);
            step_bar[l] += d_bar;
            scale_bar[l] -= w != C(0) ? d_bar * ((distance + step_length) / scale) : C(0);
            if constexpr (metric == 0) d[k] = distance != C(0) ? d_bar / distance : C(0);
            if constexpr (metric == 1) d[k] = d_bar;
            if constexpr (metric == 2) d[k] = C(2) * d_bar;
        }
    };
    std::int64_t first = 0;
    for (; first + kLanes <= count; first += kLanes) differentiate(first, kLanes);
    differentiate(first, static_cast<int>(count - first));
}

// The derivative of the distance by the difference, times what distance_gradient left; 0 times infinity is 0 here: such
// an edge is cut.
template <int metric, class C> C slope(C factor, C difference) {
    if constexpr (metric == 1)
        difference = difference > C(0) ? C(1) : difference < C(0) ? C(-1) : difference; // NaN stays
    return carried(factor, difference);
}

template <class C, int metric> void difference_gradient(C* __restrict g_bar, const C* before, const C* g,
                                                        const C* after, const C* __restrict entering,
                                                        const C* __restrict leaving, std::int64_t count) {
    for (std::int64_t k = 0; k < count; ++k)
        g_bar[k] = slope<metric>(entering[k], g[k] - before[k]) - slope<metric>(leaving[k], after[k] - g[k]);
}

template <class C> constexpr BackwardKernels<C> table{
    line_gradient<C>,
    scan_gradient<C>,
    multiply_add<C>,
    support_gradient<C>,
    {distance_gradient<C, 0>, distance_gradient<C, 1>, distance_gradient<C, 2>},
    {difference_gradient<C, 0>, difference_gradient<C, 1>, difference_gradient<C, 2>},
};

} // namespace

extern const BackwardKernels<float> backward_float = table<float>;
extern const BackwardKernels<double> backward_double = table<double>;

} // namespace sgs::SGS_ISA
