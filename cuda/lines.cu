// Support along all lines of an array: one launch where a line fits into shared memory; else three, the first two of
// which find what flows into each chunk, so that no block waits for another. x is read once or twice, y written once.
#include "lines.cuh"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace sgs::cuda {

// ---- geometry

Operand operand(const AnyView& v, const AnyView& domain, int axis) {
    Operand o;
    o.data = v.data;
    o.dtype = v.dtype;
    const int missing = domain.ndim - v.ndim;
    for (int d = missing; d < domain.ndim; ++d) {
        const std::int64_t stride = v.shape[d - missing] == 1 ? 0 : v.strides[d - missing];
        if (d == axis)
            o.step = stride;
        else
            o.strides[d] = stride;
    }
    return o;
}

namespace {

std::int64_t magnitude(std::int64_t v) { return v < 0 ? -v : v; }

// Dimensions of v but for `axis`, neighbours in memory first.
std::vector<int> by_stride(const AnyView& v, int axis) {
    std::vector<int> dims;
    for (int d = v.ndim - 1; d >= 0; --d)
        if (d != axis) dims.push_back(d);
    std::stable_sort(dims.begin(), dims.end(),
                     [&](int a, int b) { return magnitude(v.strides[a]) < magnitude(v.strides[b]); });
    return dims;
}

// How far apart in memory an operand's lanes 0 and 31 are.
std::int64_t spread(const Lines& lines, const Operand& o, bool lanes_are_summed) {
    const std::int64_t lanes = lanes_are_summed ? lines.summed : lines.lanes();
    std::int64_t offset = 0, lane = std::min<std::int64_t>(kLanes, lanes) - 1;
    const int begin = lanes_are_summed ? lines.ndim : 0;
    for (int d = begin; d < begin + (lanes_are_summed ? lines.summed_ndim : lines.ndim); ++d) {
        offset += lane % lines.shape[d] * o.strides[d];
        lane /= lines.shape[d];
    }
    return magnitude(offset + lane * o.chunk);
}

} // namespace

Lines arrange(const AnyView& domain, int axis, std::int64_t length, const AnyView& order, std::span<Operand> operands,
              const bool* summed, bool lanes_are_summed) {
    Lines lines;
    lines.n = axis >= 0 ? domain.shape[axis] : 1;
    lines.length = length;
    lines.chunks = divide_up(lines.n, length);

    std::vector<std::vector<std::int64_t>> strides(operands.size());
    int total = 0;
    for (const bool apart : {false, true}) {
        const int begin = total;
        for (const int d : by_stride(order, axis)) {
            const std::int64_t size = domain.shape[d];
            if ((summed != nullptr && summed[d]) != apart || size == 1) continue;
            bool merges = total > begin;
            std::size_t k = 0;
            for (const Operand& o : operands) {
                merges = merges && o.strides[d] == lines.shape[total - 1] * strides[k].back();
                ++k;
            }
            if (merges) {
                lines.shape[total - 1] *= size;
            } else {
                lines.shape[total++] = size;
                k = 0;
                for (const Operand& o : operands) strides[k++].push_back(o.strides[d]);
            }
            (apart ? lines.summed : lines.count) *= size;
        }
        (apart ? lines.summed_ndim : lines.ndim) = total - begin;
    }
    std::size_t k = 0;
    for (Operand& o : operands) {
        std::copy(strides[k].begin(), strides[k].end(), o.strides);
        ++k;
        o.chunk = o.step * length;
        // Short chunks leave most of a warp without a step.
        o.across = length < 16 || spread(lines, o, lanes_are_summed) <= magnitude(31 * o.step);
    }
    return lines;
}

AnyView dense_like(const AnyView& like, void* memory, DType dtype) {
    AnyView v = like;
    v.data = memory;
    v.dtype = dtype;
    std::int64_t stride = 1;
    for (const int d : by_stride(like, -1)) {
        v.strides[d] = stride;
        stride *= like.shape[d];
    }
    return v;
}

std::int64_t chunk_length(std::int64_t n, int arrays, std::size_t item_size, std::size_t whole) {
    const std::int64_t row = static_cast<std::int64_t>(item_size) * kPitch * arrays;
    constexpr std::int64_t part = 25 * 1024;
    if (n < static_cast<std::int64_t>(whole) / row) return std::max<std::int64_t>(n, 1);
    return divide_up(n, divide_up(n, part / row)); // chunks of nearly the same length
}

// Named, so that a kernel has the same name in every compilation.
inline namespace lines_kernels {

// ---- what flows into each chunk

enum CarryOperand : int { kCarryX, kCarryFactor, kCarryW, kCarryLeft, kCarryRight, kCarryLayout, kCarryOperands };

template <class C> struct CarryArgs {
    Lines lines;
    Operand operands[kCarryOperands];
    Ranges ranges;
    std::int64_t root; // of a tree update, else -1
    Chunks<C> chunks;
    int team; // threads for each line, a power of two
};

// The update from a root (6) is a walk outwards: at the root it takes A itself, elsewhere (1 - w^2) A; the root's own
// edges let nothing in. `edge` is the weight of the edge that enters position i on this walk.
template <class C> __device__ inline C outward_source(C edge, C a, std::int64_t i, std::int64_t root) {
    return i == root ? a : update_source(edge, a);
}

// F at the end of each chunk and B at its start as if nothing flowed in, and what would be left of what does (3).
template <class C> __global__ void __launch_bounds__(kThreads, 1)
    line_carries(const __grid_constant__ CarryArgs<C> args) {
    SGS_SHARED(memory);
    auto* x_offsets = reinterpret_cast<std::int64_t*>(memory);
    std::int64_t* factor_offsets = x_offsets + kLanes;
    std::int64_t* w_offsets = factor_offsets + kLanes;
    std::int64_t* first = w_offsets + kLanes;
    auto* steps = reinterpret_cast<int*>(first + kLanes);
    const Lines& lines = args.lines;
    const int rows = static_cast<int>(lines.length);
    C* x = reinterpret_cast<C*>(steps + kLanes);
    C* w = x + rows * kPitch;

    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * kLanes, index = block + thread;
    if (thread < kLanes) {
        const Lane lane = lane_at(lines, index);
        x_offsets[thread] = offset_of(lines, args.operands[kCarryX], lane);
        factor_offsets[thread] = offset_of(lines, args.operands[kCarryFactor], lane);
        w_offsets[thread] = offset_of(lines, args.operands[kCarryW], lane);
        first[thread] = lane.chunk * lines.length;
        steps[thread] = lane.steps;
    }
    __syncthreads();
    const Lanes lanes{first, steps, rows, lines.n, neighbours_from(lines, block, lines.lanes() - block, false)};
    load_values(x, lanes, args.operands[kCarryX], x_offsets);
    load_links(w, lanes, args.operands[kCarryW], w_offsets);
    __syncthreads();
    if (args.operands[kCarryFactor].data != nullptr) {
        load_factor(x, lanes, args.operands[kCarryFactor], factor_offsets);
        __syncthreads();
    }
    // One warp walks forward, another one backward.
    if (thread >= 2 * kLanes) return;
    const bool forward = thread < kLanes;
    if (forward ? args.ranges.forward_begin >= args.ranges.forward_end
                : args.ranges.backward_begin >= args.ranges.backward_end)
        return;
    const int l = thread % kLanes, count = steps[l];
    if (count == 0) return;
    const bool update = args.root >= 0;
    C f = C(0), product = C(1), least = C(1); // least: the smallest product on the way
    const auto edge_at = [&](int k) { return w[(forward ? k : count - k) * kPitch + l]; };
    const auto position = [&](int k) { return first[l] + (forward ? k : count - 1 - k); };
    for (int k = 0; k < count; ++k) {
        const int row = forward ? k : count - 1 - k;
        C edge = edge_at(k), v = x[row * kPitch + l];
        if (update) {
            v = outward_source(edge, v, position(k), args.root);
            if (position(k) == args.root) edge = C(0);
        }
        f = step(v, edge, f); // (4)
        product *= edge;
        least = fmin(least, fabs(product));
    }
    Reach<C> reach{product, 0};
    if (!(least >= least_support<C>() && isfinite(product))) { // vanished or overflowed on the way, or an edge is cut
        reach = Reach<C>{};
        for (int k = 0; k < count; ++k) extend(reach, update && position(k) == args.root ? C(0) : edge_at(k));
    }
    const Lane lane = lane_at(lines, index - thread + l);
    const std::int64_t offset = offset_of(lines, args.operands[kCarryLayout], lane);
    const Chunks<C>& chunks = args.chunks;
    (forward ? chunks.forward : chunks.backward)[offset] = f;
    chunks.fractions[forward ? 0 : 1][offset] = reach.fraction;
    chunks.exponents[forward ? 0 : 1][offset] = reach.exponent;
}

// What flows into each chunk, from its own line's chunks in order. A team of threads takes one line in one direction,
// each thread a run of chunks; lines count twice, forward and backward.
template <class C> __global__ void __launch_bounds__(kThreads)
    combine_carries(const __grid_constant__ CarryArgs<C> args) {
    SGS_SHARED(memory);
    C* values = reinterpret_cast<C*>(memory);
    C* fractions = values + kThreads;
    int* exponents = reinterpret_cast<int*>(fractions + kThreads);
    const Lines& lines = args.lines;
    const int thread = static_cast<int>(threadIdx.x), member = thread % args.team;
    const std::int64_t task = static_cast<std::int64_t>(blockIdx.x) * (kThreads / args.team) + thread / args.team;
    const bool exists = task < 2 * lines.count, forward = task < lines.count;
    Lane lane;
    lane.line = exists ? task - (forward ? 0 : lines.count) : 0;
    const std::int64_t base = offset_of(lines, args.operands[kCarryLayout], lane);
    C* values_of = forward ? args.chunks.forward : args.chunks.backward;
    const C* fractions_of = args.chunks.fractions[forward ? 0 : 1];
    const int* exponents_of = args.chunks.exponents[forward ? 0 : 1];
    const auto at = [&](std::int64_t k) {
        return base + (forward ? k : lines.chunks - 1 - k) * args.operands[kCarryLayout].chunk;
    };
    const bool empty = forward ? args.ranges.forward_begin >= args.ranges.forward_end
                               : args.ranges.backward_begin >= args.ranges.backward_end;

    const std::int64_t run = divide_up(lines.chunks, args.team), begin = member * run;
    const std::int64_t stop = begin + run < lines.chunks ? begin + run : lines.chunks;
    const std::int64_t end = exists && !empty ? stop : begin;
    C f = C(0);
    Reach<C> reach;
    if (args.team > 1)
        for (std::int64_t k = begin; k < end; ++k) {
            const Reach<C> chunk{fractions_of[at(k)], exponents_of[at(k)]};
            f = values_of[at(k)] + through(chunk, f);
            reach = joined(reach, chunk);
        }
    values[thread] = f;
    fractions[thread] = reach.fraction;
    exponents[thread] = reach.exponent;
    __syncthreads();
    if (member == 0) {
        const Operand& initial = forward ? args.operands[kCarryLeft] : args.operands[kCarryRight];
        C in = C(0);
        if (exists && initial.data != nullptr)
            in = load<C>(initial.data, initial.dtype, offset_of(lines, initial, lane));
        for (int t = thread; t < thread + args.team; ++t) {
            const C out = values[t] + through(Reach<C>{fractions[t], exponents[t]}, in);
            values[t] = in;
            in = out;
        }
    }
    __syncthreads();
    f = values[thread];
    for (std::int64_t k = begin; k < end; ++k) {
        const C out = values_of[at(k)] + through(Reach<C>{fractions_of[at(k)], exponents_of[at(k)]}, f);
        values_of[at(k)] = f;
        f = out;
    }
}

// ---- support

// Before and behind: what flows into the chunks.
enum LineOperand : int { kX, kFactor, kW, kBefore, kBehind, kOut, kSum, kDivisor, kSupport, kLineOperands };

template <class C> struct LineArgs {
    Lines lines;
    Operand operands[kLineOperands];
    Ranges ranges;
    std::int64_t root;
    C fill, unsupported;
    Finish finish;
    bool with_source, scale_first, only_supported, residual;
};

template <class C> __global__ void __launch_bounds__(kThreads, 1)
    line_support(const __grid_constant__ LineArgs<C> args) {
    SGS_SHARED(memory);
    auto* offsets = reinterpret_cast<std::int64_t*>(memory);
    std::int64_t* first = offsets + kLineOperands * kLanes;
    auto* steps = reinterpret_cast<int*>(first + kLanes);
    const Lines& lines = args.lines;
    const int rows = static_cast<int>(lines.length);
    C* x = reinterpret_cast<C*>(steps + kLanes);
    C* w = x + rows * kPitch;
    C* support = w + (rows + 1) * kPitch;

    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, l = thread % 32;
    const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * kLanes;
    const Lane lane = lane_at(lines, block + l);
    for (int k = warp; k < kLineOperands; k += kWarps)
        offsets[k * kLanes + l] = args.operands[k].data != nullptr ? offset_of(lines, args.operands[k], lane) : 0;
    if (warp == 0) {
        first[l] = lane.chunk * lines.length;
        steps[l] = lane.steps;
    }
    __syncthreads();
    const auto offsets_of = [&](LineOperand k) { return offsets + k * kLanes; };
    const auto exists = [&](LineOperand k) { return args.operands[k].data != nullptr; };
    const Lanes lanes{first, steps, rows, lines.n, neighbours_from(lines, block, lines.lanes() - block, false)};
    load_values(x, lanes, args.operands[kX], offsets_of(kX));
    load_links(w, lanes, args.operands[kW], offsets_of(kW));
    __syncthreads();
    if (exists(kFactor)) {
        load_factor(x, lanes, args.operands[kFactor], offsets_of(kFactor));
        __syncthreads();
    }

    if (warp == 0) {
        const bool update = args.root >= 0;
        const Ranges& r = args.ranges;
        const auto inflow = [&](LineOperand k) {
            const Operand& o = args.operands[k];
            return o.data != nullptr && lane.steps > 0 ? load<C>(o.data, o.dtype, offsets_of(k)[l]) : C(0);
        };
        const std::int64_t begin = first[l];
        const auto row_of = [&](std::int64_t i) {
            return i < begin ? 0 : i - begin < lane.steps ? static_cast<int>(i - begin) : lane.steps;
        };
        C f = inflow(kBefore);
        const bool goes_forward = r.forward_begin < r.forward_end;
        const int forward_begin = row_of(r.forward_begin), forward_end = row_of(r.forward_end);
        for (int row = 0; row < lane.steps; ++row) {
            const std::int64_t i = begin + row;
            C v = x[row * kPitch + l], from_before = C(0);
            if (goes_forward) {
                C edge = w[row * kPitch + l];
                if (update) v = outward_source(edge, v, i, args.root);
                if (update && i == args.root) edge = C(0);
                from_before = carried(edge, f);
                f = v + from_before;
            }
            const bool counts = row >= forward_begin && row < forward_end;
            const C sum = counts ? (update ? f : from_before) : C(0);
            support[row * kPitch + l] = args.with_source ? v + sum : sum;
        }
        if (r.backward_begin < r.backward_end) {
            C b = inflow(kBehind);
            const int backward_begin = row_of(r.backward_begin), backward_end = row_of(r.backward_end);
            for (int row = lane.steps - 1; row >= 0; --row) {
                const std::int64_t i = begin + row;
                C v = x[row * kPitch + l], edge = w[(row + 1) * kPitch + l];
                if (update) v = outward_source(edge, v, i, args.root);
                if (update && i == args.root) edge = C(0);
                const C from_behind = carried(edge, b);
                b = v + from_behind;
                if (row >= backward_begin && row < backward_end) support[row * kPitch + l] += update ? b : from_behind;
            }
        }
    }
    __syncthreads();

    // f(place in the tile, get) for all steps of all lanes; get(k): the element of operand k there.
    const auto each_step = [&](const auto& f) {
        each(rows, args.operands[kOut].across, [&](int column) {
            return [&f, &args, offsets = offsets + column, count = steps[column], column](int row) {
                if (row >= count) return;
                f(row * kPitch + column, [&](LineOperand k) {
                    const Operand& o = args.operands[k];
                    return load<C>(o.data, o.dtype, offsets[k * kLanes] + row * o.step);
                });
            };
        });
    };
    if (args.scale_first) {
        each_step([&](int at, const auto& get) { support[at] *= get(kDivisor); });
        __syncthreads();
    }
    if (exists(kSum)) {
        load_lanes(support, lanes, args.operands[kSum], offsets_of(kSum), [](C& to, C v) { to = v + to; });
        __syncthreads();
    }
    if (exists(kSupport)) {
        store_lanes(support, lanes, args.operands[kSupport], offsets_of(kSupport), steps_of(lanes));
        __syncthreads();
    }
    if (args.finish != Finish::none || args.residual) {
        each_step([&](int at, const auto& get) {
            C v = support[at];
            if (args.finish == Finish::reciprocal)
                v = args.only_supported && !(v >= least_support<C>()) ? args.unsupported : C(1) / v;
            if (args.finish == Finish::divide) {
                const C divisor = get(kDivisor);
                v = args.only_supported && divisor < C(0) ? args.fill : v * divisor;
            }
            if (args.residual && !exists(kFactor)) v += x[at];
            if (args.residual && exists(kFactor) && get(kFactor) != C(0)) v += get(kX);
            support[at] = v;
        });
        __syncthreads();
    }
    store_lanes(support, lanes, args.operands[kOut], offsets_of(kOut), steps_of(lanes));
}

} // namespace lines_kernels

namespace {

template <class C> void join(Queue& queue, CarryArgs<C>& args) {
    constexpr std::int64_t chunks_each = 16;
    args.team = 1;
    while (args.team < kThreads && args.team * chunks_each < args.lines.chunks) args.team *= 2;
    queue.launch(&combine_carries<C>, divide_up(2 * args.lines.count * args.team, kThreads), kThreads,
                 kThreads * (2 * sizeof(C) + sizeof(int)), args);
}

} // namespace

template <class C> Carries<C> take_carries(Queue& queue, const AnyView& domain, int axis, std::int64_t length) {
    Carries<C> carries;
    AnyView ends = domain;
    ends.shape[axis] = 1;
    ends = dense_like(ends, nullptr, dtype_of<C>::value);
    const std::int64_t lanes = divide_up(domain.shape[axis], length) * ends.size();
    carries.layout = operand(ends, domain, axis);
    carries.layout.chunk = ends.size();
    carries.forward = queue.take<C>(lanes);
    carries.backward = queue.take<C>(lanes);
    return carries;
}

template <class C>
Chunks<C> take_chunks(Queue& queue, const AnyView& domain, int axis, std::int64_t length, const Carries<C>& carries) {
    const std::int64_t lanes = carries.layout.chunk * divide_up(domain.shape[axis], length);
    Chunks<C> chunks{carries};
    for (int k = 0; k < 2; ++k) {
        chunks.fractions[k] = queue.take<C>(lanes);
        chunks.exponents[k] = queue.take<int>(lanes);
    }
    return chunks;
}

template <class C>
void join_chunks(Queue& queue, const AnyView& domain, int axis, std::int64_t length, const Chunks<C>& chunks) {
    CarryArgs<C> args{};
    args.chunks = chunks;
    args.ranges = {0, domain.shape[axis], 0, domain.shape[axis]};
    args.operands[kCarryLayout] = chunks.layout;
    args.lines = arrange(domain, axis, length, domain, args.operands);
    args.operands[kCarryLayout].chunk = chunks.layout.chunk;
    join(queue, args);
}

template <class C> Carries<C> make_carries(Queue& queue, const AnyView& domain, int axis, std::int64_t length,
                                           const Source& source, const AnyView& w, const Ranges& ranges,
                                           const AnyView* left, const AnyView* right, std::int64_t root) {
    const Carries<C> carries = take_carries<C>(queue, domain, axis, length);
    const std::size_t mark = queue.mark();
    CarryArgs<C> args{};
    args.chunks = take_chunks(queue, domain, axis, length, carries);
    args.ranges = ranges;
    args.root = root;
    args.operands[kCarryX] = operand(source.values, domain, axis);
    args.operands[kCarryFactor] = operand(source.factor, domain, axis);
    args.operands[kCarryW] = operand(w, domain, axis);
    args.operands[kCarryLeft] = operand(left, domain, axis);
    args.operands[kCarryRight] = operand(right, domain, axis);
    args.operands[kCarryLayout] = carries.layout;
    args.lines = arrange(domain, axis, length, domain, args.operands);
    args.operands[kCarryLayout].chunk = carries.layout.chunk;
    queue.launch(&line_carries<C>, divide_up(args.lines.lanes(), kLanes), kThreads,
                 shared_bytes(3, 2 * length + 1, sizeof(C)), args);
    join(queue, args);
    queue.release(mark);
    return carries;
}

template <class C> void run_lines(Queue& queue, const AnyView& domain, int axis, const Source& source, const AnyView& w,
                                  const AnyView& out, const Ranges& ranges, const Epilogue& epilogue,
                                  const AnyView* left, const AnyView* right, std::int64_t root) {
    const std::int64_t length =
        chunk_length(domain.shape[axis], 3, sizeof(C), 44 * 1024); // beside it, offsets: 48 KiB at most
    const std::size_t mark = queue.mark();
    LineArgs<C> args{};
    args.operands[kX] = operand(source.values, domain, axis);
    args.operands[kFactor] = operand(source.factor, domain, axis);
    args.operands[kW] = operand(w, domain, axis);
    args.operands[kOut] = operand(out, domain, axis);
    args.operands[kSum] = operand(epilogue.sum, domain, axis);
    args.operands[kDivisor] = operand(epilogue.scale != nullptr ? epilogue.scale : epilogue.reciprocal, domain, axis);
    args.operands[kSupport] = operand(epilogue.support, domain, axis);
    std::int64_t carry_chunk = 0;
    if (length < domain.shape[axis]) {
        const Carries<C> carries = make_carries<C>(queue, domain, axis, length, source, w, ranges, left, right, root);
        args.operands[kBefore] = args.operands[kBehind] = carries.layout;
        args.operands[kBefore].data = carries.forward;
        args.operands[kBehind].data = carries.backward;
        args.operands[kBefore].dtype = args.operands[kBehind].dtype = dtype_of<C>::value;
        carry_chunk = carries.layout.chunk;
    } else {
        args.operands[kBefore] = operand(left, domain, axis);
        args.operands[kBehind] = operand(right, domain, axis);
    }
    args.lines = arrange(domain, axis, length, out, args.operands);
    if (carry_chunk != 0) args.operands[kBefore].chunk = args.operands[kBehind].chunk = carry_chunk;
    args.ranges = ranges;
    args.root = root;
    args.fill = static_cast<C>(epilogue.fill);
    args.unsupported = static_cast<C>(epilogue.unsupported);
    args.finish = epilogue.finish;
    args.with_source = epilogue.with_source;
    args.scale_first = epilogue.scale != nullptr;
    args.only_supported = epilogue.only_supported;
    args.residual = epilogue.residual;
    queue.launch(&line_support<C>, divide_up(args.lines.lanes(), kLanes), kThreads,
                 shared_bytes(kLineOperands, 3 * length + 1, sizeof(C)), args);
    queue.release(mark);
}

#define SGS_INSTANTIATE(C)                                                                                             \
    template void run_lines<C>(Queue&, const AnyView&, int, const Source&, const AnyView&, const AnyView&,             \
                               const Ranges&, const Epilogue&, const AnyView*, const AnyView*, std::int64_t);          \
    template Carries<C> make_carries<C>(Queue&, const AnyView&, int, std::int64_t, const Source&, const AnyView&,      \
                                        const Ranges&, const AnyView*, const AnyView*, std::int64_t);                  \
    template Carries<C> take_carries<C>(Queue&, const AnyView&, int, std::int64_t);                                    \
    template Chunks<C> take_chunks<C>(Queue&, const AnyView&, int, std::int64_t, const Carries<C>&);                   \
    template void join_chunks<C>(Queue&, const AnyView&, int, std::int64_t, const Chunks<C>&);
SGS_INSTANTIATE(float)
SGS_INSTANTIATE(double)
#undef SGS_INSTANTIATE

} // namespace sgs::cuda
