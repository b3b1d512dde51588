// Lines of one axis (4), (5) straight from memory to memory: those that lie along it are transposed in registers, kRows
// at a time; those that lie side by side are taken as they are. Results are made as they will lie in memory, so that
// they can be written in whole lines of the cache.
#include "../kernels.h"
#include "stored_vectors.h"

namespace sgs::SGS_ISA {
namespace {

/// v, in a register from here on: where the compiler would fold a load into two instructions, it loads twice.
template <class V> __attribute__((always_inline)) inline V in_register(V v) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#elif defined(__SSE2__)
    asm("" : "+x"(v));
#endif
    return v;
}

// ---- lines along memory

// Lines of so many steps leave the time from one way back to the next way there for what is fetched.
constexpr int kFetchLate = 48;

// Fewer steps than this beside the squares are copied one by one.
constexpr int kFew = 4;

// Asks for a square that is needed soon.
template <class C, class S>
__attribute__((always_inline)) inline void fetch_square(const S* x, const std::int64_t* offsets) {
#pragma GCC unroll 16
    for (int k = 0; k < kWidth<C>; ++k) __builtin_prefetch(x + offsets[k], 0, 2);
}

// Asks for a piece, as large as the square at step j of the lines from `group` on, of where the lines go.
template <class C, class S>
__attribute__((always_inline)) inline void fetch_written(const RowLines<C>& p, int group, std::int64_t j) {
    constexpr int n = kWidth<C>, bytes = n * n * static_cast<int>(sizeof(S));
    if (p.written == nullptr) return;
    const char* const to = reinterpret_cast<const char*>(static_cast<const S*>(p.written) + group * p.steps + j * n);
#pragma GCC unroll 16
    for (int k = 0; k < bytes; k += 64) __builtin_prefetch(to + k, 1, 2);
}

// A square of kWidth steps of kWidth lines, transposed in registers: v[k] is step k.
template <class C, class S>
__attribute__((always_inline)) inline void load_square(Vec<C>* v, const S* x, const std::int64_t* offsets) {
#pragma GCC unroll 16
    for (int k = 0; k < kWidth<C>; ++k) v[k] = in_register(load_widened<C>(x + offsets[k]));
    transpose<C>(v);
}

// And back, to lines `pitch` apart.
template <class C> __attribute__((always_inline)) inline void store_square(Vec<C>* v, C* y, std::int64_t pitch) {
    transpose<C>(v);
#pragma GCC unroll 16
    for (int k = 0; k < kWidth<C>; ++k) store_vector(y + k * pitch, v[k]);
}

// tile[i][k] of `count` steps from `first` on that fill no square, of kWidth of the lines.
template <class C, class S> void load_few(C* tile, const RowLines<C>& p, const S* x, const std::int64_t* offsets,
                                          std::int64_t first, std::int64_t count) {
    constexpr int n = kWidth<C>;
    if (count == 0) return;
    if (count < kFew || (p.steps < n && !p.readable_beyond)) {
        for (std::int64_t i = first; i < first + count; ++i)
            for (int k = 0; k < n; ++k) tile[i * kRows + k] = static_cast<C>(widen(x[offsets[k] + i]));
        return;
    }
    // A whole square that overlaps others; the steps in both are the same.
    const std::int64_t from = first > 0 ? first + count - n : 0;
    Vec<C> v[n];
    load_square<C>(v, x + from, offsets);
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) store_vector(tile + (from + k) * kRows, v[k]);
}

// `count` steps of the tile from `first` on, of kWidth of the lines, to y. What comes after them in memory is written
// with anything, and is to be written later.
template <class C> void store_few(const C* tile, C* y, std::int64_t steps, std::int64_t first, std::int64_t count) {
    constexpr int n = kWidth<C>;
    if (count == 0) return;
    if (count < kFew) {
        for (std::int64_t i = first; i < first + count; ++i)
            for (int k = 0; k < n; ++k) y[k * steps + i] = tile[i * kRows + k];
        return;
    }
    Vec<C> v[n];
#pragma GCC unroll 16
    for (int k = 0; k < n; ++k) v[k] = load_vector(tile + (first + k) * kRows);
    store_square<C>(v, y + first, steps);
}

// Steps between which F is kept: from one to the next it is found again, in registers.
template <class C> constexpr int kApart = kWidth<C> < 4 ? kWidth<C> : 4;

// Where F before step i is kept, where steps fill squares; F of a step beside them.
template <class C> std::int64_t kept_at(std::int64_t i) { return i / kApart<C> * kRows; }
template <class C> std::int64_t kept_beside(std::int64_t squares, std::int64_t i) {
    return (squares / kApart<C> + i - squares) * kRows;
}

// (4) forward: square(i, v) for every kWidth steps, then beside(i, x) for those that fill no square.
template <class C, class S, class Square, class Beside> __attribute__((always_inline)) inline void
go_forward(const RowLines<C>& p, int group, const Square& square, const Beside& beside) {
    constexpr int n = kWidth<C>;
    const S* x = static_cast<const S*>(p.x);
    const std::int64_t* offsets = p.offsets + group;
    const std::int64_t few = p.steps % n;
    for (std::int64_t j = 0; j + n <= p.steps; j += n) {
        Vec<C> v[n];
        load_square<C>(v, x + j, offsets);
        square(j, v);
    }
    C* tile = p.values + group;
    load_few<C>(tile, p, x, offsets, p.steps - few, few);
    for (std::int64_t i = p.steps - few; i < p.steps; ++i) beside(i, load_vector(tile + i * kRows));
}

// F of the last step, from F before the first.
template <class C, class S, bool cuts, bool normalized> void carry_rows(const RowLines<C>& p) {
    for (int g = 0; g < kRows; g += kWidth<C>) {
        Vec<C> f = load_vector(p.forward + g), ones = load_vector(p.ones_forward + g);
        const auto pass = [&](std::int64_t i, Vec<C> x) __attribute__((always_inline)) {
            const Vec<C> w = load_vector(p.links + i * kLinkPitch + g);
            f = arrive<cuts>(x, w, f);
            if constexpr (normalized) ones = arrive<cuts>(splat(C(1)), w, ones);
        };
        go_forward<C, S>(
            p, g,
            [&](std::int64_t j, const Vec<C>* v) __attribute__((always_inline)) {
                fetch_square<C>(static_cast<const S*>(p.x) + p.ahead + j, p.offsets + g);
#pragma GCC unroll 16
                for (int k = 0; k < kWidth<C>; ++k) pass(j + k, v[k]);
            },
            pass);
        store_vector(p.forward + g, f);
        store_vector(p.ones_forward + g, ones);
    }
}

// (5): F on the way there, and what comes back is added.
template <class C, class S, bool cuts, bool normalized> void filter_rows(const RowLines<C>& block) {
    constexpr int n = kWidth<C>, apart = kApart<C>;
    const RowLines<C> p = block; // so that no store may change it
    const std::int64_t squares = p.steps / n * n;
    const Vec<C> one = splat(C(1));
    // On the way back x comes from the first cache, so that requests which wait for memory hold no loads up. That of
    // short lines would be too late.
    const bool fetch_late = p.steps >= kFetchLate;
    const S* const soon = static_cast<const S*>(p.x) + p.ahead;
    for (int g = 0; g < kRows; g += n) {
        const auto link = [&](std::int64_t i)
                              __attribute__((always_inline)) { return load_vector(p.links + i * kLinkPitch + g); };
        Vec<C> f = load_vector(p.forward + g), ones = load_vector(p.ones_forward + g);
        const auto pass = [&](std::int64_t i, Vec<C> x) __attribute__((always_inline)) {
            const Vec<C> w = link(i);
            f = arrive<cuts>(x, w, f);
            if constexpr (normalized) ones = arrive<cuts>(one, w, ones);
        };
        const auto keep = [&](std::int64_t at) __attribute__((always_inline)) {
            store_vector(p.sums + at + g, f);
            if constexpr (normalized) store_vector(p.support + at + g, ones);
        };
        go_forward<C, S>(
            p, g,
            [&](std::int64_t j, const Vec<C>* v) __attribute__((always_inline)) {
                if (!fetch_late) fetch_square<C>(soon + j, p.offsets + g);
                fetch_written<C, S>(p, g, j);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) {
                    if (k % apart == 0) keep(kept_at<C>(j + k));
                    store_vector(p.values + (j + k) * kRows + g, v[k]);
                    pass(j + k, v[k]);
                }
            },
            [&](std::int64_t i, Vec<C> x) __attribute__((always_inline)) {
                pass(i, x);
                keep(kept_beside<C>(squares, i));
            });

        C* rows = p.y + g * p.steps;
        Vec<C> b = load_vector(p.backward + g), w = link(p.steps);
        ones = load_vector(p.ones_backward + g);
        // From F, x and the edge w that leaves a step.
        const auto leave = [&](Vec<C> sum, Vec<C> support, Vec<C> x) __attribute__((always_inline)) {
            Vec<C> y = arrive<cuts>(sum, w, b);
            b = arrive<cuts>(x, w, b);
            if constexpr (normalized) {
                y /= arrive<cuts>(support, w, ones);
                ones = arrive<cuts>(one, w, ones);
                if (p.residual) y += x;
            }
            return y;
        };
        for (std::int64_t i = p.steps - 1; i >= squares; --i) {
            C* at = p.values + i * kRows + g;
            const std::int64_t kept = kept_beside<C>(squares, i) + g;
            store_vector(at, leave(load_vector(p.sums + kept), normalized ? load_vector(p.support + kept) : one,
                                   load_vector(at)));
            w = in_register(link(i));
        }
        store_few(p.values + g, rows, p.steps, squares, p.steps - squares);
        for (std::int64_t j = squares - n; j >= 0; j -= n) {
            if (fetch_late) fetch_square<C>(soon + j, p.offsets + g);
            Vec<C> v[n];
#pragma GCC unroll 16
            for (int h = n - apart; h >= 0; h -= apart) {
                Vec<C> x[apart], links[apart], support[apart];
                const std::int64_t kept = kept_at<C>(j + h) + g;
                Vec<C> sum = load_vector(p.sums + kept), sum_of_ones = one;
                if constexpr (normalized) sum_of_ones = load_vector(p.support + kept);
#pragma GCC unroll 4
                for (int k = 0; k < apart; ++k) {
                    x[k] = in_register(load_vector(p.values + (j + h + k) * kRows + g));
                    links[k] = in_register(link(j + h + k));
                    v[h + k] = sum = arrive<cuts>(x[k], links[k], sum);
                    if constexpr (normalized) sum_of_ones = arrive<cuts>(one, links[k], sum_of_ones);
                    support[k] = sum_of_ones;
                }
#pragma GCC unroll 4
                for (int k = apart - 1; k >= 0; --k) {
                    v[h + k] = leave(v[h + k], support[k], x[k]);
                    w = links[k];
                }
            }
            store_square<C>(v, rows + j, p.steps);
        }
        store_vector(p.backward + g, b);
        store_vector(p.ones_backward + g, ones);
    }
}

// (4), from the first step or from the last.
template <class C, class S, bool cuts> void scan_rows(const RowLines<C>& block) {
    constexpr int n = kWidth<C>;
    const RowLines<C> p = block;
    const S* x = static_cast<const S*>(p.x);
    const std::int64_t few = p.steps % n;
    for (int g = 0; g < kRows; g += n) {
        const std::int64_t* offsets = p.offsets + g;
        C* carry = (p.reverse ? p.backward : p.forward) + g;
        C* tile = p.values + g;
        C* rows = p.y + g * p.steps;
        const C* links = p.links + (p.reverse ? kLinkPitch : 0) + g;
        Vec<C> f = load_vector(carry);
        const auto next = [&](std::int64_t i, Vec<C> value) __attribute__((always_inline)) {
            f = arrive<cuts>(value, load_vector(links + i * kLinkPitch), f);
            return f;
        };
        const auto each_of_few = [&](std::int64_t i) {
            store_vector(tile + i * kRows, next(i, load_vector(tile + i * kRows)));
        };
        if (p.reverse) {
            load_few<C>(tile, p, x, offsets, p.steps - few, few);
            for (std::int64_t i = p.steps - 1; i >= p.steps - few; --i) each_of_few(i);
            store_few(tile, rows, p.steps, p.steps - few, few);
            for (std::int64_t j = p.steps - few - n; j >= 0; j -= n) {
                Vec<C> v[n];
                fetch_square<C>(x + p.ahead + j, offsets);
                fetch_written<C, S>(p, g, j);
                load_square<C>(v, x + j, offsets);
#pragma GCC unroll 16
                for (int k = n - 1; k >= 0; --k) v[k] = next(j + k, v[k]);
                store_square<C>(v, rows + j, p.steps);
            }
        } else {
            load_few<C>(tile, p, x, offsets, 0, few);
            for (std::int64_t i = 0; i < few; ++i) each_of_few(i);
            store_few(tile, rows, p.steps, 0, few);
            for (std::int64_t j = few; j < p.steps; j += n) {
                Vec<C> v[n];
                fetch_square<C>(x + p.ahead + j, offsets);
                fetch_written<C, S>(p, g, j);
                load_square<C>(v, x + j, offsets);
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) v[k] = next(j + k, v[k]);
                store_square<C>(v, rows + j, p.steps);
            }
        }
        store_vector(carry, f);
    }
}

// tile[i][k] = source[i * step + offsets[k]] for kRows lines, to rows `pitch` apart. Returns whether one is 0.
template <class C, class S> bool load_lines(C* __restrict tile, std::int64_t pitch, const void* from,
                                            const std::int64_t* offsets, std::int64_t steps, std::int64_t step,
                                            bool readable_beyond) {
    constexpr int n = kWidth<C>;
    const S* source = static_cast<const S*>(from);
    bool one_line = true;
    for (int k = 1; k < kRows; ++k) one_line &= offsets[k] == offsets[0];
    bool zero = false;
    if (one_line) {
        for (std::int64_t i = 0; i < steps; ++i) {
            const C value = static_cast<C>(widen(source[offsets[0] + i * step]));
            for (int k = 0; k < kRows; ++k) tile[i * pitch + k] = value;
            zero |= value == C(0);
        }
        return zero;
    }
    if (step != 1 || (steps < n && !readable_beyond)) {
        for (std::int64_t i = 0; i < steps; ++i)
            for (int k = 0; k < kRows; ++k) {
                const C value = static_cast<C>(widen(source[offsets[k] + i * step]));
                tile[i * pitch + k] = value;
                zero |= value == C(0);
            }
        return zero;
    }
    using Bits = std::conditional_t<sizeof(C) == 4, std::uint32_t, std::uint64_t>;
    typedef Bits Magnitudes __attribute__((vector_size(kVectorBytes)));
    Magnitudes least = ~Magnitudes{};
    const auto count = [&](Vec<C> v) __attribute__((always_inline)) {
        const Magnitudes m = __builtin_bit_cast(Magnitudes, v) << 1; // without the sign
        least = m < least ? m : least;
    };
    for (int g = 0; g < kRows; g += n)
        for (std::int64_t i = 0; i < steps; i += n) {
            // The last square overlaps; one that is all there is reads beyond.
            const std::int64_t j = i + n <= steps || i == 0 ? i : steps - n;
            Vec<C> v[n];
            load_square<C>(v, source + j, offsets + g);
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) store_vector(tile + (j + k) * pitch + g, v[k]);
            if (steps < n) {
                for (std::int64_t k = 0; k < steps; ++k) count(load_vector(tile + k * pitch + g));
            } else {
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) count(v[k]);
            }
        }
    for (int k = 0; k < n; ++k) zero |= least[k] == 0;
    return zero;
}

// ---- lines side by side

// Steps whose values, weights and sums fit the registers.
constexpr int kDeep = kVectorBytes == 64 ? 8 : 4;

template <class C, bool shared>
__attribute__((always_inline)) inline Vec<C> column_link(const ColumnLines<C>& p, std::int64_t i, std::int64_t j) {
    if constexpr (shared) return splat(p.links[i]);
    return load_vector(p.links + i * p.pitch + j);
}

// Asks for vector j of row r of where the block goes.
template <class C, class S>
__attribute__((always_inline)) inline void fetch_written(const ColumnLines<C>& p, std::int64_t r, std::int64_t j) {
    if (p.written != nullptr) __builtin_prefetch(static_cast<const S*>(p.written) + r * p.written_step + j, 1, 2);
}

// f(j) for every vector of the width; the last overlaps.
template <class C, class F> void each_vector(std::int64_t width, const F& f) {
    std::int64_t j = 0;
    for (; j + kWidth<C> <= width; j += kWidth<C>) f(j);
    if (j < width) f(width - kWidth<C>);
}

// f(count) with a constant where it is the usual count, so that what is kept for each step stays in registers.
template <class F> void with_count(std::int64_t count, const F& f) {
    if (count == kDeep)
        f(std::integral_constant<int, kDeep>{});
    else
        f(count);
}

template <class C>
__attribute__((always_inline)) inline Vec<C> field_at(const ColumnField<C>& field, std::int64_t i, std::int64_t j) {
    const C* const at = field.data + i * field.step;
    return field.shared ? splat(*at) : load_vector(at + j);
}

// (8) c x, and x where it has any confidence.
template <class C> __attribute__((always_inline)) inline Vec<C> trusted_vector(Vec<C> c, Vec<C> x) {
    return c != Vec<C>{} ? c * x : Vec<C>{};
}
template <class C> __attribute__((always_inline)) inline Vec<C> masked_vector(Vec<C> c, Vec<C> x) {
    return c != Vec<C>{} ? x : Vec<C>{};
}

// x as the sums take it.
template <class C, class S, bool finished> __attribute__((always_inline)) inline Vec<C>
column_value(const ColumnLines<C>& p, const ColumnFinish<C>& finish, std::int64_t i, std::int64_t j) {
    const S* const at = static_cast<const S*>(p.x) + i * p.step;
    if constexpr (!finished) return load_widened<C>(at + j);
    const Vec<C> x = p.one_value ? splat(static_cast<C>(widen(*at))) : load_widened<C>(at + j);
    return finish.trust.data != nullptr ? trusted_vector<C>(field_at(finish.trust, i, j), x) : x;
}

template <class C> ColumnFinish<C> finish_of(const ColumnLines<C>& p) {
    return p.finish != nullptr ? *p.finish : ColumnFinish<C>{};
}

// F of the last of each kDeep steps.
template <class C, class S, bool cuts, bool shared, bool finished> void carry_columns(const ColumnLines<C>& block) {
    const ColumnLines<C> p = block;
    const ColumnFinish<C> finish = finish_of(p);
    for (std::int64_t first = 0; first < p.steps; first += kDeep) {
        const C* before = p.forward + first / kDeep * p.width_pitch;
        C* after = p.forward + (first / kDeep + 1) * p.width_pitch;
        with_count(p.steps - first < kDeep ? p.steps - first : kDeep,
                   [&](auto of_steps) __attribute__((always_inline)) {
                       const int count = static_cast<int>(of_steps);
                       each_vector<C>(p.width, [&](std::int64_t j) __attribute__((always_inline)) {
                           Vec<C> f = load_vector(before + j);
#pragma GCC unroll 8
                           for (int r = 0; r < count; ++r) {
                               const std::int64_t i = first + r;
                               f = arrive<cuts>(column_value<C, S, finished>(p, finish, i, j),
                                                column_link<C, shared>(p, i, j), f);
                           }
                           store_vector(after + j, f);
                       });
                   });
    }
}

// (5) for `steps` steps from `from` on, the last first: B of the step after comes in, B of the first goes out.
template <class C, class S, bool cuts, bool shared, bool finished>
void filter_columns(const ColumnLines<C>& block, std::int64_t from, std::int64_t steps) {
    const ColumnLines<C> p = block;
    const ColumnFinish<C> finish = finish_of(p);
    const S* x = static_cast<const S*>(p.x);
    // What the sums of step i begin with, beside F that comes in.
    const auto start = [&](std::int64_t i, std::int64_t j, Vec<C> value) __attribute__((always_inline)) {
        if constexpr (!finished) return value;
        if (finish.sums.data == nullptr || finish.divided_alone) return value;
        const Vec<C> sums = field_at(finish.sums, i, j);
        return finish.centre ? sums + value : sums;
    };
    const auto end = [&](std::int64_t i, std::int64_t j, Vec<C> y) __attribute__((always_inline)) {
        if constexpr (!finished) return y;
        if (finish.reciprocal.data != nullptr) {
            const Vec<C> r = field_at(finish.reciprocal, i, j);
            y *= r;
            if (finish.trust.data != nullptr) y = r < Vec<C>{} ? splat(finish.fill) : y;
        }
        if (finish.divided_alone && finish.sums.data != nullptr) y += field_at(finish.sums, i, j);
        if (finish.residual) {
            const Vec<C> value = load_widened<C>(x + i * p.step + j);
            y += finish.trust.data != nullptr ? masked_vector<C>(field_at(finish.trust, i, j), value) : value;
        }
        return y;
    };
    for (std::int64_t first = from + (steps - 1) / kDeep * kDeep; first >= from; first -= kDeep) {
        const std::int64_t k = first / kDeep;
        const C* above = p.forward + k * p.width_pitch;
        const C* below = p.backward + (k + 1) % 2 * p.width_pitch;
        C* to = p.backward + k % 2 * p.width_pitch;
        C* y = p.y + (first - from) * p.width;
        with_count(from + steps - first < kDeep ? from + steps - first : kDeep,
                   [&](auto of_steps) __attribute__((always_inline)) {
                       const int count = static_cast<int>(of_steps);
                       each_vector<C>(p.width, [&](std::int64_t j) __attribute__((always_inline)) {
                           Vec<C> values[kDeep], sums[kDeep], links[kDeep + 1];
                           Vec<C> f = load_vector(above + j);
#pragma GCC unroll 8
                           for (int r = 0; r < count; ++r) {
                               links[r] = column_link<C, shared>(p, first + r, j);
                               const S* at = x + (first + r) * p.step + j;
                               if constexpr (!finished) __builtin_prefetch(at + p.ahead, 0, 2);
                               fetch_written<C, S>(p, first - from + r, j);
                               values[r] = column_value<C, S, finished>(p, finish, first + r, j);
                               sums[r] = arrive<cuts>(start(first + r, j, values[r]), links[r], f);
                               f = finished ? arrive<cuts>(values[r], links[r], f) : sums[r];
                           }
                           links[count] = column_link<C, shared>(p, first + count, j);
                           Vec<C> b = load_vector(below + j);
#pragma GCC unroll 8
                           for (int r = count - 1; r >= 0; --r) {
                               store_vector(y + r * p.width + j,
                                            end(first + r, j, arrive<cuts>(sums[r], links[r + 1], b)));
                               b = arrive<cuts>(values[r], links[r + 1], b);
                           }
                           store_vector(to + j, b);
                       });
                   });
    }
}

// (4) for `steps` steps from `from` on. With `reverse`, y goes from the last to the first.
template <class C, class S, bool cuts, bool shared>
void scan_columns(const ColumnLines<C>& block, std::int64_t from, std::int64_t steps) {
    const ColumnLines<C> p = block;
    const S* x = static_cast<const S*>(p.x);
    const std::int64_t y_step = p.reverse ? -p.width : p.width;
    C* y = p.reverse ? p.y + (steps - 1) * p.width : p.y;
    for (std::int64_t first = from; first < from + steps; first += kDeep) {
        const C* before = p.forward + first / kDeep % 2 * p.width_pitch;
        C* after = p.forward + (first / kDeep + 1) % 2 * p.width_pitch;
        with_count(from + steps - first < kDeep ? from + steps - first : kDeep,
                   [&](auto of_steps) __attribute__((always_inline)) {
                       const int count = static_cast<int>(of_steps);
                       each_vector<C>(p.width, [&](std::int64_t j) __attribute__((always_inline)) {
                           Vec<C> f = load_vector(before + j);
#pragma GCC unroll 8
                           for (int r = 0; r < count; ++r) {
                               const std::int64_t i = first + r;
                               f = arrive<cuts>(load_widened<C>(x + i * p.step + j), column_link<C, shared>(p, i, j),
                                                f);
                               fetch_written<C, S>(p, i - from, j);
                               store_vector(y + (i - from) * y_step + j, f);
                           }
                           store_vector(after + j, f);
                       });
                   });
    }
}

// ---- out

template <class C, class S> void write(const C* __restrict from, S* __restrict to, std::int64_t count, bool stream) {
    if constexpr (std::is_same_v<C, S>)
        if (stream) return stream_copy(from, to, count);
    for (std::int64_t j = 0; j < count; ++j) narrow(from[j], to[j]);
}

template <class C, class S> void write_rows(const C* rows, std::int64_t count, std::int64_t width, void* target,
                                            const std::int64_t* offsets, bool stream) {
    S* y = static_cast<S*>(target);
    bool dense = true;
    for (std::int64_t r = 1; r < count; ++r) dense &= offsets[r] == offsets[0] + r * width;
    if (dense)
        write(rows, y + offsets[0], count * width, stream);
    else
        for (std::int64_t r = 0; r < count; ++r) write(rows + r * width, y + offsets[r], width, stream);
}

// ---- choice of the compiled form

// f with constants in place of `cuts` and of a second condition.
template <class F> void with_constants(bool cuts, bool other, const F& f) {
    constexpr std::true_type yes;
    constexpr std::false_type no;
    if (cuts)
        other ? f(yes, yes) : f(yes, no);
    else
        other ? f(no, yes) : f(no, no);
}

template <class C, class S> void carry_row_lines(const RowLines<C>& p) {
    with_constants(p.cuts, p.support != nullptr,
                   [&](auto cuts, auto normalized) { carry_rows<C, S, cuts, normalized>(p); });
}
template <class C, class S> void filter_row_lines(const RowLines<C>& p) {
    with_constants(p.cuts, p.support != nullptr,
                   [&](auto cuts, auto normalized) { filter_rows<C, S, cuts, normalized>(p); });
}
template <class C, class S> void scan_row_lines(const RowLines<C>& p) {
    p.cuts ? scan_rows<C, S, true>(p) : scan_rows<C, S, false>(p);
}
template <class C, class S> void carry_column_lines(const ColumnLines<C>& p) {
    with_constants(p.cuts, p.shared, [&](auto cuts, auto shared) {
        p.finish != nullptr ? carry_columns<C, S, cuts, shared, true>(p) : carry_columns<C, S, cuts, shared, false>(p);
    });
}
template <class C, class S> void filter_column_lines(const ColumnLines<C>& p, std::int64_t from, std::int64_t steps) {
    with_constants(p.cuts, p.shared, [&](auto cuts, auto shared) {
        p.finish != nullptr ? filter_columns<C, S, cuts, shared, true>(p, from, steps)
                            : filter_columns<C, S, cuts, shared, false>(p, from, steps);
    });
}
template <class C, class S> void scan_column_lines(const ColumnLines<C>& p, std::int64_t from, std::int64_t steps) {
    with_constants(p.cuts, p.shared, [&](auto cuts, auto shared) { scan_columns<C, S, cuts, shared>(p, from, steps); });
}

} // namespace

// By the dtype of x, which decides the computing type.
#define SGS_OF_FLOAT(f) {f<float, Half>, f<float, BFloat16>, f<float, float>, nullptr}
#define SGS_OF_DOUBLE(f) {nullptr, nullptr, nullptr, f<double, double>}
#define SGS_OF_ANY(f, C) {f<C, Half>, f<C, BFloat16>, f<C, float>, f<C, double>}

extern const LineKernels<float> line_float{kDeep,
                                           SGS_OF_ANY(load_lines, float),
                                           SGS_OF_FLOAT(carry_row_lines),
                                           SGS_OF_FLOAT(filter_row_lines),
                                           SGS_OF_FLOAT(scan_row_lines),
                                           SGS_OF_FLOAT(carry_column_lines),
                                           SGS_OF_FLOAT(filter_column_lines),
                                           SGS_OF_FLOAT(scan_column_lines),
                                           SGS_OF_FLOAT(write_rows),
                                           finish_stream};
extern const LineKernels<double> line_double{kDeep,
                                             SGS_OF_ANY(load_lines, double),
                                             SGS_OF_DOUBLE(carry_row_lines),
                                             SGS_OF_DOUBLE(filter_row_lines),
                                             SGS_OF_DOUBLE(scan_row_lines),
                                             SGS_OF_DOUBLE(carry_column_lines),
                                             SGS_OF_DOUBLE(filter_column_lines),
                                             SGS_OF_DOUBLE(scan_column_lines),
                                             SGS_OF_DOUBLE(write_rows),
                                             finish_stream};

} // namespace sgs::SGS_ISA
