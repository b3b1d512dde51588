// Lines along memory, kRows at a time.
#include "line_job.h"

namespace sgs {
namespace {

constexpr std::int64_t kTable = 1 << 16; // elements of the weights of all lines that are kept together

template <class C> struct RowScratch {
    RowScratch(std::int64_t part, std::int64_t parts, std::int64_t pitch, bool normalized)
        : links((part + 1) * pitch), values((part + kRows) * kRows), sums((part + kRows) * kRows),
          support(normalized ? (part + kRows) * kRows : 0), y((part + 2) * kRows), carries(2 * parts * kRows) {}
    Buffer<C> links, values, sums, support, y;
    Buffer<C> carries; // F before each part, of the values and of ones
    std::int64_t linked_to = -1;
    bool cuts = false;
    alignas(64) C forward[kLanes], backward[kLanes], ones_forward[kLanes], ones_backward[kLanes];
};

// Which lines are taken together, and which share their weights.
struct RowPlan {
    SomeDims lines;          // kRows of them at a time
    SomeDims units;          // what is left
    SomeDims repeats;        // the same weights again and again
    std::int64_t period = 0; // the weights of line l are those of line l % period, all laid out together; or 0

    explicit RowPlan(const LineJob& job) {
        const AnyView& x = job.x;
        const DimOrder order = order_by_stride(job.y, job.axis);
        const auto moves = [&](int d) { return job.w.strides[d] != 0; };
        SomeDims all, own, run, shared;
        bool in_run = true;
        for (int k = 0; k < order.count; ++k) {
            const int d = order.dims[k];
            if (x.shape[d] == 1) continue;
            all.add(x, d);
            (moves(d) ? own : shared).add(x, d);
            in_run = in_run && moves(d);
            if (in_run) run.add(x, d);
        }
        lines = all;
        if (shared.product == 1) return;
        const bool fits = x.shape[job.axis] <= kPartSteps;
        if (run.product > 1 && run.product * x.shape[job.axis] > kTable) { // one plane of lines after the other
            lines = run;
            repeats = shared;
        } else if (fits && (run.product > 1 || shared.product >= kRows)) {
            lines = run;
            for (int k = 0; k < shared.count; ++k) lines.add(x, shared.dims[k]);
            period = run.product;
        } else {
            return;
        }
        for (int k = run.count; k < own.count; ++k) units.add(x, own.dims[k]);
    }
};

// Weights of kRows lines that enter `steps` steps from `first` on; edges that do not exist count 1.
template <class C> void load_links(C* links, std::int64_t pitch, const LineJob& job, const std::int64_t* offsets,
                                   std::int64_t first, std::int64_t steps) {
    const std::int64_t begin = first == 0 ? 1 : 0;
    const std::int64_t end = steps + (first + steps < job.edges() ? 1 : 0);
    const std::int64_t step = job.w.strides[job.axis];
    if (end > begin)
        kernels<C>().line.load_lines[static_cast<int>(job.w.dtype)](
            links + begin * pitch, pitch, job.w.at((first + begin - 1) * step), offsets, end - begin, step);
    if (begin == 1) std::fill_n(links, kRows, C(1));
    if (end == steps) std::fill_n(links + steps * pitch, kRows, C(1));
}

template <class C> void load_carry(C* carry, const AnyView* v, const std::int64_t* offsets) {
    if (v == nullptr)
        std::fill_n(carry, kRows, C(0));
    else
        kernels<C>().convert.load[static_cast<int>(v->dtype)](carry, v->data, 1, 0, offsets, kRows);
}

} // namespace

template <class C> bool run_row_lines(const LineJob& job, const Options& options) {
    const AnyView &x = job.x, &y = job.y;
    const std::int64_t n = x.shape[job.axis];
    if (n < 2 || x.strides[job.axis] != 1 || y.strides[job.axis] != 1) return false;
    const RowPlan plan(job);
    const std::int64_t part = std::min(n, kPartSteps), parts = (n + part - 1) / part;
    const std::int64_t pitch = plan.period != 0 ? (plan.period + 2 * kRows - 2) / kRows * kRows : kRows;
    const std::int64_t bundles = (plan.lines.product + kRows - 1) / kRows;
    const std::int64_t items = bundles * plan.repeats.product; // of each unit
    const std::int64_t per_task = std::clamp<std::int64_t>(kTaskSize / (n * kRows), 1, items);
    const std::int64_t tasks_per_unit = (items + per_task - 1) / per_task;
    const std::int64_t tasks = plan.units.product * tasks_per_unit;
    const bool same_type = y.dtype == dtype_of<C>::value;
    const bool large = same_type && y.size() * static_cast<std::int64_t>(sizeof(C)) >= kBeyondCaches;
    std::int64_t extent = 1; // of x, from its first element on
    for (int d = 0; d < x.ndim; ++d) extent += std::max<std::int64_t>((x.shape[d] - 1) * x.strides[d], 0);
    const LineKernels<C>& kernel = kernels<C>().line;
    const int dtype = static_cast<int>(x.dtype);
    const PerWorker<RowScratch<C>> scratch(tasks, options, part, parts, pitch, job.normalized);
    CancelFlag cancel(options);

    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        RowScratch<C>& s = scratch[worker];
        const std::int64_t unit = task / tasks_per_unit;
        const auto unit_offset = [&](const AnyView& v) { return plan.units.offset(x, v, unit); };
        RowLines<C> p{};
        p.links = s.links.get();
        p.pitch = pitch;
        p.values = s.values.get();
        p.sums = s.sums.get();
        p.support = job.normalized ? s.support.get() : nullptr;
        p.forward = s.forward;
        p.backward = s.backward;
        p.ones_forward = s.ones_forward;
        p.ones_backward = s.ones_backward;
        p.residual = job.residual;
        p.reverse = job.kind == LineJob::Kind::reverse_scan;

        std::int64_t offsets[kRows];
        // Of kRows lines from `line` on; where there are no more, the last one again.
        const auto find_offsets = [&](const AnyView& v, std::int64_t line, std::int64_t repeat, std::int64_t* out) {
            const std::int64_t count = std::min<std::int64_t>(kRows, plan.lines.product - line);
            plan.lines.offsets(x, v, line, count, unit_offset(v) + plan.repeats.offset(x, v, repeat), out);
            std::fill(out + count, out + kRows, out[count - 1]);
            return count;
        };
        const auto make_links = [&](std::int64_t line, std::int64_t first, std::int64_t steps) {
            find_offsets(job.w, line, 0, offsets);
            load_links(s.links.get(), pitch, job, offsets, first, steps);
            s.cuts = kernels<C>().plane.has_zero(s.links.get(), (steps + 1) * pitch);
        };
        if (plan.period != 0 && s.linked_to != unit) {
            const std::int64_t base = unit_offset(job.w);
            for (std::int64_t g = 0; g < pitch; g += kRows) {
                for (std::int64_t k = 0; k < kRows; ++k)
                    offsets[k] = base + plan.lines.offset(x, job.w, (g + k) % plan.period);
                load_links(s.links.get() + g, pitch, job, offsets, 0, n);
            }
            s.cuts = kernels<C>().plane.has_zero(s.links.get(), (n + 1) * pitch);
            s.linked_to = unit;
        }

        const std::int64_t begin = task % tasks_per_unit * per_task, end = std::min(items, begin + per_task);
        for (std::int64_t item = begin; item < end; ++item) {
            cancel.check(worker);
            const std::int64_t bundle = item / plan.repeats.product, repeat = item % plan.repeats.product;
            const std::int64_t line = bundle * kRows;
            if (plan.period != 0) {
                p.links = s.links.get() + line % plan.period;
            } else if (parts == 1 && s.linked_to != unit * bundles + bundle) {
                make_links(line, 0, n);
                s.linked_to = unit * bundles + bundle;
            }
            const auto enter = [&](C* carry, const AnyView* v) {
                if (v != nullptr) find_offsets(*v, line, repeat, offsets);
                load_carry(carry, v, offsets);
            };
            enter(s.forward, p.reverse ? nullptr : job.left);
            enter(s.backward, p.reverse ? job.left : job.right);
            enter(s.ones_forward, job.ones_left);
            enter(s.ones_backward, job.ones_right);
            std::int64_t to[kRows];
            const std::int64_t count = find_offsets(y, line, repeat, to);
            find_offsets(x, line, repeat, p.offsets);
            p.readable_beyond = x.data != y.data;
            for (const std::int64_t offset : p.offsets) p.readable_beyond &= offset + kRows <= extent;
            p.ahead = plan.repeats.count > 0 ? x.strides[plan.repeats.dims[0]] : n * kRows;

            const auto take = [&](std::int64_t k) {
                const std::int64_t first = k * part;
                p.x = x.at(first);
                p.steps = std::min(part, n - first);
                if (parts > 1) {
                    cancel.check(worker);
                    make_links(line, first, p.steps);
                }
                p.cuts = s.cuts;
            };
            const auto write = [&](std::int64_t k) {
                const void* target = static_cast<const char*>(y.at(k * part + to[0]));
                p.y = same_type ? aligned_like(s.y.get(), target) : s.y.get();
                (job.kind == LineJob::Kind::filter ? kernel.filter_rows : kernel.scan_rows)[dtype](p);
                bool stream = large;
                if (p.steps * static_cast<std::int64_t>(sizeof(C)) < kLongPiece)
                    for (std::int64_t r = 1; r < count; ++r) stream &= p.steps == n && to[r] == to[0] + r * n;
                kernel.write_rows[dtype](p.y, count, p.steps, y.at(k * part), to, stream);
            };
            if (job.kind == LineJob::Kind::filter) {
                for (std::int64_t k = 0; k < parts; ++k) {
                    C* kept = s.carries.get() + 2 * k * kRows;
                    std::copy_n(s.forward, kRows, kept);
                    std::copy_n(s.ones_forward, kRows, kept + kRows);
                    if (k + 1 == parts) break;
                    take(k);
                    kernel.carry_rows[dtype](p);
                }
                for (std::int64_t k = parts - 1; k >= 0; --k) {
                    const C* kept = s.carries.get() + 2 * k * kRows;
                    std::copy_n(kept, kRows, s.forward);
                    std::copy_n(kept + kRows, kRows, s.ones_forward);
                    take(k);
                    write(k);
                }
            } else {
                for (std::int64_t i = 0; i < parts; ++i) {
                    const std::int64_t k = p.reverse ? parts - 1 - i : i;
                    take(k);
                    write(k);
                }
            }
        }
    });
    return true;
}

template bool run_row_lines<float>(const LineJob&, const Options&);
template bool run_row_lines<double>(const LineJob&, const Options&);

} // namespace sgs
