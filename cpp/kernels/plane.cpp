// Both axes of a plane whose rows are contiguous, a block of kRows rows at a time while it is in L1: the horizontal
// line filter runs down the transposed block, forward and backward sweeps in one loop so that their chains overlap; the
// vertical one and the finish of (7) follow as the block is transposed back.
#include <limits>

#include "../kernels.h"
#include "../step.h"
#include "storage.h"
#include "vector.h"

namespace sgs::SGS_ISA {
namespace {

// columns[j][r] = rows[r][j], for kRows rows and a pitch that is a multiple of the vector.
template <class C> void transpose_block(const C* rows, std::int64_t pitch, std::int64_t width, C* columns) {
    constexpr int n = kWidth<C>;
    for (std::int64_t j = 0; j < width; j += n)
        for (int r = 0; r < kRows; r += n) {
            Vec<C> v[n];
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) v[k] = load_vector(rows + (r + k) * pitch + j);
            transpose<C>(v);
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) store_vector(columns + (j + k) * kRows + r, v[k]);
        }
}

// (5) terms_j = w F + w B along each line of the transposed block.
template <class C, bool cuts> void sweep(const PlaneBlock<C>& p) {
    constexpr int n = kWidth<C>;
    const C* __restrict x = p.columns;
    const C* __restrict w = p.across;
    C* __restrict terms = p.terms;
    const std::int64_t width = p.width;
    const Ahead read = p.read, written = p.written;
    // The chains of sums leave time for what the memory is to bring.
    const auto ahead = [&](std::int64_t j, int v) __attribute__((always_inline)) {
        const std::int64_t row = j % kRows, bytes = (j / kRows * kRows + v * n) * static_cast<std::int64_t>(sizeof(C));
        if (read.rows != nullptr) __builtin_prefetch(read.rows + row * read.stride + bytes, 0, 2);
        if (written.rows != nullptr) __builtin_prefetch(written.rows + row * written.stride + bytes, 1, 2);
    };
    constexpr int vectors = kRows / n;
    // Chained on the term itself, term_j = w x_{j-1} + w term_{j-1}: one fused step from term to term.
    Vec<C> f[vectors] = {}, b[vectors] = {}, before[vectors] = {}, after[vectors] = {};
    const auto forward = [&](std::int64_t j, int v) __attribute__((always_inline)) {
        const std::int64_t at = j * kRows + v * n;
        f[v] = carry_over<cuts>(load_vector(w + at), before[v], f[v]);
        before[v] = load_vector(x + at);
        return f[v];
    };
    const auto backward = [&](std::int64_t j, int v) __attribute__((always_inline)) {
        const std::int64_t at = j * kRows + v * n;
        b[v] = carry_over<cuts>(load_vector(w + at + kRows), after[v], b[v]);
        after[v] = load_vector(x + at);
        return b[v];
    };
    std::int64_t i = 0;
    std::int64_t j = width - 1;
    for (; i < j; ++i, --j) // the sweeps have not met: each leaves its term
        for (int v = 0; v < vectors; ++v) {
            ahead(i, v);
            store_vector(terms + i * kRows + v * n, forward(i, v));
            store_vector(terms + j * kRows + v * n, backward(j, v));
        }
    if (i == j) {
        for (int v = 0; v < vectors; ++v) store_vector(terms + i * kRows + v * n, forward(i, v) + backward(i, v));
        ++i, --j;
    }
    for (; i < width; ++i, --j) // each finds the other's term
        for (int v = 0; v < vectors; ++v) {
            ahead(i, v);
            C* to = terms + i * kRows + v * n;
            store_vector(to, load_vector(to) + forward(i, v));
            C* from = terms + j * kRows + v * n;
            store_vector(from, load_vector(from) + backward(j, v));
        }
}

// (4) upward through the block.
template <class C, bool cuts> void climb(const PlaneBlock<C>& p, C* first) {
    for (std::int64_t j = 0; j < p.width; j += kWidth<C>) {
        Vec<C> b = load_vector(p.below + j);
        for (std::int64_t row = p.rows - 1; row >= 0; --row)
            b = load_vector(p.x + row * p.pitch + j) +
                carry_over<cuts>(load_vector(p.down + (row + 1) * p.pitch + j), b);
        store_vector(first + j, b);
    }
}

// (5) vertically, and (7), a vector of columns at a time: the horizontal terms come in by a transposition in registers,
// where the sums stay. Rows beyond the plane are 0, and so is the weight of the edge to them.
template <class C, bool cuts> void filter(const PlaneBlock<C>& block) {
    constexpr int n = kWidth<C>;
    const PlaneBlock<C> p = block; // so that no store may change it
    // start(horizontal term, x, w F, at) and finish(sum, w B, at) make y of a position.
    const auto each = [&](const auto& start, const auto& finish) __attribute__((always_inline)) {
        for (std::int64_t j = 0; j < p.width; j += n) {
            Vec<C> sums[kRows];
            Vec<C> f = load_vector(p.above + j);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; r += n) {
                Vec<C> v[n];
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) v[k] = load_vector(p.terms + (j + k) * kRows + r);
                transpose<C>(v);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) {
                    const std::int64_t at = (r + k) * p.pitch + j;
                    const Vec<C> x = load_vector(p.x + at);
                    const Vec<C> term = carry_over<cuts>(load_vector(p.down + at), f);
                    f = x + term;
                    sums[r + k] = start(v[k], x, term, at);
                }
            }
            store_vector(p.above + j, f);
            Vec<C> b = load_vector(p.below + j);
#pragma GCC unroll 16
            for (int row = kRows - 1; row >= 0; --row) {
                const std::int64_t at = row * p.pitch + j;
                const Vec<C> term = carry_over<cuts>(load_vector(p.down + p.pitch + at), b);
                b = load_vector(p.x + at) + term;
                Vec<C> y = finish(sums[row], term, at);
                if (p.residual != nullptr) y += load_vector(p.residual + at);
                store_vector(p.y + at, y);
            }
        }
    };
    const auto sum = [&](Vec<C> across, Vec<C> x, Vec<C> term, std::int64_t) { return across + term + p.centres * x; };
    const Vec<C> fill = splat(p.fill);
    if (p.reciprocal_across != nullptr)
        each(
            [&](Vec<C> across, Vec<C> x, Vec<C> term, std::int64_t at) {
                return (across + x) * load_vector(p.reciprocal_across + at) +
                       (x + term) * load_vector(p.reciprocal + at);
            },
            [&](Vec<C> s, Vec<C> term, std::int64_t at) { return s + term * load_vector(p.reciprocal + at); });
    else if (p.reciprocal == nullptr)
        each(sum, [&](Vec<C> s, Vec<C> term, std::int64_t) { return s + term; });
    else if (p.supported_only)
        each(sum, [&](Vec<C> s, Vec<C> term, std::int64_t at) {
            const Vec<C> r = load_vector(p.reciprocal + at);
            return r < Vec<C>{} ? fill : (s + term) * r;
        });
    else
        each(sum, [&](Vec<C> s, Vec<C> term, std::int64_t at) { return (s + term) * load_vector(p.reciprocal + at); });
}

template <class C> void descend(const PlaneBlock<C>& p, bool start, C* below) {
    for (std::int64_t j = 0; j < p.width; j += kWidth<C>) {
        Vec<C> f = start ? Vec<C>{} : load_vector(below + j);
        for (std::int64_t row = 0; row < p.rows; ++row)
            f = carry_over<true>(load_vector(p.down + (row + 1) * p.pitch + j),
                                 load_vector(p.x + row * p.pitch + j) + f);
        store_vector(below + j, f);
    }
}

// A product of many weights leaves the range of float, while what it carries comes back into it: products are double,
// and stop short of 0 and of infinity, since NaN and infinities pass everything but a cut, and 0 passes as 0.
template <class C> void products(const PlaneBlock<C>& p, bool start, double* __restrict through) {
    constexpr double least = std::numeric_limits<double>::denorm_min(), most = std::numeric_limits<double>::max();
    for (std::int64_t j = 0; start && j < p.width; ++j) through[j] = 1;
    for (std::int64_t row = 1; row <= p.rows; ++row)
        for (std::int64_t j = 0; j < p.width; ++j) {
            const C w = p.down[row * p.pitch + j];
            const double product = through[j] * static_cast<double>(w);
            const double size = __builtin_fabs(product);
            const double kept = size < least ? least : size > most ? most : size;
            through[j] = ((through[j] != 0) & (w != C(0))) ? __builtin_copysign(kept, product) : 0;
        }
}

template <class C> bool has_zero(const C* row, std::int64_t count) {
    int zeros = 0;
    for (std::int64_t j = 0; j < count; ++j) zeros |= row[j] == C(0);
    return zeros != 0;
}

template <class C>
void pass_on(C* __restrict next, const double* __restrict through, const C* __restrict carry, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j)
        next[j] = static_cast<C>(step(static_cast<double>(next[j]), through[j], static_cast<double>(carry[j])));
}

// Rows of elements `stride` apart: few channels that lie together have their own loops, which the compiler vectorises.
template <class C, class S, int fixed>
void gather(C* __restrict to, const S* __restrict from, std::int64_t stride, std::int64_t count) {
    if constexpr (fixed != 0) stride = fixed;
    for (std::int64_t j = 0; j < count; ++j) to[j] = static_cast<C>(widen(from[j * stride]));
}

template <class C, class S, int fixed>
void scatter(const C* __restrict from, S* __restrict to, std::int64_t stride, std::int64_t count) {
    if constexpr (fixed != 0) stride = fixed;
    for (std::int64_t j = 0; j < count; ++j) narrow(from[j], to[j * stride]);
}

template <class C, class S> void load_rows(C* __restrict rows, std::int64_t pitch, const void* source,
                                           std::int64_t row_stride, std::int64_t column_stride, std::int64_t count,
                                           std::int64_t width, std::int64_t total) {
    constexpr decltype(&gather<C, S, 0>) with_stride[] = {gather<C, S, 0>, gather<C, S, 1>, gather<C, S, 2>,
                                                          gather<C, S, 3>, gather<C, S, 4>};
    const auto load = with_stride[column_stride >= 1 && column_stride <= 4 ? column_stride : 0];
    for (std::int64_t r = 0; r < total; ++r) {
        C* to = rows + r * pitch;
        const std::int64_t loaded = r < count ? width : 0;
        load(to, static_cast<const S*>(source) + r * row_stride, column_stride, loaded);
        for (std::int64_t j = loaded; j < pitch; ++j) to[j] = C(0);
    }
}

template <class C, class S> void store_rows(const C* __restrict rows, std::int64_t pitch, void* target,
                                            std::int64_t row_stride, std::int64_t column_stride, std::int64_t count,
                                            std::int64_t width) {
    constexpr decltype(&scatter<C, S, 0>) with_stride[] = {scatter<C, S, 0>, scatter<C, S, 1>, scatter<C, S, 2>,
                                                           scatter<C, S, 3>, scatter<C, S, 4>};
    const auto store = with_stride[column_stride >= 1 && column_stride <= 4 ? column_stride : 0];
    for (std::int64_t r = 0; r < count; ++r)
        store(rows + r * pitch, static_cast<S*>(target) + r * row_stride, column_stride, width);
}

template <class C> void stream(const C* from, C* to, std::int64_t count) {
    stream_copy(from, to, count);
    finish_stream();
}

template <class C> void climb_block(const PlaneBlock<C>& p, C* first) {
    p.cuts ? climb<C, true>(p, first) : climb<C, false>(p, first);
}

template <class C> void filter_block(const PlaneBlock<C>& p) {
    transpose_block(p.x, p.pitch, p.width, p.columns);
    if (p.cuts) {
        sweep<C, true>(p);
        filter<C, true>(p);
    } else {
        sweep<C, false>(p);
        filter<C, false>(p);
    }
}

} // namespace

extern const PlaneKernels<float> plane_float{
    {load_rows<float, Half>, load_rows<float, BFloat16>, load_rows<float, float>, load_rows<float, double>},
    {store_rows<float, Half>, store_rows<float, BFloat16>, store_rows<float, float>, store_rows<float, double>},
    stream<float>,
    transpose_block<float>,
    climb_block<float>,
    filter_block<float>,
    descend<float>,
    products<float>,
    has_zero<float>,
    pass_on<float>};
extern const PlaneKernels<double> plane_double{
    {load_rows<double, Half>, load_rows<double, BFloat16>, load_rows<double, float>, load_rows<double, double>},
    {nullptr, nullptr, store_rows<double, float>, store_rows<double, double>},
    stream<double>,
    transpose_block<double>,
    climb_block<double>,
    filter_block<double>,
    descend<double>,
    products<double>,
    has_zero<double>,
    pass_on<double>};

} // namespace sgs::SGS_ISA
