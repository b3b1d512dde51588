// Derivatives (11) of both axes of planes side by side, a block of rows at a time. All planes share a position's
// weights, which are single numbers here, so that both axes are recurrences of whole vectors. What is summed over the
// planes is added up across vectors, kWidth of them at a time, which leaves one vector of sums.
#include <type_traits>

#include "../kernels.h"
#include "../step.h"
#include "ahead.h"
#include "storage.h"
#include "vector.h"

namespace sgs::SGS_ISA {
namespace {

constexpr int kG = kGradientLanes, kR = kGradientRows;

/// Element k of the result is the sum of rows[k]: a transposition that adds wherever it would pair.
template <class C> __attribute__((always_inline)) inline Vec<C> sum_lanes(Vec<C>* rows) {
    constexpr int n = kWidth<C>, e = 16 / static_cast<int>(sizeof(C)), lanes = n / e;
    const auto join = [](Vec<C> a, Vec<C> b, auto low, auto high) __attribute__((always_inline)) {
        exchange<C>(a, b, low, high);
        return a + b;
    };
    int count = n;
    const auto halve = [&](auto low, auto high) __attribute__((always_inline)) {
        count /= 2;
#pragma GCC unroll 16
        for (int k = 0; k < count; ++k) rows[k] = join(rows[2 * k], rows[2 * k + 1], low, high);
    };
    halve([](int i) { return i / e * e + i % e / 2 + i % 2 * n; },
          [](int i) { return i / e * e + e / 2 + i % e / 2 + i % 2 * n; });
    if constexpr (e == 4)
        halve([](int i) { return i / e * e + i % 2 + i % e / 2 * n; },
              [](int i) { return i / e * e + 2 + i % 2 + i % e / 2 * n; });
    constexpr auto even = [](int i) { return i / e * 2 % lanes * e + i % e + i / (n / 2) * n; };
    constexpr auto odd = [](int i) { return (i / e * 2 % lanes + 1) * e + i % e + i / (n / 2) * n; };
    if constexpr (lanes >= 2) halve(even, odd);
    if constexpr (lanes >= 4) halve(even, odd);
    return rows[0];
}

template <class C, class S> __attribute__((always_inline)) inline Vec<C> load_wide(const S* p) {
    if constexpr (std::is_same_v<C, S>) return load_vector(p);
    alignas(kVectorBytes) C values[kWidth<C>];
    for (int k = 0; k < kWidth<C>; ++k) values[k] = static_cast<C>(widen(p[k]));
    return load_vector(values);
}

template <class C, class S> __attribute__((always_inline)) inline void store_narrow(S* p, Vec<C> v) {
    if constexpr (std::is_same_v<C, S>) {
        store_vector(p, v);
    } else {
        alignas(kVectorBytes) C values[kWidth<C>];
        store_vector(values, v);
        for (int k = 0; k < kWidth<C>; ++k) narrow(values[k], p[k]);
    }
}

bool side_by_side(const GradientPlanes& p) {
    for (int l = 0; l < kG; ++l)
        if (l >= p.lanes || p.offsets[l] != l) return false;
    return true;
}

// Visits rows of positions: whole vectors of a plane's row, whole vectors of planes, or one value after the other.
template <class C, class Tile, class Position, class Value>
__attribute__((always_inline)) inline void each_position(const GradientPlanes& p, std::int64_t pitch,
                                                         std::int64_t count, std::int64_t width, const Tile& tile,
                                                         const Position& position, const Value& value) {
    constexpr int n = kWidth<C>;
    // Rows that follow one another are one long row.
    if (p.column_stride == 1 && p.row_stride == width && pitch == width) {
        width *= count;
        count = count > 0 ? 1 : 0;
    }
    const bool together = side_by_side(p);
    for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t row = r * pitch, from = r * p.row_stride;
        if (p.column_stride == 1 && width >= n) {
            // The last vectors may overlap those before.
            for (std::int64_t j = 0; j < width; j += n) {
                const std::int64_t first = j + n <= width ? j : width - n;
                tile(row + first, from + first, r * width + first);
            }
        } else {
            for (std::int64_t j = 0; j < width; ++j) {
                if (together)
                    position(row + j, from + j * p.column_stride, r * width + j);
                else
                    for (int l = 0; l < p.lanes; ++l)
                        value((row + j) * kG + l, from + j * p.column_stride + p.offsets[l], r * width + j);
            }
        }
    }
}

template <class C, class S, bool scaled, bool masked>
void load_planes(C* __restrict rows, std::int64_t pitch, const GradientPlanes& from, std::int64_t count,
                 std::int64_t width, const C* __restrict factors) {
    constexpr int n = kWidth<C>;
    const S* const source = static_cast<const S*>(from.data);
    const auto times = [&](auto v, std::int64_t at) __attribute__((always_inline)) {
        if constexpr (!scaled) return v;
        return carry_over<masked>(splat(factors[at]), v);
    };
    const GradientPlanes p = from;
    each_position<C>(
        p, pitch, count, width,
        [&](std::int64_t to, std::int64_t at, std::int64_t factor) __attribute__((always_inline)) {
            for (int s = 0; s < kG; s += n) {
                Vec<C> v[n];
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) {
                    if (s + k < p.lanes) __builtin_prefetch(source + at + p.offsets[s + k] + kR * p.row_stride, 0, 2);
                    v[k] = s + k < p.lanes ? load_wide<C>(source + at + p.offsets[s + k]) : Vec<C>{};
                }
                transpose<C>(v);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) store_vector(rows + (to + k) * kG + s, times(v[k], factor + k));
            }
        },
        [&](std::int64_t to, std::int64_t at, std::int64_t factor) __attribute__((always_inline)) {
            for (int s = 0; s < kG; s += n)
                store_vector(rows + to * kG + s, times(load_wide<C>(source + at + s), factor));
        },
        [&](std::int64_t to, std::int64_t at, std::int64_t factor) __attribute__((always_inline)) {
            const C v = static_cast<C>(widen(source[at]));
            if constexpr (scaled)
                rows[to] = masked ? trusted(factors[factor], v) : factors[factor] * v;
            else
                rows[to] = v;
        });
}

template <class C, class S> void load(C* rows, std::int64_t pitch, const GradientPlanes& from, std::int64_t count,
                                      std::int64_t width, const C* factors, bool masked) {
    if (from.lanes < kG)
        for (std::int64_t k = 0; k < count * pitch * kG; ++k) rows[k] = C(0);
    for (std::int64_t k = count * pitch * kG; k < kR * pitch * kG; ++k) rows[k] = C(0);
    if (factors == nullptr)
        load_planes<C, S, false, false>(rows, pitch, from, count, width, factors);
    else if (masked)
        load_planes<C, S, true, true>(rows, pitch, from, count, width, factors);
    else
        load_planes<C, S, true, false>(rows, pitch, from, count, width, factors);
}

template <class C, class S> void store(const C* __restrict rows, std::int64_t pitch, const GradientPlanes& to,
                                       std::int64_t count, std::int64_t width) {
    constexpr int n = kWidth<C>;
    S* const target = static_cast<S*>(to.data);
    const GradientPlanes p = to;
    each_position<C>(
        p, pitch, count, width,
        [&](std::int64_t from, std::int64_t at, std::int64_t) __attribute__((always_inline)) {
            for (int s = 0; s < kG; s += n) {
                Vec<C> v[n];
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) v[k] = load_vector(rows + (from + k) * kG + s);
                transpose<C>(v);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k)
                    if (s + k < p.lanes) store_narrow<C>(target + at + p.offsets[s + k], v[k]);
            }
        },
        [&](std::int64_t from, std::int64_t at, std::int64_t) __attribute__((always_inline)) {
            for (int s = 0; s < kG; s += n) store_narrow<C>(target + at + s, load_vector(rows + from * kG + s));
        },
        [&](std::int64_t from, std::int64_t at, std::int64_t)
            __attribute__((always_inline)) { narrow(rows[from], target[at]); });
}

template <class C, bool cuts> void climb(const GradientClimb<C>& p, const C* __restrict rows, std::int64_t pitch) {
    constexpr int n = kWidth<C>;
    for (std::int64_t j = 0; j < p.width; ++j)
        for (std::int64_t at = j * kG; at < (j + 1) * kG; at += n) {
            Vec<C> b = load_vector(p.below + at);
            for (std::int64_t r = p.rows - 1; r >= 0; --r)
                b = load_vector(rows + r * pitch * kG + at) + carry_over<cuts>(splat(p.down[(r + 1) * p.width + j]), b);
            store_vector(p.first + at, b);
        }
}

// The same from memory, kWidth columns of as many planes at a time: only B of the first row is transposed. Columns of
// the last vectors may be those of the vectors before.
template <class C, class S, bool cuts, bool scaled, bool masked>
void climb_planes(const GradientClimb<C>& climb, const GradientPlanes& planes) {
    constexpr int n = kWidth<C>;
    const GradientClimb<C> p = climb; // so that no store may change it
    const S* const source = static_cast<const S*>(planes.data);
    C* carry = p.carry;
    for (std::int64_t first = 0; first < p.width; first += n) {
        const std::int64_t j = first + n <= p.width ? first : p.width - n;
        for (int s = 0; s < kG; s += n, carry += n * n) {
            const S* from[n];
            Vec<C> b[n];
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) {
                from[k] = source + planes.offsets[s + k] + j;
                b[k] = load_vector(carry + k * n);
            }
            for (std::int64_t r = p.rows - 1; r >= 0; --r) {
                const Vec<C> w = load_vector(p.down + (r + 1) * p.width + j);
                Vec<C> factor{};
                if constexpr (scaled) factor = load_vector(p.factors + r * p.width + j);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) {
                    __builtin_prefetch(from[k] + (r - kR) * planes.row_stride, 0, 2);
                    Vec<C> x = load_wide<C>(from[k] + r * planes.row_stride);
                    if constexpr (scaled) x = carry_over<masked>(factor, x);
                    b[k] = x + carry_over<cuts>(w, b[k]);
                }
            }
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) store_vector(carry + k * n, b[k]);
            transpose<C>(b);
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) store_vector(p.first + (j + k) * kG + s, b[k]);
        }
    }
}

template <class C> void add_to(C* to, Vec<C> v, std::int64_t count) {
    if (count >= kWidth<C>) {
        store_vector(to, load_vector(to) + v);
        return;
    }
    for (std::int64_t k = 0; k < count; ++k) to[k] += v[k];
}

// A row: (5) x + N(x) and z + N(z) into terms, and the derivatives by its edges. `s`: which of the vectors of a
// position.
template <class C, bool cuts, bool sums>
void differentiate_row(const GradientBlock<C>& block, std::int64_t row, int s) {
    constexpr int n = kWidth<C>;
    const GradientBlock<C> p = block; // so that no store may change it
    const C* __restrict x = p.x + row * p.pitch * kG + s;
    const C* __restrict z = p.z + row * p.pitch * kG + s;
    const C* __restrict w = p.across + row * (p.width + 1);
    C* __restrict terms_x = p.terms_x + row * p.pitch * kG + s;
    C* __restrict terms_z = p.terms_z + row * p.pitch * kG + s;
    Vec<C> fx{}, fz{};
    for (std::int64_t j = 0; j < p.width; ++j) {
        const Vec<C> entering = splat(w[j]);
        if constexpr (sums) {
            fx = load_vector(x + j * kG) + carry_over<cuts>(entering, fx);
            store_vector(terms_x + j * kG, fx);
        }
        fz = load_vector(z + j * kG) + carry_over<cuts>(entering, fz);
        store_vector(terms_z + j * kG, fz);
    }
    // B of the position to the right, and the products of (11) for the edge to it.
    Vec<C> bx{}, bz{};
    const auto visit = [&](std::int64_t j) __attribute__((always_inline)) {
        // The sums leave time for what the memory is to bring.
        if (s == 0) fetch_written<1>(p.written, j, row);
        const Vec<C> leaving = splat(w[j + 1]);
        const Vec<C> z_here = load_vector(terms_z + j * kG), z_right = bz;
        store_vector(terms_z + j * kG, z_here + carry_over<cuts>(leaving, bz));
        bz = load_vector(z + j * kG) + carry_over<cuts>(leaving, bz);
        if constexpr (!sums) return Vec<C>{};
        const Vec<C> x_here = load_vector(terms_x + j * kG), x_right = bx;
        store_vector(terms_x + j * kG, x_here + carry_over<cuts>(leaving, bx));
        bx = load_vector(x + j * kG) + carry_over<cuts>(leaving, bx);
        return x_here * z_right + z_here * x_right;
    };
    std::int64_t j = p.width;
    if (j % n != 0) {
        Vec<C> products[n]{};
        const std::int64_t first = j - j % n;
        while (--j >= first) products[j - first] = visit(j);
        j = first;
        if constexpr (sums) add_to(p.across_sums + row * p.width + first, sum_lanes<C>(products), p.width % n);
    }
    while (j > 0) {
        j -= n;
        Vec<C> products[n];
#pragma GCC unroll 16
        for (int k = n - 1; k >= 0; --k) products[k] = visit(j + k);
        if constexpr (sums) add_to(p.across_sums + row * p.width + j, sum_lanes<C>(products), n);
    }
}

// Columns: B is found upward and kept, then everything else downward. Sums of a column, kR of edges and kR for the
// support, make whole vectors together; they come back to rows in the end.
template <class C, bool cuts, bool sums> void differentiate_columns(const GradientBlock<C>& block) {
    constexpr int n = kWidth<C>;
    const GradientBlock<C> p = block; // so that no store may change it
    const std::int64_t pitch = p.pitch * kG;
    for (int s = 0; s < kG; s += n)
        for (std::int64_t j = 0; j < p.width; ++j) {
            const std::int64_t at = j * kG + s;
            const C* __restrict x = p.x + at;
            const C* __restrict z = p.z + at;
            Vec<C> below_x[kR], below_z[kR]; // B of the row below
            below_z[kR - 1] = load_vector(p.below_z + at);
            if constexpr (sums) below_x[kR - 1] = load_vector(p.below_x + at);
#pragma GCC unroll 16
            for (int r = kR - 1; r > 0; --r) {
                const Vec<C> w = splat(p.down[(r + 1) * p.width + j]);
                below_z[r - 1] = load_vector(z + r * pitch) + carry_over<cuts>(w, below_z[r]);
                if constexpr (sums) below_x[r - 1] = load_vector(x + r * pitch) + carry_over<cuts>(w, below_x[r]);
            }
            Vec<C> found[2 * kR];
            Vec<C> fx{}, fz = load_vector(p.above_z + at);
            if constexpr (sums) fx = load_vector(p.above_x + at);
#pragma GCC unroll 16
            for (int r = 0; r < kR; ++r) {
                const Vec<C> entering = splat(p.down[r * p.width + j]);
                const Vec<C> leaving = splat(p.down[(r + 1) * p.width + j]);
                const Vec<C> zr = load_vector(z + r * pitch);
                const Vec<C> wfz = carry_over<cuts>(entering, fz), wbz = carry_over<cuts>(leaving, below_z[r]);
                fz = zr + carry_over<cuts>(entering, fz);
                C* const u = p.terms_z + at + r * pitch;
                store_vector(u, load_vector(u) + (wfz + wbz));
                if constexpr (!sums) continue;
                const Vec<C> xr = load_vector(x + r * pitch);
                const Vec<C> wfx = carry_over<cuts>(entering, fx), wbx = carry_over<cuts>(leaving, below_x[r]);
                fx = xr + carry_over<cuts>(entering, fx);
                found[r] = fx * below_z[r] + fz * below_x[r];
                found[kR + r] = zr * (load_vector(p.terms_x + at + r * pitch) + (wfx + wbx));
            }
            store_vector(p.above_z + at, fz);
            if constexpr (sums) {
                store_vector(p.above_x + at, fx);
#pragma GCC unroll 16
                for (int k = 0; k < 2 * kR; k += n) {
                    C* const to = p.columns + j * kG + k;
                    const Vec<C> v = sum_lanes<C>(found + k);
                    store_vector(to, s == 0 ? v : load_vector(to) + v);
                }
            }
        }
    if constexpr (!sums) return;
    for (std::int64_t j = 0; j < p.width; j += n)
        for (int k = 0; k < 2 * kR; k += n) {
            Vec<C> v[n];
#pragma GCC unroll 16
            for (int i = 0; i < n; ++i) v[i] = load_vector(p.columns + (j + i) * kG + k);
            transpose<C>(v);
#pragma GCC unroll 16
            for (int i = 0; i < n; ++i) {
                const std::int64_t r = (k + i) % kR;
                C* const to = k + i < kR ? p.down_sums : p.support_sums;
                if (to != nullptr && r < p.rows) add_to(to + r * p.width + j, v[i], p.width - j);
            }
        }
}

template <class C, bool cuts, bool sums> void differentiate_all(const GradientBlock<C>& p) {
    for (std::int64_t r = 0; r < p.rows; ++r)
        for (int s = 0; s < kG; s += kWidth<C>) differentiate_row<C, cuts, sums>(p, r, s);
    differentiate_columns<C, cuts, sums>(p);
}

template <class C> void climb_rows(const GradientClimb<C>& p, const C* rows, std::int64_t pitch) {
    p.cuts ? climb<C, true>(p, rows, pitch) : climb<C, false>(p, rows, pitch);
}

template <class C, class S, bool cuts> void climb_memory(const GradientClimb<C>& p, const GradientPlanes& planes) {
    if (p.factors == nullptr)
        climb_planes<C, S, cuts, false, false>(p, planes);
    else if (p.masked)
        climb_planes<C, S, cuts, true, true>(p, planes);
    else
        climb_planes<C, S, cuts, true, false>(p, planes);
}

template <class C, class S> bool climb_directly(const GradientClimb<C>& p, const GradientPlanes& planes) {
    if (planes.column_stride != 1 || planes.lanes < kG || p.width < kWidth<C>) return false;
    p.cuts ? climb_memory<C, S, true>(p, planes) : climb_memory<C, S, false>(p, planes);
    return true;
}

template <class C> void differentiate_block(const GradientBlock<C>& p) {
    if (p.across_sums != nullptr)
        p.cuts ? differentiate_all<C, true, true>(p) : differentiate_all<C, false, true>(p);
    else
        p.cuts ? differentiate_all<C, true, false>(p) : differentiate_all<C, false, false>(p);
}

template <class C> void dot(C* __restrict sums, const C* __restrict x, const C* __restrict y, std::int64_t pitch,
                            std::int64_t count, std::int64_t width) {
    for (std::int64_t r = 0; r < count; ++r)
        for (std::int64_t j = 0; j < width; ++j) {
            const std::int64_t at = (r * pitch + j) * kG;
            C total = 0;
            for (int l = 0; l < kG; ++l) total += x[at + l] * y[at + l];
            sums[r * width + j] += total;
        }
}

template <class C> void finish(C* __restrict u, const C* __restrict c, const C* __restrict y, std::int64_t pitch,
                               std::int64_t count, std::int64_t width) {
    for (std::int64_t r = 0; r < count; ++r)
        for (std::int64_t j = 0; j < width; ++j) {
            const C trust = c != nullptr ? c[r * width + j] : C(1);
            const std::int64_t at = (r * pitch + j) * kG;
            for (int l = 0; l < kG; ++l) {
                C v = trusted(trust, u[at + l]);
                if (y != nullptr && trust != C(0)) v += y[at + l];
                u[at + l] = v;
            }
        }
}

} // namespace

extern const LanesBackwardKernels<float> lanes_backward_float{
    {load<float, Half>, load<float, BFloat16>, load<float, float>, load<float, double>},
    {store<float, Half>, store<float, BFloat16>, store<float, float>, store<float, double>},
    {climb_directly<float, Half>, climb_directly<float, BFloat16>, climb_directly<float, float>,
     climb_directly<float, double>},
    climb_rows<float>,
    differentiate_block<float>,
    dot<float>,
    finish<float>,
};
extern const LanesBackwardKernels<double> lanes_backward_double{
    {load<double, Half>, load<double, BFloat16>, load<double, float>, load<double, double>},
    {nullptr, nullptr, store<double, float>, store<double, double>},
    {climb_directly<double, Half>, climb_directly<double, BFloat16>, climb_directly<double, float>,
     climb_directly<double, double>},
    climb_rows<double>,
    differentiate_block<double>,
    dot<double>,
    finish<double>,
};

} // namespace sgs::SGS_ISA
