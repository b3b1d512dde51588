// Both axes of kLanes planes side by side, a row of positions at a time: all planes share a position's weights, which
// are single numbers here.
#include "../kernels.h"
#include "../step.h"
#include "vector.h"

namespace sgs::SGS_ISA {
namespace {

template <class C> constexpr int kVectors = kLanes / kWidth<C>;

template <bool cuts, class C> __attribute__((always_inline)) inline Vec<C> over(C w, Vec<C> x, Vec<C> f) {
    return carry_over<cuts>(Vec<C>{} + w, x, f);
}

template <class C, bool cuts> void down(const LanesRow<C>& p) {
    constexpr int n = kWidth<C>;
    // As in plane.cpp, chained on the terms: before is x one position to the left, f the term there.
    Vec<C> before[kVectors<C>] = {}, f[kVectors<C>] = {};
    for (std::int64_t j = 0; j < p.width; ++j) {
        const C across = j == 0 ? C(0) : p.across[j - 1];
        for (int v = 0; v < kVectors<C>; ++v) {
            const std::int64_t at = j * kLanes + v * n;
            const Vec<C> x = load_vector(p.x + at);
            f[v] = over<cuts>(across, before[v], f[v]);
            before[v] = x;
            const Vec<C> down = carry_over<cuts>(Vec<C>{} + p.down[j], load_vector(p.carry + at));
            store_vector(p.carry + at, x + down);
            Vec<C> sum = f[v] + down + p.centres * x;
            if (p.reciprocal_across != nullptr)
                sum = (f[v] + x) * p.reciprocal_across[j] + (down + x) * p.reciprocal[j];
            store_vector(p.sums + at, sum);
        }
    }
    for (int v = 0; v < kVectors<C>; ++v) before[v] = f[v] = Vec<C>{};
    for (std::int64_t j = p.width - 1; j >= 0; --j) {
        const C across = j == p.width - 1 ? C(0) : p.across[j];
        for (int v = 0; v < kVectors<C>; ++v) {
            const std::int64_t at = j * kLanes + v * n;
            f[v] = over<cuts>(across, before[v], f[v]);
            before[v] = load_vector(p.x + at);
            const Vec<C> term = p.reciprocal_across != nullptr ? f[v] * p.reciprocal_across[j] : f[v];
            store_vector(p.sums + at, load_vector(p.sums + at) + term);
        }
    }
}

template <class C, bool cuts> void up(const LanesRow<C>& p) {
    constexpr int n = kWidth<C>;
    for (std::int64_t j = 0; j < p.width; ++j) {
        const bool filled = p.supported_only && p.reciprocal[j] < C(0);
        for (int v = 0; v < kVectors<C>; ++v) {
            const std::int64_t at = j * kLanes + v * n;
            const Vec<C> term = carry_over<cuts>(Vec<C>{} + p.up[j], load_vector(p.carry + at));
            store_vector(p.carry + at, load_vector(p.x + at) + term);
            const Vec<C> sum = load_vector(p.sums + at);
            Vec<C> y = sum + term;
            if (p.reciprocal_across != nullptr)
                y = sum + term * p.reciprocal[j];
            else if (p.reciprocal != nullptr)
                y = filled ? Vec<C>{} + p.fill : y * p.reciprocal[j];
            if (p.residual != nullptr) y += load_vector(p.residual + at);
            store_vector(p.sums + at, y);
        }
    }
}

template <class C> void down_row(const LanesRow<C>& p) { p.cuts ? down<C, true>(p) : down<C, false>(p); }

template <class C> void up_row(const LanesRow<C>& p) { p.cuts ? up<C, true>(p) : up<C, false>(p); }

// x times c, one number for all lanes of a position; 0 where c is 0, and x itself elsewhere if only masking.
template <class C> void trust_row(C* x, const C* c, std::int64_t width, bool only_mask) {
    for (std::int64_t j = 0; j < width; ++j)
        for (int l = 0; l < kLanes; ++l)
            x[j * kLanes + l] = c[j] != C(0) ? (only_mask ? x[j * kLanes + l] : c[j] * x[j * kLanes + l]) : C(0);
}

} // namespace

extern const LanesKernels<float> lanes_float{down_row<float>, up_row<float>, trust_row<float>};
extern const LanesKernels<double> lanes_double{down_row<double>, up_row<double>, trust_row<double>};

} // namespace sgs::SGS_ISA
