// Sums over dimensions, in an order that depends on the shape alone.
#pragma once

#include "lines.cuh"

namespace sgs::cuda {

/// out = sum of `in` over the dimensions of domain (in's shape) that out broadcasts along.
template <class C> void sum_to(Queue& queue, const AnyView& in, const AnyView& out);

/// out = sum over g of the dense arrays in[g], each laid out as `layout` says, with layout's shape, which out has too.
template <class C> void sum_groups(Queue& queue, const AnyView& layout, C* in, std::int64_t groups, const AnyView& out);

/// (11) of y = num / S by S: out = support_bar - r sum (r y_bar) num, with r = 1 / S, 0 where there is no support. out
/// and r have the shape of the support, y_bar and num are summed over what it broadcasts along.
template <class C> void sum_support_bar(Queue& queue, const AnyView& y_bar, const AnyView& num,
                                        const AnyView& reciprocal, const AnyView* support_bar, const AnyView& out);

/// The same where in[g] are parts of sum (r y_bar) num, laid out as for sum_groups.
template <class C> void sum_support_groups(Queue& queue, const AnyView& layout, C* in, std::int64_t groups,
                                           const AnyView& reciprocal, const AnyView* support_bar, const AnyView& out);

/// (8), (11): out = from_support + sum of x trusted_bar, and 0 where confidence is 0.
template <class C> void sum_confidence_bar(Queue& queue, const AnyView& x, const AnyView& trusted_bar,
                                           const AnyView& confidence, const AnyView& from_support, const AnyView& out);

/// The same where in[g] are parts of the sum.
template <class C> void sum_confidence_groups(Queue& queue, const AnyView& layout, C* in, std::int64_t groups,
                                              const AnyView& confidence, const AnyView& from_support,
                                              const AnyView& out);

/// (8), (11): x_bar = c trusted_bar, plus residual_y_bar (may be null) where c is not 0.
template <class C> void finish_x_bar(Queue& queue, const AnyView& trusted_bar, const AnyView& confidence,
                                     const AnyView* residual_y_bar, const AnyView& x_bar);

} // namespace sgs::cuda
