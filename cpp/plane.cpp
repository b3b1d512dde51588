// The semi-global filter on planes with contiguous rows: each plane is read once and written once.
#include <algorithm>

#include "filter.h"
#include "walk.h"

namespace sgs {
namespace {

constexpr std::int64_t kLargestPlane = 1 << 18; // padded elements: larger planes outgrow every core's own cache

std::int64_t round_up(std::int64_t n) { return (n + kRows - 1) / kRows * kRows; }

struct PlaneDims {
    int rows = -1, columns = -1;      // dimensions
    std::size_t down = 0, across = 0; // their places among the axes
};

PlaneDims plane_dims(const Operands& o) {
    PlaneDims d;
    d.across = o.y.strides[o.axes[1]] == 1 ? 1 : 0;
    d.down = 1 - d.across;
    d.rows = o.axes[d.down];
    d.columns = o.axes[d.across];
    return d;
}

// One thread's memory. Weights and reciprocals are laid out once for all planes that share them.
template <class C> struct PlaneScratch {
    PlaneScratch(std::int64_t height, std::int64_t width, bool line)
        : pitch(round_up(width + 1)), blocks((height + kRows - 1) / kRows), down((blocks * kRows + kRows) * pitch),
          across(blocks * kRows * pitch), reciprocal(blocks * kRows * pitch),
          reciprocal_across(line ? blocks * kRows * pitch : 0), trust(blocks * kRows * pitch),
          x(blocks * kRows * pitch), sums(blocks * kRows * pitch), columns(kRows * pitch), terms(kRows * pitch),
          residual(kRows * pitch), y(kRows * pitch), carry(pitch), y_tail(kRows * kRows) {}
    std::int64_t pitch, blocks;
    Buffer<C> down, across, reciprocal, reciprocal_across, trust, x, sums, columns, terms, residual, y, carry, y_tail;
    std::int64_t group = -1;
    bool cuts = false;
};

} // namespace

template <class C> bool is_plane_filter(const Operands& o) {
    if (o.axes.size() != 2) return false;
    const PlaneDims d = plane_dims(o);
    if (o.y.strides[d.columns] != 1 || o.y.shape[d.columns] < 16) return false;
    return round_up(o.y.shape[d.rows]) * round_up(o.y.shape[d.columns] + 1) <= kLargestPlane;
}

template <class C> void filter_planes(const Operands& o, const Options& options) {
    const PlaneDims dims = plane_dims(o);
    const PlaneKernels<C>& kernel = kernels<C>().plane;
    const PointwiseKernels<C>& pointwise = kernels<C>().pointwise;
    const std::int64_t height = o.y.shape[dims.rows];
    const std::int64_t width = o.y.shape[dims.columns];
    const bool line = o.filter.normalization == Normalization::line;
    const bool direct = o.y.dtype == dtype_of<C>::value;

    // Outer dimensions: first those that all planes of a group share, which run fastest.
    std::vector<int> outer;
    std::int64_t planes = 1;
    std::int64_t group_size = 1;
    const auto varies = [&](int d) {
        const auto moves = [&](const AnyView& v) { return v.strides[d] != 0; };
        return std::any_of(o.weights.begin(), o.weights.end(), moves) ||
               std::any_of(o.reciprocals.begin(), o.reciprocals.end(), moves) || (o.confidence && moves(*o.confidence));
    };
    for (const bool group : {false, true})
        for (int d = o.y.ndim - 1; d >= 0; --d)
            if (d != dims.rows && d != dims.columns && o.y.shape[d] > 1 && varies(d) == group) {
                outer.push_back(d);
                planes *= o.y.shape[d];
                if (!group) group_size *= o.y.shape[d];
            }
    const auto plane_of = [&](const AnyView& v, std::int64_t plane) {
        std::int64_t offset = 0;
        for (const int d : outer) {
            offset += plane % o.y.shape[d] * v.strides[d];
            plane /= o.y.shape[d];
        }
        return v.at(offset);
    };
    const auto row_of = [&](const AnyView& v, void* plane, std::int64_t row) -> void* {
        return static_cast<char*>(plane) + row * v.strides[dims.rows] * static_cast<std::int64_t>(item_size(v.dtype));
    };
    // Rows [first, first + kRows) of an operand's plane, in the computing type.
    const auto load_block = [&](C* rows, const AnyView& v, void* plane, std::int64_t first, std::int64_t pitch) {
        kernel.load_rows[static_cast<int>(v.dtype)](
            rows, pitch, row_of(v, plane, first), v.strides[dims.rows], v.strides[dims.columns],
            std::clamp<std::int64_t>(v.shape[dims.rows] - first, 0, kRows), v.shape[dims.columns]);
    };

    const auto load_group = [&](PlaneScratch<C>& s, std::int64_t plane) {
        const AnyView& down = o.weights[dims.down];
        const AnyView& across = o.weights[dims.across];
        void* down_plane = plane_of(down, plane);
        void* across_plane = plane_of(across, plane);
        s.cuts = false;
        std::fill_n(s.down.get(), s.pitch, C(0)); // nothing enters the first row
        for (std::int64_t k = 0; k < s.blocks; ++k) {
            const std::int64_t first = k * kRows;
            C* rows = s.down.get() + (first + 1) * s.pitch;
            load_block(rows, down, down_plane, first, s.pitch);
            for (std::int64_t r = 0; r < std::min<std::int64_t>(kRows, height - 1 - first); ++r)
                s.cuts |= std::find(rows + r * s.pitch, rows + r * s.pitch + width, C(0)) != rows + r * s.pitch + width;
            // Horizontal weights stand one column to the right: nothing enters the first column.
            load_block(s.terms.get(), across, across_plane, first, s.pitch);
            for (std::int64_t r = 0; r < kRows; ++r) {
                const C* from = s.terms.get() + r * s.pitch;
                C* to = s.columns.get() + r * s.pitch;
                to[0] = C(0);
                std::copy_n(from, s.pitch - 1, to + 1);
                s.cuts |= r < height - first && std::find(from, from + width - 1, C(0)) != from + width - 1;
            }
            kernel.transpose(s.columns.get(), s.pitch, s.pitch, s.across.get() + k * kRows * s.pitch);
            if (!o.reciprocals.empty()) {
                const AnyView& r = o.reciprocals[line ? dims.down : 0];
                load_block(s.reciprocal.get() + first * s.pitch, r, plane_of(r, plane), first, s.pitch);
            }
            if (line) {
                const AnyView& r = o.reciprocals[dims.across];
                load_block(s.reciprocal_across.get() + first * s.pitch, r, plane_of(r, plane), first, s.pitch);
            }
            if (o.confidence)
                load_block(s.trust.get() + first * s.pitch, *o.confidence, plane_of(*o.confidence, plane), first,
                           s.pitch);
        }
    };

    const int threads = workers(planes, options);
    std::vector<std::unique_ptr<PlaneScratch<C>>> scratch;
    for (int i = 0; i < threads; ++i) scratch.push_back(std::make_unique<PlaneScratch<C>>(height, width, line));

    parallel_for(planes, options, [&](std::int64_t plane, int worker) {
        PlaneScratch<C>& s = *scratch[static_cast<std::size_t>(worker)];
        if (s.group != plane / group_size) {
            load_group(s, plane);
            s.group = plane / group_size;
        }
        void* x_plane = plane_of(o.x, plane);
        void* y_plane = plane_of(o.y, plane);
        PlaneBlock<C> b{};
        b.width = width;
        b.pitch = s.pitch;
        b.columns = s.columns.get();
        b.terms = s.terms.get();
        b.carry = s.carry.get();
        b.y = s.y.get();
        b.y_tail = s.y_tail.get();
        b.y_whole = direct ? width / kRows * kRows : s.pitch;
        b.y_stride = direct ? o.y.strides[dims.rows] : s.pitch;
        b.centres = o.filter.normalization == Normalization::none ? C(2) : C(1);
        b.fill = static_cast<C>(o.filter.fill_value);
        b.supported_only = o.confidence.has_value();
        b.cuts = s.cuts;
        const auto set_block = [&](std::int64_t k) {
            const std::int64_t at = k * kRows * s.pitch;
            b.rows = std::min<std::int64_t>(kRows, height - k * kRows);
            b.x = s.x.get() + at;
            b.down = s.down.get() + at;
            b.across = s.across.get() + at;
            b.reciprocal = o.reciprocals.empty() ? nullptr : s.reciprocal.get() + at;
            b.reciprocal_across = line ? s.reciprocal_across.get() + at : nullptr;
            b.sums = s.sums.get() + at;
        };

        std::fill_n(s.carry.get(), s.pitch, C(0));
        for (std::int64_t k = 0; k < s.blocks; ++k) {
            set_block(k);
            load_block(s.x.get() + k * kRows * s.pitch, o.x, x_plane, k * kRows, s.pitch);
            if (o.confidence)
                pointwise.trust(s.x.get() + k * kRows * s.pitch, s.trust.get() + k * kRows * s.pitch, kRows * s.pitch);
            kernel.down(b);
        }

        std::fill_n(s.carry.get(), s.pitch, C(0));
        for (std::int64_t k = s.blocks - 1; k >= 0; --k) {
            set_block(k);
            if (o.filter.residual) {
                b.residual = b.x;
                if (o.confidence) {
                    load_block(s.residual.get(), o.x, x_plane, k * kRows, s.pitch);
                    pointwise.mask(s.residual.get(), s.trust.get() + k * kRows * s.pitch, kRows * s.pitch);
                    b.residual = s.residual.get();
                }
            }
            if (direct) { // whole vectors go straight to y, what is left of each row by way of y_tail
                b.y = static_cast<C*>(y_plane) + k * kRows * b.y_stride;
                kernel.up(b);
                for (std::int64_t r = 0; r < b.rows; ++r)
                    std::copy_n(b.y_tail + r * kRows, width - b.y_whole, b.y + r * b.y_stride + b.y_whole);
            } else {
                kernel.up(b);
                kernel.store_rows[static_cast<int>(o.y.dtype)](b.y, s.pitch, row_of(o.y, y_plane, k * kRows),
                                                               o.y.strides[dims.rows], b.rows, width);
            }
        }
    });
}

template bool is_plane_filter<float>(const Operands&);
template bool is_plane_filter<double>(const Operands&);
template void filter_planes<float>(const Operands&, const Options&);
template void filter_planes<double>(const Operands&, const Options&);

} // namespace sgs
