// Both axes of n planes side by side: both line filters are steps from one row of a tile to another. A position's
// weights are single numbers where all planes share them. Only for files under kernels/.
#pragma once

#include "../step.h"
#include "ahead.h"
#include "channels.h"

namespace sgs::SGS_ISA {
namespace {

// What there is of w for lanes [l, l + kWidth) of a position.
template <bool own, int n, class C>
__attribute__((always_inline)) inline Vec<C> at(const C* w, std::int64_t position, int l) {
    if constexpr (own) return load_vector(w + position * n + l);
    return splat(w[position]);
}

// (4) along the columns: F of the last row from F of the row above, or B of the first from B of the row below.
template <int n, class C, bool downward, bool cuts, bool own, int rows> void scan(const LanesBlock<C>& p, C* end) {
    const C *x = p.x, *down = p.down, *start = downward ? p.above : p.below;
    const std::int64_t width = p.width, pitch = p.pitch;
    for (std::int64_t j = 0; j < width; ++j)
        for (int l = 0; l < n; l += kWidth<C>) {
            Vec<C> sum = load_vector(start + j * n + l);
            for (int k = 0; k < rows; ++k) {
                const int r = downward ? k : rows - 1 - k, edge = downward ? r : r + 1;
                sum =
                    arrive<cuts>(load_vector(x + (r * pitch + j) * n + l), at<own, n>(down, edge * pitch + j, l), sum);
            }
            store_vector(end + j * n + l, sum);
        }
}

template <int n, class C> void pass_on(C* __restrict next, const double* __restrict through, const C* __restrict carry,
                                       std::int64_t count, bool own) {
    for (std::int64_t j = 0; j < count; ++j)
        for (int l = 0; l < n; ++l) {
            C& to = next[j * n + l];
            to = static_cast<C>(
                step(static_cast<double>(to), through[own ? j * n + l : j], static_cast<double>(carry[j * n + l])));
        }
}

// (4) along the rows from the right: for each position B of the one after it.
template <int n, class C, bool cuts, bool own, int rows> void from_right(const LanesBlock<C>& p, int l) {
    const C* __restrict x = p.x;
    const C* __restrict across = p.across;
    C* __restrict backward = p.backward;
    const std::int64_t width = p.width;
    Vec<C> b[rows] = {};
    for (std::int64_t j = width - 1; j >= 0; --j)
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const std::int64_t here = (r * width + j) * n + l;
            store_vector(backward + here, b[r]);
            b[r] = arrive<cuts>(load_vector(x + here), at<own, n>(across, r * (width + 1) + j + 1, l), b[r]);
        }
}

// What the next block has for position j of n planes, and the lines of weights that start there.
template <int n, int rows, class C>
__attribute__((always_inline, nothrow)) inline void fetch_block(const LanesBlock<C>& next, std::int64_t j) {
    constexpr int line = 64 / static_cast<int>(sizeof(C)), positions = line > n ? line / n : 1;
    if (j % positions == 0) {
        __builtin_prefetch(next.above + j * n, 0, 2);
        __builtin_prefetch(next.below + j * n, 0, 2);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) __builtin_prefetch(next.x + (r * next.width + j) * n, 0, 2);
    }
    if (j % line == 0)
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            __builtin_prefetch(next.across + r * (next.width + 1) + j, 0, 2);
            __builtin_prefetch(next.down + r * next.width + j, 0, 2);
            __builtin_prefetch(next.reciprocal + r * next.width + j, 0, 2);
        }
}

// Everything else: (5) along the rows and then, on top of that unless they are `apart`, down the columns.
// finish(sum, sum along the rows, x, position) makes y.
template <int n, class C, bool cuts, bool own, int rows, bool apart, class Finish>
__attribute__((always_inline)) inline void from_left(const LanesBlock<C>& p, int l, const Finish& finish) {
    const C* __restrict across = p.across;
    const C* __restrict down = p.down;
    const std::int64_t width = p.width;
    const bool residual = p.residual != nullptr, last = p.last != nullptr, fetch = l == 0 && p.written.rows != nullptr;
    const bool fetch_next = l == 0 && p.next != nullptr;
    const LanesBlock<C> next = fetch_next ? *p.next : p;
    Vec<C> f[rows] = {};
    for (std::int64_t j = 0; j < width; ++j) {
        if (fetch_next) fetch_block<n, rows>(next, j);
        if (fetch && j % (kChannels / n) == 0) fetch_written<rows>(p.written, j);
        Vec<C> x[rows], along[rows], sum[rows];
        Vec<C> d = load_vector(p.above + j * n + l);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const std::int64_t here = (r * width + j) * n + l, edge = r * (width + 1) + j;
            x[r] = load_vector(p.x + here);
            f[r] = arrive<cuts>(x[r], at<own, n>(across, edge, l), f[r]);
            along[r] = arrive<cuts>(f[r], at<own, n>(across, edge + 1, l), load_vector(p.backward + here));
            const Vec<C> w = at<own, n>(down, r * width + j, l);
            sum[r] = arrive<cuts>(apart ? x[r] : along[r], w, d);
            d = arrive<cuts>(x[r], w, d);
        }
        if (last) store_vector(p.last + j * n + l, d);
        C* const below = p.below + j * n + l;
        Vec<C> u = load_vector(below);
#pragma GCC unroll 4
        for (int r = rows - 1; r >= 0; --r) {
            const Vec<C> w = at<own, n>(down, (r + 1) * width + j, l);
            const std::int64_t here = (r * width + j) * n + l;
            Vec<C> y = finish(arrive<cuts>(sum[r], w, u), along[r], x[r], r * width + j);
            u = arrive<cuts>(x[r], w, u);
            if (residual) y = fused(splat(C(1)), y, load_vector(p.residual + here)); // never with the product before
            store_vector(p.y + here, y);
        }
        store_vector(below, u);
    }
}

template <int n, class C, bool cuts, bool own, int rows> void filter(const LanesBlock<C>& block) {
    const LanesBlock<C> p = block; // so that no store may change it
    const Vec<C> fill = splat(p.fill), more_centres = splat(p.centres - C(1));
    for (int l = 0; l < n; l += kWidth<C>) {
        from_right<n, C, cuts, own, rows>(p, l);
        const auto each = [&](const auto& finish) { from_left<n, C, cuts, own, rows, false>(p, l, finish); };
        if (p.reciprocal_across != nullptr)
            from_left<n, C, cuts, own, rows, true>(p, l, [&](Vec<C> sum, Vec<C> along, Vec<C>, std::int64_t i) {
                return fused(along, at<own, n>(p.reciprocal_across, i, l), sum * at<own, n>(p.reciprocal, i, l));
            });
        else if (p.reciprocal == nullptr && p.centres == C(1)) // not with the next: 0 times x may be NaN
            each([&](Vec<C> sum, Vec<C>, Vec<C>, std::int64_t) { return sum; });
        else if (p.reciprocal == nullptr)
            each([&](Vec<C> sum, Vec<C>, Vec<C> x, std::int64_t) { return fused(more_centres, x, sum); });
        else if (p.supported_only)
            each([&](Vec<C> sum, Vec<C>, Vec<C>, std::int64_t i) {
                const Vec<C> r = at<own, n>(p.reciprocal, i, l);
                return r < Vec<C>{} ? fill : sum * r;
            });
        else
            each([&](Vec<C> sum, Vec<C>, Vec<C>, std::int64_t i) { return sum * at<own, n>(p.reciprocal, i, l); });
    }
}

// x times c; 0 where c is 0, and x itself elsewhere if only masking.
template <int n, class C> void trust(C* x, const C* c, std::int64_t count, bool own, bool only_mask) {
    for (std::int64_t j = 0; j < count; ++j)
        for (int l = 0; l < n; ++l) {
            const C trusted = c[own ? j * n + l : j];
            C& value = x[j * n + l];
            value = trusted != C(0) ? (only_mask ? value : trusted * value) : C(0);
        }
}

// run(cuts, own, rows) with what the block has of them. Lanes that do not share their weights do not share cuts either:
// what one has must not show in the others' last bits.
template <int rows = kGroupRows, class C, class Run> void choose(const LanesBlock<C>& p, const Run& run) {
    if (p.rows == rows) {
        if (p.own)
            run(Number<true>{}, Number<true>{}, Number<rows>{});
        else if (p.cuts)
            run(Number<true>{}, Number<false>{}, Number<rows>{});
        else
            run(Number<false>{}, Number<false>{}, Number<rows>{});
    } else if constexpr (rows > 1) {
        choose<rows - 1>(p, run);
    }
}

template <int n, class C, bool downward> void scan_block(const LanesBlock<C>& p, C* end) {
    choose(p, [&](auto cuts, auto own, auto rows) {
        scan<n, C, downward, (cuts.value != 0), (own.value != 0), rows.value>(p, end);
    });
}

template <int n, class C> void filter_block(const LanesBlock<C>& p) {
    choose(p,
           [&](auto cuts, auto own, auto rows) { filter<n, C, (cuts.value != 0), (own.value != 0), rows.value>(p); });
}

template <class C, int n> constexpr LanesKernels<C> of_planes() {
    // So much of a plane fits into a core's cache. Positions of several vectors are passed over for each of these,
    // which only small planes are worth.
    LanesKernels<C> all{kWidth<C> == n ? 5 << 12 : 1 << 12,
                        {load_channels<n, C, Half>, load_channels<n, C, BFloat16>, load_channels<n, C, float>,
                         load_channels<n, C, double>},
                        {nullptr, nullptr, store_channels<n, C, float>, store_channels<n, C, double>},
                        trust<n, C>,
                        scan_block<n, C, true>,
                        scan_block<n, C, false>,
                        pass_on<n, C>,
                        filter_block<n, C>};
    if constexpr (std::is_same_v<C, float>) {
        all.store[static_cast<int>(DType::float16)] = store_channels<n, C, Half>;
        all.store[static_cast<int>(DType::bfloat16)] = store_channels<n, C, BFloat16>;
    }
    return all;
}

} // namespace
} // namespace sgs::SGS_ISA
