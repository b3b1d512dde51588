// The derivatives of a filter over two axes whose weights are shared by many planes: channels side by side.
#pragma once

#include "gradient.h"

namespace sgs {

/// Whether add_lanes_gradient serves: two axes, not each with a support of its own, and enough planes that share their
/// weights.
bool is_lanes_gradient(const Gradient& g);

/// As count_chunks, in whole groups of kGradientLanes planes.
std::int64_t count_lanes_chunks(const Gradient& g);

/// x_bar's shape in the order that add_lanes_gradient takes sums in: dense, rows of planes along memory.
AnyView lanes_order(const Gradient& g);

/// What add_gradient does.
void add_lanes_gradient(const Gradient& g, const Options& options);

} // namespace sgs
