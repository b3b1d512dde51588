// Derivatives (11) along the axes of a strided array, summed over the dimensions that weights are shared along.
#pragma once

#include <optional>
#include <vector>

#include "lines.h"

namespace sgs {

using DimSet = std::array<bool, kMaxDims>;

/// What one call differentiates: y = sum over axes of the line filters of p, p = c x, some divided by supports. All
/// views have x's rank.
struct Gradient {
    AnyView x, y_bar, x_bar; // x_bar receives the derivative by x
    std::vector<int> axes;
    std::vector<AnyView> weights;
    bool one_sided = false;   // (4) in place of (5); one axis only
    bool each_centre = false; // every axis counts the centre; else only the first
    bool residual = false;
    std::optional<AnyView> left, right;     // what flows into the ends of x; one axis only
    std::optional<AnyView> confidence;      // c
    std::vector<AnyView> reciprocals;       // of the supports: for each axis, or of all together, or none
    DimSet shared{};                        // dimensions to sum over: nothing but x, y_bar and x_bar varies along them
    std::vector<AnyView> weight_sums;       // += derivative by weights, in the computing type, for each axis
    std::vector<AnyView> support_sums;      // += sum of z times the part that its support divides, as reciprocals
    std::optional<AnyView> confidence_sums; // += sum of x times the derivative by p
    std::int64_t chunks = 1;                // parts that the shared dimensions are cut into, each with sums of its own
    std::int64_t chunk_stride = 0;          // elements from one part's sums to the next one's
};

/// Adds to the sums and writes x_bar. Bitwise the same for any number of threads.
void add_gradient(const Gradient& g, const Options& options);

/// Dimensions of x, `axes` apart, along which each of `operands` (of x's rank) is broadcast.
DimSet shared_dims(const AnyView& x, std::span<const int> axes, std::span<const AnyView> operands);

/// v with length 1 in the dimensions of `dims`.
AnyView collapse(AnyView v, const DimSet& dims);

/// A number of parts for the shared dimensions, by shape alone: enough to keep threads busy.
std::int64_t count_chunks(const AnyView& x, std::span<const int> axes, const DimSet& shared);

/// Sums of a computing type with `like`'s collapsed shape, ordered in memory as it is, one for each chunk, all 0.
template <class C> class Sums {
  public:
    Sums(const AnyView& like, const DimSet& shared, std::int64_t chunks)
        : view_(collapse(like, shared)), chunks_(chunks), stride_(view_.size()), memory_(chunks * stride_) {
        std::fill_n(memory_.get(), chunks * stride_, C(0));
        view_.data = memory_.get();
        view_.dtype = dtype_of<C>::value;
        const DimOrder order = order_by_stride(like);
        std::int64_t stride = 1;
        for (int k = 0; k < order.count; ++k) {
            view_.strides[order.dims[k]] = view_.shape[order.dims[k]] > 1 ? stride : 0;
            stride *= view_.shape[order.dims[k]];
        }
    }
    /// The first chunk's.
    const AnyView& view() const { return view_; }
    C* get() const { return memory_.get(); }
    std::int64_t stride() const { return stride_; }
    /// All chunks': one dimension more, in front.
    AnyView all() const {
        AnyView v = view_;
        v.ndim += 1;
        for (int d = v.ndim - 1; d > 0; --d) {
            v.shape[d] = view_.shape[d - 1];
            v.strides[d] = view_.strides[d - 1];
        }
        v.shape[0] = chunks_;
        v.strides[0] = stride_;
        return v;
    }

  private:
    AnyView view_;
    std::int64_t chunks_;
    std::int64_t stride_;
    Buffer<C> memory_;
};

/// Writes a number to the first element of `to`.
void write(double value, const AnyView& to);

/// to = from summed, in double and in a fixed order, over the dimensions that `to` lacks or has length 1 in.
/// Right-aligned.
void sum_to(const AnyView& from, const AnyView& to, const Options& options);

} // namespace sgs
