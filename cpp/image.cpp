// Images: few planes that share their weights go through one kernel together, a block of kRows rows at a time. F of the
// upper half and B of the lower are found first, by one more reading of x and the guide from the outside to the middle.
// Then both halves are filtered on the way back, with B or F from the middle. As many threads as there are work on
// neighbouring blocks, each a few panels behind the one before.
#include "image.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace sgs {
namespace {

constexpr std::int64_t kSmall = 1 << 17; // positions of an image that one thread filters alone where there are many
constexpr std::int64_t kStrip = 64;      // columns of a half, at least, that a thread has to find F or B of
constexpr std::int64_t kStep = 8;        // panels, at most, by which threads of a half follow each other
constexpr std::int64_t kFewest = 4;      // blocks and panels for a thread, where there are more than two
constexpr int kTurns = 10;               // of the others, before a thread that waits sleeps
constexpr std::int64_t kChunk = 1 << 17; // bytes of a chunk, about,
constexpr std::int64_t kWide = 3 << 17;  // and of a block, at least, that is cut into chunks
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
    Image(const PlaneSet<C>& p, int threads)
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
        b.supported_only = p.marks_unsupported();
        b.residual = o.filter.residual;
        const std::int64_t block_bytes = kRows * p.width * p.group_size * static_cast<std::int64_t>(sizeof(C));
        const bool pays = b.y.mixed ? !cores_are_the_limit(threads) : b.y.column_stride == 1;
        b.streams = outgrows_caches<C>(o.y) && pays && block_bytes >= kStreamedBlock;
    }

    std::int64_t pitch() const { return pitch_; }
    std::int64_t fields() const { return fields_; }
    std::int64_t scratch() const { return image_scratch(p_.width, p_.group_size, guide_planes_); }

    /// `width` columns of block k from `first` on, which is where a panel begins.
    ImageBlock<C> block(std::int64_t group, std::int64_t k, std::int64_t first, std::int64_t width, C* scratch) const {
        const Operands& o = p_.o;
        ImageBlock<C> b = block_;
        b.rows = p_.block_rows(k);
        b.width = width;
        b.linked = k + 1 < p_.blocks;
        b.chunk = panels_together(width);
        b.scratch = scratch;
        const auto enter = [&](PlaneRows& rows, const AnyView& v) {
            char* const row = static_cast<char*>(p_.row(v, group * p_.group_size, k * kRows));
            rows.data = row + first * rows.column_stride * static_cast<std::int64_t>(item_size(v.dtype));
            rows.rows = p_.height - k * kRows;
            rows.width = width;
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
    // Panels whose rows are asked for ahead together. A block of a wide image, the next and that of y as a whole would
    // leave no room in L2 for what is kept from the first walk to the second.
    std::int64_t panels_together(std::int64_t width) const {
        const std::int64_t panels = (width + kRows - 1) / kRows;
        const std::int64_t planes = p_.group_size + (block_.own_guide ? 0 : guide_planes_);
        const std::int64_t bytes = kRows * width * planes * static_cast<std::int64_t>(sizeof(C));
        if (bytes < kWide) return panels;
        const std::int64_t chunks = bytes / kChunk;
        return (panels + chunks - 1) / chunks;
    }

    const PlaneSet<C>& p_;
    std::int64_t guide_planes_, pitch_, fields_;
    ImageBlock<C> block_{};
};

// Until another thread has come so far. It may need this one's processor, where threads are more than those.
void await(const std::atomic<std::int64_t>& panels, std::int64_t end) {
    for (int turns = 0; panels.load(std::memory_order_acquire) < end; ++turns) {
        if (turns < kTurns)
            std::this_thread::yield();
        else
            std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

// One image: its blocks, and what flows between them. Of the upper half, F of the row above each block is kept; of the
// lower, B of the row below. From the middle outward, one row is enough for the other.
template <class C> class Halves {
  public:
    Halves(const Image<C>& image, const PlaneSet<C>& p, std::int64_t group)
        : image_(image), p_(p), group_(group), upper_((p.blocks + 1) / 2), row_(image.fields() * image.pitch()),
          memory_((p.blocks + 2) * row_ + (p.blocks + 1) * image.pitch()),
          edges_(memory_.get() + (p.blocks + 2) * row_), done_(static_cast<std::size_t>(p.blocks)) {
        std::fill_n(above(0), row_, C(0));
        std::fill_n(below(p.blocks - 1), row_, C(0));
        for (const std::int64_t k : {std::int64_t(0), p.blocks}) std::fill_n(edges(k), image.pitch(), C(1));
    }

    /// F of the upper half or B of the lower, from the outside to the middle, of `width` columns from `first` on.
    void come(bool upper, std::int64_t first, std::int64_t width, C* scratch, CancelFlag& cancel, int worker) const {
        if (p_.blocks == 1) return;
        for (std::int64_t i = size(upper) - 1; i >= 0; --i) {
            cancel.check(worker);
            const std::int64_t k = block(upper, i);
            const ImageBlock<C> b = enter(k, first, width, i > 0 ? (upper ? 1 : -1) : 0, scratch);
            if (upper)
                kernels<C>().image.descend(b, above(k) + first, above(k + 1) + first, image_.pitch());
            else
                kernels<C>().image.climb(b, below(k) + first, below(k - 1) + first, image_.pitch());
        }
    }

    /// Everything, from the middle to the outside: those blocks of a half that none of the other threads has.
    void go(bool upper, std::int64_t threads, C* scratch, CancelFlag& cancel, int worker) {
        const auto kernel = kernels<C>().image;
        const std::int64_t panels = image_.pitch() / kRows;
        const std::int64_t step = threads <= 2 ? kStep : std::clamp<std::int64_t>(panels / (2 * threads), 1, kStep);
        for (;;) {
            cancel.check(worker); // before a block is taken, for which others wait
            const std::int64_t i = taken_[upper].fetch_add(1, std::memory_order_relaxed);
            if (i >= size(upper)) return;
            const std::int64_t k = block(upper, i);
            const ImageBlock<C> b = enter(k, 0, p_.width, i + 1 < size(upper) ? (upper ? -1 : 1) : 0, scratch);
            const ImageFlows<C> flows{above(upper ? k : upper_), below(upper ? upper_ - 1 : k), image_.pitch(), upper};
            kernel.bring_in(b);
            for (std::int64_t panel = 0; panel < panels; panel += step) {
                const std::int64_t end = std::min(panel + step, panels);
                if (i > 0) await(done(block(upper, i - 1)), end);
                kernel.filter(b, flows, panel, end);
                done(k).store(end, std::memory_order_release);
            }
            if (b.streams) kernel.stream(b);
        }
    }

  private:
    struct alignas(64) Done { // each on a line of memory of its own: one thread writes it, another looks at it
        std::atomic<std::int64_t> panels{0};
    };

    std::int64_t size(bool upper) const { return upper ? upper_ : p_.blocks - upper_; }
    /// Block i of a half, from the middle on.
    std::int64_t block(bool upper, std::int64_t i) const { return upper ? upper_ - 1 - i : upper_ + i; }
    C* above(std::int64_t k) const { return memory_.get() + k * row_; }       // of blocks 0 to the lower half's first
    C* below(std::int64_t k) const { return memory_.get() + (k + 2) * row_; } // of the upper half's last and on
    C* edges(std::int64_t k) const { return edges_ + k * image_.pitch(); }    // weights of those that enter block k
    std::atomic<std::int64_t>& done(std::int64_t k) { return done_[static_cast<std::size_t>(k)].panels; }

    /// A block, and the rows of the one that follows, `next` further on.
    ImageBlock<C> enter(std::int64_t k, std::int64_t first, std::int64_t width, std::int64_t next, C* scratch) const {
        ImageBlock<C> b = image_.block(group_, k, first, width, scratch);
        b.entering = edges(k) + first;
        b.leaving = edges(k + 1) + first;
        b.next = next * kRows;
        return b;
    }

    const Image<C>& image_;
    const PlaneSet<C>& p_;
    std::int64_t group_, upper_, row_; // blocks of the upper half; elements of a row of all fields
    Buffer<C> memory_;                 // in one piece: the allocator is likelier to have one at hand
    C* edges_;
    std::atomic<std::int64_t> taken_[2]{}; // blocks of each half
    std::vector<Done> done_;               // of each block
};

} // namespace

template <class C> void filter_image(const PlaneSet<C>& p, const Options& options) {
    const Image<C> image(p, options.num_threads);
    const std::int64_t groups = p.planes / p.group_size;
    struct Scratch {
        explicit Scratch(const Image<C>& image) : memory(image.scratch()) {}
        Buffer<C> memory;
    };
    CancelFlag cancel(options);
    if (groups >= 2 * options.num_threads && p.height * p.width <= kSmall) {
        const PerWorker<Scratch> scratch(groups, options, image);
        parallel_for(groups, options, [&](std::int64_t group, int worker) {
            C* const memory = scratch[worker].memory.get();
            Halves<C> halves(image, p, group);
            for (const bool upper : {true, false}) halves.come(upper, 0, p.width, memory, cancel, worker);
            for (const bool upper : {true, false}) halves.go(upper, 1, memory, cancel, worker);
        });
        return;
    }
    const std::int64_t few = std::min(p.blocks, image.pitch() / kRows) / kFewest; // threads that do not wait for long
    const std::int64_t threads = workers(std::max<std::int64_t>(few, 2), options);
    const std::int64_t most = std::clamp<std::int64_t>(p.width / kStrip, 1, (threads + 1) / 2);
    const std::int64_t width = whole_vectors((p.width + most - 1) / most), strips = (p.width + width - 1) / width;
    const PerWorker<Scratch> scratch(std::max(threads, 2 * strips), options, image);
    for (std::int64_t group = 0; group < groups; ++group) {
        Halves<C> halves(image, p, group);
        parallel_for(2 * strips, options, [&](std::int64_t task, int worker) {
            const std::int64_t first = task / 2 * width;
            halves.come(task % 2 == 0, first, std::min(width, p.width - first), scratch[worker].memory.get(), cancel,
                        worker);
        });
        parallel_for(threads, options, [&](std::int64_t task, int worker) {
            for (const bool upper : {task % 2 == 0, task % 2 != 0})
                halves.go(upper, threads, scratch[worker].memory.get(), cancel, worker);
        });
    }
}

template void filter_image<float>(const PlaneSet<float>&, const Options&);
template void filter_image<double>(const PlaneSet<double>&, const Options&);

} // namespace sgs
