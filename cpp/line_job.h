// One axis as the kernels of kernels/line.cpp take it: lines along memory (line_rows.cpp) or side by side
// (line_columns.cpp).
#pragma once

#include "filter.h"
#include "lines.h"
#include "parallel.h"
#include "past_caches.h"

namespace sgs {

/// (7), (8): what becomes of a line filter, by the names of Operands, in the computing type.
struct Finish {
    std::optional<AnyView> sums, reciprocal, confidence;
    bool centre;        // counts, which sums may hold already
    bool divided_alone; // before sums are added
    bool residual;
    double fill_value;

    std::array<std::optional<AnyView>*, 3> operands() { return {&sums, &reciprocal, &confidence}; }
    std::array<const std::optional<AnyView>*, 3> operands() const { return {&sums, &reciprocal, &confidence}; }
};

/// A scan (4) or a line filter (5). Operands are of x's rank, stride 0 where they are broadcast. With a guide, w is its
/// view, and weights are made of it as they are needed: for lines along memory alone.
struct LineJob {
    enum class Kind { filter, scan, reverse_scan };
    AnyView x, w, y;
    int axis;
    Kind kind = Kind::filter;
    const AnyView *left = nullptr, *right = nullptr; // what flows in; a scan's `initial` is where it begins
    bool linked = false;                             // an edge follows the last element, which right is to cross
    bool normalized = false;                         // divided by T(1)
    const AnyView *ones_left = nullptr, *ones_right = nullptr; // what flows into T(1)
    bool residual = false;                                     // x is added
    const GuideOperand* guide = nullptr;
    std::optional<Finish> finish{}; // for lines side by side alone

    /// Edges of a line, with those before its first element and after its last.
    std::int64_t edges() const { return x.shape[axis] + (linked ? 1 : 0); }
};

/// Runs the job if its lines lie along memory, else returns false.
template <class C> bool run_row_lines(const LineJob& job, const Options& options);

/// Runs the job if its lines lie side by side in memory, else returns false.
template <class C> bool run_column_lines(const LineJob& job, const Options& options);

constexpr std::int64_t kPartSteps = 1024; // longer lines are taken in parts
constexpr std::int64_t kLongPiece = 2048; // bytes of a piece of y that loses little by its ragged ends

/// Some dimensions of an array, from the innermost on.
struct SomeDims {
    std::array<int, kMaxDims> dims{};
    int count = 0;
    std::int64_t product = 1;

    void add(const AnyView& v, int d) {
        dims[count++] = d;
        product *= v.shape[d];
    }
    /// Where entry `index` of an operand starts, in elements.
    std::int64_t offset(const AnyView& shape, const AnyView& v, std::int64_t index) const {
        std::int64_t out = 0;
        for (int k = 0; k < count && index > 0; ++k) {
            out += index % shape.shape[dims[k]] * v.strides[dims[k]];
            index /= shape.shape[dims[k]];
        }
        return out;
    }
    /// The same of `length` entries from `first` on, plus `base`.
    void offsets(const AnyView& shape, const AnyView& v, std::int64_t first, std::int64_t length, std::int64_t base,
                 std::int64_t* out) const {
        std::array<std::int64_t, kMaxDims> index{};
        for (int k = 0; k < count; ++k) {
            index[k] = first % shape.shape[dims[k]];
            first /= shape.shape[dims[k]];
            base += index[k] * v.strides[dims[k]];
        }
        for (std::int64_t i = 0; i < length; ++i) {
            out[i] = base;
            for (int k = 0; k < count; ++k) {
                base += v.strides[dims[k]];
                if (++index[k] < shape.shape[dims[k]]) break;
                base -= index[k] * v.strides[dims[k]];
                index[k] = 0;
            }
        }
    }
};

/// How y is best written.
template <class C> struct Writing {
    Writing(const AnyView& y, const Options& options)
        : outgrows_caches(sgs::outgrows_caches<C>(y)),
          past_caches(outgrows_caches && !cores_are_the_limit(options.num_threads)),
          asked_for(y.size() * static_cast<std::int64_t>(item_size(y.dtype)) >= kBeyondCore) {}
    bool outgrows_caches; // and is stored as it is computed
    bool past_caches;     // where that is in pieces that are worth it
    bool asked_for;       // its lines, while there are sums to make, where they are not written past the caches
};

/// A place in scratch, with room for kRows elements before, that is aligned as `target` is.
template <class C> C* aligned_like(C* scratch, const void* target) {
    return scratch + reinterpret_cast<std::uintptr_t>(target) / sizeof(C) % (64 / sizeof(C));
}

} // namespace sgs
