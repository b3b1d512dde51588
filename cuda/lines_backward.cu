// Derivatives of the support along lines (11): one pass over chunks in shared memory gives x_bar and w_bar; where lines
// have several chunks, what flows into them is found first, for x and for y_bar.
#include "lines_backward.cuh"

#include <algorithm>

#include "sum.cuh"

namespace sgs::cuda {

// Named, so that a kernel has the same name in every compilation.
inline namespace lines_backward_kernels {

enum BackwardOperand : int {
    kX,
    kXFactor,
    kY,
    kYFactor,
    kW,
    kCarry, // layout of what flows into chunks, and of the ends
    kLeft,
    kRight,
    kXBar,
    kSum,
    kWBar,
    kBackwardOperands
};

template <class C> struct BackwardArgs {
    Lines lines;
    Operand operands[kBackwardOperands];
    C *forward_x, *backward_x, *forward_y, *backward_y; // what flows into the chunks; null for single chunks
    C *first, *last;
    std::int64_t groups, group_stride;
    bool forward, backward, lanes_are_summed, with_source, residual;
};

template <class C> __global__ void __launch_bounds__(kThreads, 1)
    line_backward(const __grid_constant__ BackwardArgs<C> args) {
    SGS_SHARED(memory);
    auto* offsets = reinterpret_cast<std::int64_t*>(memory);
    std::int64_t* first = offsets + kBackwardOperands * kLanes;
    auto* steps = reinterpret_cast<int*>(first + kLanes);
    const Lines& lines = args.lines;
    const int rows = static_cast<int>(lines.length);
    C* x = reinterpret_cast<C*>(steps + kLanes);
    C* y = x + rows * kPitch;
    C* forward_x = y + rows * kPitch; // F(x), then what comes of y_bar
    C* forward_y = forward_x + rows * kPitch;
    C* w_bar = forward_y + rows * kPitch;
    C* w = w_bar + rows * kPitch;

    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, l = thread % 32;
    const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) / args.groups;
    const std::int64_t group = static_cast<std::int64_t>(blockIdx.x) - tile * args.groups;
    Lane lane = lane_at(lines, args.lanes_are_summed ? tile : tile * kLanes + l);
    const int all_steps = lane.steps;
    const std::int64_t width = args.lanes_are_summed ? kLanes : 1;
    const std::int64_t run = divide_up(divide_up(lines.summed, width), args.groups) * width;
    const std::int64_t begin = group * run, end = begin + run < lines.summed ? begin + run : lines.summed;
    Lanes lanes{first, steps, rows, lines.n, {}};
    if (!args.lanes_are_summed)
        lanes.beside = neighbours_from(lines, tile * kLanes, lines.lanes() - tile * kLanes, false);
    const std::int64_t part = group * args.group_stride; // its own sums for w_bar
    const auto exists = [&](BackwardOperand k) { return args.operands[k].data != nullptr; };
    const auto offsets_of = [&](BackwardOperand k) { return offsets + k * kLanes; };

    for (std::int64_t s = begin; s < end; s += width) {
        const std::int64_t mine = args.lanes_are_summed ? s + l : s;
        lane.steps = mine < end ? all_steps : 0;
        for (int k = warp; k < kBackwardOperands; k += kWarps)
            offsets[k * kLanes + l] = exists(static_cast<BackwardOperand>(k)) && lane.steps > 0
                                          ? offset_of(lines, args.operands[k], lane, mine) + (k == kWBar ? part : 0)
                                          : 0;
        if (warp == 0) {
            first[l] = lane.chunk * lines.length;
            steps[l] = lane.steps;
        }
        __syncthreads();
        if (args.lanes_are_summed) lanes.beside = neighbours_from(lines, s, end - s, true);
        load_values(x, lanes, args.operands[kX], offsets_of(kX));
        load_values(y, lanes, args.operands[kY], offsets_of(kY));
        if (s == begin) { // the same for all that is summed
            load_links(w, lanes, args.operands[kW], offsets_of(kW));
            fill(w_bar, rows, C(0));
        }
        __syncthreads();
        if (exists(kXFactor) || exists(kYFactor)) {
            if (exists(kXFactor)) load_factor(x, lanes, args.operands[kXFactor], offsets_of(kXFactor));
            if (exists(kYFactor)) load_factor(y, lanes, args.operands[kYFactor], offsets_of(kYFactor));
            __syncthreads();
        }

        if (warp == 0 && lane.steps > 0) {
            const auto inflow = [&](const C* carries, BackwardOperand initial) {
                if (carries != nullptr) return carries[offsets_of(kCarry)[l]];
                const Operand& o = args.operands[initial];
                return exists(initial) ? load<C>(o.data, o.dtype, offsets_of(initial)[l]) : C(0);
            };
            const C into_y = args.forward_y != nullptr ? args.forward_y[offsets_of(kCarry)[l]] : C(0);
            C f = inflow(args.forward_x, kLeft), g = into_y;
            for (int row = 0; row < lane.steps; ++row) {
                const C edge = w[row * kPitch + l];
                if (args.forward) forward_x[row * kPitch + l] = f = step(x[row * kPitch + l], edge, f);
                if (args.backward) forward_y[row * kPitch + l] = g = step(y[row * kPitch + l], edge, g);
            }
            C b = inflow(args.backward_x, kRight);
            C c = args.backward_y != nullptr ? args.backward_y[offsets_of(kCarry)[l]] : C(0);
            for (int row = lane.steps - 1; row >= 0; --row) {
                const C edge = w[(row + 1) * kPitch + l];
                C sum = C(0), support = C(0);
                if (args.forward) {
                    sum = forward_x[row * kPitch + l] * c;
                    support = carried(edge, c);
                    c = step(y[row * kPitch + l], edge, c);
                }
                if (args.backward) {
                    sum += forward_y[row * kPitch + l] * b;
                    support += carried(w[row * kPitch + l], row > 0 ? forward_y[(row - 1) * kPitch + l] : into_y);
                    b = step(x[row * kPitch + l], edge, b);
                }
                if (first[l] + row < lines.n - 1) w_bar[row * kPitch + l] += sum; // behind the last node is no edge
                const C value = y[row * kPitch + l] + support;
                forward_x[row * kPitch + l] = args.with_source ? value : support;
                const std::int64_t end_at = offsets_of(kCarry)[l] - lane.chunk * args.operands[kCarry].chunk;
                if (args.first != nullptr && first[l] + row == 0) args.first[end_at] = value;
                if (args.last != nullptr && first[l] + row == lines.n - 1) args.last[end_at] = value;
            }
        }
        __syncthreads();

        if (exists(kXBar)) {
            const auto add = [&](BackwardOperand k) {
                load_lanes(forward_x, lanes, args.operands[k], offsets_of(k), [](C& to, C v) { to = v + to; });
            };
            if (exists(kSum)) {
                add(kSum);
                __syncthreads();
            }
            if (args.residual) {
                add(kY);
                __syncthreads();
            }
            store_lanes(forward_x, lanes, args.operands[kXBar], offsets_of(kXBar), steps_of(lanes));
        }
        __syncthreads();
    }

    const Operand& out = args.operands[kWBar];
    if (args.lanes_are_summed) {
        for (int row = thread; row < all_steps; row += kThreads) {
            C sum = C(0);
            for (int column = 0; column < kLanes; ++column) sum += w_bar[row * kPitch + column];
            if (lane.chunk * lines.length + row < lines.n - 1)
                store(out.data, out.dtype, part + offset_of(lines, out, lane, 0) + row * out.step, sum);
        }
        return;
    }
    store_lanes(w_bar, lanes, out, offsets_of(kWBar), [&](int column) {
        const std::int64_t behind = lines.n - 1 - first[column]; // the last node has no edge
        return Span{0, steps[column] < behind ? steps[column] : static_cast<int>(behind)};
    });
}

constexpr int kTiles = 6; // x, y_bar, F of both, w_bar, w

} // namespace lines_backward_kernels

template <class C> AnyView ends_of(const AnyView& domain, int axis, C* memory) {
    AnyView ends = domain;
    ends.shape[axis] = 1;
    return dense_like(ends, memory, dtype_of<C>::value);
}

template <class C> BackwardPlan plan_backward(const AnyView& domain, int axis, const AnyView& w) {
    BackwardPlan plan;
    // A second read of x and of y_bar costs more than a full house: lines of 97 and more stay whole where a block may
    // have them.
    const std::size_t whole = std::min<std::size_t>(shared_memory_limit(), 96 * 1024) - 4 * 1024;
    plan.length = chunk_length(domain.shape[axis], kTiles, sizeof(C), whole);
    const int missing = domain.ndim - w.ndim;
    std::int64_t kept = divide_up(domain.shape[axis], plan.length), summed = 1;
    for (int d = 0; d < domain.ndim; ++d) {
        if (d == axis) continue;
        plan.summed[d] = d < missing || w.shape[d - missing] == 1;
        (plan.summed[d] ? summed : kept) *= domain.shape[d];
    }
    plan.lanes_are_summed = kept < kLanes && summed > kept;
    const std::int64_t tiles = plan.lanes_are_summed ? kept : divide_up(kept, kLanes);
    const std::int64_t turns = plan.lanes_are_summed ? divide_up(summed, kLanes) : summed;
    // Enough blocks to fill a chip, but few partial sums beside what is summed.
    constexpr std::int64_t enough = 1024, least_turns = 4;
    const std::int64_t groups =
        std::max<std::int64_t>(1, std::min(divide_up(enough, tiles), divide_up(turns, least_turns)));
    plan.groups = divide_up(turns, divide_up(turns, groups));
    return plan;
}

template <class C> void run_backward(Queue& queue, const AnyView& domain, int axis, const Source& x,
                                     const Source& y_bar, const AnyView& w, bool forward, bool backward,
                                     const AnyView* left, const AnyView* right, const BackwardPlan& plan, C* parts,
                                     const AnyView* single, const BackwardOutputs<C>& outputs) {
    const std::size_t mark = queue.mark();
    const std::int64_t n = domain.shape[axis];
    BackwardArgs<C> args{};
    const AnyView ends = ends_of<C>(domain, axis, nullptr);
    args.operands[kCarry] = operand(ends, domain, axis);
    std::int64_t carry_chunk = 0;
    if (plan.length < n) {
        // F(x) and B(y_bar) for the products of a forward scan, the others for those of a reverse one.
        const std::int64_t f = forward ? n : 0, b = backward ? n : 0;
        const auto cx = make_carries<C>(queue, domain, axis, plan.length, x, w, Ranges{0, f, 0, b}, left, right);
        const auto cy =
            make_carries<C>(queue, domain, axis, plan.length, y_bar, w, Ranges{0, b, 0, f}, nullptr, nullptr);
        args.forward_x = cx.forward;
        args.backward_x = cx.backward;
        args.forward_y = cy.forward;
        args.backward_y = cy.backward;
        carry_chunk = cx.layout.chunk;
    }
    AnyView dense = single != nullptr && plan.groups == 1 ? *single : dense_like(w, parts, dtype_of<C>::value);
    args.operands[kX] = operand(x.values, domain, axis);
    args.operands[kXFactor] = operand(x.factor, domain, axis);
    args.operands[kY] = operand(y_bar.values, domain, axis);
    args.operands[kYFactor] = operand(y_bar.factor, domain, axis);
    args.operands[kW] = operand(w, domain, axis);
    args.operands[kLeft] = operand(left, domain, axis);
    args.operands[kRight] = operand(right, domain, axis);
    args.operands[kXBar] = operand(outputs.x_bar, domain, axis);
    args.operands[kSum] = operand(outputs.sum, domain, axis);
    args.operands[kWBar] = operand(dense, domain, axis);
    args.lines = arrange(domain, axis, plan.length, domain, args.operands, plan.summed, plan.lanes_are_summed);
    args.operands[kCarry].chunk = carry_chunk;
    // The layout alone has no data, but offsets all the same.
    static char layout_only;
    args.operands[kCarry].data = &layout_only;
    args.first = outputs.first;
    args.last = outputs.last;
    args.groups = plan.groups;
    args.group_stride = w.size();
    args.forward = forward;
    args.backward = backward;
    args.lanes_are_summed = plan.lanes_are_summed;
    args.with_source = outputs.with_source;
    args.residual = outputs.residual;
    const std::int64_t tiles = plan.lanes_are_summed ? args.lines.lanes() : divide_up(args.lines.lanes(), kLanes);
    queue.launch(&line_backward<C>, tiles * plan.groups, kThreads,
                 shared_bytes(kBackwardOperands, kTiles * plan.length + 1, sizeof(C)), args);
    queue.release(mark);
}

namespace {

std::size_t backward_along(const AnyView& x, const AnyView& w, const AnyView* left, const AnyView* right,
                           const AnyView& y_bar, const AnyView* x_bar, const AnyView* w_bar, const AnyView* left_bar,
                           const AnyView* right_bar, int axis, bool forward, bool backward, void* stream,
                           const Workspace* workspace) {
    return run(stream, workspace, [&](Queue& queue) {
        with_compute_type(x.dtype, [&](auto zero) {
            using C = decltype(zero);
            if (x.size() == 0) { // sums over nothing
                for (const AnyView* v : {w_bar, left_bar, right_bar})
                    if (v != nullptr && v->size() > 0) sum_groups<C>(queue, *v, nullptr, 0, *v);
                return;
            }
            if (w_bar == nullptr && left_bar == nullptr && right_bar == nullptr) {
                if (x_bar == nullptr) return;
                const std::int64_t n = x.shape[axis];
                const Ranges adjoint{0, backward ? n : 0, 0, forward ? n : 0};
                run_lines<C>(queue, x, axis, Source{&y_bar, nullptr}, w, *x_bar, adjoint, Epilogue{});
                return;
            }
            const AnyView* parts_of = w_bar != nullptr && w_bar->size() > 0 ? w_bar : nullptr;
            const BackwardPlan plan = plan_backward<C>(x, axis, w);
            C* parts = queue.take<C>(plan.groups > 1 || parts_of == nullptr ? plan.groups * w.size() : 0);
            BackwardOutputs<C> outputs;
            outputs.x_bar = x_bar;
            const AnyView ends = ends_of<C>(x, axis, nullptr);
            if (left_bar != nullptr) outputs.first = queue.take<C>(ends.size());
            if (right_bar != nullptr) outputs.last = queue.take<C>(ends.size());
            run_backward<C>(queue, x, axis, Source{&x, nullptr}, Source{&y_bar, nullptr}, w, forward, backward, left,
                            right, plan, parts, parts_of, outputs);
            if (parts_of != nullptr && plan.groups > 1)
                sum_groups<C>(queue, dense_like(w, nullptr, dtype_of<C>::value), parts, plan.groups, *w_bar);
            if (left_bar != nullptr) sum_to<C>(queue, ends_of<C>(x, axis, outputs.first), *left_bar);
            if (right_bar != nullptr) sum_to<C>(queue, ends_of<C>(x, axis, outputs.last), *right_bar);
        });
    });
}

} // namespace

std::size_t scan_backward(const AnyView& x, const AnyView& w, const AnyView* initial, const AnyView& y_bar,
                          const AnyView* x_bar, const AnyView* w_bar, const AnyView* initial_bar, int axis,
                          bool reverse, void* stream, const Workspace* workspace) {
    return backward_along(x, w, reverse ? nullptr : initial, reverse ? initial : nullptr, y_bar, x_bar, w_bar,
                          reverse ? nullptr : initial_bar, reverse ? initial_bar : nullptr, axis, !reverse, reverse,
                          stream, workspace);
}

std::size_t line_filter_backward(const AnyView& x, const AnyView& w, const AnyView* left, const AnyView* right,
                                 const AnyView& y_bar, const AnyView* x_bar, const AnyView* w_bar,
                                 const AnyView* left_bar, const AnyView* right_bar, int axis, void* stream,
                                 const Workspace* workspace) {
    return backward_along(x, w, left, right, y_bar, x_bar, w_bar, left_bar, right_bar, axis, true, true, stream,
                          workspace);
}

#define SGS_INSTANTIATE(C)                                                                                             \
    template AnyView ends_of<C>(const AnyView&, int, C*);                                                              \
    template BackwardPlan plan_backward<C>(const AnyView&, int, const AnyView&);                                       \
    template void run_backward<C>(Queue&, const AnyView&, int, const Source&, const Source&, const AnyView&, bool,     \
                                  bool, const AnyView*, const AnyView*, const BackwardPlan&, C*, const AnyView*,       \
                                  const BackwardOutputs<C>&);
SGS_INSTANTIATE(float)
SGS_INSTANTIATE(double)
#undef SGS_INSTANTIATE

} // namespace sgs::cuda
