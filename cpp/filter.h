// One semi-global filter, all operands of x's rank, and the ways to run it.
#pragma once

#include <optional>
#include <vector>

#include "sgs.h"

namespace sgs {

/// A guide whose weights are made where they are used (1), (2).
struct GuideOperand {
    AnyView view; // of x's rank, broadcast along x's channels: the first of its own
    std::int64_t channels, channel_stride;
    std::vector<double> scales, steps; // one per axis
    Metric metric;
    std::optional<AnyView> confidence; // distances to where it is 0 are 0
};

struct Operands {
    AnyView x, y;
    std::optional<GuideOperand> guide; // or weights and reciprocals
    std::vector<AnyView> weights;
    std::vector<int> axes;
    FilterOptions filter;
    std::optional<AnyView> confidence;
    std::vector<AnyView> reciprocals; // one per axis for "line", one for "cross", else none
    std::int64_t sharing = 0;         // where these sums are the supports of planes: how many share them,
    bool by_neighbours = false;       // and whether those go side by side with weights of their own
    // Of one axis:
    std::optional<AnyView> sums;         // what other axes left, centre included unless each axis has its own
    std::optional<AnyView> above, below; // what flows into the lines; the edge to below is still to be crossed

    /// Whether each axis has a centre of its own.
    bool each_centre() const {
        return filter.normalization == Normalization::none || filter.normalization == Normalization::line;
    }
};

/// o with every array of values and weights replaced by change(array).
template <class F> Operands with_each(Operands o, const F& change) {
    o.x = change(o.x);
    o.y = change(o.y);
    for (AnyView& w : o.weights) w = change(w);
    for (AnyView& r : o.reciprocals) r = change(r);
    for (std::optional<AnyView>* v : {&o.confidence, &o.sums, &o.above, &o.below})
        if (*v) *v = change(**v);
    return o;
}

/// Whether y can hold sums in the computing type before they are finished: then they cost no memory.
template <class C> bool holds_sums(const Operands& o) {
    return o.y.dtype == dtype_of<C>::value && o.y.data != o.x.data;
}

/// Whether filter_planes serves: two axes.
bool is_plane_filter(const Operands& o);

/// Whether filter_planes best makes weights and supports itself, from o.guide, which may overlap y.
template <class C> bool makes_weights(const Operands& o, bool overlaps);

/// Whether filter_planes goes through all blocks (9) at once; else it leaves all but one.
template <class C> bool filters_at_once(const Operands& o);

/// (7), (8) plane by plane, both axes of a plane together.
template <class C> void filter_planes(const Operands& o, const Options& options);

/// (7), (8) of one axis, added to o.sums if there are any.
template <class C> void filter_axis(const Operands& o, const Options& options);

/// (7), (8) of three axes and more.
template <class C> void filter_volumes(const Operands& o, const Options& options);

/// The planes that filter_volumes takes first, of its first part, if it takes any.
std::optional<Operands> first_planes_of(const Operands& o);

} // namespace sgs
