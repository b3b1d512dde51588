// Edge weights (1), (2) from a guide, and their derivatives (11). A thread takes one edge of one head, then one node.
#include "lines.cuh"

namespace sgs::cuda {

// Named, so that a kernel has the same name in every compilation.
inline namespace weights_kernels {

enum EdgeOperand : int { kGuide, kConfidence, kEdges, kIncoming, kEdgeOperands };

struct EdgeArgs {
    Lines lines;                     // every edge (or node) of every head is a line
    Operand operands[kEdgeOperands]; // the guide's first channel of each head; confidence; arrays over edges
    std::int64_t channels, channel_stride;
    std::int64_t node_stride, confidence_stride, edge_stride; // along the axis
    Scalar scale, step;
    Metric metric;
    double* parts;              // of the derivatives by scale and step, one pair for each block
    std::int64_t groups;        // of channels, for the guide's derivative
    std::int64_t nodes;         // n
    Operand node_bar, position; // the guide's derivative; position on the axis (its stride alone)
};

template <class C> __device__ inline C value_of(const Scalar& s) {
    return s.device != nullptr ? load<C>(s.device, s.dtype, 0) : static_cast<C>(s.value);
}

template <class C> __device__ inline C distance(const EdgeArgs& args, const Lane& lane) {
    const Operand& guide = args.operands[kGuide];
    const std::int64_t base = offset_of(args.lines, guide, lane);
    C d = C(0);
    with_pointer(guide.data, guide.dtype, [&](auto p) {
        p += base;
        SGS_UNROLL
        for (std::int64_t c = 0; c < args.channels; ++c) {
            const C here = static_cast<C>(widen(p[c * args.channel_stride]));
            const C difference = static_cast<C>(widen(p[c * args.channel_stride + args.node_stride])) - here;
            d += args.metric == Metric::cityblock ? distance_term<1>(difference) : distance_term<2>(difference);
        }
    });
    return args.metric == Metric::euclidean ? sqrt(d) : d;
}

template <class C> __device__ inline bool untrusted(const EdgeArgs& args, const Lane& lane) {
    const Operand& c = args.operands[kConfidence];
    if (c.data == nullptr) return false;
    const std::int64_t at = offset_of(args.lines, c, lane);
    return load<C>(c.data, c.dtype, at) == C(0) || load<C>(c.data, c.dtype, at + args.confidence_stride) == C(0);
}

template <class C> __global__ void __launch_bounds__(kThreads) weigh_edges(const __grid_constant__ EdgeArgs args) {
    Lane lane;
    lane.line = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (lane.line >= args.lines.count) return;
    const C d = untrusted<C>(args, lane) ? C(0) : distance<C>(args, lane);
    const Operand& w = args.operands[kEdges];
    store(w.data, w.dtype, offset_of(args.lines, w, lane),
          edge_weight(d, value_of<C>(args.step), value_of<C>(args.scale)));
}

// What each edge passes on to its two ends, per unit of difference: d_bar / d, d_bar or 2 d_bar; and sums for scale and
// step.
template <class C> __global__ void __launch_bounds__(kThreads) pull_edges(const __grid_constant__ EdgeArgs args) {
    SGS_SHARED(memory);
    auto* scale_parts = reinterpret_cast<double*>(memory);
    double* step_parts = scale_parts + kThreads;
    const int thread = static_cast<int>(threadIdx.x);
    Lane lane;
    lane.line = static_cast<std::int64_t>(blockIdx.x) * kThreads + thread;
    double scale_bar = 0, step_bar = 0;
    if (lane.line < args.lines.count) {
        const C scale = value_of<C>(args.scale), step_length = value_of<C>(args.step);
        const bool ignored = untrusted<C>(args, lane);
        const C d = ignored ? C(0) : distance<C>(args, lane);
        const C w = edge_weight(d, step_length, scale);
        const Operand &incoming = args.operands[kIncoming], &pull = args.operands[kEdges];
        C d_bar = C(0);
        if (w != C(0)) { // nothing at all comes from a cut edge, whose distance may be infinite
            const C w_bar = load<C>(incoming.data, incoming.dtype, offset_of(args.lines, incoming, lane));
            const C e = w * w_bar / scale;
            d_bar = -e;
            scale_bar = static_cast<double>(e * ((d + step_length) / scale));
            step_bar = static_cast<double>(d_bar);
        }
        C q = args.metric == Metric::sqeuclidean ? C(2) * d_bar : d_bar;
        if (args.metric == Metric::euclidean) q = d == C(0) ? C(0) : d_bar / d;
        if (pull.data != nullptr) store(pull.data, pull.dtype, offset_of(args.lines, pull, lane), ignored ? C(0) : q);
    }
    scale_parts[thread] = scale_bar;
    step_parts[thread] = step_bar;
    __syncthreads();
    for (int width = kThreads / 2; width > 0; width /= 2) {
        if (thread < width) {
            scale_parts[thread] += scale_parts[thread + width];
            step_parts[thread] += step_parts[thread + width];
        }
        __syncthreads();
    }
    if (thread == 0) {
        args.parts[2 * static_cast<std::int64_t>(blockIdx.x)] = scale_parts[0];
        args.parts[2 * static_cast<std::int64_t>(blockIdx.x) + 1] = step_parts[0];
    }
}

struct PartArgs {
    const double* parts;
    std::int64_t count;
    void* data[2];
    DType dtype[2];
};

// One block; thread t takes every kThreads-th part from t on.
__global__ void __launch_bounds__(kThreads) sum_parts(const __grid_constant__ PartArgs args) {
    SGS_SHARED(memory);
    auto* sums = reinterpret_cast<double*>(memory);
    const int thread = static_cast<int>(threadIdx.x);
    for (int which = 0; which < 2; ++which) {
        double sum = 0;
        for (std::int64_t k = thread; k < args.count; k += kThreads) sum += args.parts[2 * k + which];
        sums[thread] = sum;
        __syncthreads();
        for (int width = kThreads / 2; width > 0; width /= 2) {
            if (thread < width) sums[thread] += sums[thread + width];
            __syncthreads();
        }
        if (thread == 0 && args.data[which] != nullptr) store(args.data[which], args.dtype[which], 0, sums[0]);
    }
}

// The guide's derivative at one node: pulled by the edge before it and by the edge after it.
template <class C> __global__ void __launch_bounds__(kThreads) pull_nodes(const __grid_constant__ EdgeArgs args) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (index >= args.lines.count * args.groups) return;
    Lane lane;
    lane.line = index;
    std::int64_t group = index;
    lane.line = split(group, args.lines.count);
    const std::int64_t i = offset_of(args.lines, args.position, lane);
    const Operand &pulls = args.operands[kEdges], &guide = args.operands[kGuide], &out = args.node_bar;
    const std::int64_t at = offset_of(args.lines, pulls, lane);
    const bool has_before = i > 0, has_after = i < args.nodes - 1;
    const C before = has_before ? load<C>(pulls.data, pulls.dtype, at - args.edge_stride) : C(0);
    const C after = has_after ? load<C>(pulls.data, pulls.dtype, at) : C(0);
    const std::int64_t base = offset_of(args.lines, guide, lane), target = offset_of(args.lines, out, lane);
    const auto pulled = [&](C q, C difference) {
        if (args.metric != Metric::cityblock) return carried(q, difference); // 0 D = 0 for an infinite D too
        return difference > C(0) ? q : difference < C(0) ? -q : difference * q;
    };
    const std::int64_t run = divide_up(args.channels, args.groups), begin = group * run;
    const std::int64_t end = begin + run < args.channels ? begin + run : args.channels;
    for (std::int64_t c = begin; c < end; ++c) {
        const auto get = [&](std::int64_t node) {
            return load<C>(guide.data, guide.dtype, base + c * args.channel_stride + node * args.node_stride);
        };
        const C here = get(0);
        C bar = C(0);
        if (has_before) bar += pulled(before, here - get(-1));
        if (has_after) bar -= pulled(after, get(1) - here);
        store(out.data, out.dtype, target + c * out.step, bar);
    }
}

struct Edges {
    EdgeArgs args{};
    AnyView heads; // the guide's first channel of each head
    AnyView edges; // the same with n - 1 along the axis
};

Edges edges_of(const AnyView& guide, const AnyView& w, int channel_axis, int axis, const Scalar& scale,
               const Scalar& step, Metric metric, const AnyView* confidence) {
    Edges e;
    const std::int64_t head_count = w.shape[channel_axis];
    e.args.channels = head_count > 0 ? guide.shape[channel_axis] / head_count : 0;
    e.args.channel_stride = guide.strides[channel_axis];
    e.args.node_stride = guide.strides[axis];
    e.args.nodes = guide.shape[axis];
    e.args.scale = scale;
    e.args.step = step;
    e.args.metric = simplest(metric, e.args.channels);
    e.heads = guide;
    e.heads.shape[channel_axis] = head_count;
    e.heads.strides[channel_axis] = e.args.channels * e.args.channel_stride;
    e.edges = e.heads;
    e.edges.shape[axis] = w.shape[axis];
    e.args.operands[kGuide] = operand(e.heads, e.heads, -1);
    if (confidence != nullptr) {
        Operand& c = e.args.operands[kConfidence];
        c = operand(*confidence, e.heads, -1);
        e.args.confidence_stride = c.strides[axis];
    }
    return e;
}

} // namespace weights_kernels

std::size_t edge_weights(const AnyView& guide, const AnyView& w, int channel_axis, int axis, const Scalar& scale,
                         const Scalar& step, Metric metric, const AnyView* confidence, void* stream,
                         const Workspace* workspace) {
    return run(stream, workspace, [&](Queue& queue) {
        if (w.size() == 0) return;
        Edges e = edges_of(guide, w, channel_axis, axis, scale, step, metric, confidence);
        e.args.operands[kEdges] = operand(w, e.edges, -1);
        e.args.lines = arrange(e.edges, -1, 1, e.edges, e.args.operands);
        const std::int64_t blocks = divide_up(e.args.lines.count, kThreads);
        if (guide.dtype == DType::float64)
            queue.launch(&weigh_edges<double>, blocks, kThreads, 0, e.args);
        else
            queue.launch(&weigh_edges<float>, blocks, kThreads, 0, e.args);
    });
}

std::size_t edge_weights_backward(const AnyView& guide, const AnyView& w_bar, const AnyView* guide_bar,
                                  const AnyView* scale_bar, const AnyView* step_bar, int channel_axis, int axis,
                                  const Scalar& scale, const Scalar& step, Metric metric, const AnyView* confidence,
                                  void* stream, const Workspace* workspace) {
    return run(stream, workspace, [&](Queue& queue) {
        if (guide_bar != nullptr && guide_bar->size() == 0) guide_bar = nullptr;
        with_compute_type(guide.dtype, [&](auto zero) {
            using C = decltype(zero);
            Edges e = edges_of(guide, w_bar, channel_axis, axis, scale, step, metric, confidence);
            const std::int64_t count = w_bar.size(), blocks = divide_up(count, kThreads);
            C* memory = guide_bar != nullptr ? queue.take<C>(count) : nullptr;
            double* parts = queue.take<double>(2 * blocks);
            const AnyView pulls = dense_like(e.edges, memory, dtype_of<C>::value);
            EdgeArgs args = e.args;
            args.parts = parts;
            if (count > 0) {
                args.operands[kIncoming] = operand(w_bar, e.edges, -1);
                if (guide_bar != nullptr) args.operands[kEdges] = operand(pulls, e.edges, -1);
                args.lines = arrange(e.edges, -1, 1, e.edges, args.operands);
                queue.launch(&pull_edges<C>, blocks, kThreads, 2 * kThreads * sizeof(double), args);
            }
            if (scale_bar != nullptr || step_bar != nullptr) {
                PartArgs sums{};
                sums.parts = parts;
                sums.count = blocks;
                const AnyView* views[2] = {scale_bar, step_bar};
                for (int k = 0; k < 2; ++k)
                    if (views[k] != nullptr) {
                        sums.data[k] = views[k]->data;
                        sums.dtype[k] = views[k]->dtype;
                    }
                queue.launch(&sum_parts, 1, kThreads, kThreads * sizeof(double), sums);
            }
            if (guide_bar == nullptr) return;
            // Over nodes: the edge after a node is the edge of its own number.
            AnyView heads_bar = *guide_bar, position = e.heads;
            heads_bar.shape[channel_axis] = e.heads.shape[channel_axis];
            heads_bar.strides[channel_axis] = e.args.channels * guide_bar->strides[channel_axis];
            position.strides.fill(0);
            position.strides[axis] = 1;
            Operand all[kEdgeOperands + 2];
            all[kGuide] = operand(e.heads, e.heads, -1);
            all[kEdges] = operand(pulls, e.heads, -1);
            all[kEdges].strides[axis] = pulls.strides[axis];
            all[kEdgeOperands] = operand(heads_bar, e.heads, -1);
            all[kEdgeOperands + 1] = operand(position, e.heads, -1);
            args = e.args;
            args.edge_stride = pulls.strides[axis];
            args.lines = arrange(e.heads, -1, 1, *guide_bar, all);
            for (int k = 0; k < kEdgeOperands; ++k) args.operands[k] = all[k];
            args.node_bar = all[kEdgeOperands];
            args.node_bar.step = guide_bar->strides[channel_axis];
            args.position = all[kEdgeOperands + 1];
            constexpr std::int64_t enough = 65536; // threads
            std::int64_t groups = divide_up(enough, args.lines.count);
            if (groups > args.channels) groups = args.channels;
            args.groups = divide_up(args.channels, divide_up(args.channels, groups));
            queue.launch(&pull_nodes<C>, divide_up(args.lines.count * args.groups, kThreads), kThreads, 0, args);
        });
    });
}

} // namespace sgs::cuda
