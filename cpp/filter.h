// One semi-global filter, all operands of x's rank, and the ways to run it.
#pragma once

#include <optional>
#include <vector>

#include "sgs.h"

namespace sgs {

struct Operands {
    AnyView x, y;
    std::vector<AnyView> weights;
    std::vector<int> axes;
    FilterOptions filter;
    std::optional<AnyView> confidence;
    std::vector<AnyView> reciprocals; // one per axis for "line", one for "cross", else none
};

/// Whether y can hold sums in the computing type before they are finished: then they cost no memory.
template <class C> bool holds_sums(const Operands& o) {
    return o.y.dtype == dtype_of<C>::value && o.y.data != o.x.data;
}

/// Whether filter_planes serves: two axes, lines that fill vectors.
bool is_plane_filter(const Operands& o);

/// (7), (8) plane by plane, both axes of a plane together.
template <class C> void filter_planes(const Operands& o, const Options& options);

} // namespace sgs
