// The semi-global filter (7), (8): the last two axes together where that can be, others axis by axis.
#include "filter.cuh"

#include <algorithm>

#include "plane.cuh"

namespace sgs::cuda {

Block::Block(const AnyView& x_, std::span<const AnyView> weights_, std::span<const int> axes_,
             const AnyView* confidence_)
    : x(x_), weights(weights_), axes(axes_), confidence(confidence_), support_shape(x_) {
    const auto varies = [&](const AnyView& v, int d) {
        const int own = d - (x.ndim - v.ndim);
        return own >= 0 && v.shape[own] != 1;
    };
    for (int d = 0; d < x.ndim; ++d) {
        bool full = std::find(axes.begin(), axes.end(), d) != axes.end();
        for (const AnyView& w : weights) full = full || varies(w, d);
        if (confidence != nullptr) full = full || varies(*confidence, d);
        if (!full) support_shape.shape[d] = 1;
    }
}

template <class C> void run_axes(Queue& queue, const AnyView& domain, const Block& block, const Source& source,
                                 bool cross, std::span<const AnyView> scales, const AnyView& sums, const AnyView& out,
                                 Epilogue last) {
    const std::size_t count = block.axes.size();
    const bool planes = count >= 2 && takes_planes<C>(domain, block.axes[count - 2], block.axes[count - 1]);
    const std::size_t lines = planes ? count - 2 : count;
    for (std::size_t k = 0; k < lines; ++k) {
        const bool ends = k + 1 == count;
        Epilogue epilogue = ends ? last : Epilogue{};
        epilogue.with_source = k == 0 || !cross;
        epilogue.scale = scales.empty() ? nullptr : &scales[k];
        epilogue.sum = k > 0 ? &sums : nullptr;
        run_lines<C>(queue, domain, block.axes[k], source, block.weights[k], ends ? out : sums, block.ranges(k),
                     epilogue);
    }
    if (!planes) return;
    last.sum = lines > 0 ? &sums : nullptr;
    const int times = !scales.empty() ? 0 : !cross ? 2 : lines == 0 ? 1 : 0;
    run_planes<C>(queue, domain, block.axes[lines], block.axes[lines + 1], source, block.weights[lines],
                  block.weights[lines + 1], out, times, scales.empty() ? scales : scales.subspan(lines), last);
}

template <class C> std::vector<AnyView> make_reciprocals(Queue& queue, const Block& block, Normalization normalization,
                                                         double unsupported, const AnyView* support) {
    std::vector<AnyView> reciprocals;
    const AnyView& shape = block.support_shape;
    const Source ones{nullptr, block.confidence};
    const auto scratch = [&] { return dense_like(shape, queue.take<C>(shape.size()), dtype_of<C>::value); };
    Epilogue last;
    last.finish = Finish::reciprocal;
    last.only_supported = block.trusts();
    last.unsupported = unsupported;
    if (normalization == Normalization::cross) {
        const AnyView r = scratch();
        last.support = support;
        run_axes<C>(queue, shape, block, ones, true, {}, r, r, last);
        reciprocals.push_back(r);
    }
    if (normalization == Normalization::line)
        for (std::size_t k = 0; k < block.axes.size(); ++k) {
            const AnyView r = scratch();
            run_lines<C>(queue, shape, block.axes[k], ones, block.weights[k], r, block.ranges(k), last);
            reciprocals.push_back(r);
        }
    return reciprocals;
}

std::size_t semi_global_filter(const AnyView& x, std::span<const AnyView> weights, const AnyView& y,
                               std::span<const int> axes, const FilterOptions& filter, const AnyView* confidence,
                               const AnyView* support, void* stream, const Workspace* workspace) {
    return run(stream, workspace, [&](Queue& queue) {
        if (x.size() == 0) return;
        const Block block(x, weights, axes, confidence);
        const bool cross = filter.normalization == Normalization::cross;
        with_compute_type(x.dtype, [&](auto zero) {
            using C = decltype(zero);
            const std::vector<AnyView> reciprocals =
                make_reciprocals<C>(queue, block, filter.normalization, -1.0, support);
            Epilogue last;
            last.residual = filter.residual;
            if (cross) {
                last.finish = Finish::divide;
                last.reciprocal = &reciprocals[0];
                last.only_supported = block.trusts();
                last.fill = filter.fill_value;
            }
            // Sums between the axes are kept in y where it can hold them.
            AnyView sums = y;
            const bool sums_needed = axes.size() > 2 || (axes.size() == 2 && !takes_planes<C>(x, axes[0], axes[1]));
            if (sums_needed && (y.dtype != dtype_of<C>::value || y.data == x.data))
                sums = dense_like(y, queue.take<C>(y.size()), dtype_of<C>::value);
            const std::span<const AnyView> scales =
                filter.normalization == Normalization::line ? std::span(reciprocals) : std::span<const AnyView>();
            run_axes<C>(queue, x, block, Source{&x, confidence},
                        cross || filter.normalization == Normalization::cross_sum, scales, sums, y, last);
        });
    });
}

#define SGS_INSTANTIATE(C)                                                                                             \
    template std::vector<AnyView> make_reciprocals<C>(Queue&, const Block&, Normalization, double, const AnyView*);    \
    template void run_axes<C>(Queue&, const AnyView&, const Block&, const Source&, bool, std::span<const AnyView>,     \
                              const AnyView&, const AnyView&, Epilogue);
SGS_INSTANTIATE(float)
SGS_INSTANTIATE(double)
#undef SGS_INSTANTIATE

} // namespace sgs::cuda
