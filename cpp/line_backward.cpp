// One axis, backward (11): scan and line filter.
#include "gradient.h"

namespace sgs {
namespace {

// `sign` of the steps, so that a reverse scan is the scan of flipped lines.
AnyView run_along(const AnyView& v, int axis, bool reverse) { return reverse ? flip(v, axis) : v; }

template <class C>
void differentiate(Gradient& g, const AnyView& w, const AnyView* w_bar, bool reverse, const Options& options) {
    const int axis = g.axes[0];
    const std::int64_t n = g.x.shape[axis];
    g.shared = shared_dims(g.x, g.axes, g.weights);
    if (n == 0) g.shared.fill(false);
    g.chunks = w_bar != nullptr ? count_chunks(g.x, g.axes, g.shared) : 1;
    const Sums<C> sums(g.x_bar, g.shared, w_bar != nullptr ? g.chunks : 0);
    g.chunk_stride = sums.stride();
    if (w_bar != nullptr && n > 1)
        g.weight_sums.push_back(run_along(narrow(sums.view(), axis, 0, n - 1), axis, reverse));
    g.weights[0] = run_along(g.weights[0], axis, reverse);
    for (AnyView* v : {&g.x, &g.y_bar, &g.x_bar}) *v = run_along(*v, axis, reverse);
    add_gradient(g, options);
    if (w_bar != nullptr) sum_to(narrow(sums.all(), axis + 1, 0, w.shape[w.ndim - g.x.ndim + axis]), *w_bar, options);
}

Gradient one_axis(const AnyView& x, const AnyView& w, const AnyView& y_bar, const AnyView& x_bar, int axis) {
    Gradient g;
    g.x = x;
    g.y_bar = y_bar;
    g.x_bar = x_bar;
    g.axes = {axis};
    g.weights = {broadcast(w, x, axis)};
    return g;
}

// What flows in at an end has the derivative of that end's x.
void end_gradient(const AnyView& x_bar, int axis, bool last, const AnyView* bar, const Options& options) {
    if (bar == nullptr) return;
    const std::int64_t n = x_bar.shape[axis];
    sum_to(narrow(x_bar, axis, last ? std::max<std::int64_t>(n - 1, 0) : 0, std::min<std::int64_t>(n, 1)), *bar,
           options);
}

} // namespace

void scan_backward(const AnyView& x, const AnyView& w, const AnyView* initial, const AnyView& y_bar,
                   const AnyView& x_bar, const AnyView* w_bar, const AnyView* initial_bar, int axis, bool reverse,
                   const Options& options) {
    Gradient g = one_axis(x, w, y_bar, x_bar, axis);
    g.one_sided = true;
    if (initial != nullptr) g.left = broadcast(*initial, x, axis);
    with_compute_type(x.dtype, [&](auto zero) { differentiate<decltype(zero)>(g, w, w_bar, reverse, options); });
    end_gradient(x_bar, axis, reverse, initial_bar, options);
}

void line_filter_backward(const AnyView& x, const AnyView& w, const AnyView* left, const AnyView* right,
                          const AnyView& y_bar, const AnyView& x_bar, const AnyView* w_bar, const AnyView* left_bar,
                          const AnyView* right_bar, int axis, const Options& options) {
    Gradient g = one_axis(x, w, y_bar, x_bar, axis);
    if (left != nullptr) g.left = broadcast(*left, x, axis);
    if (right != nullptr) g.right = broadcast(*right, x, axis);
    with_compute_type(x.dtype, [&](auto zero) { differentiate<decltype(zero)>(g, w, w_bar, false, options); });
    end_gradient(x_bar, axis, false, left_bar, options);
    end_gradient(x_bar, axis, true, right_bar, options);
}

} // namespace sgs
