// Derivatives (11) of the semi-global filter over two axes, kGradientLanes planes that share their weights side by
// side: a first pass upward leaves B between blocks of rows, the second goes down and finds everything else.
#include "lanes_backward.h"

#include "parallel.h"
#include "rows_ahead.h"

namespace sgs {
namespace {

constexpr int kG = kGradientLanes, kR = kGradientRows;
constexpr std::int64_t kLeastShared = 12; // planes that are worth a group of kG
constexpr std::int64_t kMaxChunks = 16;

// The dimensions of what is differentiated.
struct Planes {
    explicit Planes(const Gradient& g)
        : across_axis(row_of_two(g.x_bar, g.axes[0], g.axes[1])), down_axis(1 - across_axis), rows(g.axes[down_axis]),
          columns(g.axes[across_axis]), height(g.x.shape[rows]), width(g.x.shape[columns]), shape(g.x) {
        const DimOrder order = order_by_stride(g.x_bar);
        for (int k = 0; k < order.count; ++k) {
            const int d = order.dims[k];
            if (d == rows || d == columns || g.x.shape[d] == 1) continue;
            (g.shared[d] ? shared_dims : unit_dims).push_back(d);
            (g.shared[d] ? shared : units) *= g.x.shape[d];
        }
    }
    std::int64_t groups() const { return (shared + kG - 1) / kG; }
    std::int64_t offset(const AnyView& v, const std::vector<int>& dims, std::int64_t index) const {
        std::int64_t out = 0;
        for (const int d : dims) {
            out += index % shape.shape[d] * v.strides[d];
            index /= shape.shape[d];
        }
        return out;
    }

    std::size_t across_axis, down_axis; // places among the axes
    int rows, columns;                  // dimensions
    std::int64_t height, width;
    AnyView shape;
    std::vector<int> shared_dims, unit_dims; // neighbours in memory first
    std::int64_t shared = 1, units = 1;      // planes that share weights, and how often others follow
};

template <class C> struct Scratch {
    Scratch(const Planes& p, bool has_residual)
        : pitch(p.width % 32 == 0 ? p.width + 1 : p.width), x(kR * pitch * kG), z(kR * pitch * kG),
          terms_x(kR * pitch * kG), terms_z(kR * pitch * kG), y_bar(has_residual ? kR * pitch * kG : 0),
          above_x(p.width * kG), above_z(p.width * kG), below_x(blocks(p) * p.width * kG),
          below_z(blocks(p) * p.width * kG), carry_x((p.width + kG) * kG), carry_z((p.width + kG) * kG),
          down((kR + 1) * p.width), across(kR * (p.width + 1) + 1), reciprocal(kR * p.width), trust(kR * p.width),
          columns((p.width + kG) * kG) {}
    static std::int64_t blocks(const Planes& p) { return (p.height + kR - 1) / kR; }
    std::int64_t pitch; // not a multiple of 2 KiB, for which rows would compete for the same sets of the cache
    Buffer<C> x, z, terms_x, terms_z, y_bar, above_x, above_z;
    Buffer<C> below_x, below_z; // B of the row below each block
    Buffer<C> carry_x, carry_z;
    Buffer<C> down, across, reciprocal, trust, columns;
};

// One group of planes, `first` the first of them, of a unit.
template <class C> class Group {
  public:
    Group(const Gradient& g, const Planes& p, std::int64_t unit, std::int64_t chunk, std::int64_t first, Scratch<C>& s)
        : g_(g), p_(p), unit_(unit), chunk_(chunk), s_(s),
          lanes_(static_cast<int>(std::min<std::int64_t>(kG, p.shared - first))), x_(planes(g.x, first)),
          y_bar_(planes(g.y_bar, first)), x_bar_(planes(g.x_bar, first)) {
        block_.width = p.width;
        block_.pitch = s.pitch;
        block_.x = s.x.get();
        block_.z = s.z.get();
        block_.down = s.down.get();
        block_.across = s.across.get();
        block_.above_x = s.above_x.get();
        block_.above_z = s.above_z.get();
        block_.terms_x = s.terms_x.get();
        block_.terms_z = s.terms_z.get();
        block_.columns = s.columns.get();
    }

    void run() {
        const std::int64_t blocks = Scratch<C>::blocks(p_), size = p_.width * kG;
        for (C* const last : {s_.below_x.get(), s_.below_z.get()}) std::fill_n(last + (blocks - 1) * size, size, C(0));
        for (C* const carry : {s_.carry_x.get(), s_.carry_z.get()}) std::fill_n(carry, size + kG * kG, C(0));
        for (std::int64_t k = blocks - 1; k > 0; --k) {
            enter(k);
            if (sums_) climb(k, x_, s_.x.get(), trust_, s_.below_x.get(), s_.carry_x.get());
            climb(k, y_bar_, s_.z.get(), reciprocal_, s_.below_z.get(), s_.carry_z.get());
        }
        for (C* const above : {s_.above_x.get(), s_.above_z.get()}) std::fill_n(above, size, C(0));
        for (std::int64_t k = 0; k < blocks; ++k) {
            enter(k);
            if (sums_) load(s_.x.get(), x_, k, trust_);
            load(s_.z.get(), y_bar_, k, reciprocal_);
            kernel().differentiate(block_);
            finish(k);
        }
    }

  private:
    struct Source {
        const AnyView* view;
        std::int64_t start;
        std::array<std::int64_t, kG> offsets;
    };

    static const LanesBackwardKernels<C>& kernel() { return kernels<C>().lanes_backward; }

    Source planes(const AnyView& v, std::int64_t first) const {
        const std::int64_t start = p_.offset(v, p_.shared_dims, first);
        Source s{&v, p_.offset(v, p_.unit_dims, unit_) + start, {}};
        for (int l = 0; l < lanes_; ++l)
            s.offsets[static_cast<std::size_t>(l)] = p_.offset(v, p_.shared_dims, first + l) - start;
        return s;
    }
    GradientPlanes rows(const Source& s, std::int64_t first) const {
        const std::int64_t stride = s.view->strides[p_.rows];
        return {s.view->at(s.start + first * stride), stride, s.view->strides[p_.columns], s.offsets.data(), lanes_};
    }
    void load(C* to, const Source& s, std::int64_t k, const C* factors) const {
        kernel().load[static_cast<int>(s.view->dtype)](to, s_.pitch, rows(s, k * kR), block_.rows, p_.width, factors,
                                                       g_.confidence.has_value());
    }
    void climb(std::int64_t k, const Source& s, C* scratch, const C* factors, C* below, C* carry) const {
        const std::int64_t size = p_.width * kG;
        const GradientClimb<C> climb{block_.rows,
                                     p_.width,
                                     block_.down,
                                     block_.cuts,
                                     factors,
                                     g_.confidence.has_value(),
                                     below + k * size,
                                     below + (k - 1) * size,
                                     carry};
        if (kernel().climb_planes[static_cast<int>(s.view->dtype)](climb, rows(s, k * kR))) return;
        load(scratch, s, k, factors);
        kernel().climb(climb, scratch, s_.pitch);
    }
    // Numbers of positions, `count` rows of `width`, 0 where there are no more.
    void load_rows(C* to, std::int64_t pitch, const AnyView& v, std::int64_t first, std::int64_t count) const {
        kernels<C>().plane.load_rows[static_cast<int>(v.dtype)](
            to, pitch, v.at(p_.offset(v, p_.unit_dims, unit_) + first * v.strides[p_.rows]), v.strides[p_.rows],
            v.strides[p_.columns], std::clamp<std::int64_t>(v.shape[p_.rows] - first, 0, count), v.shape[p_.columns],
            count);
    }
    C* sums(const AnyView& v, std::int64_t first) const {
        return static_cast<C*>(v.data) + chunk_ * g_.chunk_stride + p_.offset(v, p_.unit_dims, unit_) +
               first * p_.width;
    }

    void enter(std::int64_t k) {
        const std::int64_t first = k * kR, width = p_.width;
        block_.rows = std::min<std::int64_t>(kR, p_.height - first);
        if (first == 0)
            std::fill_n(s_.down.get(), width, C(0));
        else
            load_rows(s_.down.get(), width, g_.weights[p_.down_axis], first - 1, 1);
        load_rows(s_.down.get() + width, width, g_.weights[p_.down_axis], first, kR);
        // One column to the right: nothing enters the first.
        s_.across.get()[0] = C(0);
        load_rows(s_.across.get() + 1, width + 1, g_.weights[p_.across_axis], first, kR);
        const auto has_zero = kernels<C>().plane.has_zero;
        const std::int64_t edges = std::min(block_.rows, p_.height - 1 - first);
        block_.cuts = (first > 0 && has_zero(s_.down.get(), width)) || has_zero(s_.down.get() + width, edges * width);
        for (std::int64_t r = 0; r < block_.rows && !block_.cuts; ++r)
            block_.cuts = has_zero(s_.across.get() + r * (width + 1) + 1, width - 1);

        if (g_.confidence) {
            load_rows(s_.trust.get(), width, *g_.confidence, first, kR);
            trust_ = s_.trust.get();
        }
        if (!g_.reciprocals.empty()) {
            load_rows(s_.reciprocal.get(), width, g_.reciprocals[0], first, kR);
            if (g_.confidence) // a negative one marks a position that has no support
                for (std::int64_t i = 0; i < kR * width; ++i)
                    s_.reciprocal.get()[i] = std::max(s_.reciprocal.get()[i], C(0));
            reciprocal_ = s_.reciprocal.get();
        }
        const std::int64_t size = width * kG;
        const GradientPlanes written = rows(x_bar_, first);
        block_.written =
            rows_ahead(g_.x_bar, written.data, written.row_stride, written.column_stride, x_bar_.offsets.data());
        block_.below_x = s_.below_x.get() + k * size;
        block_.below_z = s_.below_z.get() + k * size;
        block_.across_sums = block_.down_sums = block_.support_sums = nullptr;
        if (sums_) {
            block_.across_sums = sums(g_.weight_sums[p_.across_axis], first);
            block_.down_sums = sums(g_.weight_sums[p_.down_axis], first);
            if (!g_.support_sums.empty()) block_.support_sums = sums(g_.support_sums[0], first);
        }
    }

    void finish(std::int64_t k) const {
        const std::int64_t first = k * kR;
        C* const u = s_.terms_z.get();
        if (g_.each_centre) kernel().finish(u, nullptr, s_.z.get(), s_.pitch, block_.rows, p_.width);
        if (g_.confidence_sums) {
            load(s_.x.get(), x_, k, nullptr);
            kernel().dot(sums(*g_.confidence_sums, first), s_.x.get(), u, s_.pitch, block_.rows, p_.width);
        }
        if (g_.residual) load(s_.y_bar.get(), y_bar_, k, nullptr);
        if (g_.residual || g_.confidence)
            kernel().finish(u, g_.confidence ? s_.trust.get() : nullptr, g_.residual ? s_.y_bar.get() : nullptr,
                            s_.pitch, block_.rows, p_.width);
        kernel().store[static_cast<int>(x_bar_.view->dtype)](u, s_.pitch, rows(x_bar_, first), block_.rows, p_.width);
    }

    const Gradient& g_;
    const Planes& p_;
    std::int64_t unit_, chunk_;
    Scratch<C>& s_;
    int lanes_;
    Source x_, y_bar_, x_bar_;
    const bool sums_ = !g_.weight_sums.empty();
    GradientBlock<C> block_{};
    const C *trust_ = nullptr, *reciprocal_ = nullptr; // what x and y_bar are multiplied by
};

template <class C> void run(const Gradient& g, const Options& options) {
    const Planes p(g);
    const std::int64_t per_chunk = (p.groups() + g.chunks - 1) / g.chunks;
    const std::int64_t tasks = p.units * g.chunks;
    const PerWorker<Scratch<C>> scratch(tasks, options, p, g.residual);
    CancelFlag cancel(options);
    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        const std::int64_t unit = task / g.chunks, chunk = task % g.chunks;
        const std::int64_t end = std::min((chunk + 1) * per_chunk, p.groups());
        for (std::int64_t group = chunk * per_chunk; group < end; ++group) {
            cancel.check(worker);
            Group<C>(g, p, unit, chunk, group * kG, scratch[worker]).run();
        }
    });
}

} // namespace

bool is_lanes_gradient(const Gradient& g) {
    return g.axes.size() == 2 && g.x.size() > 0 && Planes(g).shared >= kLeastShared;
}

std::int64_t count_lanes_chunks(const Gradient& g) {
    const Planes p(g);
    return std::clamp<std::int64_t>(kMaxChunks / p.units, 1, p.groups());
}

AnyView lanes_order(const Gradient& g) {
    const Planes p(g);
    AnyView v = g.x_bar;
    std::int64_t stride = 1;
    const auto append = [&](int d) {
        v.strides[d] = stride;
        stride *= v.shape[d];
    };
    append(p.columns);
    append(p.rows);
    for (int d = 0; d < v.ndim; ++d)
        if (d != p.rows && d != p.columns) append(d);
    return v;
}

void add_lanes_gradient(const Gradient& g, const Options& options) {
    with_compute_type(g.x.dtype, [&](auto zero) { run<decltype(zero)>(g, options); });
}

} // namespace sgs
