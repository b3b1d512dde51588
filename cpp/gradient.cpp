#include "gradient.h"

#include "walk.h"

namespace sgs {
namespace {

constexpr std::int64_t kUnitSize = 1 << 15; // elements of x, y_bar and x_bar each that stay in L2
constexpr std::int64_t kMaxChunks = 16;

std::int64_t product(const AnyView& v, const DimSet& dims, bool of_those) {
    std::int64_t n = 1;
    for (int d = 0; d < v.ndim; ++d)
        if (dims[d] == of_those) n *= v.shape[d];
    return n;
}

// v moved to the index-th position along `dims`, the last of which runs fastest.
AnyView moved(AnyView v, const AnyView& shape, const std::vector<int>& dims, std::int64_t index) {
    std::int64_t elements = 0;
    for (auto d = dims.rbegin(); d != dims.rend(); ++d) {
        elements += index % shape.shape[*d] * v.strides[*d];
        index /= shape.shape[*d];
    }
    v.data = v.at(elements);
    return v;
}

// How the lines of a block along one axis are visited: in groups that have their weights in common, each group as often
// as shared dimensions repeat it. Lanes are lines with different weights; or, where the shared dimension lies closest
// in memory (channels last), lines with the same.
class Visits {
  public:
    /// lanes_shared: as nearest_is_shared says of the whole array, of which x is a block.
    Visits(const AnyView& x, int axis, const DimSet& shared, bool lanes_shared)
        : shape_(x), lanes_shared_(lanes_shared), lines_(lane_shape(x, axis, shared, lanes_shared), axis) {
        for (int d = 0; d < x.ndim; ++d)
            if (d != axis && x.shape[d] > 1 && shared[d] != lanes_shared_) walked_.push_back(d);
    }

    static bool nearest_is_shared(const AnyView& x, int axis, const DimSet& shared) {
        const DimOrder order = order_by_stride(x, axis);
        for (int k = 0; k < order.count; ++k)
            if (x.shape[order.dims[k]] > 1) return shared[order.dims[k]] && x.shape[order.dims[k]] >= 16;
        return false;
    }

    bool lanes_shared() const { return lanes_shared_; }
    std::int64_t groups() const { return lanes_shared_ ? walks() : lines_.tiles(); }
    std::int64_t repeats() const { return lanes_shared_ ? lines_.tiles() : walks(); }
    const Lines& lines() const { return lines_; }

    /// An operand's lines; move_to brings them to the n-th repeat.
    class Operand {
      public:
        Operand(const Visits& visits, const AnyView& v, std::int64_t group)
            : visits_(&visits), all_(visits.lanes_shared_ ? moved(v, visits.shape_, visits.walked_, group) : v),
              now_(all_) {
            strand_.view = &now_;
            strand_.step = v.strides[visits.lines_.axis()];
            if (!visits.lanes_shared_) set_lanes(group);
        }
        Operand(const Operand&) = delete;
        Operand& operator=(const Operand&) = delete;
        const Strand& at(std::int64_t repeat) {
            if (visits_->lanes_shared_)
                set_lanes(repeat);
            else
                now_.data = moved(all_, visits_->shape_, visits_->walked_, repeat).data;
            return strand_;
        }
        const Strand& get() const { return strand_; }

      private:
        void set_lanes(std::int64_t tile) {
            strand_.lanes = visits_->lines_.lanes(tile);
            visits_->lines_.offsets(all_, tile, strand_.offsets);
        }
        const Visits* visits_;
        AnyView all_, now_;
        Strand strand_;
    };

  private:
    static AnyView lane_shape(AnyView x, int axis, const DimSet& shared, bool lanes_shared) {
        for (int d = 0; d < x.ndim; ++d)
            if (d != axis && shared[d] != lanes_shared) x.shape[d] = 1;
        return x;
    }
    std::int64_t walks() const {
        std::int64_t n = 1;
        for (const int d : walked_) n *= shape_.shape[d];
        return n;
    }

    AnyView shape_;
    bool lanes_shared_;
    Lines lines_;
    std::vector<int> walked_;
};

template <class C> struct GradientScratch {
    explicit GradientScratch(std::int64_t steps)
        : forward_p((steps + kSteps - 1) / kSteps * kLanes), forward_q((steps + kSteps - 1) / kSteps * kLanes),
          w_sum((steps + 1) * kLanes), s_sum(steps * kLanes), c_sum(steps * kLanes) {}
    Buffer<C> p{kTileSize}, q{kTileSize}, w{kTileSize}, fp{kTileSize}, fq{kTileSize}, r{kTileSize}, c{kTileSize},
        side{kTileSize};
    Buffer<C> forward_p, forward_q; // F before each chunk of steps
    Buffer<C> w_sum, s_sum, c_sum;  // sums over the repeats, for whole lines; row i + 1 of w_sum is edge i
    alignas(64) C carry_p[kLanes], carry_q[kLanes];
};

// Adds rows of a tile of sums to where they belong; lanes that share their place are added up first.
template <class C> void add_rows(const C* rows, const Visits& visits, const AnyView& sums, std::int64_t group,
                                 std::int64_t count, C* side) {
    Visits::Operand operand(visits, sums, group);
    if (visits.lanes_shared()) {
        C* to = static_cast<C*>(operand.get().view->data);
        for (std::int64_t i = 0; i < count; ++i) {
            C total = 0;
            for (int l = 0; l < kLanes; ++l) total += rows[i * kLanes + l];
            to[i * operand.get().step] += total;
        }
        return;
    }
    for (std::int64_t first = 0; first < count; first += kSteps) {
        const std::int64_t steps = std::min<std::int64_t>(kSteps, count - first);
        load(side, operand.get(), first, steps);
        kernels<C>().pointwise.add(side, rows + first * kLanes, steps * kLanes);
        store(side, operand.get(), first, steps);
    }
}

// One group of lines along axis k of a block `g`, all its repeats. `sums` keeps x_bar between the axes.
template <class C> void differentiate(const Gradient& g, const AnyView& sums, std::size_t k, const Visits& visits,
                                      std::int64_t group, GradientScratch<C>& s) {
    const PointwiseKernels<C>& pointwise = kernels<C>().pointwise;
    const ScanKernels<C>& scans = kernels<C>().scan;
    const BackwardKernels<C>& kernel = kernels<C>().backward;
    const std::int64_t n = visits.lines().steps();
    const std::int64_t chunks = (n + kSteps - 1) / kSteps;
    const bool first_axis = k == 0;
    const bool last_axis = k + 1 == g.axes.size();
    const bool centre = g.each_centre || first_axis;
    const bool divided = !g.reciprocals.empty();
    const std::size_t part = divided && g.reciprocals.size() > 1 ? k : 0;
    const bool support = !g.support_sums.empty();
    const bool weigh_confidence = last_axis && g.confidence_sums.has_value();

    const auto operand = [&](const AnyView& v) { return std::make_unique<Visits::Operand>(visits, v, group); };
    const auto optional_operand = [&](const std::optional<AnyView>& v) {
        return v ? operand(*v) : std::unique_ptr<Visits::Operand>();
    };
    const auto x = operand(g.x), y_bar = operand(g.y_bar), w = operand(g.weights[k]), before = operand(sums),
               x_bar = operand(g.x_bar);
    const auto c = optional_operand(g.confidence), left = optional_operand(g.left), right = optional_operand(g.right);
    const auto r = divided ? operand(g.reciprocals[part]) : std::unique_ptr<Visits::Operand>();

    std::fill_n(s.w_sum.get(), (n + 1) * kLanes, C(0));
    if (support) std::fill_n(s.s_sum.get(), n * kLanes, C(0));
    if (weigh_confidence) std::fill_n(s.c_sum.get(), n * kLanes, C(0));

    // What repeats have in common is loaded once where a tile holds the whole line.
    bool loaded = false;
    const auto load_shared = [&](std::int64_t repeat, std::int64_t first, std::int64_t steps) {
        if (loaded) return;
        load_links(s.w.get(), w->at(repeat), first, steps, n);
        if (r) load(s.r.get(), r->at(repeat), first, steps);
        if (c) load(s.c.get(), c->at(repeat), first, steps);
        loaded = chunks == 1;
    };
    const auto load_values = [&](std::int64_t repeat, std::int64_t first, std::int64_t steps) {
        load(s.p.get(), x->at(repeat), first, steps);
        if (c) pointwise.trust(s.p.get(), s.c.get(), steps * kLanes);
        load(s.q.get(), y_bar->at(repeat), first, steps);
        if (r) pointwise.normalize(s.q.get(), s.r.get(), C(0), steps * kLanes, c != nullptr);
    };
    const auto load_end = [&](C* carry, const std::unique_ptr<Visits::Operand>& end, std::int64_t repeat) {
        std::fill_n(carry, kLanes, C(0));
        if (end) load(carry, end->at(repeat), 0, 1);
    };
    const auto finish = [&](std::int64_t repeat, std::int64_t first, std::int64_t steps) {
        const std::int64_t count = steps * kLanes;
        C* u = g.one_sided ? s.q.get() : s.fq.get();
        if (support) {
            if (centre) pointwise.add(s.fp.get(), s.p.get(), count);
            kernel.multiply_add(s.s_sum.get() + first * kLanes, s.q.get(), s.fp.get(), count);
        }
        if (centre && !g.one_sided) pointwise.add(u, s.q.get(), count);
        if (!first_axis) {
            load(s.side.get(), before->at(repeat), first, steps);
            pointwise.add(u, s.side.get(), count);
        }
        if (!last_axis) {
            store(u, before->at(repeat), first, steps);
            return;
        }
        if (weigh_confidence) {
            load(s.side.get(), x->at(repeat), first, steps);
            pointwise.mask(s.side.get(), s.c.get(), count);
            kernel.multiply_add(s.c_sum.get() + first * kLanes, s.side.get(), u, count);
        }
        if (c) pointwise.trust(u, s.c.get(), count);
        if (g.residual) {
            load(s.side.get(), y_bar->at(repeat), first, steps);
            if (c) pointwise.mask(s.side.get(), s.c.get(), count);
            pointwise.add(u, s.side.get(), count);
        }
        store(u, x_bar->at(repeat), first, steps);
    };

    for (std::int64_t repeat = 0; repeat < visits.repeats(); ++repeat) {
        load_end(s.carry_p, left, repeat);
        std::fill_n(s.carry_q, kLanes, C(0));
        for (std::int64_t j = 0; j < chunks; ++j) {
            std::copy_n(s.carry_p, kLanes, s.forward_p.get() + j * kLanes);
            std::copy_n(s.carry_q, kLanes, s.forward_q.get() + j * kLanes);
            if (j + 1 == chunks) break;
            load_shared(repeat, j * kSteps, kSteps);
            load_values(repeat, j * kSteps, kSteps);
            scans.scan_carry(s.p.get(), s.w.get(), kSteps, s.carry_p);
            scans.scan_carry(s.q.get(), s.w.get(), kSteps, s.carry_q);
        }
        load_end(s.carry_p, right, repeat);
        std::fill_n(s.carry_q, kLanes, C(0));
        for (std::int64_t j = chunks - 1; j >= 0; --j) {
            const std::int64_t first = j * kSteps;
            const std::int64_t steps = std::min<std::int64_t>(kSteps, n - first);
            load_shared(repeat, first, steps);
            load_values(repeat, first, steps);
            if (g.one_sided)
                kernel.scan_gradient(s.fp.get(), s.q.get(), s.w_sum.get() + first * kLanes, s.p.get(), s.w.get(), steps,
                                     s.forward_p.get() + j * kLanes, s.carry_q);
            else
                kernel.line_gradient(s.fp.get(), s.fq.get(), s.w_sum.get() + first * kLanes, s.p.get(), s.q.get(),
                                     s.w.get(), steps, s.forward_p.get() + j * kLanes, s.forward_q.get() + j * kLanes,
                                     s.carry_p, s.carry_q);
            finish(repeat, first, steps);
        }
    }
    if (!g.weight_sums.empty() && n > 1)
        add_rows(s.w_sum.get() + kLanes, visits, g.weight_sums[k], group, n - 1, s.side.get());
    if (support) add_rows(s.s_sum.get(), visits, g.support_sums[part], group, n, s.side.get());
    if (weigh_confidence) add_rows(s.c_sum.get(), visits, *g.confidence_sums, group, n, s.side.get());
}

// The array is cut into units (whole planes over the axes; for one axis, everything), each of these into the chunks of
// its shared dimensions, and a chunk into blocks that stay in cache while the axes are visited in turn.
class Blocks {
  public:
    explicit Blocks(const Gradient& g) : g_(g) {
        DimSet spatial{};
        for (const int a : g.axes) spatial[a] = true;
        plane_ = product(g.x, spatial, true);
        const bool whole = g.axes.size() == 1;
        const DimOrder order = order_by_stride(g.x);
        for (int k = 0; k < order.count; ++k) {
            const int d = order.dims[k];
            if (spatial[d] || g.x.shape[d] == 1) continue;
            if (g.shared[d]) {
                shared_.push_back(d);
                repeats_ *= g.x.shape[d];
            } else if (!whole) {
                outer_.push_back(d);
                if (outer_.size() == 1) step_ = std::clamp<std::int64_t>(kUnitSize / plane_, 1, g.x.shape[d]);
                units_ *= outer_.size() == 1 ? (g.x.shape[d] + step_ - 1) / step_ : g.x.shape[d];
            } else {
                plane_ *= g.x.shape[d];
            }
        }
        // Shared dimensions are cut along the one that lies farthest in memory; the others stay whole.
        if (!shared_.empty()) {
            cut_ = shared_.back();
            const std::int64_t length = g.x.shape[cut_];
            const std::int64_t below = repeats_ / length;
            // Lanes that lie along it are kept together.
            const std::int64_t least =
                cut_ == shared_.front() && Visits::nearest_is_shared(g.x, g.axes[0], g.shared) ? kLanes : 1;
            const auto rounded = [least](std::int64_t n) { return (n + least - 1) / least * least; };
            per_chunk_ = rounded((length + g.chunks - 1) / g.chunks);
            per_block_ = whole ? per_chunk_
                               : std::clamp(rounded(kUnitSize / std::max<std::int64_t>(1, plane_ * below * step_)),
                                            least, per_chunk_);
        }
    }

    std::int64_t units() const { return units_; }
    std::int64_t chunks() const { return cut_ < 0 ? 1 : (g_.x.shape[cut_] + per_chunk_ - 1) / per_chunk_; }
    std::int64_t blocks() const { return (per_chunk_ + per_block_ - 1) / per_block_; }
    /// Elements of the largest block.
    std::int64_t size() const {
        const std::int64_t shared = cut_ < 0 ? 1 : repeats_ / g_.x.shape[cut_] * per_block_;
        return plane_ * step_ * shared;
    }

    /// A block; nothing where the last chunk has fewer of them.
    std::optional<Gradient> get(std::int64_t unit, std::int64_t chunk, std::int64_t block) const {
        Gradient u = g_;
        for (std::size_t i = 0; i < outer_.size(); ++i) {
            const int d = outer_[i];
            const std::int64_t size = i == 0 ? step_ : 1;
            const std::int64_t parts = (g_.x.shape[d] + size - 1) / size;
            const std::int64_t first = unit % parts * size;
            unit /= parts;
            for_each(u, [&](AnyView& v) { v = narrow(v, d, first, std::min(size, g_.x.shape[d] - first)); });
        }
        if (cut_ >= 0) {
            const std::int64_t first = chunk * per_chunk_ + block * per_block_;
            const std::int64_t end = std::min((chunk + 1) * per_chunk_, g_.x.shape[cut_]);
            if (first >= end) return std::nullopt;
            const std::int64_t count = std::min(per_block_, end - first);
            for_each(u, [&](AnyView& v) {
                if (v.shape[cut_] > 1) v = narrow(v, cut_, first, count);
            });
        }
        const auto of_chunk = [&](AnyView& v) { v.data = v.at(chunk * g_.chunk_stride); };
        for (AnyView& v : u.weight_sums) of_chunk(v);
        for (AnyView& v : u.support_sums) of_chunk(v);
        if (u.confidence_sums) of_chunk(*u.confidence_sums);
        return u;
    }

  private:
    template <class F> static void for_each(Gradient& u, const F& f) {
        for (AnyView* v : {&u.x, &u.y_bar, &u.x_bar}) f(*v);
        for (std::vector<AnyView>* views : {&u.weights, &u.reciprocals, &u.weight_sums, &u.support_sums})
            for (AnyView& v : *views) f(v);
        for (std::optional<AnyView>* v : {&u.left, &u.right, &u.confidence, &u.confidence_sums})
            if (*v) f(**v);
    }

    const Gradient& g_;
    std::vector<int> outer_, shared_;
    int cut_ = -1;
    std::int64_t plane_ = 1, step_ = 1, units_ = 1, repeats_ = 1, per_chunk_ = 1, per_block_ = 1;
};

template <class C> void run(const Gradient& g, const Options& options) {
    const Blocks blocks(g);
    const bool scratch = g.axes.size() > 1 && g.x_bar.dtype != dtype_of<C>::value;
    std::int64_t longest = 0;
    for (const int a : g.axes) longest = std::max(longest, g.x.shape[a]);
    std::vector<bool> lanes_shared;
    for (const int a : g.axes) lanes_shared.push_back(Visits::nearest_is_shared(g.x, a, g.shared));
    const std::int64_t tasks = blocks.units() * blocks.chunks();
    // Both ways compute the same, bit for bit.
    const bool many = g.axes.size() > 1 && (tasks >= 2 * options.num_threads || blocks.size() <= kUnitSize / 16);

    const int threads = workers(many ? tasks : options.num_threads, options);
    std::vector<std::unique_ptr<GradientScratch<C>>> scratches;
    for (int i = 0; i < threads; ++i) scratches.push_back(std::make_unique<GradientScratch<C>>(longest));
    std::vector<Buffer<C>> memory;
    const std::int64_t at_once = many ? threads : blocks.chunks();
    for (std::int64_t i = 0; scratch && i < at_once; ++i) memory.emplace_back(blocks.size());
    const auto sums_of = [&](const Gradient& u, std::int64_t i) {
        return scratch ? dense_like(u.x_bar, memory[static_cast<std::size_t>(i)].get()) : u.x_bar;
    };

    if (many) {
        parallel_for(tasks, options, [&](std::int64_t task, int worker) {
            for (std::int64_t block = 0; block < blocks.blocks(); ++block) {
                const std::optional<Gradient> u = blocks.get(task / blocks.chunks(), task % blocks.chunks(), block);
                if (!u) break;
                for (std::size_t k = 0; k < u->axes.size(); ++k) {
                    const Visits visits(u->x, u->axes[k], u->shared, lanes_shared[k]);
                    for (std::int64_t group = 0; group < visits.groups(); ++group)
                        differentiate(*u, sums_of(*u, worker), k, visits, group,
                                      *scratches[static_cast<std::size_t>(worker)]);
                }
            }
        });
        return;
    }
    for (std::int64_t unit = 0; unit < blocks.units(); ++unit)
        for (std::int64_t block = 0; block < blocks.blocks(); ++block) {
            std::vector<Gradient> parts; // one of each chunk
            for (std::int64_t chunk = 0; chunk < blocks.chunks(); ++chunk)
                if (std::optional<Gradient> u = blocks.get(unit, chunk, block)) parts.push_back(std::move(*u));
            for (std::size_t k = 0; k < g.axes.size(); ++k) {
                std::vector<Visits> visits;
                for (const Gradient& u : parts) visits.emplace_back(u.x, u.axes[k], u.shared, lanes_shared[k]);
                const std::int64_t groups = visits.front().groups();
                parallel_for(groups * static_cast<std::int64_t>(parts.size()), options,
                             [&](std::int64_t task, int worker) {
                                 const std::size_t i = static_cast<std::size_t>(task / groups);
                                 differentiate(parts[i], sums_of(parts[i], static_cast<std::int64_t>(i)), k, visits[i],
                                               task % groups, *scratches[static_cast<std::size_t>(worker)]);
                             });
            }
        }
}

} // namespace

void add_gradient(const Gradient& g, const Options& options) {
    if (g.x.size() == 0) return;
    with_compute_type(g.x.dtype, [&](auto zero) { run<decltype(zero)>(g, options); });
}

DimSet shared_dims(const AnyView& x, std::span<const int> axes, std::span<const AnyView> operands) {
    DimSet shared{};
    for (int d = 0; d < x.ndim; ++d) {
        shared[d] = std::find(axes.begin(), axes.end(), d) == axes.end();
        for (const AnyView& v : operands) shared[d] = shared[d] && (v.strides[d] == 0 || v.shape[d] == 1);
    }
    return shared;
}

AnyView collapse(AnyView v, const DimSet& dims) {
    for (int d = 0; d < v.ndim; ++d)
        if (dims[d]) v.shape[d] = 1;
    return v;
}

std::int64_t count_chunks(const AnyView& x, std::span<const int> axes, const DimSet& shared) {
    DimSet spatial{};
    for (const int a : axes) spatial[a] = true;
    std::int64_t outer = 1;
    std::int64_t farthest = 1;
    for (int d = 0; d < x.ndim; ++d)
        if (!spatial[d] && !shared[d]) outer *= x.shape[d];
    const DimOrder order = order_by_stride(x);
    for (int k = 0; k < order.count; ++k)
        if (shared[order.dims[k]] && x.shape[order.dims[k]] > 1) farthest = x.shape[order.dims[k]];
    return std::clamp<std::int64_t>(kMaxChunks / std::max<std::int64_t>(1, outer), 1, farthest);
}

void write(double value, const AnyView& to) {
    const std::int64_t none = 0;
    const auto type = static_cast<std::size_t>(to.dtype);
    const auto rounded = static_cast<float>(value);
    if (to.dtype == DType::float64)
        kernels<double>().convert.store[type](&value, to.data, 1, 0, &none, 1);
    else
        kernels<float>().convert.store[type](&rounded, to.data, 1, 0, &none, 1);
}

void sum_to(const AnyView& from, const AnyView& to, const Options& options) {
    const AnyView target = broadcast(to, from); // stride 0 where summed over
    std::vector<int> kept_dims, summed_dims;
    const DimOrder order = order_by_stride(from);
    std::int64_t count = 1, terms = 1;
    for (int k = order.count - 1; k >= 0; --k) {
        const int d = order.dims[k], own = d - (from.ndim - to.ndim);
        if (from.shape[d] == 1) continue;
        const bool summed = own < 0 || to.shape[own] == 1;
        (summed ? summed_dims : kept_dims).push_back(d);
        (summed ? terms : count) *= from.shape[d];
    }
    const auto take_last = [&](std::vector<int>& dims) {
        const int d = dims.empty() ? -1 : dims.back();
        if (!dims.empty()) dims.pop_back();
        return d;
    };
    const auto length = [&](int d) { return d < 0 ? 1 : from.shape[d]; };
    const auto stride = [&](const AnyView& v, int d) { return d < 0 ? 0 : v.strides[d]; };
    // Results that lie side by side are summed side by side, a row of them at a time; their terms one by one where
    // those do.
    const int row_dim = take_last(kept_dims), term_dim = take_last(summed_dims);
    const std::int64_t width = length(row_dim), inner = length(term_dim);
    const std::int64_t row_stride = stride(from, row_dim), term_stride = stride(from, term_dim);
    const std::int64_t rows = width == 0 ? 0 : count / width, outer = inner == 0 ? 0 : terms / inner;

    constexpr std::int64_t kPiece = 256;
    const std::int64_t pieces = (width + kPiece - 1) / kPiece;
    parallel_for(rows * pieces, options, [&](std::int64_t task, int) {
        const std::int64_t row = task / pieces, first = task % pieces * kPiece;
        const std::int64_t size = std::min(kPiece, width - first);
        const AnyView start = moved(from, from, kept_dims, row);
        double totals[kPiece]{};
        const auto add = [&](const auto* data) {
            if (std::abs(term_stride) < std::abs(row_stride))
                for (std::int64_t i = 0; i < size; ++i)
                    for (std::int64_t m = 0; m < inner; ++m)
                        totals[i] += static_cast<double>(data[(first + i) * row_stride + m * term_stride]);
            else
                for (std::int64_t m = 0; m < inner; ++m)
                    for (std::int64_t i = 0; i < size; ++i)
                        totals[i] += static_cast<double>(data[(first + i) * row_stride + m * term_stride]);
        };
        for (std::int64_t j = 0; j < outer; ++j) {
            const void* data = moved(start, from, summed_dims, j).data;
            if (from.dtype == DType::float64)
                add(static_cast<const double*>(data));
            else
                add(static_cast<const float*>(data));
        }
        const std::int64_t target_stride = stride(target, row_dim);
        const AnyView place = moved(target, from, kept_dims, row);
        const auto type = static_cast<std::size_t>(to.dtype);
        if (to.dtype == DType::float64) {
            kernels<double>().plane.store_rows[type](totals, size, place.at(first * target_stride), 0, target_stride, 1,
                                                     size);
            return;
        }
        float rounded[kPiece];
        for (std::int64_t i = 0; i < size; ++i) rounded[i] = static_cast<float>(totals[i]);
        kernels<float>().plane.store_rows[type](rounded, size, place.at(first * target_stride), 0, target_stride, 1,
                                                size);
    });
}

} // namespace sgs
