// Derivatives of the semi-global filter (7), (8), (11): two axes together where that can be, else axis by axis. With z
// = y_bar / S, the line filters being their own adjoints:
//   x_bar = c (z + sum_a N_a(z)) [+ y_bar],   S_bar = support_bar - sum_channels z num / S,
//   c_bar = sum_channels x (z + sum_a N_a(z)) + S_bar + sum_a N_a(S_bar),
// and each weight's derivative has a part from (c x, z) and one from (c, S_bar). With "line" each axis has a z, num and
// S of its own.
#include "filter.cuh"
#include "lines_backward.cuh"
#include "plane_backward.cuh"
#include "sum.cuh"

namespace sgs::cuda {

namespace {

template <class C> class Backward {
  public:
    Backward(Queue& queue, const Block& block, const AnyView& y_bar, const FilterOptions& filter)
        : queue_(queue), block_(block), y_bar_(y_bar), filter_(filter), source_{&block.x, block.confidence} {}

    void run(const AnyView* support_bar, const AnyView* x_bar, std::span<const AnyView> weights_bar,
             const AnyView* confidence_bar) {
        const bool line = filter_.normalization == Normalization::line;
        const bool cross = filter_.normalization == Normalization::cross;
        reciprocals_ = make_reciprocals<C>(queue_, block_, filter_.normalization, 0.0, nullptr);
        const AnyView* reciprocal = cross ? &reciprocals_[0] : nullptr;
        bool any_weight = false;
        for (const AnyView& w : weights_bar) any_weight = any_weight || wanted(w);

        if (block_.axes.size() == 2) {
            const int a = block_.axes[0], b = block_.axes[1];
            if (line && takes_planes_backward<C>(block_.x, a, b, kept_sums(weights_bar))) {
                line_by_planes(x_bar, weights_bar);
                return;
            }
            if (!line && (any_weight || confidence_bar != nullptr) &&
                takes_planes_backward<C>(block_.x, a, b, cross ? 1 : 0)) {
                by_planes(reciprocal, support_bar, x_bar, weights_bar, confidence_bar);
                return;
            }
        }

        AnyView support_sum;
        if (cross && (any_weight || confidence_bar != nullptr)) {
            support_sum = scratch(block_.support_shape);
            const std::size_t mark = queue_.mark();
            const AnyView num = scratch(block_.x);
            run_axes<C>(queue_, block_.x, block_, source_, true, {}, num, num, Epilogue{});
            sum_support_bar<C>(queue_, y_bar_, num, *reciprocal, support_bar, support_sum);
            queue_.release(mark);
        }

        // Where confidence acts, the derivative by c x is kept as it is until the end; so are sums that x_bar cannot
        // hold.
        const std::size_t count = block_.axes.size();
        const bool whole = block_.trusts();
        AnyView sums;
        if (whole || (x_bar != nullptr && count > 1)) {
            const bool fits = !whole && x_bar->dtype == dtype_of<C>::value && x_bar->data != y_bar_.data;
            sums = fits ? *x_bar : scratch(block_.x);
        }
        const AnyView* target = whole ? &sums : x_bar;
        AnyView support_sums; // S_bar + sum_a N_a(S_bar)
        if (confidence_bar != nullptr) support_sums = scratch(block_.support_shape);

        // Without derivatives by weights x_bar is a filter of z.
        const bool plain = !any_weight && !line;
        if (plain) {
            Epilogue last;
            last.residual = filter_.residual && !whole;
            const bool once = filter_.normalization != Normalization::none;
            if (target != nullptr)
                run_axes<C>(queue_, block_.x, block_, Source{&y_bar_, reciprocal}, once, {}, sums, *target, last);
            if (confidence_bar != nullptr)
                run_axes<C>(queue_, block_.support_shape, block_, Source{&support_sum, nullptr}, true, {}, support_sums,
                            support_sums, Epilogue{});
        }
        for (std::size_t k = 0; k < count && !plain; ++k) {
            const Source z{&y_bar_, cross ? reciprocal : line ? &reciprocals_[k] : nullptr};
            BackwardOutputs<C> outputs;
            outputs.x_bar = k + 1 < count && target != nullptr ? &sums : target;
            outputs.sum = k > 0 && target != nullptr ? &sums : nullptr;
            outputs.with_source = k == 0 || filter_.normalization == Normalization::none || line;
            outputs.residual = filter_.residual && !whole && k + 1 == count;
            BackwardOutputs<C> of_support;
            of_support.x_bar = confidence_bar != nullptr ? &support_sums : nullptr;
            of_support.sum = k > 0 ? of_support.x_bar : nullptr;
            of_support.with_source = k == 0;
            if (wanted(weights_bar, k)) {
                const std::size_t mark = queue_.mark();
                if (line) support_sum = line_support_bar(k);
                weight(k, z, weights_bar[k], cross || line ? &support_sum : nullptr, outputs, of_support);
                queue_.release(mark);
            } else {
                filter(block_.x, k, z, outputs);
                if (of_support.x_bar != nullptr)
                    filter(block_.support_shape, k, Source{&support_sum, nullptr}, of_support);
            }
        }
        if (whole && x_bar != nullptr)
            finish_x_bar<C>(queue_, sums, *block_.confidence, filter_.residual ? &y_bar_ : nullptr, *x_bar);
        if (confidence_bar != nullptr) {
            const AnyView full = scratch(block_.support_shape);
            sum_confidence_bar<C>(queue_, block_.x, sums, *block_.confidence, support_sums, full);
            sum_to<C>(queue_, full, *confidence_bar);
        }
    }

  private:
    static bool wanted(const AnyView& v) { return v.ndim >= 0 && v.size() > 0; }
    static bool wanted(std::span<const AnyView> weights_bar, std::size_t k) {
        return !weights_bar.empty() && wanted(weights_bar[k]);
    }

    AnyView scratch(const AnyView& like) { return dense_like(like, queue_.take<C>(like.size()), dtype_of<C>::value); }

    static int kept_sums(std::span<const AnyView> weights_bar) {
        return (wanted(weights_bar, 0) ? 1 : 0) + (wanted(weights_bar, 1) ? 1 : 0);
    }

    // Both axes at once: x and y_bar are read once and x_bar is written once where a plane fits into shared memory.
    void by_planes(const AnyView* reciprocal, const AnyView* support_bar, const AnyView* x_bar,
                   std::span<const AnyView> weights_bar, const AnyView* confidence_bar) {
        const AnyView& kept = block_.support_shape;
        const bool divides = reciprocal != nullptr;
        const int a = block_.axes[0], b = block_.axes[1];
        const PlaneBackwardPlan plan = plan_planes_backward<C>(block_.x, a, b, kept, divides ? 1 : 0);
        const std::int64_t parts = plan.groups + (divides ? 1 : 0);
        PlaneBackwardOutputs<C> outputs;
        AnyView edges[2];
        for (std::size_t k = 0; k < 2; ++k) {
            edges[k] = dense_like(edges_of(kept, block_.axes[k]), nullptr, dtype_of<C>::value);
            if (wanted(weights_bar, k)) outputs.weights[k] = queue_.take<C>(parts * edges[k].size());
        }
        outputs.x_bar = x_bar;
        outputs.confidence = block_.confidence;
        outputs.times = filter_.normalization == Normalization::none ? 2 : 1;
        outputs.residual = filter_.residual;
        if (divides) outputs.supports[0] = queue_.take<C>(plan.groups * kept.size());
        if (confidence_bar != nullptr) outputs.confidences = queue_.take<C>(plan.groups * kept.size());
        run_planes_backward<C>(queue_, block_.x, a, b, kept, source_, Source{&y_bar_, reciprocal}, block_.weights[0],
                               block_.weights[1], {}, plan, outputs);

        AnyView support_sums; // S_bar + sum_a N_a(S_bar)
        if (divides) {
            const AnyView support_sum = scratch(kept);
            sum_support_groups<C>(queue_, support_sum, outputs.supports[0], plan.groups, *reciprocal, support_bar,
                                  support_sum);
            PlaneBackwardOutputs<C> of_support;
            if (confidence_bar != nullptr) {
                support_sums = scratch(kept);
                of_support.x_bar = &support_sums;
            }
            for (std::size_t k = 0; k < 2; ++k)
                if (outputs.weights[k] != nullptr)
                    of_support.weights[k] = outputs.weights[k] + plan.groups * edges[k].size();
            const PlaneBackwardPlan support_plan = plan_planes_backward<C>(kept, a, b, kept, 0);
            run_planes_backward<C>(queue_, kept, a, b, kept, Source{nullptr, block_.confidence},
                                   Source{&support_sum, nullptr}, block_.weights[0], block_.weights[1], {},
                                   support_plan, of_support);
        }
        for (std::size_t k = 0; k < 2; ++k)
            if (wanted(weights_bar, k)) sum_parts_to(edges[k], outputs.weights[k], parts, weights_bar[k]);
        if (confidence_bar != nullptr) {
            const AnyView full = scratch(kept);
            sum_confidence_groups<C>(queue_, full, outputs.confidences, plan.groups, *block_.confidence, support_sums,
                                     full);
            sum_to<C>(queue_, full, *confidence_bar);
        }
    }

    // "line": S_a = T_a(1), so its derivative is - sum_channels (y_bar / S_a) T_a(x) / S_a, and each axis' weights have
    // a part from (1, S_a's derivative), found along lines, once for all channels.
    void line_by_planes(const AnyView* x_bar, std::span<const AnyView> weights_bar) {
        const AnyView& kept = block_.support_shape;
        const int a = block_.axes[0], b = block_.axes[1];
        const int sums = kept_sums(weights_bar);
        const PlaneBackwardPlan plan = plan_planes_backward<C>(block_.x, a, b, kept, sums);
        PlaneBackwardOutputs<C> outputs;
        outputs.x_bar = x_bar;
        outputs.residual = filter_.residual;
        AnyView edges[2];
        for (std::size_t k = 0; k < 2; ++k) {
            if (!wanted(weights_bar, k)) continue;
            edges[k] = dense_like(edges_of(kept, block_.axes[k]), nullptr, dtype_of<C>::value);
            outputs.weights[k] = queue_.take<C>((plan.groups + 1) * edges[k].size());
            outputs.supports[k] = queue_.take<C>(plan.groups * kept.size());
        }
        // x takes part in derivatives by weights alone.
        run_planes_backward<C>(queue_, block_.x, a, b, kept, sums > 0 ? source_ : Source{}, Source{&y_bar_, nullptr},
                               block_.weights[0], block_.weights[1], reciprocals_, plan, outputs);
        for (std::size_t k = 0; k < 2; ++k) {
            if (!wanted(weights_bar, k)) continue;
            const int axis = block_.axes[k];
            const AnyView support_sum = scratch(kept);
            sum_support_groups<C>(queue_, support_sum, outputs.supports[k], plan.groups, reciprocals_[k], nullptr,
                                  support_sum);
            AnyView part = edges[k];
            part.data = outputs.weights[k] != nullptr ? outputs.weights[k] + plan.groups * part.size() : nullptr;
            const AnyView w = repeated(block_.weights[k], part);
            run_backward<C>(queue_, kept, axis, Source{}, Source{&support_sum, nullptr}, w, true, true, nullptr,
                            nullptr, plan_backward<C>(kept, axis, w), nullptr, &part, BackwardOutputs<C>{});
            sum_parts_to(edges[k], outputs.weights[k], plan.groups + 1, weights_bar[k]);
        }
    }

    // v along all that `shape` has more.
    static AnyView repeated(const AnyView& v, AnyView shape) {
        const int missing = shape.ndim - v.ndim;
        for (int d = 0; d < shape.ndim; ++d)
            shape.strides[d] = d < missing || v.shape[d - missing] == 1 ? 0 : v.strides[d - missing];
        shape.data = v.data;
        shape.dtype = v.dtype;
        return shape;
    }

    // out may broadcast along more than the parts are summed over already.
    void sum_parts_to(const AnyView& layout, C* in, std::int64_t parts, const AnyView& out) {
        if (out.size() == layout.size()) {
            sum_groups<C>(queue_, layout, in, parts, out);
            return;
        }
        const AnyView whole = scratch(layout);
        sum_groups<C>(queue_, layout, in, parts, whole);
        sum_to<C>(queue_, whole, out);
    }

    // "line": S_a = T_a(1), so its derivative is - sum_channels (y_bar / S_a) T_a(x) / S_a.
    AnyView line_support_bar(std::size_t k) {
        const AnyView bar = scratch(block_.support_shape);
        const std::size_t mark = queue_.mark();
        const AnyView filtered = scratch(block_.x);
        run_lines<C>(queue_, block_.x, block_.axes[k], source_, block_.weights[k], filtered, block_.ranges(k),
                     Epilogue{});
        sum_support_bar<C>(queue_, y_bar_, filtered, reciprocals_[k], nullptr, bar);
        queue_.release(mark);
        return bar;
    }

    // Without derivatives by weights: the forward filter on z.
    void filter(const AnyView& domain, std::size_t k, const Source& z, const BackwardOutputs<C>& outputs) {
        if (outputs.x_bar == nullptr) return;
        Epilogue epilogue;
        epilogue.with_source = outputs.with_source;
        epilogue.sum = outputs.sum;
        epilogue.residual = outputs.residual;
        run_lines<C>(queue_, domain, block_.axes[k], z, block_.weights[k], *outputs.x_bar, block_.ranges(k), epilogue);
    }

    // w_bar from the values, and from the support where there is a division.
    void weight(std::size_t k, const Source& z, const AnyView& w_bar, const AnyView* support_sum,
                const BackwardOutputs<C>& outputs, const BackwardOutputs<C>& of_support) {
        const int axis = block_.axes[k];
        const AnyView& w = block_.weights[k];
        const BackwardPlan values = plan_backward<C>(block_.x, axis, w);
        const BackwardPlan supports = plan_backward<C>(block_.support_shape, axis, w);
        const std::int64_t groups = values.groups + (support_sum != nullptr ? supports.groups : 0);
        C* parts = queue_.take<C>(groups * w.size());
        run_backward<C>(queue_, block_.x, axis, source_, z, w, true, true, nullptr, nullptr, values, parts, nullptr,
                        outputs);
        if (support_sum != nullptr)
            run_backward<C>(queue_, block_.support_shape, axis, Source{nullptr, block_.confidence},
                            Source{support_sum, nullptr}, w, true, true, nullptr, nullptr, supports,
                            parts != nullptr ? parts + values.groups * w.size() : nullptr, nullptr, of_support);
        sum_groups<C>(queue_, dense_like(w, nullptr, dtype_of<C>::value), parts, groups, w_bar);
    }

    Queue& queue_;
    const Block& block_;
    const AnyView& y_bar_;
    const FilterOptions& filter_;
    Source source_;
    std::vector<AnyView> reciprocals_;
};

} // namespace

std::size_t semi_global_filter_backward(const AnyView& x, std::span<const AnyView> weights, const AnyView& y_bar,
                                        const AnyView* support_bar, const AnyView* x_bar,
                                        std::span<const AnyView> weights_bar, const AnyView* confidence_bar,
                                        std::span<const int> axes, const FilterOptions& filter,
                                        const AnyView* confidence, void* stream, const Workspace* workspace) {
    return sgs::cuda::run(stream, workspace, [&](Queue& queue) {
        with_compute_type(x.dtype, [&](auto zero) {
            using C = decltype(zero);
            if (x.size() == 0) { // sums over nothing
                for (const AnyView& v : weights_bar)
                    if (v.ndim >= 0 && v.size() > 0) sum_groups<C>(queue, v, nullptr, 0, v);
                if (confidence_bar != nullptr && confidence_bar->size() > 0)
                    sum_groups<C>(queue, *confidence_bar, nullptr, 0, *confidence_bar);
                return;
            }
            const Block block(x, weights, axes, confidence);
            Backward<C>(queue, block, y_bar, filter).run(support_bar, x_bar, weights_bar, confidence_bar);
        });
    });
}

} // namespace sgs::cuda
