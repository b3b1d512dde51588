// Arrays as rows along one dimension, cut into segments: for what needs no sum along lines.
#pragma once

#include <algorithm>

#include "lines.h"

namespace sgs {

constexpr std::int64_t kSegment = 1024; // elements of a row that are computed together

class Segments {
  public:
    Segments(const AnyView& shape, int row_dim) : row_dim_(row_dim), length_(shape.shape[row_dim]) {
        const DimOrder order = order_by_stride(shape, row_dim);
        for (int k = 0; k < order.count; ++k) {
            outer_[count_] = order.dims[k];
            lengths_[count_++] = shape.shape[order.dims[k]];
            rows_ *= shape.shape[order.dims[k]];
        }
    }
    std::int64_t count() const { return rows_ * per_row(); }
    /// Where in its row a segment starts.
    std::int64_t first(std::int64_t segment) const { return segment % per_row() * kSegment; }
    std::int64_t length(std::int64_t segment) const { return std::min(kSegment, length_ - first(segment)); }
    /// Where a segment lies in dimension d.
    std::int64_t position(std::int64_t segment, int d) const {
        if (d == row_dim_) return first(segment);
        std::int64_t row = segment / per_row();
        for (int k = 0; k < count_ && outer_[k] != d; ++k) row /= lengths_[k];
        return row % length_of(d);
    }
    void* address(const AnyView& v, std::int64_t segment) const {
        std::int64_t offset = first(segment) * v.strides[row_dim_];
        std::int64_t row = segment / per_row();
        for (int k = 0; k < count_; ++k) {
            offset += row % lengths_[k] * v.strides[outer_[k]];
            row /= lengths_[k];
        }
        return v.at(offset);
    }

    /// An operand's elements in a segment, and others `offset` elements from them.
    template <class C> class Row {
      public:
        Row(const Segments& s, const AnyView& v, std::int64_t segment)
            : data_(static_cast<char*>(s.address(v, segment))), stride_(v.strides[s.row_dim_]), dtype_(v.dtype) {}
        /// Whether they can be used where they are.
        bool direct() const { return dtype_ == dtype_of<C>::value && stride_ == 1; }
        char* at(std::int64_t offset) const { return data_ + offset * static_cast<std::int64_t>(item_size(dtype_)); }
        /// `count` elements where they are, or in `scratch` as the computing type.
        const C* read(C* scratch, std::int64_t offset, std::int64_t count) const {
            if (direct()) return reinterpret_cast<const C*>(at(offset));
            load(scratch, offset, count);
            return scratch;
        }
        void load(C* to, std::int64_t offset, std::int64_t count) const {
            kernels<C>().plane.load_rows[static_cast<int>(dtype_)](to, count, at(offset), 0, stride_, 1, count, 1);
        }
        void store(const C* row, std::int64_t offset, std::int64_t count) const {
            kernels<C>().plane.store_rows[static_cast<int>(dtype_)](row, count, at(offset), 0, stride_, 1, count);
        }

      private:
        char* data_;
        std::int64_t stride_;
        DType dtype_;
    };

    /// (1) d becomes the distances from the elements of a segment to those `offset` further on, over channels that lie
    /// `stride` apart. near and far are scratch.
    template <class C> static void distances(C* d, const Row<C>& values, std::int64_t offset, std::int64_t count,
                                             std::int64_t channels, std::int64_t stride, Metric metric, C* near,
                                             C* far) {
        const auto accumulate = kernels<C>().weight.accumulate_distance[static_cast<int>(metric)];
        std::fill_n(d, count, C(0));
        if (values.direct())
            accumulate(d, values.read(near, 0, count), values.read(far, offset, count), count, channels, stride);
        else
            for (std::int64_t c = 0; c < channels; ++c)
                accumulate(d, values.read(near, c * stride, count), values.read(far, c * stride + offset, count), count,
                           1, 0);
    }

  private:
    std::int64_t per_row() const { return (length_ + kSegment - 1) / kSegment; }
    std::int64_t length_of(int d) const {
        for (int k = 0; k < count_; ++k)
            if (outer_[k] == d) return lengths_[k];
        return 1;
    }
    int row_dim_;
    std::int64_t length_;
    std::array<int, kMaxDims> outer_{};
    std::array<std::int64_t, kMaxDims> lengths_{};
    int count_ = 0;
    std::int64_t rows_ = 1;
};

} // namespace sgs
