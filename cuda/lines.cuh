// All lines of an array along one axis, cut into chunks, and how a block of threads brings 32 chunks into shared
// memory.
//
// A lane is one chunk of one line. A block holds the same steps of kLanes lanes as a tile C[step][kPitch], so that one
// thread walks along each lane; kPitch is one more than the banks, so that neither walking down nor filling across
// meets a bank twice.
#pragma once

#include <span>

#include "packs.cuh"

namespace sgs::cuda {

constexpr int kLanes = 32;
constexpr int kPitch = kLanes + 1;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

/// An array as seen along lines: data null where there is none.
struct Operand {
    void* data = nullptr;
    DType dtype = DType::float32;
    bool across = true; // neighbouring threads take neighbouring lanes, else neighbouring steps
    std::int64_t step = 0;
    std::int64_t chunk = 0;
    std::int64_t strides[kMaxDims + 1] = {};
};

/// Lines of n elements in chunks of `length`; lanes are numbered dimension 0 fastest, chunks slowest. Dimensions from
/// `ndim` on, if any, are not part of the lanes: sums run over them.
struct Lines {
    std::int64_t n = 0;
    std::int64_t length = 1;
    std::int64_t chunks = 0;
    std::int64_t count = 1;
    std::int64_t summed = 1;
    int ndim = 0;
    int summed_ndim = 0;
    std::int64_t shape[kMaxDims + 1] = {};

    __host__ __device__ std::int64_t lanes() const { return count * chunks; }
};

// ---- host: geometry

/// v along lines of an array of domain's shape (right-aligned broadcasting); strides are domain's dimensions still, the
/// axis with
/// stride 0. Axis -1: every element is a line.
Operand operand(const AnyView& v, const AnyView& domain, int axis);
inline Operand operand(const AnyView* v, const AnyView& domain, int axis) {
    return v != nullptr ? operand(*v, domain, axis) : Operand{};
}

/// Lines of domain along axis in chunks of `length`, dimensions ordered by the strides of `order` and merged where all
/// operands allow; the operands are rewritten to match. Dimensions with summed[d] come after the others, apart;
/// lanes_are_summed where a block's lanes run along these.
Lines arrange(const AnyView& domain, int axis, std::int64_t length, const AnyView& order, std::span<Operand> operands,
              const bool* summed = nullptr, bool lanes_are_summed = false);

/// A dense array in scratch memory of `like`'s shape, with dimensions in like's order in memory.
AnyView dense_like(const AnyView& like, void* memory, DType dtype);

/// The most shared memory that a block may have on the current device, in bytes.
std::size_t shared_memory_limit();
/// How many multiprocessors the current device has.
int multiprocessors();

/// Chunk length for a tile of `arrays` arrays: the whole line where that takes no more than `whole` bytes, else what
/// lets several blocks share a multiprocessor.
std::int64_t chunk_length(std::int64_t n, int arrays, std::size_t item_size, std::size_t whole);

__host__ __device__ inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// ---- device: lanes and tiles

struct Lane {
    std::int64_t line = 0;
    std::int64_t chunk = 0;
    int steps = 0; // 0 beyond the last lane
};

__device__ inline Lane lane_at(const Lines& lines, std::int64_t index) {
    Lane lane;
    if (index >= lines.lanes()) return lane;
    lane.line = index;
    if (lines.chunks > 1) {
        std::int64_t chunk = index;
        lane.line = split(chunk, lines.count);
        lane.chunk = chunk;
    }
    const std::int64_t rest = lines.n - lane.chunk * lines.length;
    lane.steps = static_cast<int>(rest < lines.length ? rest : lines.length);
    return lane;
}

/// Where an operand has the first step of a lane; s counts through the summed dimensions.
__device__ inline std::int64_t offset_of(const Lines& lines, const Operand& o, const Lane& lane, std::int64_t s = 0) {
    std::int64_t offset = lane.chunk * o.chunk;
    std::int64_t index = lane.line;
    for (int d = 0; d < lines.ndim; ++d) {
        const bool last = d == lines.ndim - 1;
        const std::int64_t at = last ? index : split(index, lines.shape[d]);
        offset += at * o.strides[d];
    }
    for (int d = lines.ndim; d < lines.ndim + lines.summed_ndim; ++d) {
        const bool last = d == lines.ndim + lines.summed_ndim - 1;
        const std::int64_t at = last ? s : split(s, lines.shape[d]);
        offset += at * o.strides[d];
    }
    return offset;
}

/// at(lane)(row) for all lanes and rows of a tile, shared among the threads so that neighbours in memory fall to
/// neighbours. What belongs to a lane is found once, by at(lane).
template <class At> __device__ inline void each(int rows, bool across, const At& at) {
    const int warp = static_cast<int>(threadIdx.x) / 32, thread = static_cast<int>(threadIdx.x) % 32;
    if (across) {
        const auto f = at(thread);
        SGS_UNROLL
        for (int row = warp; row < rows; row += kWarps) f(row);
    } else {
        for (int lane = warp; lane < kLanes; lane += kWarps) {
            const auto f = at(lane);
            SGS_UNROLL
            for (int row = thread; row < rows; row += 32) f(row);
        }
    }
}

/// tile[row][lane] = v.
template <class C> __device__ inline void fill(C* tile, int rows, C v) {
    each(rows, true, [&](int lane) { return [to = tile + lane, v](int row) { to[row * kPitch] = v; }; });
}

/// Lanes of a block that are neighbours along one dimension.
struct Neighbours {
    int lanes = 0; // all of the block's, or 0 where they are no neighbours
    int dimension = 0;
};

/// Of `lanes` lanes from number `first` on; summed: these run along the first dimension that is summed.
__device__ inline Neighbours neighbours_from(const Lines& lines, std::int64_t first, std::int64_t lanes, bool summed) {
    Neighbours beside;
    if (lines.ndim == 0 && !summed) return beside;
    beside.dimension = summed ? lines.ndim : 0;
    const std::int64_t size = lines.shape[beside.dimension], count = lanes < kLanes ? lanes : kLanes;
    if (split(first, size) + count <= size) beside.lanes = static_cast<int>(count);
    return beside;
}

/// The lanes of a block, known to all of its threads.
struct Lanes {
    const std::int64_t* first; // step of each on its line
    const int* steps;
    int rows; // of the tile
    std::int64_t n;
    Neighbours beside;
};

/// Steps of one lane.
struct Span {
    int begin, end;
};

/// All of them.
__device__ inline auto steps_of(const Lanes& lanes) {
    return [steps = lanes.steps](int lane) { return Span{0, steps[lane]}; };
}

/// f(rows, step in the tile, row_at) where elements go by packs: where the steps of each lane are neighbours in memory,
/// or where the lanes are and begin at a 16-byte border at each step (32 lanes have too few packs to pay for what is
/// before the first and behind the last). Else single(lane)(row) for all lanes and rows, as `each` calls it. p: the
/// operand's first element.
template <class T, class SpanOf, class F, class Each>
__device__ inline void in_packs(const T* p, const Lanes& lanes, const Operand& o, const std::int64_t* offsets, int rows,
                                const SpanOf& span_of, const F& f, const Each& single) {
    const Neighbours& beside = lanes.beside;
    const auto at_border = [&] {
        const auto step = static_cast<std::uintptr_t>(o.step) * sizeof(T);
        return (reinterpret_cast<std::uintptr_t>(p + offsets[0]) | step) % 16 == 0;
    };
    if (!o.across && o.step == 1)
        f(kLanes, kPitch, [&](int lane) {
            const Span span = span_of(lane);
            return Row{offsets[lane] + span.begin, span.end - span.begin, span.begin * kPitch + lane};
        });
    else if (o.across && beside.lanes > 0 && o.strides[beside.dimension] == 1 && at_border())
        f(rows, 1, [&, span = span_of(0)](int row) {
            const bool there = row >= span.begin && row < span.end;
            return Row{offsets[0] + row * o.step, there ? beside.lanes : 0, row * kPitch};
        });
    else
        each(rows, o.across, single);
}

/// put(element of the tile, value) for the steps of each lane that span_of(lane) tells; offsets are those of step
/// `origin`.
template <class C, class SpanOf, class Put>
__device__ inline void load_spans(C* tile, const Lanes& lanes, const Operand& o, const std::int64_t* offsets,
                                  int origin, int rows, const SpanOf& span_of, const Put& put) {
    with_pointer(o.data, o.dtype, [&](auto data) {
        const auto* p = data - origin * o.step;
        in_packs(
            p, lanes, o, offsets, rows, span_of,
            [&](int count, int step, const auto& row_at) { load_rows(count, step, tile, p, row_at, put); },
            [&](int lane) {
                return [to = tile + lane, from = p + offsets[lane], step = o.step, span = span_of(lane), put](int row) {
                    if (row >= span.begin && row < span.end)
                        put(to[row * kPitch], static_cast<C>(widen(from[row * step])));
                };
            });
    });
}

/// put(element of the tile, value) for all steps of all lanes.
template <class C, class Put> __device__ inline void load_lanes(C* tile, const Lanes& lanes, const Operand& o,
                                                                const std::int64_t* offsets, const Put& put) {
    load_spans(tile, lanes, o, offsets, 0, lanes.rows, steps_of(lanes), put);
}

/// The values of x, or a field of ones.
template <class C>
__device__ inline void load_values(C* tile, const Lanes& lanes, const Operand& x, const std::int64_t* offsets) {
    if (x.data == nullptr) return fill(tile, lanes.rows, C(1));
    load_lanes(tile, lanes, x, offsets, [](C& to, C v) { to = v; });
}

/// Times the factor (8).
template <class C>
__device__ inline void load_factor(C* tile, const Lanes& lanes, const Operand& factor, const std::int64_t* offsets) {
    load_lanes(tile, lanes, factor, offsets, [](C& to, C c) { to = trusted(c, to); });
}

/// Row r: the weight of the edge that enters step r; row `steps` leaves the chunk. Edges that do not exist count 1:
/// what flows in there is `initial`, or 0. offsets are those of row 1.
template <class C>
__device__ inline void load_links(C* tile, const Lanes& lanes, const Operand& w, const std::int64_t* offsets) {
    const auto span_of = [&](int lane) {
        const std::int64_t edge = lanes.first[lane] - 1, behind = lanes.n - 1 - edge;
        const int begin = edge < 0 ? 1 : 0;
        return Span{begin, lanes.steps[lane] < behind ? lanes.steps[lane] + 1 : static_cast<int>(behind)};
    };
    load_spans(tile, lanes, w, offsets, 1, lanes.rows + 1, span_of, [](C& to, C v) { to = v; });
    const int lane = static_cast<int>(threadIdx.x);
    if (lane >= kLanes) return;
    const Span span = span_of(lane);
    if (span.begin > 0) tile[lane] = C(1);
    if (span.end == lanes.steps[lane]) tile[span.end * kPitch + lane] = C(1);
}

/// The operand's elements = those of the tile, for the steps of each lane that span_of(lane) tells.
template <class C, class SpanOf> __device__ inline void
store_lanes(const C* tile, const Lanes& lanes, const Operand& o, const std::int64_t* offsets, const SpanOf& span_of) {
    with_pointer(o.data, o.dtype, [&](auto data) {
        using T = std::remove_cvref_t<decltype(*data)>;
        T* p = const_cast<T*>(data);
        in_packs(
            p, lanes, o, offsets, lanes.rows, span_of,
            [&](int count, int step, const auto& row_at) { store_rows(count, step, tile, p, row_at); },
            [&](int lane) {
                return [from = tile + lane, to = p + offsets[lane], step = o.step, span = span_of(lane)](int row) {
                    if (row >= span.begin && row < span.end) narrow(from[row * kPitch], to[row * step]);
                };
            });
    });
}

// ---- the recurrences on all lines (lines.cu)

/// What lines are made of: values (a field of ones where null) times a factor (8), joined by weights.
struct Source {
    const AnyView* values = nullptr;
    const AnyView* factor = nullptr;
};

/// Half-open ranges of positions that get support from before, and from behind.
struct Ranges {
    std::int64_t forward_begin = 0, forward_end = 0, backward_begin = 0, backward_end = 0;
};

/// Shared memory of a block: offsets of its operands, and rows of tiles.
inline std::size_t shared_bytes(int operands, std::int64_t tile_rows, std::size_t item_size) {
    return static_cast<std::size_t>(kLanes * (operands * 8 + 8 + 4)) +
           static_cast<std::size_t>(tile_rows * kPitch) * item_size;
}

enum class Finish { none, reciprocal, divide };

/// What happens to support once it is there, element by element.
struct Epilogue {
    bool with_source = true;        // add the source itself
    const AnyView* scale = nullptr; // times this, before the sum ("line")
    const AnyView* sum = nullptr;   // plus this
    Finish finish = Finish::none;   // reciprocal: S becomes 1 / S; divide: times `reciprocal`
    const AnyView* reciprocal = nullptr;
    bool only_supported = false; // a reciprocal of `unsupported` marks what has no support (8)
    double unsupported = -1.0;   // negative: divide makes it `fill`
    double fill = 0.0;
    const AnyView* support = nullptr; // receives S before it becomes 1 / S
    bool residual = false;            // plus the source's values, where their factor is not 0
};

/// Support along one axis of all lines of domain. root >= 0: the update from the tree's root (6), ranges as they are.
template <class C> void run_lines(Queue& queue, const AnyView& domain, int axis, const Source& source, const AnyView& w,
                                  const AnyView& out, const Ranges& ranges, const Epilogue& epilogue,
                                  const AnyView* left = nullptr, const AnyView* right = nullptr,
                                  std::int64_t root = -1);

/// F of the last step before each chunk, and B of the first step behind it (4): dense over lines, then chunks.
template <class C> struct Carries {
    C* forward = nullptr;
    C* backward = nullptr;
    Operand layout;
};

template <class C> Carries<C> make_carries(Queue& queue, const AnyView& domain, int axis, std::int64_t length,
                                           const Source& source, const AnyView& w, const Ranges& ranges,
                                           const AnyView* left, const AnyView* right, std::int64_t root = -1);

/// What each chunk makes of what flows in, as if nothing did, and how much of it gets through forward and backward (3),
/// in the layout of carries.
template <class C> struct Chunks : Carries<C> {
    C* fractions[2] = {};
    int* exponents[2] = {};
};

/// Scratch.
template <class C> Carries<C> take_carries(Queue& queue, const AnyView& domain, int axis, std::int64_t length);
template <class C>
Chunks<C> take_chunks(Queue& queue, const AnyView& domain, int axis, std::int64_t length, const Carries<C>& carries);
/// What chunks make becomes what flows in.
template <class C>
void join_chunks(Queue& queue, const AnyView& domain, int axis, std::int64_t length, const Chunks<C>& chunks);

} // namespace sgs::cuda
