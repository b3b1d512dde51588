#include "sum.cuh"

namespace sgs::cuda {

// Named, so that a kernel has the same name in every compilation.
inline namespace sum_kernels {

enum class Term { plain, support, confidence, x_bar };
enum SumOperand : int { kOut, kA, kB, kFactor, kExtra, kSumOperands };

template <class C> struct SumArgs {
    Lines lines; // every element of out is a line
    Operand operands[kSumOperands];
    Term term;
    int team; // threads for each element, a power of two
};

template <class C> __global__ void __launch_bounds__(kThreads) sum_elements(const __grid_constant__ SumArgs<C> args) {
    SGS_SHARED(memory);
    C* parts = reinterpret_cast<C*>(memory);
    const int thread = static_cast<int>(threadIdx.x), member = thread % args.team;
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * (kThreads / args.team) + thread / args.team;
    const bool exists = index < args.lines.count;
    Lane lane;
    lane.line = exists ? index : 0;
    const auto present = [&](SumOperand k) { return args.operands[k].data != nullptr; };
    const auto get = [&](SumOperand k, std::int64_t s) {
        const Operand& o = args.operands[k];
        return load<C>(o.data, o.dtype, offset_of(args.lines, o, lane, s));
    };
    const C factor = exists && present(kFactor) ? get(kFactor, 0) : C(1);
    C sum = C(0);
    const bool reads = exists && factor != C(0);
    for (std::int64_t s = member; reads && s < args.lines.summed; s += args.team) {
        const C a = get(kA, s);
        switch (args.term) {
        case Term::plain: sum += a; break;
        case Term::support: sum += present(kB) ? trusted(factor, a) * get(kB, s) : a; break;
        case Term::confidence: sum += present(kB) ? a * get(kB, s) : a; break;
        case Term::x_bar: sum = factor * a; break;
        }
    }
    parts[thread] = sum;
    __syncthreads();
    for (int width = args.team / 2; width > 0; width /= 2) {
        if (member < width) parts[thread] += parts[thread + width];
        __syncthreads();
    }
    if (!exists || member != 0) return;
    sum = parts[thread];
    if (args.term == Term::support) sum = (present(kExtra) ? get(kExtra, 0) : C(0)) - trusted(factor, sum);
    if (args.term == Term::confidence) sum = factor != C(0) ? sum + get(kExtra, 0) : C(0);
    // The residual passes where there is confidence; b is y_bar.
    if (args.term == Term::x_bar && reads && present(kB)) sum += get(kB, 0);
    const Operand& out = args.operands[kOut];
    store(out.data, out.dtype, offset_of(args.lines, out, lane), sum);
}

template <class C> void launch(Queue& queue, SumArgs<C>& args) {
    // Few elements with long sums get a team each.
    constexpr std::int64_t enough = 16384;
    args.team = 1;
    while (args.team < kThreads && args.lines.count * args.team < enough && args.team * 8 < args.lines.summed)
        args.team *= 2;
    queue.launch(&sum_elements<C>, divide_up(args.lines.count * args.team, kThreads), kThreads, kThreads * sizeof(C),
                 args);
}

// Which dimensions of domain `out` broadcasts along.
void find_summed(const AnyView& domain, const AnyView& out, bool* summed) {
    const int missing = domain.ndim - out.ndim;
    for (int d = 0; d < domain.ndim; ++d) summed[d] = d < missing || out.shape[d - missing] == 1;
}

template <class C>
void sum_over(Queue& queue, const AnyView& domain, const AnyView& kept, const AnyView& order, SumArgs<C>& args) {
    bool summed[kMaxDims];
    find_summed(domain, kept, summed);
    args.lines = arrange(domain, -1, 1, order, args.operands, summed);
    launch(queue, args);
}

} // namespace sum_kernels

template <class C> void sum_to(Queue& queue, const AnyView& in, const AnyView& out) {
    SumArgs<C> args{};
    args.term = Term::plain;
    args.operands[kOut] = operand(out, in, -1);
    args.operands[kA] = operand(in, in, -1);
    sum_over(queue, in, out, in, args);
}

namespace {

template <class C> void sum_parts(Queue& queue, const AnyView& layout, C* in, std::int64_t groups, Term term,
                                  const AnyView* factor, const AnyView* extra, const AnyView& out) {
    SumArgs<C> args{};
    args.term = term;
    args.operands[kOut] = operand(out, layout, -1);
    args.operands[kA] = operand(layout, layout, -1);
    args.operands[kA].data = in;
    args.operands[kA].dtype = dtype_of<C>::value;
    args.operands[kFactor] = operand(factor, layout, -1);
    args.operands[kExtra] = operand(extra, layout, -1);
    args.lines = arrange(layout, -1, 1, layout, args.operands);
    args.lines.summed = args.lines.shape[args.lines.ndim] = groups;
    args.lines.summed_ndim = 1;
    args.operands[kA].strides[args.lines.ndim] = layout.size();
    launch(queue, args);
}

} // namespace

template <class C>
void sum_groups(Queue& queue, const AnyView& layout, C* in, std::int64_t groups, const AnyView& out) {
    sum_parts(queue, layout, in, groups, Term::plain, nullptr, nullptr, out);
}

template <class C> void sum_support_groups(Queue& queue, const AnyView& layout, C* in, std::int64_t groups,
                                           const AnyView& reciprocal, const AnyView* support_bar, const AnyView& out) {
    sum_parts(queue, layout, in, groups, Term::support, &reciprocal, support_bar, out);
}

template <class C> void sum_confidence_groups(Queue& queue, const AnyView& layout, C* in, std::int64_t groups,
                                              const AnyView& confidence, const AnyView& from_support,
                                              const AnyView& out) {
    sum_parts(queue, layout, in, groups, Term::confidence, &confidence, &from_support, out);
}

template <class C> void sum_support_bar(Queue& queue, const AnyView& y_bar, const AnyView& num,
                                        const AnyView& reciprocal, const AnyView* support_bar, const AnyView& out) {
    SumArgs<C> args{};
    args.term = Term::support;
    args.operands[kOut] = operand(out, y_bar, -1);
    args.operands[kA] = operand(y_bar, y_bar, -1);
    args.operands[kB] = operand(num, y_bar, -1);
    args.operands[kFactor] = operand(reciprocal, y_bar, -1);
    args.operands[kExtra] = operand(support_bar, y_bar, -1);
    sum_over(queue, y_bar, out, num, args);
}

template <class C> void sum_confidence_bar(Queue& queue, const AnyView& x, const AnyView& trusted_bar,
                                           const AnyView& confidence, const AnyView& from_support, const AnyView& out) {
    SumArgs<C> args{};
    args.term = Term::confidence;
    args.operands[kOut] = operand(out, x, -1);
    args.operands[kA] = operand(x, x, -1);
    args.operands[kB] = operand(trusted_bar, x, -1);
    args.operands[kFactor] = operand(confidence, x, -1);
    args.operands[kExtra] = operand(from_support, x, -1);
    sum_over(queue, x, out, trusted_bar, args);
}

template <class C> void finish_x_bar(Queue& queue, const AnyView& trusted_bar, const AnyView& confidence,
                                     const AnyView* residual_y_bar, const AnyView& x_bar) {
    SumArgs<C> args{};
    args.term = Term::x_bar;
    args.operands[kOut] = operand(x_bar, trusted_bar, -1);
    args.operands[kA] = operand(trusted_bar, trusted_bar, -1);
    args.operands[kB] = operand(residual_y_bar, trusted_bar, -1);
    args.operands[kFactor] = operand(confidence, trusted_bar, -1);
    args.lines = arrange(trusted_bar, -1, 1, trusted_bar, args.operands);
    launch(queue, args);
}

#define SGS_INSTANTIATE(C)                                                                                             \
    template void sum_to<C>(Queue&, const AnyView&, const AnyView&);                                                   \
    template void sum_groups<C>(Queue&, const AnyView&, C*, std::int64_t, const AnyView&);                             \
    template void sum_support_groups<C>(Queue&, const AnyView&, C*, std::int64_t, const AnyView&, const AnyView*,      \
                                        const AnyView&);                                                               \
    template void sum_confidence_groups<C>(Queue&, const AnyView&, C*, std::int64_t, const AnyView&, const AnyView&,   \
                                           const AnyView&);                                                            \
    template void sum_support_bar<C>(Queue&, const AnyView&, const AnyView&, const AnyView&, const AnyView*,           \
                                     const AnyView&);                                                                  \
    template void sum_confidence_bar<C>(Queue&, const AnyView&, const AnyView&, const AnyView&, const AnyView&,        \
                                        const AnyView&);                                                               \
    template void finish_x_bar<C>(Queue&, const AnyView&, const AnyView&, const AnyView*, const AnyView&);
SGS_INSTANTIATE(float)
SGS_INSTANTIATE(double)
#undef SGS_INSTANTIATE

} // namespace sgs::cuda
