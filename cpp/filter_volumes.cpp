// Three axes and more (7), (8): the planes of the two that lie closest in memory first, then lines along each of the
// others, which are added.
#include <algorithm>
#include <span>

#include "filter.h"
#include "lines.h"
#include "scratch.h"

namespace sgs {
namespace {

constexpr std::int64_t kPart = 1 << 22;  // elements, about, whose sums are kept beside y where it cannot hold them,
constexpr std::int64_t kTogether = 16;   // or so many volumes, which may share their weights
constexpr std::int64_t kLeastPlane = 64; // positions: smaller planes are better taken one axis after the other

// Axes, those that lie closest in y's memory first, and those of one element last: their places among o.axes.
std::vector<std::size_t> nearest_first(const Operands& o) {
    std::vector<std::size_t> places;
    const DimOrder order = order_by_stride(o.y);
    for (int k = 0; k < order.count; ++k)
        if (const auto found = std::find(o.axes.begin(), o.axes.end(), order.dims[k]); found != o.axes.end())
            places.push_back(static_cast<std::size_t>(found - o.axes.begin()));
    std::stable_partition(places.begin(), places.end(), [&](std::size_t k) { return o.y.shape[o.axes[k]] > 1; });
    return places;
}

// o of some of its axes, with sums as the result: nothing is finished.
Operands sums_along(const Operands& o, std::span<const std::size_t> places, const AnyView& sums) {
    Operands some = o;
    some.y = sums;
    some.filter.residual = false;
    if (o.filter.normalization == Normalization::cross) some.filter.normalization = Normalization::cross_sum;
    some.axes.clear();
    some.weights.clear();
    some.reciprocals.clear();
    for (const std::size_t k : places) {
        some.axes.push_back(o.axes[k]);
        some.weights.push_back(o.weights[k]);
        if (!o.reciprocals.empty() && o.filter.normalization == Normalization::line)
            some.reciprocals.push_back(o.reciprocals[k]);
    }
    return some;
}

// Cuts y into parts of about kPart elements, of whole volumes over the axes, neighbours in memory. What a part computes
// does not depend on where its sums are kept, so that a call gives the same in place.
class Parts {
  public:
    explicit Parts(const Operands& o) : y_(o.y) {
        for (const int a : o.axes) size_ *= y_.shape[a];
        const DimOrder order = order_by_stride(y_);
        for (int k = 0; k < order.count; ++k) {
            const int d = order.dims[k];
            if (std::find(o.axes.begin(), o.axes.end(), d) != o.axes.end() || y_.shape[d] == 1) continue;
            const std::int64_t least = std::min(dims_.empty() ? kTogether : 1, y_.shape[d]);
            const std::int64_t count = std::clamp(kPart / size_, least, y_.shape[d]);
            dims_.push_back({d, count});
            size_ *= count;
            parts_ *= (y_.shape[d] + count - 1) / count;
        }
    }
    std::int64_t count() const { return parts_; }
    /// Elements of the largest part.
    std::int64_t size() const { return size_; }
    Operands get(const Operands& o, std::int64_t part) const {
        return with_each(o, [&](const AnyView& v) { return of(v, part); });
    }

  private:
    AnyView of(AnyView v, std::int64_t part) const {
        for (const auto& [d, count] : dims_) {
            const std::int64_t along = (y_.shape[d] + count - 1) / count, first = part % along * count;
            v = narrow(v, d, first, std::min(count, y_.shape[d] - first));
            part /= along;
        }
        return v;
    }
    const AnyView y_;
    std::vector<std::pair<int, std::int64_t>> dims_;
    std::int64_t size_ = 1, parts_ = 1;
};

// How many of them are taken at once, first.
std::size_t count_first(const Operands& o, const std::vector<std::size_t>& places) {
    return o.y.shape[o.axes[places[0]]] * o.y.shape[o.axes[places[1]]] >= kLeastPlane ? 2 : 1;
}

template <class C> void filter_part(const Operands& o, const AnyView& sums, const Options& options) {
    const std::vector<std::size_t> places = nearest_first(o);
    const std::span<const std::size_t> all(places);
    const std::size_t first = count_first(o, places);
    const Operands start = sums_along(o, all.first(first), sums);
    first == 2 ? filter_planes<C>(start, options) : filter_axis<C>(start, options);
    for (std::size_t i = first; i < places.size(); ++i) {
        Operands line = sums_along(o, all.subspan(i, 1), sums);
        line.sums = sums;
        if (i + 1 == places.size()) {
            line.y = o.y;
            line.filter = o.filter;
            if (o.filter.normalization == Normalization::cross) line.reciprocals = o.reciprocals;
        }
        filter_axis<C>(line, options);
    }
}

} // namespace

std::optional<Operands> first_planes_of(const Operands& o) {
    const Operands part = Parts(o).get(o, 0);
    const std::vector<std::size_t> places = nearest_first(part);
    if (count_first(part, places) < 2) return std::nullopt;
    return sums_along(part, std::span(places).first(2), part.y);
}

template <class C> void filter_volumes(const Operands& o, const Options& options) {
    const Parts parts(o);
    const Buffer<C> memory(holds_sums<C>(o) ? 0 : parts.size());
    for (std::int64_t i = 0; i < parts.count(); ++i) {
        const Operands part = parts.get(o, i);
        filter_part<C>(part, holds_sums<C>(o) ? part.y : dense_like(part.y, memory.get()), options);
    }
}

template void filter_volumes<float>(const Operands&, const Options&);
template void filter_volumes<double>(const Operands&, const Options&);

} // namespace sgs
