// Few long lines as many short ones side by side, each with what flows into it by connect_parts.
#pragma once

#include "filter.h"
#include "walk.h"

namespace sgs {

/// Whether the lines of x along axis are too few to fill vectors, but long enough to be cut.
inline bool are_few_and_long(const AnyView& x, int axis) {
    const std::int64_t n = x.shape[axis];
    return n >= kLanes * kSteps && x.size() / n <= 8 * kLanes && x.ndim < kMaxDims;
}

/// Whether lines of x and y along axis are best taken in segments. Those that lie along memory are not, from two
/// bundles of them on: what flows into segments takes longer to find than the lines to filter.
inline bool best_in_segments(const AnyView& x, const AnyView& y, int axis) {
    const bool along = x.strides[axis] == 1 && y.strides[axis] == 1;
    return are_few_and_long(x, axis) && !(along && x.size() / x.shape[axis] >= 2 * kRows);
}

/// Segments of kSteps elements each, and a tail of at most as many. Views of segments have one dimension more: that of
/// the segments stands at `axis`, and their own elements at axis + 1.
template <class C> class LongLines {
  public:
    LongLines(const AnyView& x, int axis)
        : axis_(axis), segments_((x.shape[axis] - 1) / kSteps), shape_(x), lines_(x.size() / x.shape[axis]),
          above_((segments_ + 1) * lines_), below_((segments_ + 1) * lines_), through_((segments_ + 1) * lines_) {}

    AnyView segments(const AnyView& v) const {
        AnyView out = v;
        ++out.ndim;
        for (int d = v.ndim; d > axis_; --d) {
            out.shape[d] = v.shape[d - 1];
            out.strides[d] = v.strides[d - 1];
        }
        out.shape[axis_] = segments_;
        out.strides[axis_] = kSteps * v.strides[axis_];
        out.shape[axis_ + 1] = kSteps;
        return out;
    }
    /// Elements, or edges, of the tail.
    AnyView tail(const AnyView& v) const {
        return narrow(v, axis_, segments_ * kSteps, v.shape[axis_] - segments_ * kSteps);
    }
    /// What flows into the first elements of the segments, and of the tail.
    AnyView above() const { return slots(above_.get()); }
    AnyView above_tail() const { return slot(above_.get(), segments_); }
    /// B of the elements after the last of each segment; the edge to there is still to be crossed.
    AnyView below() const { return slots(below_.get() + lines_); }

    /// Finds them, for x times the confidence c (may be null); left and right flow into the whole lines (may be null).
    /// With `ones` (may be null) those of the field of ones, too; with a guide (may be null), of which w is the view,
    /// weights are made.
    void find_ends(const AnyView& x, const AnyView* c, const AnyView& w, const AnyView* left, const AnyView* right,
                   const Options& options, LongLines* ones = nullptr, const GuideOperand* guide = nullptr) {
        const AnyView x_segments = segments(x), w_segments = segments(w);
        const AnyView c_segments = c != nullptr ? segments(*c) : AnyView{};
        const AnyView forward = slots(above_.get() + lines_), backward = slots(below_.get()),
                      products = slots(through_.get());
        const AnyView ones_forward = ones != nullptr ? ones->slots(ones->above_.get() + lines_) : AnyView{};
        const AnyView ones_backward = ones != nullptr ? ones->slots(ones->below_.get()) : AnyView{};
        leave_alone(
            x_segments, c != nullptr ? &c_segments : nullptr, w_segments, axis_ + 1, true, options,
            [&](const Lines& lines, std::int64_t tile, const C* f, const C* b, const double* q) {
                store(f, Strand(lines, forward, tile), 0, 1);
                store(b, Strand(lines, backward, tile), 0, 1);
                store(q, Strand(lines, products, tile), 0, 1);
            },
            [&](const Lines& lines, std::int64_t tile, const C* f, const C* b, const double*) {
                store(f, Strand(lines, ones_forward, tile), 0, 1);
                store(b, Strand(lines, ones_backward, tile), 0, 1);
            },
            ones != nullptr, guide);
        const AnyView x_tail = tail(x), w_tail = tail(w);
        const AnyView c_tail = c != nullptr ? tail(*c) : AnyView{};
        const AnyView first = slot(above_.get(), 0), last = slot(below_.get(), segments_);
        const AnyView last_of_ones = ones != nullptr ? slot(ones->below_.get(), segments_) : AnyView{};
        leave_alone(
            x_tail, c != nullptr ? &c_tail : nullptr, w_tail, axis_, false, options,
            [&](const Lines& lines, std::int64_t tile, const C*, C* b, const double* q) {
                alignas(64) C carry[kLanes];
                load_initial(carry, lines, left, tile);
                store(carry, Strand(lines, first, tile), 0, 1);
                load_initial(carry, lines, right, tile);
                kernels<C>().plane.pass_on(b, q, carry, kLanes);
                store(b, Strand(lines, last, tile), 0, 1);
            },
            [&](const Lines& lines, std::int64_t tile, const C*, C* b, const double*) {
                store(b, Strand(lines, last_of_ones, tile), 0, 1);
            },
            ones != nullptr, guide);
        connect_parts(above_.get(), below_.get(), through_.get(), segments_, lines_, lines_);
        if (ones == nullptr) return;
        std::fill_n(ones->above_.get(), lines_, C(0));
        connect_parts(ones->above_.get(), ones->below_.get(), through_.get(), segments_, lines_, lines_);
    }

  private:
    // One number for each line and segment: those of a segment lie together.
    template <class T> AnyView slots(T* memory) const {
        AnyView out = segments(slot(memory, 0));
        out.strides[axis_] = lines_;
        out.shape[axis_ + 1] = 1;
        return out;
    }
    template <class T> AnyView slot(T* memory, std::int64_t segment) const {
        AnyView out = shape_;
        out.data = memory + segment * lines_;
        out.dtype = dtype_of<T>::value;
        out.shape[axis_] = 1;
        std::int64_t stride = 1;
        for (int d = out.ndim - 1; d >= 0; --d) {
            out.strides[d] = d == axis_ ? 0 : stride;
            stride *= out.shape[d];
        }
        return out;
    }
    // What leaves lines of at most kSteps elements by themselves: `linked` says that an edge follows each. `with_ones`:
    // the same of ones, for keep_ones.
    template <class Keep, class KeepOnes> static void leave_alone(const AnyView& x, const AnyView* c, const AnyView& w,
                                                                  int axis, bool linked, const Options& options,
                                                                  const Keep& keep, const KeepOnes& keep_ones,
                                                                  bool with_ones, const GuideOperand* guide) {
        const Lines lines(x, axis);
        const std::int64_t steps = lines.steps();
        Scratches<C> scratches(lines.tiles(), 0, options);
        parallel_for(lines.tiles(), options, [&](std::int64_t tile, int worker) {
            WalkScratch<C>& s = scratches[worker];
            const std::int64_t edges = steps - (linked ? 0 : 1);
            if (guide != nullptr)
                make_links(s, Strand(lines, w, tile), *guide, edges);
            else
                load_links(s.w.get(), Strand(lines, w, tile), 0, steps, edges + 1);
            load(s.x.get(), Strand(lines, x, tile), 0, steps);
            if (c != nullptr) {
                load(s.terms.get(), Strand(lines, *c, tile), 0, steps);
                kernels<C>().pointwise.trust(s.x.get(), s.terms.get(), steps * kLanes);
            }
            PlaneBlock<C> b{};
            b.rows = steps;
            b.width = b.pitch = kLanes;
            b.x = s.x.get();
            b.down = s.w.get();
            b.cuts = true; // as far as is known
            b.below = s.backward;
            alignas(64) double through[kLanes];
            kernels<C>().plane.products(b, true, through);
            const auto leave = [&](const auto& keep_them) {
                kernels<C>().plane.descend(b, true, s.forward);
                std::fill_n(s.backward, kLanes, C(0));
                kernels<C>().plane.climb(b, s.backward);
                keep_them(lines, tile, s.forward, s.backward, through);
            };
            leave(keep);
            if (!with_ones) return;
            std::fill_n(s.x.get(), steps * kLanes, C(1));
            leave(keep_ones);
        });
    }

    // (1), (2) of the first `edges` edges of lines, as load_links lays them out.
    static void make_links(WalkScratch<C>& s, Strand view, const GuideOperand& guide, std::int64_t edges) {
        const WeightKernels<C>& weight = kernels<C>().weight;
        C *w = s.w.get() + kLanes, *g = s.terms.get();
        const std::int64_t count = edges * kLanes;
        std::fill_n(w - kLanes, count + kLanes, C(0));
        AnyView channel = *view.view;
        view.view = &channel;
        for (std::int64_t k = 0; k < guide.channels; ++k) {
            load(g, view, 0, edges + 1);
            weight.accumulate_distance[static_cast<int>(guide.metric)](w, g, g + kLanes, count, 1, 0);
            channel.data = channel.at(guide.channel_stride);
        }
        weight.finish(w, count, representable<C>(guide.steps[0]), representable<C>(guide.scales[0]),
                      guide.metric == Metric::euclidean);
        std::fill_n(w - kLanes, kLanes, C(1));
        if (edges < kSteps) std::fill_n(w + count, kLanes, C(1));
    }

    int axis_;
    std::int64_t segments_;
    AnyView shape_;
    std::int64_t lines_;
    Buffer<C> above_, below_;
    Buffer<double> through_;
};

} // namespace sgs
