// All lines of an array along one axis, cut into chunks, and how a block of threads brings 32 chunks into shared
// memory.
//
// A lane is one chunk of one line. A block holds the same steps of kLanes lanes as a tile C[step][kPitch], so that one
// thread walks along each lane; kPitch is odd, so that neither walking down nor filling across meets a bank twice.
#pragma once

#include <span>

#include "device.cuh"

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

/// tile[row][lane] = the operand's elements; 0 beyond a lane's steps.
template <class C>
__device__ inline void load_tile(C* tile, const Operand& o, const std::int64_t* offsets, const int* steps, int rows) {
    with_pointer(o.data, o.dtype, [&](auto p) {
        each(rows, o.across, [&](int lane) {
            return [to = tile + lane, from = p + offsets[lane], step = o.step, count = steps[lane]](int row) {
                to[row * kPitch] = row < count ? static_cast<C>(widen(from[row * step])) : C(0);
            };
        });
    });
}

/// A field of ones where x has no data; times the factor (8), which is loaded by the threads that loaded x.
template <class C> __device__ inline void load_source(C* tile, const Operand& x, const std::int64_t* x_offsets,
                                                      const Operand& factor, const std::int64_t* factor_offsets,
                                                      const int* steps, int rows) {
    const bool across = x.data != nullptr ? x.across : factor.data == nullptr || factor.across;
    if (x.data != nullptr)
        load_tile(tile, x, x_offsets, steps, rows);
    else
        each(rows, across, [&](int lane) { return [to = tile + lane](int row) { to[row * kPitch] = C(1); }; });
    if (factor.data == nullptr) return;
    with_pointer(factor.data, factor.dtype, [&](auto p) {
        each(rows, across, [&](int lane) {
            return
                [v = tile + lane, from = p + factor_offsets[lane], step = factor.step, count = steps[lane]](int row) {
                    if (row < count)
                        v[row * kPitch] = trusted(static_cast<C>(widen(from[row * step])), v[row * kPitch]);
                };
        });
    });
}

/// Row r: the weight of the edge that enters step r; row `steps` leaves the chunk. Edges that do not exist count 1:
/// what flows in there is `initial`, or 0.
template <class C> __device__ inline void load_links(C* tile, const Operand& w, const std::int64_t* offsets,
                                                     const int* steps, const std::int64_t* first, std::int64_t n,
                                                     int rows) {
    with_pointer(w.data, w.dtype, [&](auto p) {
        each(rows + 1, w.across, [&](int lane) {
            const std::int64_t edge = first[lane] - 1, behind = n - 1 - edge;
            const int begin = edge < 0 ? 1 : 0;
            const int end = steps[lane] < behind ? steps[lane] + 1 : static_cast<int>(behind);
            return [to = tile + lane, from = p + (offsets[lane] - w.step), step = w.step, begin, end](int row) {
                to[row * kPitch] = row >= begin && row < end ? static_cast<C>(widen(from[row * step])) : C(1);
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

} // namespace sgs::cuda
