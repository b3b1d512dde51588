// Images: few planes that share their weights go through one kernel together, a block of kRows rows at a time. What
// flows into each block is found before, by one more reading of x and the guide.
#include "image.h"

#include <vector>

namespace sgs {
namespace {

constexpr std::int64_t kStrip = 2048;       // columns that one task connects
constexpr std::int64_t kSmall = 1 << 17;    // positions of an image that one thread filters alone where there are many
constexpr std::int64_t kTaskSize = 1 << 12; // positions that are worth a turn
constexpr std::int64_t kTurns = 8;          // of a thread, where there are that many
constexpr std::int64_t kStreamedBlock = 3 << 16; // bytes of y: in L2, smaller ones are better written as they come

// All rows of the planes of a group, and how they lie.
template <class C> PlaneRows rows_of(const PlaneSet<C>& p, const AnyView& v, std::int64_t planes) {
    PlaneRows rows;
    rows.dtype = v.dtype;
    rows.row_stride = p.row_stride(v);
    rows.column_stride = p.column_stride(v);
    rows.planes = planes;
    bool neighbours = true;
    for (std::int64_t k = 0; k < planes; ++k) {
        rows.offsets[k] = p.offset(v, k);
        neighbours &= rows.offsets[k] == k;
    }
    rows.mixed = neighbours && planes >= 2 && planes <= 4 && rows.column_stride == planes;
    return rows;
}

// Whether supports are found with the weights (8).
template <class C> bool finds_support(const PlaneSet<C>& p) {
    return p.o.guide && p.o.filter.normalization == Normalization::cross;
}

template <class C> class Image {
  public:
    explicit Image(const PlaneSet<C>& p)
        : p_(p), guide_planes_(p.o.guide ? p.o.guide->channels : 0), pitch_(whole_vectors(p.width)),
          fields_(p.group_size + (finds_support(p) ? 1 : 0)) {
        const Operands& o = p.o;
        ImageBlock<C>& b = block_;
        b.width = p.width;
        b.x = rows_of(p, o.x, p.group_size);
        b.y = rows_of(p, o.y, p.group_size);
        if (o.guide) {
            const GuideOperand& guide = *o.guide;
            b.guide = rows_of(p, guide.view, 1);
            b.guide.planes = guide.channels;
            bool neighbours = true;
            for (std::int64_t k = 0; k < guide.channels; ++k) {
                b.guide.offsets[k] = k * guide.channel_stride;
                neighbours &= b.guide.offsets[k] == k;
            }
            b.guide.mixed =
                neighbours && guide.channels >= 2 && guide.channels <= 4 && b.guide.column_stride == guide.channels;
            b.own_guide = !o.confidence && guides_itself(p);
            if (guide.confidence) b.guide_trust = rows_of(p, *guide.confidence, 1);
            b.metric = guide.metric;
            for (int k = 0; k < 2; ++k) {
                const std::size_t axis = k == 0 ? p.down_axis : p.across_axis;
                b.steps[k] = representable<C>(guide.steps[axis]);
                b.scales[k] = representable<C>(guide.scales[axis]);
            }
        } else {
            b.down = rows_of(p, o.weights[p.down_axis], 1);
            b.across = rows_of(p, o.weights[p.across_axis], 1);
            if (!o.reciprocals.empty()) b.reciprocal = rows_of(p, o.reciprocals[0], 1);
        }
        if (o.confidence) b.trust = rows_of(p, *o.confidence, 1);
        b.makes_support = finds_support(p);
        b.centres = p.centres();
        b.fill = static_cast<C>(o.filter.fill_value);
        b.supported_only = o.confidence.has_value();
        b.residual = o.filter.residual;
        const std::int64_t block_bytes = kRows * p.width * p.group_size * static_cast<std::int64_t>(sizeof(C));
        b.streams = p.outgrows_caches() && (b.y.mixed || b.y.column_stride == 1) && block_bytes >= kStreamedBlock;
    }

    std::int64_t pitch() const { return pitch_; }
    std::int64_t fields() const { return fields_; }
    std::int64_t scratch() const { return image_scratch(p_.width, p_.group_size, guide_planes_); }

    ImageBlock<C> block(std::int64_t group, std::int64_t k, C* scratch) const {
        const Operands& o = p_.o;
        ImageBlock<C> b = block_;
        b.rows = p_.block_rows(k);
        b.linked = k + 1 < p_.blocks;
        b.scratch = scratch;
        const auto enter = [&](PlaneRows& rows, const AnyView& v) {
            rows.data = p_.row(v, group * p_.group_size, k * kRows);
            rows.rows = p_.height - k * kRows;
            rows.width = p_.width;
        };
        enter(b.x, o.x);
        enter(b.y, o.y);
        b.y.rows = b.rows;
        if (o.guide) {
            enter(b.guide, o.guide->view);
            if (o.guide->confidence) enter(b.guide_trust, *o.guide->confidence);
        } else {
            enter(b.down, o.weights[p_.down_axis]);
            --b.down.rows;
            enter(b.across, o.weights[p_.across_axis]);
            --b.across.width;
            if (!o.reciprocals.empty()) enter(b.reciprocal, o.reciprocals[0]);
        }
        if (o.confidence) enter(b.trust, *o.confidence);
        return b;
    }

  private:
    const PlaneSet<C>& p_;
    std::int64_t guide_planes_, pitch_, fields_;
    ImageBlock<C> block_{};
};

// What flows between the blocks of one image. In one piece of memory: the allocator is likelier to have one at hand.
template <class C> class BlockEnds {
  public:
    BlockEnds(std::int64_t blocks, std::int64_t fields, std::int64_t pitch)
        : blocks_(blocks), pitch_(pitch), stride_((blocks + 1) * pitch),
          memory_(2 * fields * stride_ + blocks * pitch * (1 + kDouble)), above_(memory_.get()),
          below_(above_ + fields * stride_), leaving_(below_ + fields * stride_),
          through_(reinterpret_cast<double*>(leaving_ + blocks * pitch)) {}

    /// Where a block leaves what it makes by itself: above for the next block, below for the one before.
    ImageEnds<C> leaving(std::int64_t k) const {
        return {above_ + (k + 1) * pitch_, below_ + k * pitch_, through_ + k * pitch_, leaving_ + k * pitch_, stride_};
    }
    ImageEnds<C> entering(std::int64_t k) const {
        return {above_ + k * pitch_, below_ + (k + 1) * pitch_, nullptr, nullptr, stride_};
    }
    /// From what leaves each block alone to what enters it, for `count` columns of a field.
    void connect(std::int64_t field, std::int64_t first, std::int64_t count) const {
        const ImageKernels<C>& kernel = kernels<C>().image;
        double carry[kStrip];
        C* const above = above_ + field * stride_ + first;
        C* const below = below_ + field * stride_ + first;
        std::fill_n(above, count, C(0));
        std::fill_n(below + blocks_ * pitch_, count, C(0));
        std::fill_n(carry, count, 0.0);
        for (std::int64_t k = 0; k + 1 < blocks_; ++k)
            kernel.pass_down(above + (k + 1) * pitch_, through_ + k * pitch_ + first, carry, count);
        for (std::int64_t j = 0; j < count; ++j) carry[j] = static_cast<double>(below[(blocks_ - 1) * pitch_ + j]);
        for (std::int64_t k = blocks_ - 1; k > 0; --k)
            kernel.pass_up(below + k * pitch_, leaving_ + (k - 1) * pitch_ + first, through_ + (k - 1) * pitch_ + first,
                           below + (k - 1) * pitch_, carry, count);
    }

  private:
    static constexpr std::int64_t kDouble = sizeof(double) / sizeof(C);
    std::int64_t blocks_, pitch_, stride_;
    Buffer<C> memory_;
    C *above_, *below_, *leaving_;
    double* through_;
};

} // namespace

template <class C> void filter_image(const PlaneSet<C>& p, const Options& options) {
    const Image<C> image(p);
    const auto kernel = kernels<C>().image;
    const std::int64_t groups = p.planes / p.group_size, strips = (image.pitch() + kStrip - 1) / kStrip;
    const auto connect = [&](const BlockEnds<C>& ends, std::int64_t task) {
        const std::int64_t first = task % strips * kStrip;
        ends.connect(task / strips, first, std::min(kStrip, image.pitch() - first));
    };
    if (groups >= 2 * options.num_threads && p.height * p.width <= kSmall) {
        struct Scratch {
            Scratch(const Image<C>& image, std::int64_t blocks)
                : ends(blocks, image.fields(), image.pitch()), memory(image.scratch()) {}
            BlockEnds<C> ends;
            Buffer<C> memory;
        };
        const PerWorker<Scratch> scratch(groups, options, image, p.blocks);
        parallel_for(groups, options, [&](std::int64_t group, int worker) {
            const Scratch& s = scratch[worker];
            for (std::int64_t k = 0; p.blocks > 1 && k < p.blocks; ++k)
                kernel.ends(image.block(group, k, s.memory.get()), s.ends.leaving(k));
            for (std::int64_t task = 0; task < image.fields() * strips; ++task) connect(s.ends, task);
            for (std::int64_t k = 0; k < p.blocks; ++k)
                kernel.filter(image.block(group, k, s.memory.get()), s.ends.entering(k));
        });
        return;
    }
    // Neighbours, which one thread brings in for itself (Soon), but several turns for each thread.
    const std::int64_t together = std::clamp<std::int64_t>(
        std::max(kTaskSize / (kRows * p.width), p.blocks / (kTurns * options.num_threads)), 1, p.blocks);
    const std::int64_t tasks = (p.blocks + together - 1) / together;
    const BlockEnds<C> ends(p.blocks, image.fields(), image.pitch());
    struct Scratch {
        explicit Scratch(const Image<C>& image) : memory(image.scratch()) {}
        Buffer<C> memory;
    };
    const PerWorker<Scratch> scratch(tasks, options, image);
    const auto each_block = [&](const auto& run) {
        parallel_for(tasks, options, [&](std::int64_t task, int worker) {
            const std::int64_t end = std::min(p.blocks, (task + 1) * together);
            for (std::int64_t k = task * together; k < end; ++k) run(k, scratch[worker].memory.get());
        });
    };
    for (std::int64_t group = 0; group < groups; ++group) {
        if (p.blocks > 1)
            each_block([&](std::int64_t k, C* memory) { kernel.ends(image.block(group, k, memory), ends.leaving(k)); });
        parallel_for(image.fields() * strips, options, [&](std::int64_t task, int) { connect(ends, task); });
        each_block([&](std::int64_t k, C* memory) { kernel.filter(image.block(group, k, memory), ends.entering(k)); });
    }
}

template void filter_image<float>(const PlaneSet<float>&, const Options&);
template void filter_image<double>(const PlaneSet<double>&, const Options&);

} // namespace sgs
