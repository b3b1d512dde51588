// Lines along memory, kRows at a time.
#include "line_job.h"

namespace sgs {
namespace {

constexpr std::int64_t kTaskSize = 1 << 15; // elements, about

template <class C> struct RowScratch {
    RowScratch(std::int64_t part, std::int64_t parts, bool normalized, bool guided)
        : links((part + 1 + kRows) * kLinkPitch), values((part + kRows) * kRows), sums((part / 2 + 2 * kRows) * kRows),
          support(normalized ? (part / 2 + 2 * kRows) * kRows : 0), y((part + 2) * kRows), carries(2 * parts * kRows),
          guide(guided ? (part + kRows) * kRows : 0), distances(guided ? (part + 1) * kRows : 0) {}
    Buffer<C> links, values, sums, support, y;
    Buffer<C> carries; // F before each part, of the values and of ones
    Buffer<C> guide, distances;
    std::int64_t linked_to = -1;
    bool cuts = false;
    alignas(64) C forward[kLanes], backward[kLanes], ones_forward[kLanes], ones_backward[kLanes];
};

// Which lines are taken together, and which share their weights.
struct RowPlan {
    SomeDims lines;          // kRows of them at a time
    SomeDims repeats;        // the same with the same weights, again and again
    SomeDims units;          // what is left
    std::int64_t period = 0; // not 0: line l has the weights of line l % period, which are laid out once

    explicit RowPlan(const LineJob& job) {
        const AnyView& x = job.x;
        const DimOrder order = order_by_stride(job.y, job.axis);
        SomeDims all, own, shared;
        for (int k = 0; k < order.count; ++k) {
            const int d = order.dims[k];
            if (x.shape[d] == 1) continue;
            all.add(x, d);
            (job.w.strides[d] != 0 ? own : shared).add(x, d);
        }
        const bool own_first = own.count > 0 && own.dims[0] == all.dims[0];
        if (shared.product == 1 || (!own_first && shared.product < kRows)) { // each bundle of lines has its own weights
            lines = all;
            return;
        }
        const std::int64_t run = own_first ? x.shape[own.dims[0]] : 1;
        // Long lines are taken in parts, whose weights are laid out for the lines of one bundle.
        if (run < kRows && x.shape[job.axis] > kPartSteps) {
            lines = all;
            return;
        }
        if (own_first) lines.add(x, own.dims[0]);
        for (int k = own_first ? 1 : 0; k < own.count; ++k) units.add(x, own.dims[k]);
        if (run >= kRows) {
            repeats = shared;
        } else {
            for (int k = 0; k < shared.count; ++k) lines.add(x, shared.dims[k]);
            period = run;
        }
    }
    /// Lines that fill no bundle, though many share their weights.
    std::int64_t odd_lines() const { return repeats.count > 0 ? lines.product % kRows : 0; }
};

// job with lines [first, first + count) of dimension d.
template <class F> void with_some_lines(const LineJob& job, int d, std::int64_t first, std::int64_t count, const F& f) {
    LineJob some = job;
    for (AnyView* v : {&some.x, &some.w, &some.y}) *v = narrow(*v, d, first, count);
    AnyView ends[4];
    int k = 0;
    for (const AnyView** end : {&some.left, &some.right, &some.ones_left, &some.ones_right}) {
        if (*end != nullptr) {
            ends[k] = narrow(**end, d, first, count);
            *end = &ends[k];
        }
        ++k;
    }
    f(some);
}

// Elements from the first of v to the one after the last in memory.
std::int64_t extent_of(const AnyView& v) {
    std::int64_t extent = 1;
    for (int d = 0; d < v.ndim; ++d) extent += std::max<std::int64_t>((v.shape[d] - 1) * v.strides[d], 0);
    return extent;
}

// One bundle of lines after the other, by one thread.
template <class C> class RowWalk {
  public:
    RowWalk(const LineJob& job, const RowPlan& plan, std::int64_t unit, std::int64_t part, const Writing<C>& writing,
            RowScratch<C>& scratch)
        : job_(job), plan_(plan), unit_(unit), extent_(extent_of(job.x)), n_(job.x.shape[job.axis]), part_(part),
          parts_((n_ + part - 1) / part), writing_(writing), s_(scratch) {
        p_.links = s_.links.get();
        p_.values = s_.values.get();
        p_.sums = s_.sums.get();
        p_.support = job.normalized ? s_.support.get() : nullptr;
        p_.forward = s_.forward;
        p_.backward = s_.backward;
        p_.ones_forward = s_.ones_forward;
        p_.ones_backward = s_.ones_backward;
        p_.residual = job.residual;
        p_.reverse = job.kind == LineJob::Kind::reverse_scan;
        p_.ahead = plan.repeats.count > 0 ? job.x.strides[plan.repeats.dims[0]] : n_ * kRows;
        if (plan.period != 0 && s_.linked_to != unit) link_period();
    }

    void run(std::int64_t bundle, std::int64_t repeat) {
        if (bundle != bundle_) enter_bundle(bundle);
        x_shift_ = plan_.repeats.offset(job_.x, job_.x, repeat);
        y_shift_ = plan_.repeats.offset(job_.x, job_.y, repeat);
        const auto flow_in = [&](C* carry, const AnyView* v) {
            std::fill_n(carry, kRows, C(0));
            if (v == nullptr) return;
            std::int64_t offsets[kRows];
            find_offsets(*v, bundle * kRows, plan_.repeats.offset(job_.x, *v, repeat), offsets);
            kernels<C>().convert.load[static_cast<int>(v->dtype)](carry, v->data, 1, 0, offsets, kRows);
        };
        flow_in(s_.forward, p_.reverse ? nullptr : job_.left);
        flow_in(s_.backward, p_.reverse ? job_.left : job_.right);
        flow_in(s_.ones_forward, job_.ones_left);
        flow_in(s_.ones_backward, job_.ones_right);
        if (job_.kind != LineJob::Kind::filter) {
            for (std::int64_t i = 0; i < parts_; ++i) write(p_.reverse ? parts_ - 1 - i : i, line().scan_rows);
            return;
        }
        for (std::int64_t k = 0; k + 1 < parts_; ++k) {
            std::copy_n(s_.forward, kRows, kept(k));
            std::copy_n(s_.ones_forward, kRows, kept(k) + kRows);
            take(k);
            line().carry_rows[dtype()](p_);
        }
        for (std::int64_t k = parts_ - 1; k >= 0; --k) {
            if (k + 1 < parts_) {
                std::copy_n(kept(k), kRows, s_.forward);
                std::copy_n(kept(k) + kRows, kRows, s_.ones_forward);
            }
            write(k, line().filter_rows);
        }
    }

  private:
    static const LineKernels<C>& line() { return kernels<C>().line; }
    int dtype() const { return static_cast<int>(job_.x.dtype); }
    C* kept(std::int64_t part) const { return s_.carries.get() + 2 * part * kRows; }

    // Of kRows lines from `first` on; where there are no more, the last one again. Returns how many there are.
    std::int64_t find_offsets(const AnyView& v, std::int64_t first, std::int64_t base, std::int64_t* out) const {
        const std::int64_t count = std::min<std::int64_t>(kRows, plan_.lines.product - first);
        plan_.lines.offsets(job_.x, v, first, count, plan_.units.offset(job_.x, v, unit_) + base, out);
        std::fill(out + count, out + kRows, out[count - 1]);
        return count;
    }
    // Weights of kRows lines that enter `steps` steps from `first` on; edges that do not exist count 1. Whether one is
    // 0.
    bool load_links(C* links, const std::int64_t* offsets, std::int64_t first, std::int64_t steps) const {
        const std::int64_t begin = first == 0 ? 1 : 0;
        const std::int64_t count = steps - begin + (first + steps < job_.edges() ? 1 : 0);
        C* existing = links + begin * kLinkPitch;
        bool zero = false;
        if (count > 0)
            zero = job_.guide != nullptr ? make_links(existing, offsets, first + begin - 1, count)
                                         : load_lines(existing, kLinkPitch, offsets,
                                                      (first + begin - 1) * job_.w.strides[job_.axis], count);
        if (begin == 1) std::fill_n(links, kRows, C(1));
        if (begin + count == steps) std::fill_n(links + steps * kLinkPitch, kRows, C(1));
        return zero;
    }
    // `count` elements along kRows lines of w, from `base` on.
    bool load_lines(C* tile, std::int64_t pitch, const std::int64_t* offsets, std::int64_t base,
                    std::int64_t count) const {
        const bool readable = base + *std::max_element(offsets, offsets + kRows) + kRows <= extent_of(job_.w);
        return line().load_lines[static_cast<int>(job_.w.dtype)](tile, pitch, job_.w.at(base), offsets, count,
                                                                 job_.w.strides[job_.axis], readable);
    }
    // (1), (2) of `count` edges from `first` on.
    bool make_links(C* links, const std::int64_t* offsets, std::int64_t first, std::int64_t count) const {
        const GuideOperand& guide = *job_.guide;
        const WeightKernels<C>& weight = kernels<C>().weight;
        C *g = s_.guide.get(), *d = s_.distances.get();
        std::fill_n(d, count * kRows, C(0));
        for (std::int64_t c = 0; c < guide.channels; ++c) {
            load_lines(g, kRows, offsets, first * job_.w.strides[job_.axis] + c * guide.channel_stride, count + 1);
            weight.accumulate_distance[static_cast<int>(guide.metric)](d, g, g + kRows, count * kRows, 1, 0);
        }
        weight.finish(d, count * kRows, representable<C>(guide.steps[0]), representable<C>(guide.scales[0]),
                      guide.metric == Metric::euclidean);
        for (std::int64_t i = 0; i < count; ++i) std::copy_n(d + i * kRows, kRows, links + i * kLinkPitch);
        return kernels<C>().plane.has_zero(d, count * kRows);
    }
    void link_period() {
        s_.cuts = false;
        const std::int64_t base = plan_.units.offset(job_.x, job_.w, unit_);
        for (std::int64_t g = 0; g < kLinkPitch; g += kRows) {
            std::int64_t offsets[kRows];
            for (std::int64_t k = 0; k < kRows; ++k)
                offsets[k] = base + plan_.lines.offset(job_.x, job_.w, (g + k) % plan_.period);
            s_.cuts |= load_links(s_.links.get() + g, offsets, 0, n_);
        }
        s_.linked_to = unit_;
    }
    void enter_bundle(std::int64_t bundle) {
        bundle_ = bundle;
        count_ = find_offsets(job_.y, bundle * kRows, 0, to_);
        find_offsets(job_.x, bundle * kRows, 0, p_.offsets);
        readable_ = *std::max_element(p_.offsets, p_.offsets + kRows) + kRows;
        if (job_.x.data == job_.y.data) readable_ = extent_ + 1; // others may write there
        dense_ = true;
        for (std::int64_t r = 1; r < count_; ++r) dense_ &= to_[r] == to_[0] + r * n_;
        if (plan_.period != 0) p_.links = s_.links.get() + bundle * kRows % plan_.period;
    }
    // Part k of the lines: its weights.
    void take(std::int64_t k) {
        const std::int64_t first = k * part_;
        p_.x = job_.x.at(first + x_shift_);
        p_.readable_beyond = readable_ + x_shift_ + first <= extent_;
        p_.steps = std::min(part_, n_ - first);
        const std::int64_t link = (unit_ * (plan_.lines.product + kRows) + bundle_) * parts_ + k;
        if (plan_.period == 0 && s_.linked_to != link) {
            std::int64_t offsets[kRows];
            find_offsets(job_.w, bundle_ * kRows, 0, offsets);
            s_.cuts = load_links(s_.links.get(), offsets, first, p_.steps);
            s_.linked_to = link;
        }
        p_.cuts = s_.cuts;
    }
    template <class Kernel> void write(std::int64_t k, const Kernel& kernel) {
        take(k);
        void* target = job_.y.at(k * part_ + y_shift_);
        const bool same_type = job_.y.dtype == dtype_of<C>::value;
        p_.y = same_type ? aligned_like(s_.y.get(), static_cast<C*>(target) + to_[0]) : s_.y.get();
        const bool dense = dense_ && p_.steps == n_;
        const bool stream =
            writing_.past_caches && (dense || p_.steps * static_cast<std::int64_t>(sizeof(C)) >= kLongPiece);
        p_.written = writing_.asked_for && dense && !stream ? job_.y.at(to_[0] + y_shift_) : nullptr;
        kernel[dtype()](p_);
        line().write_rows[dtype()](p_.y, count_, p_.steps, target, to_, stream);
    }

    const LineJob& job_;
    const RowPlan& plan_;
    const std::int64_t unit_, extent_, n_, part_, parts_;
    const Writing<C> writing_;
    RowScratch<C>& s_;
    RowLines<C> p_{};
    std::int64_t bundle_ = -1, count_ = 0, readable_ = 0, x_shift_ = 0, y_shift_ = 0;
    bool dense_ = false; // the bundle's lines follow one another in y
    std::int64_t to_[kRows];
};

} // namespace

template <class C> bool run_row_lines(const LineJob& job, const Options& options) {
    const AnyView &x = job.x, &y = job.y;
    const std::int64_t n = x.shape[job.axis];
    if (x.strides[job.axis] != 1 || y.strides[job.axis] != 1) return false;
    const RowPlan plan(job);
    if (job.guide != nullptr && n > kPartSteps && plan.repeats.count > 0) return false; // weights would be made again
    if (const std::int64_t odd = plan.odd_lines(); odd != 0 && odd < plan.lines.product) {
        const auto run = [&](const LineJob& some) { run_row_lines<C>(some, options); };
        with_some_lines(job, plan.lines.dims[0], 0, plan.lines.product - odd, run);
        with_some_lines(job, plan.lines.dims[0], plan.lines.product - odd, odd, run);
        return true;
    }
    const std::int64_t part = std::min(n, kPartSteps);
    const std::int64_t repeats = plan.repeats.product;
    const std::int64_t items = (plan.lines.product + kRows - 1) / kRows * repeats; // of each unit
    const std::int64_t per_task = std::clamp<std::int64_t>(kTaskSize / (n * kRows), 1, items);
    const std::int64_t tasks_per_unit = (items + per_task - 1) / per_task;
    const std::int64_t tasks = plan.units.product * tasks_per_unit;
    const Writing<C> writing(y, options);
    const PerWorker<RowScratch<C>> scratch(tasks, options, part, (n + part - 1) / part, job.normalized,
                                           job.guide != nullptr);
    CancelFlag cancel(options);

    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        RowWalk<C> walk(job, plan, task / tasks_per_unit, part, writing, scratch[worker]);
        const std::int64_t begin = task % tasks_per_unit * per_task, end = std::min(items, begin + per_task);
        for (std::int64_t item = begin; item < end; ++item) {
            cancel.check(worker);
            walk.run(item / repeats, item % repeats);
        }
        kernels<C>().line.finish_writes();
    });
    return true;
}

template bool run_row_lines<float>(const LineJob&, const Options&);
template bool run_row_lines<double>(const LineJob&, const Options&);

} // namespace sgs
