// Two axes of a few planes that share their weights, as of an image (image.cpp).
#pragma once

#include "parallel.h"
#include "plane_set.h"

namespace sgs {

constexpr std::int64_t kFewPlanes = 8; // of more, each is better filtered by itself

/// Whether filter_image serves.
template <class C> bool is_image(const PlaneSet<C>& p) {
    // Supports go the way that finds them with the planes.
    return !p.line && !p.own_weights && std::max(p.group_size, p.o.sharing) <= kFewPlanes &&
           (!p.o.guide || p.o.guide->channels <= kMostPlanes);
}

/// Whether the planes of each group are their own guide.
template <class C> bool guides_itself(const PlaneSet<C>& p) {
    const AnyView& x = p.o.x;
    const GuideOperand& guide = *p.o.guide;
    bool same = guide.view.data == x.data && guide.view.dtype == x.dtype && guide.channels == p.group_size;
    for (int d = 0; d < x.ndim; ++d) same &= guide.view.strides[d] == 0 || guide.view.strides[d] == x.strides[d];
    same &= p.row_stride(guide.view) == p.row_stride(x) && p.column_stride(guide.view) == p.column_stride(x);
    for (std::int64_t k = 0; same && k < p.group_size; ++k) same &= p.offset(x, k) == k * guide.channel_stride;
    return same;
}

/// Whether that may be read while y, which is x, is written.
template <class C> bool reads_guide_before(const PlaneSet<C>& p) {
    const AnyView &x = p.o.x, &y = p.o.y;
    return is_image(p) && x.data == y.data &&
           std::equal(x.strides.begin(), x.strides.begin() + x.ndim, y.strides.begin()) && guides_itself(p);
}

template <class C> void filter_image(const PlaneSet<C>& p, const Options& options);

} // namespace sgs
