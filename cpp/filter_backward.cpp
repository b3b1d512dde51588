// The semi-global filter, backward (11): y = P / S with P and S linear in x and in 1 or c.
#include "gradient.h"
#include "lanes_backward.h"
#include "walk.h"

namespace sgs {
namespace {

template <class C> void copy(const AnyView& from, const AnyView& to, const Options& options) {
    const Lines lines(to, to.ndim - 1);
    Scratches<C> scratches(lines.tiles(), 0, options);
    parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
        C* rows = scratches[worker].x.get();
        const Strand source(lines, from, tile), target(lines, to, tile);
        for (std::int64_t first = 0; first < lines.steps(); first += kSteps) {
            const std::int64_t steps = std::min<std::int64_t>(kSteps, lines.steps() - first);
            load(rows, source, first, steps);
            store(rows, target, first, steps);
        }
    });
}

template <class C> class FilterGradient {
  public:
    FilterGradient(Gradient g, Normalization normalization, bool sums_wanted, const Options& options)
        : g_(std::move(g)), together_(normalization == Normalization::cross), options_(options) {
        std::vector<AnyView> operands = g_.weights;
        if (g_.confidence) operands.push_back(*g_.confidence);
        g_.shared = shared_dims(g_.x, g_.axes, operands);
        g_.each_centre = normalization == Normalization::none || normalization == Normalization::line;
        lanes_ = normalization != Normalization::line && is_lanes_gradient(g_);
        order_ = lanes_ ? lanes_order(g_) : g_.x_bar;
        if (lanes_)
            g_.chunks = count_lanes_chunks(g_);
        else if (sums_wanted)
            g_.chunks = count_chunks(g_.x, g_.axes, g_.shared);
        if (together_) divide_by(g_.axes);
        if (normalization == Normalization::line)
            for (const int a : g_.axes) divide_by({a});
        if (!sums_wanted) return;
        for (const int a : g_.axes) {
            weight_sums_.push_back(std::make_unique<Sums<C>>(order_, g_.shared, g_.chunks));
            g_.weight_sums.push_back(edges(weight_sums_.back()->view(), a));
        }
        g_.chunk_stride = weight_sums_.front()->stride();
        for (std::size_t k = 0; k < supports_.size(); ++k) {
            support_sums_.push_back(std::make_unique<Sums<C>>(order_, g_.shared, g_.chunks));
            g_.support_sums.push_back(support_sums_.back()->view());
        }
        if (!g_.confidence) return;
        confidence_sums_ = std::make_unique<Sums<C>>(order_, g_.shared, g_.chunks);
        g_.confidence_sums = confidence_sums_->view();
    }

    void run() {
        lanes_ ? add_lanes_gradient(g_, options_) : add_gradient(g_, options_);
        for (std::size_t k = 0; k < support_sums_.size(); ++k) add_support(k);
        if (!confidence_sums_) return;
        for (std::int64_t chunk = 0; chunk < g_.chunks; ++chunk) // (8): 0 where c = 0
            kernels<C>().pointwise.mask(confidence_sums_->get() + chunk * field_->stride(), field_->get(),
                                        field_->stride());
    }

    AnyView weight_sum(std::size_t k) const {
        AnyView v = weight_sums_[k]->all();
        const int d = g_.axes[k] + 1;
        v.shape[d] = std::max<std::int64_t>(v.shape[d] - 1, 0);
        return v;
    }
    AnyView confidence_sum() const { return confidence_sums_->all(); }

  private:
    static AnyView edges(AnyView v, int axis) {
        v.shape[axis] = std::max<std::int64_t>(v.shape[axis] - 1, 0);
        return v;
    }

    // What S is the sum of: ones or the confidence, in the computing type.
    AnyView field() {
        if (g_.confidence) {
            if (!field_) {
                field_ = std::make_unique<Sums<C>>(order_, g_.shared, 1);
                copy<C>(collapse(*g_.confidence, g_.shared), field_->view(), options_);
            }
            return field_->view();
        }
        static const C one = C(1);
        AnyView v = collapse(g_.x, g_.shared);
        v.data = const_cast<C*>(&one);
        v.dtype = dtype_of<C>::value;
        v.strides.fill(0);
        return v;
    }

    AnyView shared_weights(int axis) const {
        const std::size_t k =
            static_cast<std::size_t>(std::find(g_.axes.begin(), g_.axes.end(), axis) - g_.axes.begin());
        return collapse(g_.weights[k], g_.shared);
    }

    void divide_by(const std::vector<int>& axes) {
        supports_.push_back(std::make_unique<Sums<C>>(order_, g_.shared, 1));
        const Sums<C>& s = *supports_.back();
        std::vector<AnyView> weights;
        for (const int a : axes) weights.push_back(shared_weights(a));
        FilterOptions sum;
        sum.normalization = Normalization::cross_sum;
        semi_global_filter(field(), weights, s.view(), axes, sum, nullptr, nullptr, options_);
        kernels<C>().pointwise.reciprocal(s.get(), s.stride(), g_.confidence.has_value());
        g_.reciprocals.push_back(s.view());
    }

    // S too depends on the weights and on the confidence: the derivative by it, filtered the same way.
    void add_support(std::size_t k) {
        const Sums<C> by_support(order_, g_.shared, 1), by_field(order_, g_.shared, 1);
        sum_to(support_sums_[k]->all(), by_support.view(), options_);
        kernels<C>().backward.support_gradient(by_support.get(), supports_[k]->get(), by_support.stride());
        Gradient h;
        h.x = field();
        h.y_bar = by_support.view();
        h.x_bar = by_field.view();
        h.axes = together_ ? g_.axes : std::vector<int>{g_.axes[k]};
        for (const int a : h.axes) h.weights.push_back(shared_weights(a));
        if (together_)
            h.weight_sums = g_.weight_sums;
        else
            h.weight_sums = {g_.weight_sums[k]};
        add_gradient(h, options_);
        if (confidence_sums_) kernels<C>().pointwise.add(confidence_sums_->get(), by_field.get(), by_field.stride());
    }

    Gradient g_;
    bool together_;
    bool lanes_;    // channels side by side
    AnyView order_; // of x_bar's shape: how sums lie in memory
    const Options& options_;
    std::vector<std::unique_ptr<Sums<C>>> supports_, weight_sums_, support_sums_;
    std::unique_ptr<Sums<C>> confidence_sums_, field_;
};

} // namespace

void semi_global_filter_backward(const AnyView& x, std::span<const AnyView> weights, const AnyView& y_bar,
                                 const AnyView& x_bar, std::span<const AnyView* const> weights_bar,
                                 const AnyView* confidence_bar, std::span<const int> axes, Normalization normalization,
                                 bool residual, const AnyView* confidence, const Options& options) {
    Gradient g;
    g.x = x;
    g.y_bar = y_bar;
    g.x_bar = x_bar;
    g.axes.assign(axes.begin(), axes.end());
    for (std::size_t k = 0; k < axes.size(); ++k) g.weights.push_back(broadcast(weights[k], x, axes[k]));
    if (confidence != nullptr) g.confidence = broadcast(*confidence, x);
    g.residual = residual;
    bool sums_wanted = confidence_bar != nullptr;
    for (const AnyView* v : weights_bar) sums_wanted = sums_wanted || v != nullptr;
    with_compute_type(x.dtype, [&](auto zero) {
        FilterGradient<decltype(zero)> gradient(g, normalization, sums_wanted, options);
        gradient.run();
        for (std::size_t k = 0; k < weights_bar.size(); ++k)
            if (weights_bar[k] != nullptr) sum_to(gradient.weight_sum(k), *weights_bar[k], options);
        if (confidence_bar != nullptr) sum_to(gradient.confidence_sum(), *confidence_bar, options);
    });
}

} // namespace sgs
