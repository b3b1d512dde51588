#include "lines.h"

#include <algorithm>

namespace sgs {

AnyView broadcast(const AnyView& v, const AnyView& shape, int keep) {
    AnyView out = v;
    out.ndim = shape.ndim;
    for (int d = 0; d < shape.ndim; ++d) {
        const int from = d - (shape.ndim - v.ndim);
        const std::int64_t own = from < 0 ? 1 : v.shape[from];
        out.strides[d] = own == 1 ? 0 : v.strides[from];
        out.shape[d] = d == keep ? own : shape.shape[d];
    }
    return out;
}

AnyView narrow(const AnyView& v, int d, std::int64_t first, std::int64_t count) {
    AnyView out = v;
    out.data = v.at(first * v.strides[d]);
    out.shape[d] = count;
    return out;
}

AnyView flip(const AnyView& v, int d) {
    AnyView out = v;
    out.data = v.at(std::max<std::int64_t>(v.shape[d] - 1, 0) * v.strides[d]);
    out.strides[d] = -v.strides[d];
    return out;
}

DimOrder order_by_stride(const AnyView& v, int without) {
    DimOrder order;
    for (int d = v.ndim - 1; d >= 0; --d)
        if (d != without) order.dims[order.count++] = d;
    std::stable_sort(order.dims.begin(), order.dims.begin() + order.count,
                     [&](int a, int b) { return std::abs(v.strides[a]) < std::abs(v.strides[b]); });
    return order;
}

std::size_t row_of_two(const AnyView& v, int first, int second) {
    if (v.shape[first] == 1 || v.shape[second] == 1) return v.shape[second] > 1 ? 1 : 0;
    return std::abs(v.strides[second]) <= std::abs(v.strides[first]) ? 1 : 0;
}

Lines::Lines(const AnyView& x, int axis, const AnyView* w)
    : axis_(axis), steps_(x.shape[axis]), order_(order_by_stride(x, axis)) {
    if (w != nullptr && x.strides[axis] == 1)
        std::stable_partition(order_.dims.begin(), order_.dims.begin() + order_.count,
                              [&](int d) { return w->strides[d] == 0; });
    const DimOrder all = order_;
    order_.count = 0;
    for (int k = 0; k < all.count; ++k) {
        const int d = all.dims[k];
        if (x.shape[d] == 1) continue;
        shape_[order_.count] = x.shape[d];
        order_.dims[order_.count++] = d;
        lines_ *= x.shape[d];
    }
}

int Lines::lanes(std::int64_t tile) const {
    return static_cast<int>(std::min<std::int64_t>(kLanes, lines_ - tile * kLanes));
}

void Lines::offsets(const AnyView& operand, std::int64_t tile, std::int64_t* out) const {
    const int count = lanes(tile);
    if (order_.count == 0) {
        out[0] = 0;
        return;
    }
    std::int64_t index[kMaxDims], stride[kMaxDims], rest = tile * kLanes, offset = 0;
    for (int k = 0; k < order_.count; ++k) {
        stride[k] = operand.strides[order_.dims[k]];
        index[k] = rest % shape_[k];
        rest /= shape_[k];
        offset += index[k] * stride[k];
    }
    for (int l = 0; l < count;) {
        // Along the first dimension to its end, then a step along the next.
        const std::int64_t left = shape_[0] - index[0];
        for (const int end = static_cast<int>(std::min<std::int64_t>(count, l + left)); l < end; ++l) {
            out[l] = offset;
            offset += stride[0];
        }
        offset -= shape_[0] * stride[0];
        index[0] = 0;
        for (int k = 1; k < order_.count; ++k) {
            offset += stride[k];
            if (++index[k] < shape_[k]) break;
            offset -= index[k] * stride[k];
            index[k] = 0;
        }
    }
}

} // namespace sgs
