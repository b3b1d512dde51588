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

/// Whether filter_planes serves: two axes, lines that fill vectors.
bool is_plane_filter(const Operands& o);

/// (7), (8) plane by plane, both axes of a plane together.
template <class C> void filter_planes(const Operands& o, const Options& options);

} // namespace sgs
