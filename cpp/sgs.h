// Semi-global shape-aware aggregation: views on strided memory and the functions on them. Equation numbers:
// docs/math.md.
//
// The core trusts its callers: shapes, axes and dtypes are checked where the user's arrays come in. Common rules:
//  - y has x's shape and dtype; it may be exactly x (same address and strides), no other overlap with an input.
//  - Inputs other than x broadcast to the shape that is named, right-aligned; a broadcast dimension costs no memory.
//  - Sums are in compute_t of x (double for double, else float); other operands are converted to it as they are read.
//  - An edge of weight 0 cuts the line: nothing crosses it, not even NaN.
//  - Results do not depend on the number of threads, bit for bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace sgs {

struct Half {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

enum class DType : int { float16 = 0, bfloat16 = 1, float32 = 2, float64 = 3 };

template <class T> struct dtype_of;
template <> struct dtype_of<Half> : std::integral_constant<DType, DType::float16> {};
template <> struct dtype_of<BFloat16> : std::integral_constant<DType, DType::bfloat16> {};
template <> struct dtype_of<float> : std::integral_constant<DType, DType::float32> {};
template <> struct dtype_of<double> : std::integral_constant<DType, DType::float64> {};

template <class T> using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr std::size_t item_size(DType t) {
    constexpr std::array<std::size_t, 4> sizes{2, 2, 4, 8};
    return sizes[static_cast<std::size_t>(t)];
}

constexpr int kMaxDims = 32;

/// A strided array of any of the four dtypes: pointer, shape and strides in elements (negative and zero allowed).
struct AnyView {
    void* data = nullptr;
    DType dtype = DType::float32;
    int ndim = 0;
    std::array<std::int64_t, kMaxDims> shape{};
    std::array<std::int64_t, kMaxDims> strides{};

    std::int64_t size() const {
        std::int64_t n = 1;
        for (int d = 0; d < ndim; ++d) n *= shape[d];
        return n;
    }
    /// The view moved by `elements` along memory.
    void* at(std::int64_t elements) const {
        return static_cast<char*>(data) + elements * static_cast<std::int64_t>(item_size(dtype));
    }
};

/// A typed view; converts to AnyView where a function takes one.
template <class T> struct View : AnyView {
    View(T* pointer, std::span<const std::int64_t> shape_, std::span<const std::int64_t> strides_) {
        data = const_cast<std::remove_const_t<T>*>(pointer);
        dtype = dtype_of<std::remove_const_t<T>>::value;
        ndim = static_cast<int>(shape_.size());
        for (int d = 0; d < ndim; ++d) {
            shape[d] = shape_[d];
            strides[d] = strides_[d];
        }
    }
};

enum class Metric : int { euclidean = 0, cityblock = 1, sqeuclidean = 2 };

/// The metric to take distances over so many channels by: over one, the root of a square is the magnitude.
inline Metric simplest(Metric metric, std::int64_t channels) {
    return metric == Metric::euclidean && channels == 1 ? Metric::cityblock : metric;
}

/// What semi_global_filter divides by (7). cross_sum is "cross" before the division: x + sum_a N_a(x).
enum class Normalization : int { none = 0, line = 1, cross = 2, cross_sum = 3 };

struct Options {
    int num_threads = 1;
    /// Polled by the calling thread between tiles; true ends the call early (the output is then unspecified).
    bool (*cancelled)(void*) = nullptr;
    void* context = nullptr;
};

/// Thrown when Options::cancelled returned true.
struct Cancelled {};

/// (4) y = scan of x along axis with weights w (length n-1 on axis); initial (may be null) has length 1 on axis.
void scan(const AnyView& x, const AnyView& w, const AnyView& y, int axis, bool reverse, const AnyView* initial,
          const Options& options);

/// (5) y = T(x) along axis; left and right (may be null) are what flows into the first and the last element.
void line_filter(const AnyView& x, const AnyView& w, const AnyView& y, int axis, const AnyView* left,
                 const AnyView* right, const Options& options);

/// (6) aggregate towards the root, and update from it.
void tree_aggregate(const AnyView& x, const AnyView& w, const AnyView& y, int axis, std::int64_t root,
                    const Options& options);
void tree_update(const AnyView& a, const AnyView& w, const AnyView& y, int axis, std::int64_t root,
                 const Options& options);

/// (1), (2): w has the guide's shape but its number of heads on channel_axis and n-1 on axis; float or double.
/// Distances are computed in the guide's computing type. Where confidence (may be null; length n on axis) is 0 at an
/// end, d = 0.
void edge_weights(const AnyView& guide, const AnyView& w, int channel_axis, int axis, double scale, double step,
                  Metric metric, const AnyView* confidence, const Options& options);

/// The same along several axes, each with its own weights, scale and step.
void edge_weights(const AnyView& guide, std::span<const AnyView> weights, int channel_axis, std::span<const int> axes,
                  std::span<const double> scales, std::span<const double> steps, Metric metric,
                  const AnyView* confidence, const Options& options);

struct FilterOptions {
    Normalization normalization = Normalization::cross;
    bool residual = false;
    double fill_value = 0.0;
    std::int64_t blocks = 1;
};

/// (7), (8), blocks of it (9): one where there is confidence or support. weights[a] belongs to axes[a] and broadcasts
/// to x with n_a - 1 on that axis; so does confidence (cross only; may be null) to x. support (may be null) receives S
/// in compute_t of x; it has x's rank, and length 1 only where weights and confidence are broadcast.
void semi_global_filter(const AnyView& x, std::span<const AnyView> weights, const AnyView& y, std::span<const int> axes,
                        const FilterOptions& filter, const AnyView* confidence, const AnyView* support,
                        const Options& options);

/// How weights are made of a guide (1), (2): of x's rank, with its own length on channel_axis, where weights are
/// shared.
struct Guide {
    AnyView view;
    int channel_axis;
    std::span<const double> scales, steps; // one per axis of the filter
    Metric metric;
    const AnyView* confidence; // as in edge_weights
};

/// The same, one block, with weights of a guide, which need not be kept.
void semi_global_filter(const AnyView& x, const Guide& guide, const AnyView& y, std::span<const int> axes,
                        const FilterOptions& filter, const AnyView* confidence, const AnyView* support,
                        const Options& options);

// Derivatives (11): from y_bar, the derivative by y, those by the inputs. They are written, never added to what is
// there.
//  - x_bar has x's shape, every other derivative its input's own shape: summed over what that was broadcast along. Any
//  of
//    the four dtypes. Null where not wanted, but for x_bar.
//  - Inputs are those of the forward call; y is not needed, and nothing is kept between the two.

/// x_bar must be of the computing type where initial_bar is wanted.
void scan_backward(const AnyView& x, const AnyView& w, const AnyView* initial, const AnyView& y_bar,
                   const AnyView& x_bar, const AnyView* w_bar, const AnyView* initial_bar, int axis, bool reverse,
                   const Options& options);

/// x_bar must be of the computing type where left_bar or right_bar is wanted.
void line_filter_backward(const AnyView& x, const AnyView& w, const AnyView* left, const AnyView* right,
                          const AnyView& y_bar, const AnyView& x_bar, const AnyView* w_bar, const AnyView* left_bar,
                          const AnyView* right_bar, int axis, const Options& options);

/// w_bar, an input, has the dtype that the weights had. scale_bar and step_bar are single elements.
void edge_weights_backward(const AnyView& guide, const AnyView& w_bar, const AnyView* guide_bar,
                           const AnyView* scale_bar, const AnyView* step_bar, int channel_axis, int axis, double scale,
                           double step, Metric metric, const AnyView* confidence, const Options& options);

/// weights_bar has one entry for each of axes, or none.
void semi_global_filter_backward(const AnyView& x, std::span<const AnyView> weights, const AnyView& y_bar,
                                 const AnyView& x_bar, std::span<const AnyView* const> weights_bar,
                                 const AnyView* confidence_bar, std::span<const int> axes, Normalization normalization,
                                 bool residual, const AnyView* confidence, const Options& options);

/// Instruction sets: names as in "x86-64-v3", best first. set_isa returns false where the name is unknown or cannot run
/// here.
std::span<const char* const> available_isas();
const char* get_isa();
bool set_isa(const char* name);

/// True in a child after fork, where OpenMP would hang: every call then runs on one thread.
bool forked();

} // namespace sgs
