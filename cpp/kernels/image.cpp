// A few planes that share their weights, a block of kRows rows of all of them at a time, in panels of kRows columns
// that stay in L1: weights are made there, each is loaded once for a plane, and the support (7) is one more plane
// beside the others. F or B of the columns is found first, block by block; then a walk along the panels, right to left,
// brings in a block and finds what flows into each panel from its right, and a second one, left to right, does the
// rest. Results that are too large for the caches are gathered, and written row by row.
//
// Every sum is a chain of x + w f, one fused step where there are such, in the same order whatever the other operands
// are: supports that are given and supports that are found here are the same bits.
#include <limits>

#include "../kernels.h"
#include "../step.h"
#include "edge_weights.h"
#include "stored_vectors.h"

namespace sgs::SGS_ISA {
namespace {

template <class C> constexpr int kVectors = kRows / kWidth<C>; // of a row or column of a panel
constexpr int kTile = kRows * kRows;
constexpr int kTaller = kTile + kRows; // a tile and one row more

// item_size is shared with other instruction sets.
inline std::int64_t item_bytes(DType t) { return t == DType::float64 ? 8 : t == DType::float32 ? 4 : 2; }

// f as it is seen across an edge: nothing passes where the weight is 0, not even NaN.
template <bool cuts, class V> __attribute__((always_inline)) inline V across_edge(V w, V f) {
    if constexpr (cuts) return w != V{} ? f : V{};
    return f;
}

// ---- from memory and back

// Three channels of pixels lie in three vectors, each element of a channel in another place: channel c is brought
// together, then in order.
template <class C, int c> __attribute__((always_inline)) inline Vec<C> channel_of_three(const Vec<C>* v) {
    constexpr int n = kWidth<C>;
    constexpr auto all = std::make_index_sequence<n>{};
    const Vec<C> two = pick<C>(v[0], v[1], [](int i) { return i % 3 == c ? i : i + kWidth<C>; }, all);
    const Vec<C> three =
        pick<C>(two, v[2], [](int i) { return (2 * kWidth<C> + i) % 3 == c ? i + kWidth<C> : i; }, all);
    return pick<C>(three, three, [](int i) { return (3 * i + c) % kWidth<C>; }, all);
}
// Element k of channel c to place (3 k + c) % n, which is where `pixels_of_three` takes it from.
template <class C, int c> __attribute__((always_inline)) inline Vec<C> spread_over_three(Vec<C> v) {
    constexpr int n = kWidth<C>, third = n % 3 == 2 ? (n + 1) / 3 : (2 * n + 1) / 3; // 3 third = 1 modulo n
    return pick<C>(v, v, [](int i) { return (i - c + kWidth<C>)*third % kWidth<C>; }, std::make_index_sequence<n>{});
}
template <class C, int k> __attribute__((always_inline)) inline Vec<C> pixels_of_three(const Vec<C>* spread) {
    constexpr auto all = std::make_index_sequence<kWidth<C>>{};
    const Vec<C> two =
        pick<C>(spread[0], spread[1], [](int i) { return (k * kWidth<C> + i) % 3 == 0 ? i : i + kWidth<C>; }, all);
    return pick<C>(two, spread[2], [](int i) { return (k * kWidth<C> + i) % 3 == 2 ? i + kWidth<C> : i; }, all);
}

// channels[c * stride + k] = mixed[k * n + c] for kRows positions of n channels.
template <class C, class S, int n>
__attribute__((always_inline)) inline void split(const S* mixed, C* channels, std::int64_t stride) {
    constexpr auto even = [](int i) { return 2 * i; };
    constexpr auto odd = [](int i) { return 2 * i + 1; };
    for (int part = 0; part < kRows; part += kWidth<C>) {
        C* const to = channels + part;
        Vec<C> v[n];
        for (int k = 0; k < n; ++k) v[k] = load_widened<C>(mixed + part * n + k * kWidth<C>);
        if constexpr (n == 3) {
            store_vector(to, channel_of_three<C, 0>(v));
            store_vector(to + stride, channel_of_three<C, 1>(v));
            store_vector(to + 2 * stride, channel_of_three<C, 2>(v));
        } else {
            for (int k = 0; k < n; k += 2) exchange<C>(v[k], v[k + 1], even, odd); // of four: channels 0 2, and 1 3
            if constexpr (n == 4)
                for (int k = 0; k < 2; ++k) exchange<C>(v[k], v[k + 2], even, odd);
            for (int k = 0; k < n; ++k) store_vector(to + k * stride, v[k]);
        }
    }
}

// mixed[k * n + c] = channels[c * stride + k].
template <class C, class S, int n>
__attribute__((always_inline)) inline void join(const C* channels, std::int64_t stride, S* mixed) {
    constexpr auto low = [](int i) { return i / 2 + i % 2 * kWidth<C>; };
    constexpr auto high = [](int i) { return kWidth<C> / 2 + i / 2 + i % 2 * kWidth<C>; };
    for (int part = 0; part < kRows; part += kWidth<C>) {
        S* const to = mixed + part * n;
        Vec<C> v[n];
        for (int c = 0; c < n; ++c) v[c] = load_vector(channels + part + c * stride);
        if constexpr (n == 3) {
            v[0] = spread_over_three<C, 0>(v[0]);
            v[1] = spread_over_three<C, 1>(v[1]);
            v[2] = spread_over_three<C, 2>(v[2]);
            store_narrowed<C>(to, pixels_of_three<C, 0>(v));
            store_narrowed<C>(to + kWidth<C>, pixels_of_three<C, 1>(v));
            store_narrowed<C>(to + 2 * kWidth<C>, pixels_of_three<C, 2>(v));
        } else {
            if constexpr (n == 4)
                for (int k = 0; k < 2; ++k) exchange<C>(v[k], v[k + 2], low, high); // channels 0 2, and 1 3
            for (int k = 0; k < n; k += 2) exchange<C>(v[k], v[k + 1], low, high);
            for (int k = 0; k < n; ++k) store_narrowed<C>(to + k * kWidth<C>, v[k]);
        }
    }
}

// `rows` rows of n channels of kRows pixels, to tiles and back.
template <class C, class S, int n>
void split_rows(const S* from, std::int64_t row_stride, C* tiles, std::int64_t stride, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r, from += row_stride) split<C, S, n>(from, tiles + r * kRows, stride);
}
template <class C, class S, int n>
void join_rows(const C* tiles, std::int64_t stride, S* to, std::int64_t row_stride, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r, to += row_stride) join<C, S, n>(tiles + r * kRows, stride, to);
}

// The same of one plane whose rows are without gaps.
template <class C, class S>
void copy_in(const S* __restrict from, std::int64_t row_stride, C* __restrict tile, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r, from += row_stride, tile += kRows)
        for (int j = 0; j < kRows; j += kWidth<C>) store_vector(tile + j, load_widened<C>(from + j));
}
template <class C, class S>
void copy_out(const C* __restrict tile, S* __restrict to, std::int64_t row_stride, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r, to += row_stride, tile += kRows)
        for (int j = 0; j < kRows; j += kWidth<C>) store_narrowed<C>(to + j, load_vector(tile + j));
}

// tiles[p * stride + r * kRows + j] = row r, column first + j of plane p, 0 where there is none, for `total` rows.
template <class C, class S>
void load_tiles(C* tiles, std::int64_t stride, const PlaneRows& v, std::int64_t first, std::int64_t total) {
    const std::int64_t rows = v.rows < total ? v.rows : total;
    const std::int64_t left = v.width - first, columns = left < 0 ? 0 : left < kRows ? left : kRows;
    const S* const from = static_cast<const S*>(v.data) + first * v.column_stride;
    const int n = static_cast<int>(v.planes);
    if (columns == kRows && v.mixed) {
        constexpr decltype(&split_rows<C, S, 2>) split_into[] = {split_rows<C, S, 2>, split_rows<C, S, 3>,
                                                                 split_rows<C, S, 4>};
        split_into[n - 2](from, v.row_stride, tiles, stride, rows);
    } else if (columns == kRows && v.column_stride == 1) {
        for (int p = 0; p < n; ++p) copy_in(from + v.offsets[p], v.row_stride, tiles + p * stride, rows);
    } else {
        for (int p = 0; p < n; ++p)
            for (std::int64_t r = 0; r < rows; ++r) {
                const S* const row = from + v.offsets[p] + r * v.row_stride;
                C* const to = tiles + p * stride + r * kRows;
                for (std::int64_t j = 0; j < columns; ++j) to[j] = static_cast<C>(widen(row[j * v.column_stride]));
                for (std::int64_t j = columns; j < kRows; ++j) to[j] = C(0);
            }
    }
    for (int p = 0; p < n; ++p)
        for (std::int64_t k = rows * kRows; k < total * kRows; ++k) tiles[p * stride + k] = C(0);
}

template <class C>
void load(C* tiles, std::int64_t stride, const PlaneRows& v, std::int64_t first, std::int64_t total) {
    switch (v.dtype) {
    case DType::float16: return load_tiles<C, Half>(tiles, stride, v, first, total);
    case DType::bfloat16: return load_tiles<C, BFloat16>(tiles, stride, v, first, total);
    case DType::float32: return load_tiles<C, float>(tiles, stride, v, first, total);
    case DType::float64: return load_tiles<C, double>(tiles, stride, v, first, total);
    }
}

// The panels of a block in chunks; what would be half of one or less belongs to the one before.
struct Chunks {
    std::int64_t panels, size;

    std::int64_t of(std::int64_t panel) const {
        const std::int64_t chunk = panel < size ? 0 : panel / size; // divisions take long
        return chunk > 0 && is_last(chunk - 1) ? chunk - 1 : chunk;
    }
    std::int64_t begin(std::int64_t chunk) const { return chunk * size; }
    std::int64_t end(std::int64_t chunk) const { return is_last(chunk) ? panels : begin(chunk + 1); }
    bool is_last(std::int64_t chunk) const { return panels - begin(chunk + 1) <= size / 2; }
};

// Brings in what is needed soon, `width` columns from `first_column` on, in `parts` parts from `begin` on, in the order
// of memory: the rows of an image are so many streams that neither the processor nor requests panel by panel keep up
// with them. Parts are small and spread over the work of a panel, since a core that has about a dozen lines on their
// way waits for one of them before it asks for more. kRows rows from `first` on, which may be before those of v.
template <int write> class Soon {
  public:
    Soon() = default;
    Soon(const PlaneRows&&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t) = delete; // v is kept
    Soon(const PlaneRows& v, std::int64_t first, std::int64_t first_column, std::int64_t width, std::int64_t parts,
         std::int64_t begin)
        : v_(&v) {
        const std::int64_t rows = v.rows - first < kRows ? v.rows - first : kRows;
        if (width > v.width - first_column) width = v.width - first_column;
        if (v.data == nullptr || rows <= 0 || width <= 0 || !(v.mixed || v.column_stride == 1)) return;
        const std::int64_t item = item_bytes(v.dtype);
        rows_ = rows;
        length_ = width * v.column_stride * item;
        step_ = v.row_stride * item;
        first_ = first * step_ + first_column * v.column_stride * item;
        const std::int64_t planes = v.mixed ? 1 : v.planes, lines = (length_ + kLine - 1) / kLine;
        part_ = (planes * rows * lines + parts - 1) / parts;
        rows_left_ = planes * rows - begin * part_ / lines;
        at_ = begin * part_ % lines * kLine;
        if (rows_left_ > 0) enter(begin * part_ / lines);
    }
    __attribute__((nothrow)) void part() { // as in vector.h
        for (std::int64_t left = part_; left > 0 && rows_left_ > 0;) {
            const std::int64_t rest = (length_ - at_ + kLine - 1) / kLine, count = rest < left ? rest : left;
            for (std::int64_t k = 0; k < count; ++k) __builtin_prefetch(row_ + at_ + k * kLine, write, 2);
            left -= count;
            at_ += count * kLine;
            if (at_ < length_) continue;
            at_ = 0;
            row_ += step_;
            --rows_left_;
            if (++done_ == rows_ && rows_left_ > 0) enter((plane_ + 1) * rows_);
        }
    }

  private:
    // Row `row` of all planes, one after the other.
    void enter(std::int64_t row) {
        plane_ = row / rows_;
        done_ = row % rows_;
        row_ =
            static_cast<const char*>(v_->data) + v_->offsets[plane_] * item_bytes(v_->dtype) + first_ + done_ * step_;
    }
    static constexpr std::int64_t kLine = 64; // bytes
    const PlaneRows* v_ = nullptr;
    std::int64_t rows_ = 0, length_ = 0, step_ = 0, first_ = 0, part_ = 0; // of a plane; bytes; lines of a part
    std::int64_t plane_ = 0, done_ = 0, at_ = 0, rows_left_ = 0;           // rows of the plane, bytes of the row
    const char* row_ = nullptr;
};

// Chunk `wanted` of rows from `first` on, while chunk `now` is worked on from panel p on, with `parts` for each panel.
template <int write> Soon<write> ask_for(const PlaneRows& v, std::int64_t first, const Chunks& chunks,
                                         std::int64_t wanted, std::int64_t now, std::int64_t parts, std::int64_t p) {
    const std::int64_t first_column = chunks.begin(wanted) * kRows, width = chunks.end(wanted) * kRows - first_column;
    return Soon<write>(v, first, first_column, width, parts * (chunks.end(now) - chunks.begin(now)),
                       parts * (p - chunks.begin(now)));
}

template <class C, class S>
void store_tiles(const C* tiles, std::int64_t stride, const PlaneRows& v, std::int64_t first) {
    const std::int64_t left = v.width - first, columns = left < kRows ? left : kRows;
    S* const base = static_cast<S*>(v.data) + first * v.column_stride;
    const int n = static_cast<int>(v.planes);
    if (columns == kRows && v.mixed) {
        constexpr decltype(&join_rows<C, S, 2>) join_from[] = {join_rows<C, S, 2>, join_rows<C, S, 3>,
                                                               join_rows<C, S, 4>};
        return join_from[n - 2](tiles, stride, base, v.row_stride, v.rows);
    }
    if (columns == kRows && v.column_stride == 1) {
        for (int p = 0; p < n; ++p) copy_out(tiles + p * stride, base + v.offsets[p], v.row_stride, v.rows);
        return;
    }
    for (int p = 0; p < n; ++p)
        for (std::int64_t r = 0; r < v.rows; ++r) {
            S* const row = base + v.offsets[p] + r * v.row_stride;
            const C* const from = tiles + p * stride + r * kRows;
            for (std::int64_t j = 0; j < columns; ++j) narrow(from[j], row[j * v.column_stride]);
        }
}

void store(const float* tiles, std::int64_t stride, const PlaneRows& v, std::int64_t first) {
    switch (v.dtype) {
    case DType::float16: return store_tiles<float, Half>(tiles, stride, v, first);
    case DType::bfloat16: return store_tiles<float, BFloat16>(tiles, stride, v, first);
    default: return store_tiles<float, float>(tiles, stride, v, first);
    }
}
void store(const double* tiles, std::int64_t stride, const PlaneRows& v, std::int64_t first) {
    store_tiles<double, double>(tiles, stride, v, first);
}

// A block's planes and its scratch.
template <class C> struct Panels {
    explicit Panels(const ImageBlock<C>& b)
        : planes(static_cast<int>(b.x.planes)), trusts(b.trust.data != nullptr),
          fields(planes + (b.makes_support ? 1 : 0)), count((b.width + kRows - 1) / kRows) {
        C* at = b.scratch;
        const auto take = [&](std::int64_t size) {
            C* const taken = at;
            at += size;
            return taken;
        };
        tiles = take(count * (planes + 1) * kTaller);
        for (C*& g : guides) g = take(b.guide.planes * kTaller);
        for (C*& t : guide_trusts) t = take(kTaller);
        results = take(planes * kTile);
        carry = take(fields * kRows);
        checkpoints = take(count * fields * kRows);
        across = take(count * kTile);
        row = take(count * planes * kRows);
        cuts = take(count);
    }
    int planes;
    bool trusts;
    int fields; // sums: of the planes, and of the support
    std::int64_t count;
    C* tiles; // [count][planes + 1][kTaller] x and the confidence; then, where it is gathered, y
    // Of a panel and its right neighbour, in turn: the guide, its confidence.
    C *guides[2], *guide_trusts[2];
    C* results;
    C* carry;       // [fields][kRows] of a walk along the panels
    C* checkpoints; // [count][fields][kRows] B of the column after each panel
    C* across;      // [count][kRows][kRows] weights along rows, columns of them
    C* row;         // [count][kRows][planes] of y, or of one plane
    C* cuts;        // [count] not 0 where some of those may be 0

    C* tile(std::int64_t p) const { return tiles + p * (planes + 1) * kTaller; }
    bool ones(int field) const { return field == planes && !trusts; }
};

// ---- weights

// d, or 0 where a confidence at either end is 0 (8).
template <class C> __attribute__((always_inline)) inline Vec<C> trusted_distance(Vec<C> d, Vec<C> a, Vec<C> b) {
    const Vec<C> near = a != Vec<C>{} ? d : Vec<C>{};
    return b != Vec<C>{} ? near : Vec<C>{};
}

// (1), (2) of the edges from each of `rows` rows of the tiles g to the next; trust is a tile as well, or null.
template <class C, int metric>
void make_down(const ImageBlock<C>& b, C* w, const C* g, const C* trust, std::int64_t rows) {
    const Fall<C> fall(b.steps[0], b.scales[0]);
    const std::int64_t planes = b.guide.planes;
    const auto distance = [&](std::int64_t v) __attribute__((always_inline)) {
        const std::int64_t k = v * kWidth<C>;
        Vec<C> d{};
        for (std::int64_t p = 0; p < planes; ++p) {
            const C* const at = g + p * kTaller + k;
            d = add_distance<metric>(d, load_vector(at + kRows) - load_vector(at));
        }
        if (trust != nullptr) d = trusted_distance<C>(d, load_vector(trust + k), load_vector(trust + k + kRows));
        return d;
    };
    each_weight<C, metric == 0>(rows * kVectors<C>, fall, distance,
                                [&](std::int64_t v, Vec<C> weight) { store_vector(w + v * kWidth<C>, weight); });
}

// A vector of a row of a tile, from one column further on; `next` is the panel to the right.
template <class C>
__attribute__((always_inline)) inline Vec<C> shifted(const C* tile, const C* next, std::int64_t row, int v) {
    constexpr int n = kWidth<C>;
    const C* const at = tile + row * kRows + v * n;
    const C* const after = v + 1 < kVectors<C> ? at + n : next + row * kRows;
    return pick<C>(load_vector(at), load_vector(after), [](int i) { return i + 1; }, std::make_index_sequence<n>{});
}

// Likewise from each column to the next.
template <class C, int metric>
void make_across(const ImageBlock<C>& b, C* w, const C* g, const C* next, const C* trust, const C* next_trust) {
    const Fall<C> fall(b.steps[1], b.scales[1]);
    const std::int64_t planes = b.guide.planes;
    const auto distance = [&](std::int64_t k) __attribute__((always_inline)) {
        const std::int64_t r = k / kVectors<C>, at = k * kWidth<C>;
        const int v = static_cast<int>(k % kVectors<C>);
        Vec<C> d{};
        for (std::int64_t p = 0; p < planes; ++p)
            d = add_distance<metric>(d, shifted(g + p * kTaller, next + p * kTaller, r, v) -
                                            load_vector(g + p * kTaller + at));
        if (trust != nullptr) d = trusted_distance<C>(d, load_vector(trust + at), shifted(trust, next_trust, r, v));
        return d;
    };
    each_weight<C, metric == 0>(kTile / kWidth<C>, fall, distance,
                                [&](std::int64_t k, Vec<C> weight) { store_vector(w + k * kWidth<C>, weight); });
}

// Whether some weight may be 0. Floats are ordered as their bits are, but for negative ones, which count as if they
// were 0.
template <class C> bool any_cut(const C* w, std::int64_t count) {
    using Integer = typename Exponent<C>::Integer;
    Integer least = std::numeric_limits<Integer>::max();
    for (std::int64_t k = 0; k < count; ++k) {
        const Integer bits = __builtin_bit_cast(Integer, w[k]);
        least = bits < least ? bits : least;
    }
    return least <= 0;
}

// w is 1 beyond the plane, so that only its own edges are judged (any_cut).
template <class C> void pad(C* w, std::int64_t rows, std::int64_t columns) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t j = columns < 0 ? 0 : columns; j < kRows; ++j) w[r * kRows + j] = C(1);
}

// Weights of the edges from each of `rows` rows of panel p, whose x is in `tiles`, to the next. True if some weight may
// be 0.
template <class C> bool weights_down(const ImageBlock<C>& b, const Panels<C>& panels, std::int64_t p, const C* tiles,
                                     std::int64_t rows, C* w) {
    const std::int64_t first = p * kRows;
    if (b.guide.data == nullptr) {
        load(w, 0, b.down, first, rows);
    } else {
        constexpr decltype(&make_down<C, 0>) make[] = {make_down<C, 0>, make_down<C, 1>, make_down<C, 2>};
        C* const trust = b.guide_trust.data != nullptr ? panels.guide_trusts[0] : nullptr;
        if (trust != nullptr) load(trust, kTaller, b.guide_trust, first, rows + 1);
        if (!b.own_guide) load(panels.guides[0], kTaller, b.guide, first, rows + 1);
        make[static_cast<int>(b.metric)](b, w, b.own_guide ? tiles : panels.guides[0], trust, rows);
    }
    pad(w, rows, b.width - first);
    return any_cut(w, rows * kRows);
}

// Weights of the edges that enter each row of panel p and, after them, leave the last row: `edges` of those between are
// made here; what leaves the block is known unless that is one of them, and what enters it if `entered`, else it does
// not matter. True if some weight may be 0.
template <class C> bool weights_to_rows(const ImageBlock<C>& b, const Panels<C>& panels, std::int64_t p, const C* tiles,
                                        std::int64_t edges, bool entered, C* w) {
    const bool cuts = weights_down(b, panels, p, tiles, edges, w + kRows);
    for (std::int64_t j = 0; j < kRows; ++j) w[j] = entered ? b.entering[p * kRows + j] : C(1);
    for (std::int64_t k = (edges + 1) * kRows; k < kTile; ++k) w[k] = C(0);
    if (edges < kRows) copy_in(b.leaving + p * kRows, 0, w + kTile, 1);
    return cuts || any_cut(w, kRows) || any_cut(w + kTile, kRows);
}

// Weights of the edges from each column to the next, w[j * kRows + r], 0 from the last column on. The panel to the
// right was here before. True if some weight may be 0.
template <class C> bool weights_across(const ImageBlock<C>& b, const Panels<C>& panels, std::int64_t p, C* w) {
    constexpr int n = kWidth<C>;
    alignas(kVectorBytes) C rows[kTile];
    const std::int64_t first = p * kRows, last = b.width - 1 - first;
    if (b.guide.data == nullptr) {
        load(rows, 0, b.across, first, kRows);
    } else {
        constexpr decltype(&make_across<C, 0>) make[] = {make_across<C, 0>, make_across<C, 1>, make_across<C, 2>};
        C* const trust = b.guide_trust.data != nullptr ? panels.guide_trusts[p % 2] : nullptr;
        if (trust != nullptr) load(trust, kTaller, b.guide_trust, first, kRows);
        if (!b.own_guide) load(panels.guides[p % 2], kTaller, b.guide, first, kRows);
        const std::int64_t right = p + 1 < panels.count ? p + 1 : p;
        make[static_cast<int>(b.metric)](b, rows, b.own_guide ? panels.tile(p) : panels.guides[p % 2],
                                         b.own_guide ? panels.tile(right) : panels.guides[1 - p % 2], trust,
                                         panels.guide_trusts[1 - p % 2]);
    }
    pad(rows, b.rows, last);
    const bool cuts = any_cut(rows, b.rows * kRows);
    for (int j = 0; j < kRows; j += n)
        for (int r = 0; r < kRows; r += n) {
            Vec<C> v[n];
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) v[k] = load_vector(rows + (r + k) * kRows + j);
            transpose<C>(v);
#pragma GCC unroll 16
            for (int k = 0; k < n; ++k) store_vector(w + (j + k) * kRows + r, v[k]);
        }
    // Nothing comes back over these edges, whatever crosses them: beyond there are 0 and, in a field of ones, 1.
    for (std::int64_t j = last < 0 ? 0 : last; j < kRows; ++j)
        for (int r = 0; r < kRows; ++r) w[j * kRows + r] = C(0);
    return cuts;
}

// ---- sums

// n columns of kWidth rows of a tile, from row r on, in v[0 .. kRows).
template <class C, bool ones> __attribute__((always_inline)) inline void load_columns(const C* x, int r, Vec<C>* v) {
    constexpr int n = kWidth<C>;
#pragma GCC unroll 16
    for (int j = 0; j < kRows; j += n) {
#pragma GCC unroll 16
        for (int k = 0; k < n; ++k) v[j + k] = ones ? splat(C(1)) : load_vector(x + (r + k) * kRows + j);
        if constexpr (!ones) transpose<C>(v + j);
    }
}

// (4) B of the first column of a panel in place of B of the column after the last.
template <class C, bool cuts, bool ones> void leave_left(const C* x, const C* w, C* backward) {
    for (int r = 0; r < kRows; r += kWidth<C>) {
        Vec<C> v[kRows];
        load_columns<C, ones>(x, r, v);
        Vec<C> b = load_vector(backward + r);
#pragma GCC unroll 16
        for (int j = kRows - 1; j >= 0; --j) {
            const Vec<C> weight = load_vector(w + j * kRows + r);
            b = fused(weight, across_edge<cuts>(weight, b), v[j]);
        }
        store_vector(backward + r, b);
    }
}

// What finish(sum, place in the tile) makes of x + w F + w B along the rows of a panel (5) and down its columns. Along
// rows `before` are the weights that enter the panel, forward is F of the column before it and becomes F of its last,
// backward is B of the column after it; `down` has the weights that enter each row and those that leave the last, above
// and below are F and B of the rows beyond those, and last and first become F of the last row and B of the first. Both
// sweeps of a direction in one loop, so that their chains overlap: up to where they meet each leaves its own sum, then
// each finds the other's.
template <class C, bool cuts, bool ones, class Finish>
__attribute__((always_inline)) inline void filter_panel(const C* x, const C* across, const C* before, C* forward,
                                                        const C* backward, const C* down, const C* above,
                                                        const C* below, C* last, C* first, const Finish& finish) {
    constexpr int n = kWidth<C>;
    Vec<C> s[kVectors<C>][kRows];
    for (int part = 0; part < kVectors<C>; ++part) {
        const int r = part * n;
        Vec<C> v[kRows], *const sums = s[part];
        load_columns<C, ones>(x, r, v);
        Vec<C> f = load_vector(forward + r), b = load_vector(backward + r), weight = load_vector(before + r);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
            const int j = kRows - 1 - i;
            f = fused(weight, across_edge<cuts>(weight, f), v[i]);
            weight = load_vector(across + i * kRows + r);
            sums[i] = i < j ? f : fused(weight, sums[i], f);
            const Vec<C> after = load_vector(across + j * kRows + r);
            b = across_edge<cuts>(after, b);
            sums[j] = i < j ? b : fused(after, b, sums[j]);
            b = fused(after, b, v[j]);
        }
        store_vector(forward + r, f);
#pragma GCC unroll 16
        for (int j = 0; j < kRows; j += n) transpose<C>(sums + j);
    }
    for (int part = 0; part < kVectors<C>; ++part) {
        const int j = part * n;
        const auto value = [&](int at) { return ones ? splat(C(1)) : load_vector(x + at); };
        Vec<C> f = load_vector(above + j), b = load_vector(below + j);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
            const int k = kRows - 1 - i, top = i * kRows + j, bottom = k * kRows + j;
            Vec<C>&at = s[i / n][j + i % n], &opposite = s[k / n][j + k % n];
            const Vec<C> enters = load_vector(down + top), leaves = load_vector(down + bottom + kRows);
            f = across_edge<cuts>(enters, f);
            b = across_edge<cuts>(leaves, b);
            at = fused(enters, f, at);
            opposite = fused(leaves, b, opposite);
            f = fused(enters, f, value(top));
            b = fused(leaves, b, value(bottom));
            if (i >= kRows / 2) {
                finish(at, top);
                finish(opposite, bottom);
            }
        }
        store_vector(last + j, f);
        store_vector(first + j, b);
    }
}

// ---- blocks

// x of a panel as the sums take it, and the confidence after it.
template <class C>
void load_trusted(const ImageBlock<C>& b, const Panels<C>& panels, std::int64_t p, std::int64_t rows, C* tiles) {
    load(tiles, kTaller, b.x, p * kRows, rows);
    if (!panels.trusts) return;
    C* const c = tiles + panels.planes * kTaller;
    load(c, kTaller, b.trust, p * kRows, kRows);
    for (int plane = 0; plane < panels.planes; ++plane)
        for (int k = 0; k < kTile; ++k) tiles[plane * kTaller + k] = trusted(c[k], tiles[plane * kTaller + k]);
}

// Asks for what flows in, or out, two panels further on: of each plane it is another stream.
template <int write, class C> void fetch_flow(const C* flow, int fields, std::int64_t stride, std::int64_t first) {
    for (int field = 0; field < fields; ++field)
        __builtin_prefetch(flow + field * stride + first + 2 * kRows, write, 3);
}

// Calls run<cuts, ones>.
template <class F> void choose(bool cuts, bool ones, const F& run) {
    if (cuts)
        ones ? run.template operator()<true, true>() : run.template operator()<true, false>();
    else
        ones ? run.template operator()<false, true>() : run.template operator()<false, false>();
}

// Rows of n planes for each part of what is asked for, of 12 to 16 lines.
constexpr int rows_of_part(int n) { return n < 3 ? kRows / n : 4; }

// A whole panel of flow_through for n planes without gaps in their rows that are their own guide: weights are made of
// these rows as they are needed, and nothing else leaves the registers.
template <class C, bool downward, int metric, int n> void
flow_at_once(const ImageBlock<C>& b, std::int64_t first, const C* from, C* to, std::int64_t stride, Soon<0>& next_x) {
    const Fall<C> fall(b.steps[0], b.scales[0]);
    const int fields = b.makes_support ? n + 1 : n;
    for (std::int64_t j = first; j < first + kRows; j += kWidth<C>) {
        const auto row = [&](std::int64_t r, int k) __attribute__((always_inline)) {
            return load_vector(static_cast<const C*>(b.x.data) + b.x.offsets[k] + r * b.x.row_stride + j);
        };
        Vec<C> flow[n + 1] = {};
        for (int k = 0; k < fields; ++k) flow[k] = load_vector(from + k * stride + j);
        const auto enter = [&](std::int64_t r, Vec<C> w) __attribute__((always_inline)) {
#pragma GCC unroll 5
            for (int k = 0; k <= n; ++k)
                flow[k] = fused(w, across_edge<true>(w, flow[k]), k < n ? row(r, k) : splat(C(1)));
        };
        // Edge i in the order of the walk: it leaves row i downward, and enters row kRows - 1 - i upward.
        const auto distance = [&](std::int64_t i) __attribute__((always_inline)) {
            const std::int64_t r = downward ? i : kRows - 1 - i;
            Vec<C> d{};
            for (int k = 0; k < n; ++k) d = add_distance<metric>(d, row(r + 1, k) - row(r, k));
            return d;
        };
        if (downward) enter(0, load_vector(b.entering + j));
        each_weight<C, metric == 0>(kRows, fall, distance,
                                    [&](std::int64_t i, Vec<C> w) __attribute__((always_inline)) {
                                        if (i % rows_of_part(n) == 0) next_x.part();
                                        if (i == (downward ? kRows - 1 : 0)) store_vector(b.leaving + j, w);
                                        if (!downward || i < kRows - 1) enter(downward ? i + 1 : kRows - 1 - i, w);
                                    });
        for (int k = 0; k < fields; ++k) store_vector(to + k * stride + j, flow[k]);
    }
}

// That for a block, or null where it does not serve.
template <class C, bool downward> using FlowAtOnce = decltype(&flow_at_once<C, downward, 0, 1>);
template <class C, bool downward> FlowAtOnce<C, downward> flow_at_once_of(const ImageBlock<C>& b) {
    constexpr FlowAtOnce<C, downward> of[3][4] = {{flow_at_once<C, downward, 0, 1>, flow_at_once<C, downward, 0, 2>,
                                                   flow_at_once<C, downward, 0, 3>, flow_at_once<C, downward, 0, 4>},
                                                  {flow_at_once<C, downward, 1, 1>, flow_at_once<C, downward, 1, 2>,
                                                   flow_at_once<C, downward, 1, 3>, flow_at_once<C, downward, 1, 4>},
                                                  {flow_at_once<C, downward, 2, 1>, flow_at_once<C, downward, 2, 2>,
                                                   flow_at_once<C, downward, 2, 3>, flow_at_once<C, downward, 2, 4>}};
    const bool serves = b.own_guide && b.linked && b.x.dtype == dtype_of<C>::value && b.x.column_stride == 1;
    return serves && b.x.planes <= 4 ? of[static_cast<int>(b.metric)][b.x.planes - 1] : nullptr;
}

// (4) F of the last row of a block from F of the row above, or B of the first from B of the row below, down the
// columns.
template <class C, bool downward> void flow_through(const ImageBlock<C>& b, const C* from, C* to, std::int64_t stride) {
    constexpr int n = kWidth<C>;
    const Panels<C> panels(b);
    const auto at_once = flow_at_once_of<C, downward>(b);
    const std::int64_t parts = at_once != nullptr ? kVectors<C> * kRows / rows_of_part(panels.planes) : panels.fields;
    const Chunks chunks{panels.count, b.chunk};
    std::int64_t chunk = 0, until = 0;
    Soon<0> next_x, next_guide;
    alignas(64) C w[kTile + kRows]; // of the edges that enter each row and leave the last
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const std::int64_t first = p * kRows;
        if (p == until) {
            const std::int64_t c = chunk++;
            const bool last = chunks.is_last(c); // the next block begins at the left as well
            const std::int64_t next = last ? 0 : chunk;
            until = chunks.end(c);
            // Of what weights are made of, the row after the block is read as well, and downward is there already.
            const std::int64_t row = last ? b.next : 0, after = downward ? 1 : 0;
            next_x = ask_for<0>(b.x, row + (b.own_guide ? after : 0), chunks, next, c, parts, p);
            if (!b.own_guide) next_guide = ask_for<0>(b.guide, row + after, chunks, next, c, parts, p);
        }
        fetch_flow<0>(from, panels.fields, stride, first);
        fetch_flow<1>(to, panels.fields, stride, first);
        if (at_once != nullptr && first + kRows <= b.width) {
            at_once(b, first, from, to, stride, next_x);
            continue;
        }
        C* const tiles = panels.tile(0); // one after the other
        load_trusted(b, panels, p, b.own_guide ? kRows + 1 : kRows, tiles);
        const bool cuts_here = weights_to_rows(b, panels, p, tiles, b.linked ? b.rows : b.rows - 1, downward, w);
        if (b.linked) copy_in(w + kTile, 0, b.leaving + first, 1);
        for (int field = 0; field < panels.fields; ++field) {
            next_x.part();
            next_guide.part();
            const C* const x = tiles + field * kTaller;
            choose(cuts_here, panels.ones(field), [&]<bool cuts, bool ones>() __attribute__((always_inline)) {
                for (int j = 0; j < kRows; j += n) {
                    Vec<C> flow = load_vector(from + field * stride + first + j);
#pragma GCC unroll 16
                    for (int i = 0; i < kRows; ++i) {
                        const int r = downward ? i : kRows - 1 - i;
                        const Vec<C> weight = load_vector(w + (downward ? r : r + 1) * kRows + j);
                        const Vec<C> value = ones ? splat(C(1)) : load_vector(x + r * kRows + j);
                        flow = fused(weight, across_edge<cuts>(weight, flow), value);
                    }
                    store_vector(to + field * stride + first + j, flow);
                }
            });
        }
    }
}

template <class C, int n> void join_row(const Panels<C>& panels, std::int64_t r) {
    for (std::int64_t p = 0; p < panels.count; ++p)
        join<C, C, n>(panels.tile(p) + r * kRows, kTaller, panels.row + p * kRows * n);
}

// y, from where it is gathered.
template <class C> void stream_rows(const ImageBlock<C>& b) {
    const Panels<C> panels(b);
    constexpr decltype(&join_row<C, 2>) join_into[] = {join_row<C, 2>, join_row<C, 3>, join_row<C, 4>};
    C* const y = static_cast<C*>(b.y.data);
    for (std::int64_t r = 0; b.y.mixed && r < b.rows; ++r) {
        join_into[panels.planes - 2](panels, r);
        stream_copy(panels.row, y + r * b.y.row_stride, b.width * panels.planes);
    }
    for (int plane = 0; !b.y.mixed && plane < panels.planes; ++plane)
        for (std::int64_t r = 0; r < b.rows; ++r) {
            for (std::int64_t p = 0; p < panels.count; ++p)
                copy_in(panels.tile(p) + plane * kTaller + r * kRows, 0, panels.row + p * kRows, 1);
            stream_copy(panels.row, y + b.y.offsets[plane] + r * b.y.row_stride, b.width);
        }
    finish_stream();
}

// B of the column after a panel.
template <class C> C* checkpoint(const Panels<C>& panels, std::int64_t p, int field) {
    return panels.checkpoints + (p * panels.fields + field) * kRows;
}

template <class C> void bring_in(const ImageBlock<C>& b) {
    const Panels<C> panels(b);
    const Chunks chunks{panels.count, b.chunk};
    Soon<0> x, guide;
    Soon<1> y;
    std::int64_t chunk = chunks.of(panels.count - 1), begin = panels.count; // of the last chunk that was entered
    for (int k = 0; k < panels.fields * kRows; ++k) panels.carry[k] = C(0);
    for (std::int64_t p = panels.count - 1; p >= 0; --p) {
        if (p + 1 == begin) {
            const std::int64_t c = chunk--;
            begin = chunks.begin(c);
            if (c > 0) x = ask_for<0>(b.x, 0, chunks, c - 1, c, panels.fields, begin);
            if (c > 0 && !b.own_guide) guide = ask_for<0>(b.guide, 0, chunks, c - 1, c, panels.fields, begin);
            if (c == 0 && !b.streams) // where the second walk begins
                y = ask_for<1>(b.y, 0, chunks, 0, 0, panels.fields, begin);
        }
        C* const tiles = panels.tile(p);
        load_trusted(b, panels, p, kRows, tiles);
        C* const across = panels.across + p * kTile;
        const bool cuts_here = weights_across(b, panels, p, across);
        panels.cuts[p] = cuts_here ? C(1) : C(0);
        for (int field = 0; field < panels.fields; ++field) {
            if (begin > 0) {
                x.part();
                guide.part();
            } else {
                y.part();
            }
            C* const carry = panels.carry + field * kRows;
            for (int k = 0; k < kRows; ++k) checkpoint(panels, p, field)[k] = carry[k];
            choose(cuts_here, panels.ones(field), [&]<bool cuts, bool ones>() __attribute__((always_inline)) {
                leave_left<C, cuts, ones>(tiles + field * kTaller, across, carry);
            });
        }
    }
    for (int k = 0; k < panels.fields * kRows; ++k) panels.carry[k] = C(0); // F before the first column
}

template <class C>
void filter_panels(const ImageBlock<C>& b, const ImageFlows<C>& flows, std::int64_t begin, std::int64_t end) {
    const Panels<C> panels(b);
    const Chunks chunks{panels.count, b.chunk};
    Soon<0> next_x, next_guide;
    Soon<1> y;
    std::int64_t chunk = chunks.of(begin), until = begin;
    constexpr C nothing_before[kRows] = {};
    alignas(64) C reciprocals[kTile], down[kTile + kRows], unused[kRows];
    for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t first = p * kRows;
        if (p == until) {
            const std::int64_t c = chunk++;
            const bool last = chunks.is_last(c); // where the next block begins
            until = chunks.end(c);
            if (last) next_x = ask_for<0>(b.x, b.next, chunks, c, c, panels.fields, p);
            if (last && !b.own_guide) next_guide = ask_for<0>(b.guide, b.next, chunks, c, c, panels.fields, p);
            if (!last && !b.streams) y = ask_for<1>(b.y, 0, chunks, c + 1, c, panels.fields, p);
        }
        fetch_flow<0>(flows.above, panels.fields, flows.stride, first);
        fetch_flow<0>(flows.below, panels.fields, flows.stride, first);
        C* const tiles = panels.tile(p);
        const C* const across = panels.across + p * kTile;
        const C* const before = p > 0 ? across - kRows : nothing_before;
        const bool any = weights_to_rows(b, panels, p, tiles, b.rows - 1, true, down) || panels.cuts[p] != C(0) ||
                         (p > 0 && panels.cuts[p - 1] != C(0));
        const auto filter = [&](int field, const auto& finish) __attribute__((always_inline)) {
            if (until < panels.count) {
                y.part();
            } else {
                next_x.part();
                next_guide.part();
            }
            C* const above = flows.above + field * flows.stride + first;
            C* const below = flows.below + field * flows.stride + first;
            choose(any, panels.ones(field), [&]<bool cuts, bool ones>() __attribute__((always_inline)) {
                filter_panel<C, cuts, ones>(tiles + field * kTaller, across, before, panels.carry + field * kRows,
                                            checkpoint(panels, p, field), down, above, below,
                                            flows.upward ? unused : above, flows.upward ? below : unused, finish);
            });
        };
        if (b.reciprocal.data != nullptr) load(reciprocals, 0, b.reciprocal, first, kRows);
        if (b.makes_support) filter(panels.planes, [&](Vec<C> s, int at) { store_vector(reciprocals + at, C(1) / s); });
        if (b.makes_support && b.supported_only)
            for (int k = 0; k < kTile; ++k) // the reciprocal of a number below the least support is above
                reciprocals[k] =
                    reciprocals[k] <= C(1) / least_support<C>() && reciprocals[k] >= C(0) ? reciprocals[k] : C(-1);
        const bool divides = b.makes_support || b.reciprocal.data != nullptr;
        const bool in_place = b.streams && !b.residual && b.centres == C(1); // where x was, since it is gathered there
        for (int plane = 0; plane < panels.planes; ++plane) {
            C* const x = tiles + plane * kTaller;
            C* const result = in_place ? x : panels.results + plane * kTile;
            if (divides)
                filter(plane, [&](Vec<C> s, int at) { store_vector(result + at, s * load_vector(reciprocals + at)); });
            else
                filter(plane, [&](Vec<C> s, int at) { store_vector(result + at, s); });
            if (b.centres != C(1))
                for (int k = 0; k < kTile; ++k) result[k] += x[k];
            if (b.supported_only)
                for (int k = 0; k < kTile; ++k) result[k] = reciprocals[k] < C(0) ? b.fill : result[k];
        }
        if (b.residual) {
            // x, where there is any confidence in it, as it is in memory.
            if (panels.trusts) load(tiles, kTaller, b.x, first, kRows);
            const C* const c = tiles + panels.planes * kTaller;
            for (int plane = 0; plane < panels.planes; ++plane)
                for (int k = 0; k < kTile; ++k) {
                    const C x = tiles[plane * kTaller + k];
                    panels.results[plane * kTile + k] += panels.trusts && c[k] == C(0) ? C(0) : x;
                }
        }
        if (!b.streams) {
            store(panels.results, kTile, b.y, first);
            continue;
        }
        for (int plane = 0; !in_place && plane < panels.planes; ++plane)
            for (int k = 0; k < kTile; k += kWidth<C>)
                store_vector(tiles + plane * kTaller + k, load_vector(panels.results + plane * kTile + k));
    }
}

} // namespace

extern const ImageKernels<float> image_float{flow_through<float, true>, flow_through<float, false>, bring_in<float>,
                                             filter_panels<float>, stream_rows<float>};
extern const ImageKernels<double> image_double{flow_through<double, true>, flow_through<double, false>,
                                               bring_in<double>, filter_panels<double>, stream_rows<double>};

} // namespace sgs::SGS_ISA
