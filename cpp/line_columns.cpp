// Lines side by side in memory, a strip of them at a time.
#include "line_job.h"

namespace sgs {
namespace {

// Elements of a task, about: few where there are few, many where there are many, as the next task's are not fetched.
constexpr std::int64_t kLeastTask = 1 << 15, kLargestTask = 1 << 17;
constexpr std::int64_t kStripSize = 48 * 1024; // elements of a strip, which is read twice,
constexpr std::int64_t kStripRow = 192;        // or twice as many for so many columns

// The lines that lie side by side, as one row of them, and what is left.
struct ColumnPlan {
    std::int64_t width = 1;
    int side = -1;          // the innermost dimension of the row
    bool shared = false;    // lines of the row have the same weights
    bool one_value = false; // x is one number for all of them
    SomeDims units, repeats;
    std::int64_t strip, strips, shift = 0; // strips begin at multiples of `strip` and `shift` more, but for the first

    explicit ColumnPlan(const LineJob& job) {
        const AnyView &x = job.x, &y = job.y;
        const DimOrder order = order_by_stride(y, job.axis);
        bool side_by_side = true;
        const auto every_of_finish = [&](const auto& holds) {
            if (job.finish)
                for (const std::optional<AnyView>* v : job.finish->operands())
                    if (*v && !holds(**v)) return false;
            return true;
        };
        for (int k = 0; k < order.count; ++k) {
            const int d = order.dims[k];
            if (x.shape[d] == 1) continue;
            if (side < 0) {
                one_value = job.finish && !job.finish->residual && x.strides[d] == 0;
                side_by_side =
                    (x.strides[d] == 1 || one_value) && y.strides[d] == 1 &&
                    every_of_finish([d](const AnyView& v) { return v.strides[d] == 0 || v.strides[d] == 1; });
                side = d;
                shared = job.w.strides[d] == 0;
            }
            const auto follows = [&](const AnyView* v) {
                return v == nullptr || v->strides[d] == width * v->strides[side];
            };
            side_by_side = side_by_side && follows(&x) && follows(&y) && follows(&job.w) && follows(job.left) &&
                           follows(job.right) && every_of_finish([&](const AnyView& v) { return follows(&v); });
            if (side_by_side)
                width *= x.shape[d];
            else
                (job.w.strides[d] == 0 ? repeats : units).add(x, d);
        }
        const std::int64_t columns = kStripSize / std::min(x.shape[job.axis], kPartSteps);
        strip = std::max<std::int64_t>(4 * kRows, std::max(columns, std::min(kStripRow, 2 * columns)) / kRows * kRows);
        const auto address = reinterpret_cast<std::uintptr_t>(y.data) / item_size(y.dtype);
        shift = static_cast<std::int64_t>(-address % (64 / item_size(y.dtype)));
        strips = std::max<std::int64_t>(1, (width - shift) / strip);
    }
    std::int64_t begin(std::int64_t s) const { return s == 0 ? 0 : s == strips ? width : s * strip + shift; }
};

template <class C> struct ColumnScratch {
    ColumnScratch(std::int64_t width, std::int64_t part, std::int64_t parts, bool shared)
        : width_pitch((width + kRows - 1) / kRows * kRows), links((part + 1) * (shared ? 1 : width_pitch)),
          forward((part / kernels<C>().line.deep + 2) * width_pitch), backward(2 * width_pitch), y(kRows * (width + 1)),
          carries(parts * width_pitch) {}
    std::int64_t width_pitch;
    Buffer<C> links, forward, backward, y;
    Buffer<C> carries; // F before each part
    std::int64_t linked_to = -1;
    bool cuts = false;
};

} // namespace

template <class C> bool run_column_lines(const LineJob& given, const Options& options) {
    LineJob job = given;
    const std::int64_t n = job.x.shape[job.axis];
    if (n < 2) return false;
    const bool reverse = job.kind == LineJob::Kind::reverse_scan;
    // The filter writes rows in the order of memory: it is that of the flipped lines where y runs the other way.
    const bool mirrored = job.kind == LineJob::Kind::filter && job.y.strides[job.axis] < 0;
    if (mirrored && job.linked) return false;
    if (mirrored) std::swap(job.left, job.right);
    if (reverse || mirrored) { // the scan of the flipped lines
        job.x = flip(job.x, job.axis);
        job.w = flip(job.w, job.axis);
        job.y = flip(job.y, job.axis);
    }
    if (job.finish && mirrored)
        for (std::optional<AnyView>* v : job.finish->operands())
            if (*v) *v = flip(**v, job.axis);
    const Finish* const finish = job.finish ? &*job.finish : nullptr;
    const AnyView &x = job.x, &y = job.y;
    const ColumnPlan plan(job);
    if (plan.width < kRows || job.normalized) return false;
    const std::int64_t part = std::min(n, kPartSteps), parts = (n + part - 1) / part;
    const std::int64_t items = plan.units.product * plan.strips * plan.repeats.product;
    const std::int64_t task_size = std::clamp<std::int64_t>(x.size() / 32, kLeastTask, kLargestTask);
    const std::int64_t per_task =
        std::clamp<std::int64_t>(task_size / (n * std::min(plan.width, plan.strip)), 1, items);
    const std::int64_t tasks = (items + per_task - 1) / per_task;
    const bool same_type = y.dtype == dtype_of<C>::value;
    const Writing<C> writing(y, options);
    const std::int64_t x_step = x.strides[job.axis], y_step = y.strides[job.axis], w_step = job.w.strides[job.axis];
    const bool whole_lines = y_step * static_cast<std::int64_t>(sizeof(C)) % 64 == 0; // from row to row
    const LineKernels<C>& kernel = kernels<C>().line;
    const int dtype = static_cast<int>(x.dtype);
    const std::int64_t widest = plan.strips == 1 ? plan.width : 2 * plan.strip + kRows;
    const PerWorker<ColumnScratch<C>> scratch(tasks, options, widest, part, parts, plan.shared);
    CancelFlag cancel(options);

    parallel_for(tasks, options, [&](std::int64_t task, int worker) {
        ColumnScratch<C>& s = scratch[worker];
        ColumnLines<C> p{};
        p.step = x_step;
        p.ahead = plan.repeats.count > 0 ? x.strides[plan.repeats.dims[0]] : plan.strip;
        p.width_pitch = s.width_pitch;
        p.links = s.links.get();
        p.pitch = plan.shared ? 1 : s.width_pitch;
        p.forward = s.forward.get();
        p.backward = s.backward.get();
        p.shared = plan.shared;
        p.reverse = y_step < 0;
        ColumnFinish<C> fields{};
        if (finish != nullptr) {
            fields.centre = finish->centre;
            fields.divided_alone = finish->divided_alone;
            fields.residual = finish->residual;
            fields.fill = static_cast<C>(finish->fill_value);
            p.finish = &fields;
            p.one_value = plan.one_value;
        }
        const std::int64_t end = std::min(items, (task + 1) * per_task);
        for (std::int64_t item = task * per_task; item < end; ++item) {
            cancel.check(worker);
            const std::int64_t repeat = item % plan.repeats.product, of_weights = item / plan.repeats.product;
            const std::int64_t unit = of_weights / plan.strips, strip = of_weights % plan.strips;
            const std::int64_t column = plan.begin(strip);
            p.width = plan.begin(strip + 1) - column;
            const auto offset = [&](const AnyView& v) {
                return plan.units.offset(x, v, unit) + plan.repeats.offset(x, v, repeat) +
                       column * v.strides[plan.side];
            };
            // Edges that do not exist count 1.
            const auto make_links = [&](std::int64_t first) {
                const std::int64_t begin = first == 0 ? 1 : 0,
                                   after = p.steps + (first + p.steps < job.edges() ? 1 : 0);
                const std::int64_t count = plan.shared ? 1 : p.width;
                C* links = s.links.get();
                if (after > begin)
                    kernels<C>().plane.load_rows[static_cast<int>(job.w.dtype)](
                        links + begin * p.pitch, p.pitch, job.w.at(offset(job.w) + (first + begin - 1) * w_step),
                        w_step, job.w.strides[plan.side], after - begin, count, after - begin);
                if (begin == 1) std::fill_n(links, count, C(1));
                if (after == p.steps) std::fill_n(links + p.steps * p.pitch, count, C(1));
                s.cuts = false;
                for (std::int64_t i = 0; i <= p.steps && !s.cuts; ++i)
                    s.cuts = kernels<C>().plane.has_zero(links + i * p.pitch, count);
            };
            const auto take = [&](std::int64_t k) {
                const std::int64_t first = k * part;
                p.steps = std::min(part, n - first);
                p.x = x.at(offset(x) + first * x_step);
                const auto enter_field = [&](ColumnField<C>& field, const std::optional<AnyView>& v) {
                    if (!v) return;
                    const std::int64_t step = v->strides[job.axis];
                    field = {static_cast<const C*>(v->at(offset(*v) + first * step)), step, v->strides[plan.side] == 0};
                };
                if (finish != nullptr) {
                    enter_field(fields.sums, finish->sums);
                    enter_field(fields.reciprocal, finish->reciprocal);
                    enter_field(fields.trust, finish->confidence);
                }
                if (parts > 1) cancel.check(worker);
                if (parts > 1 || s.linked_to != of_weights) make_links(first);
                s.linked_to = of_weights;
                p.cuts = s.cuts;
            };
            const auto enter = [&](C* carry, const AnyView* v) {
                std::fill_n(carry, s.width_pitch, C(0));
                if (v != nullptr)
                    kernels<C>().plane.load_rows[static_cast<int>(v->dtype)](carry, s.width_pitch, v->at(offset(*v)), 0,
                                                                             v->strides[plan.side], 1, p.width, 1);
            };
            const auto write = [&](std::int64_t k, const auto& kernel_of_rows) {
                const std::int64_t block = (p.steps - 1) / kRows;
                for (std::int64_t i = 0; i <= block; ++i) {
                    const std::int64_t from = (job.kind == LineJob::Kind::filter ? block - i : i) * kRows;
                    const std::int64_t rows = std::min<std::int64_t>(kRows, p.steps - from);
                    // In the order of memory.
                    const std::int64_t first = k * part + from + (p.reverse ? rows - 1 : 0), step = std::abs(y_step);
                    void* target = y.at(offset(y) + first * y_step);
                    p.y = same_type ? aligned_like(s.y.get(), target) : s.y.get();
                    // Rows that are far apart are too many streams to be asked for, if they can go past the caches.
                    const bool long_rows = p.width * static_cast<std::int64_t>(sizeof(C)) >= kLongPiece;
                    const bool stream = step == p.width && !long_rows
                                            ? writing.past_caches
                                            : writing.outgrows_caches && (whole_lines || long_rows);
                    const bool read_before = finish != nullptr && finish->sums && finish->sums->data == y.data;
                    const bool asked_for = writing.asked_for && y.dtype == x.dtype && !read_before;
                    p.written = asked_for && !stream ? target : nullptr;
                    p.written_step = step;
                    kernel_of_rows[dtype](p, from, rows);
                    std::int64_t offsets[kRows];
                    for (std::int64_t r = 0; r < rows; ++r) offsets[r] = r * step;
                    kernel.write_rows[static_cast<int>(y.dtype)](p.y, rows, p.width, target, offsets, stream);
                }
            };
            enter(p.forward, job.left);
            if (job.kind != LineJob::Kind::filter) {
                for (std::int64_t k = 0; k < parts; ++k) {
                    take(k);
                    write(k, kernel.scan_columns);
                }
                continue;
            }
            for (std::int64_t k = 0; k + 1 < parts; ++k) {
                std::copy_n(p.forward, p.width, s.carries.get() + k * s.width_pitch);
                take(k);
                kernel.carry_columns[dtype](p);
                std::copy_n(p.forward + p.steps / kernel.deep * s.width_pitch, p.width, p.forward);
            }
            for (std::int64_t k = parts - 1; k >= 0; --k) {
                take(k);
                if (k + 1 < parts) std::copy_n(s.carries.get() + k * s.width_pitch, p.width, p.forward);
                kernel.carry_columns[dtype](p);
                if (k + 1 == parts)
                    enter(p.backward + ((p.steps - 1) / kernel.deep + 1) % 2 * s.width_pitch, job.right);
                write(k, kernel.filter_columns);
            }
        }
        kernel.finish_writes();
    });
    return true;
}

template bool run_column_lines<float>(const LineJob&, const Options&);
template bool run_column_lines<double>(const LineJob&, const Options&);

} // namespace sgs
