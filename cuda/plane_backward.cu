// Derivatives of the support along two axes at once (11). A block holds a tile of x and of z = y_bar / S in shared
// memory and takes its rows, then its columns. Each line is cut into parts, a thread for each: it finds what its part
// alone sends on both ways, joins what the other parts of the line send to it, and goes back over its part with all
// that flows in. The block does so for all planes of its group; the edges' derivatives are summed in registers, each
// part's with its thread, other sums in shared memory. With a scale for each axis, z is y_bar times that of the axis.
#include "plane_backward.cuh"

#include <algorithm>

#include "plane.cuh"
#include "plane_tile.cuh"

namespace sgs::cuda {

// Named, so that a kernel has the same name in every compilation.
inline namespace plane_backward_kernels {

enum PlaneBackwardOperand : int {
    kX,
    kXFactor,
    kZ, // y_bar
    kZFactor,
    kAcrossZFactor, // where rows have another than columns
    kDownWeights,   // of the edges along columns
    kAcrossWeights, // of the edges along rows
    kDownCarry,     // layout of what flows into a tile along columns: an element for each column
    kAcrossCarry,   // and along rows
    kXBar,
    kConfidence,
    kDownSums, // layouts of partial sums
    kAcrossSums,
    kSupportSums,
    kPlaneBackwardOperands
};

/// What flows into tiles: before and behind, of x and of z; null for single tiles.
template <class C> struct Inflow {
    const C *x_before, *x_behind, *z_before, *z_behind;
};

/// How lines of a tile are cut: `length` of columns and rows, whole segments, and how many parts there are of each.
struct PlaneParts {
    int down_length = 0, down_count = 0, across_length = 0, across_count = 0;
    int rows = 0, columns = 0; // with what is beyond the tile
    int pitch = 0;             // odd, so that threads that walk along rows side by side meet no bank twice
    int area = 0;              // elements of an array in shared memory
};

/// Operands of planes: step leads to the next row, chunk to the next column; of carries, step to the next line, chunk
/// to the next tile.
template <class C> struct PlaneBackwardArgs {
    Lines planes;
    Operand operands[kPlaneBackwardOperands];
    Inflow<C> down, across;
    C *down_sums, *across_sums, *confidence_sums;
    C* support_sums[2];                                      // of both axes in the first, or of columns and of rows
    std::int64_t down_stride, across_stride, support_stride; // from one group's sums to the next
    std::int64_t rows, columns;                              // of a plane
    unsigned tiles_down, tiles_across, groups;
    std::int64_t run; // planes of a group, but the last
    int tile_rows, tile_columns;
    PlaneParts parts;
    int across_edges, support_sums_at, row_support_sums_at, exchange; // which arrays in shared memory
    C times;
    bool residual;
};

template <class C> constexpr int kMostThreads = sizeof(C) == 4 ? 512 : 384;
constexpr int kSegment = 4; // steps whose values are in registers at a time
// A part is what one thread has of a line: its sums are in registers.
template <class C> constexpr int kSegments = sizeof(C) == 4 ? 5 : 3;
template <class C> constexpr int kPart = kSegment * kSegments<C>;
constexpr int kPartArrays = 6; // of an element for each thread: what parts send both ways, and how far they reach
// Elements that a thread has under way from memory, of each operand.
template <class C> constexpr int kBatch = sizeof(C) == 4 ? 5 : 3;

// Arrays in shared memory that are always there. Those for sums follow, and the rows' edges where they stay; where they
// do not, each element's support takes the place of the edge that enters it.
enum PlaneArray : int { kPairs, kSupport = 2, kDownEdges, kOwnArrays };

/// An element of x and of z: they are read together.
template <class C> struct alignas(2 * sizeof(C)) Pair {
    C x, z;
};

/// Brings what is there into the cache that all blocks share.
__device__ inline void prefetch(const void* p) {
#if defined(__CUDACC__)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
    static_cast<void>(p);
#endif
}

// ---- one part of a line

/// A part of a line in shared memory, of whole segments: what is beyond the tile is 0 there, joined by edges of 1.
template <class C> struct Part {
    const Pair<C>* pairs;
    int stride, segments;

    __device__ void load(int segment, C (&xs)[kSegment], C (&zs)[kSegment]) const {
        SGS_UNROLL_ALL
        for (int k = 0; k < kSegment; ++k) {
            const Pair<C> pair = pairs[(segment * kSegment + k) * stride];
            xs[k] = pair.x;
            zs[k] = pair.z;
        }
    }
};

template <class Edge, class C> __device__ inline void load_edges(const Edge& edge, int segment, C (&w)[kSegment]) {
    SGS_UNROLL_ALL
    for (int k = 0; k < kSegment; ++k) w[k] = edge(segment * kSegment + k);
}

/// F of x and z before each segment, and the product of the edges up to there.
template <class C> struct Starts {
    C x[kSegments<C>], z[kSegments<C>], product[kSegments<C>];
};

/// Forward: F of a line's last step. Back: B of its first step, times the edge that enters there.
template <class C> struct Flow {
    C forward_x = C(0), forward_z = C(0), back_x = C(0), back_z = C(0);
};

/// plain: no edge is cut, and no product of edges leaves the range of normal numbers. Then nothing has to be compared.
template <bool plain, class C> __device__ inline C crossing(C w, C f) {
    if constexpr (plain) return w * f;
    return carried(w, f);
}

/// How far a part reaches, and whether it is plain.
template <class C, class Edge> __device__ inline Reach<C> reach_of(int length, const Edge& edge, bool& plain) {
    Reach<C> reach;
    plain = true;
    for (int k = 0; k < length; ++k) {
        reach.fraction *= edge(k);
        plain = plain && isfinite(reach.fraction) && fabs(reach.fraction) >= least_support<C>();
    }
    if (plain) return reach;
    reach.fraction = C(1);
    for (int k = 0; k < length; ++k) extend(reach, edge(k));
    return reach;
}

/// F (4) from what is in `flow`, and F before each segment. edge(k) enters step k.
template <bool plain, class C, class Edge>
__device__ inline void walk_forward(const Part<C>& part, const Edge& edge, Flow<C>& flow, Starts<C>& starts) {
    SGS_UNROLL_ALL
    for (int s = 0; s < kSegments<C>; ++s) {
        if (s >= part.segments) continue;
        starts.x[s] = flow.forward_x;
        starts.z[s] = flow.forward_z;
        C x[kSegment], z[kSegment], w[kSegment];
        part.load(s, x, z);
        load_edges(edge, s, w);
        SGS_UNROLL_ALL
        for (int k = 0; k < kSegment; ++k) {
            flow.forward_x = x[k] + crossing<plain>(w[k], flow.forward_x);
            flow.forward_z = z[k] + crossing<plain>(w[k], flow.forward_z);
        }
    }
}

/// What a part sends both ways if nothing flows in.
template <bool plain, class C, class Edge>
__device__ inline Flow<C> sent_by(const Part<C>& part, const Edge& edge, Starts<C>& starts) {
    Flow<C> flow;
    if constexpr (plain) { // both ways at once
        C product = C(1);
        SGS_UNROLL_ALL
        for (int s = 0; s < kSegments<C>; ++s) {
            if (s >= part.segments) continue;
            starts.x[s] = flow.forward_x;
            starts.z[s] = flow.forward_z;
            starts.product[s] = product;
            C x[kSegment], z[kSegment], w[kSegment];
            part.load(s, x, z);
            load_edges(edge, s, w);
            SGS_UNROLL_ALL
            for (int k = 0; k < kSegment; ++k) {
                product *= w[k];
                flow.forward_x = x[k] + w[k] * flow.forward_x;
                flow.forward_z = z[k] + w[k] * flow.forward_z;
                flow.back_x += product * x[k];
                flow.back_z += product * z[k];
            }
        }
    } else {
        walk_forward<false>(part, edge, flow, starts);
        SGS_UNROLL_ALL
        for (int s = kSegments<C> - 1; s >= 0; --s) {
            if (s >= part.segments) continue;
            C x[kSegment], z[kSegment], w[kSegment];
            part.load(s, x, z);
            load_edges(edge, s, w);
            SGS_UNROLL_ALL
            for (int k = kSegment - 1; k >= 0; --k) {
                flow.back_x = carried(w[k], x[k] + flow.back_x);
                flow.back_z = carried(w[k], z[k] + flow.back_z);
            }
        }
    }
    return flow;
}

/// What walk_back finds of a segment.
template <class C> struct Found {
    C x[kSegment], z[kSegment];
    C support_x[kSegment], support_z[kSegment]; // from both sides
};

/// Over a part with all that flows in; `starts` are those that sent_by left. sums[k]: F_{k-1}(x) B_k(z) +
/// F_{k-1}(z) B_k(x) is added, the derivative by the edge that enters step k (11). put(first step, found) for each
/// segment.
template <bool plain, class C, class Edge, class Put> __device__ inline void
walk_back(const Part<C>& part, const Edge& edge, Flow<C> in, Starts<C>& starts, C (&sums)[kPart<C>], const Put& put) {
    if constexpr (plain) {
        SGS_UNROLL_ALL
        for (int s = 0; s < kSegments<C>; ++s) {
            if (s >= part.segments) continue;
            starts.x[s] += starts.product[s] * in.forward_x;
            starts.z[s] += starts.product[s] * in.forward_z;
        }
    } else {
        walk_forward<false>(part, edge, in, starts);
    }
    SGS_UNROLL_ALL
    for (int s = kSegments<C> - 1; s >= 0; --s) {
        if (s >= part.segments) continue;
        Found<C> found;
        C w[kSegment], forward_x[kSegment + 1], forward_z[kSegment + 1]; // [k] enters step k
        part.load(s, found.x, found.z);
        load_edges(edge, s, w);
        forward_x[0] = starts.x[s];
        forward_z[0] = starts.z[s];
        SGS_UNROLL_ALL
        for (int k = 0; k < kSegment; ++k) {
            found.support_x[k] = crossing<plain>(w[k], forward_x[k]);
            found.support_z[k] = crossing<plain>(w[k], forward_z[k]);
            forward_x[k + 1] = found.x[k] + found.support_x[k];
            forward_z[k + 1] = found.z[k] + found.support_z[k];
        }
        SGS_UNROLL_ALL
        for (int k = kSegment - 1; k >= 0; --k) {
            const C b = found.x[k] + in.back_x, c = found.z[k] + in.back_z; // B of x and of z
            C& sum = sums[s * kSegment + k];
            sum += forward_x[k] * c;
            sum += forward_z[k] * b;
            found.support_x[k] += in.back_x;
            found.support_z[k] += in.back_z;
            in.back_x = crossing<plain>(w[k], b);
            in.back_z = crossing<plain>(w[k], c);
        }
        put(s * kSegment, found);
    }
}

/// The part of a line that a thread has.
struct Own {
    int thread, line, part;
    int at; // its first element
    bool exists;
};

/// Lines are line_step apart, steps of a line `step`.
__device__ inline Own own_part(int lines, int count, int length, int line_step, int step) {
    Own own;
    own.thread = opaque(static_cast<int>(threadIdx.x));
    own.part = quotient(own.thread, lines);
    own.line = own.thread - own.part * lines;
    own.at = own.line * line_step + own.part * length * step;
    own.exists = own.part < count;
    return own;
}

/// What parts send to each other, in shared memory: an element for each thread, and `lines` from one part to the next.
template <class C> struct Exchange {
    C* data;
    int threads;

    __device__ C* array(int k) const { return data + k * threads; }
    __device__ int* exponents() const { return reinterpret_cast<int*>(array(kPartArrays)); }

    // Beside the exponent, the lowest bit tells whether the part is plain.
    __device__ void put_reach(int direction, const Own& own, const Reach<C>& reach, bool plain) const {
        array(4 + direction)[own.thread] = reach.fraction;
        exponents()[direction * threads + own.thread] = reach.exponent * 2 + (plain ? 1 : 0);
    }
    __device__ Reach<C> reach(int direction, int at) const {
        return {array(4 + direction)[at], exponents()[direction * threads + at] >> 1};
    }
    __device__ bool plain(int direction, const Own& own) const {
        return (exponents()[direction * threads + own.thread] & 1) != 0;
    }
    __device__ void put(const Own& own, const Flow<C>& flow) const {
        const int at = own.thread;
        array(0)[at] = flow.forward_x;
        array(1)[at] = flow.forward_z;
        array(2)[at] = flow.back_x;
        array(3)[at] = flow.back_z;
    }
    /// `flow` has what flows into the line; then it is what flows into part `own` of `count`.
    __device__ void join(int direction, const Own& own, int lines, int count, Flow<C>& flow) const {
        for (int part = 0; part < own.part; ++part) {
            const int at = part * lines + own.line;
            const Reach<C> r = reach(direction, at);
            flow.forward_x = array(0)[at] + through(r, flow.forward_x);
            flow.forward_z = array(1)[at] + through(r, flow.forward_z);
        }
        for (int part = count - 1; part > own.part; --part) {
            const int at = part * lines + own.line;
            const Reach<C> r = reach(direction, at);
            flow.back_x = array(2)[at] + through(r, flow.back_x);
            flow.back_z = array(3)[at] + through(r, flow.back_z);
        }
    }
};

// ---- between memory and shared memory

/// Elements of a column of a tile: those of rows row, row + on, ... that are in [first, end).
struct Places {
    int row, column, on;
    unsigned first, end;

    __device__ bool has(int k) const { return static_cast<unsigned>(row + k * on) - first < end - first; }
};

/// f(places), kBatch<C> elements at a time, until all had their turn: threads have neighbouring columns, and rows far
/// apart. There are at least as many threads as columns.
template <class C, class F> __device__ inline void each_batch(int rows, int columns, const F& f) {
    const int thread = opaque(static_cast<int>(threadIdx.x)), on = quotient(static_cast<int>(blockDim.x), columns);
    Places at{quotient(thread, columns), 0, on, 0, static_cast<unsigned>(rows)};
    at.column = thread - at.row * columns;
    if (at.row >= on) return;
    SGS_UNROLL_NOT
    for (; at.row < rows; at.row += kBatch<C> * on) f(at);
}

/// f(k, element) for the elements there are; step and chunk lead to the next row and column.
template <class C, class T, class Stride, class F>
__device__ inline void each_of(T* p, Stride step, Stride chunk, const Places& at, const F& f) {
    p += at.row * step + at.column * chunk;
    const Stride on = opaque(at.on * step);
    SGS_UNROLL_ALL
    for (int k = 0; k < kBatch<C>; ++k) {
        if (at.has(k)) f(k, *p);
        p += on;
    }
}

/// v[k] = the operand's elements.
template <class C>
__device__ inline void get(const Operand& o, std::int64_t offset, const Places& at, C (&v)[kBatch<C>]) {
    with_pointer(o.data, o.dtype, [&](auto p) {
        each_of<C>(p + offset, o.step, o.chunk, at, [&](int k, auto e) { v[k] = static_cast<C>(widen(e)); });
    });
}

/// The operand's elements = v[k].
template <class C>
__device__ inline void put(const Operand& o, std::int64_t offset, const Places& at, const C (&v)[kBatch<C>]) {
    with_pointer(o.data, o.dtype, [&](auto data) {
        auto* p = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(data)>>*>(data) + offset;
        each_of<C>(p, o.step, o.chunk, at, [&](int k, auto& e) { narrow(v[k], e); });
    });
}

/// Which tile of which plane a block has; row and column are the tile's first.
struct Place {
    std::int64_t plane, row, column;
    unsigned down, across;
};

template <class C> __device__ inline Place place_of(const PlaneBackwardArgs<C>& args, unsigned block) {
    Place place;
    block /= args.groups;
    place.across = block % args.tiles_across;
    block /= args.tiles_across;
    place.down = block % args.tiles_down;
    place.plane = block / args.tiles_down;
    place.row = static_cast<std::int64_t>(place.down) * args.tile_rows;
    place.column = static_cast<std::int64_t>(place.across) * args.tile_columns;
    return place;
}

/// What all threads of a block know of its tile, in shared memory rather than in everyone's registers.
struct alignas(16) Here {
    // Where operands have its first element, of this plane and of the next.
    std::int64_t offsets[2][kPlaneBackwardOperands];
    int rows, columns;            // inside the plane
    int first_down, first_across; // the first row and column that an edge enters
    int more_down, more_across;   // tiles follow
    int planes;                   // of the group
};
/// Asks for an operand's elements of a tile ahead of their time, where rows are neighbours in memory.
__device__ inline void ask_for(const Operand& o, std::int64_t offset, int rows, int columns) {
    if (o.data == nullptr || o.chunk != 1) return;
    with_pointer(o.data, o.dtype, [&](auto p) {
        constexpr int line = static_cast<int>(128 / sizeof(*p));
        const int thread = opaque(static_cast<int>(threadIdx.x)), threads = static_cast<int>(blockDim.x);
        const int lines = columns / line + 1, first = quotient(thread, lines), on = quotient(threads, lines);
        const int column = (thread - first * lines) * line;
        if (first >= on) return;
        p += offset + (column < columns ? column : columns - 1);
        for (int row = first; row < rows; row += on) prefetch(p + row * o.step);
    });
}

/// offsets[k]: where operand k has the first element of the block's tile of plane number `turn` of its group.
template <class C>
__device__ inline void find_offsets(const PlaneBackwardArgs<C>& args, int turn, std::int64_t* offsets) {
    const int k = opaque(static_cast<int>(threadIdx.x));
    if (k >= kPlaneBackwardOperands) return;
    const Operand& o = args.operands[k];
    const Place place = place_of(args, blockIdx.x);
    Lane at;
    at.line = place.plane;
    const std::int64_t base = offset_of(args.planes, o, at, blockIdx.x % args.groups * args.run + turn);
    std::int64_t offset = base + place.row * o.step + place.column * o.chunk;
    // Carries have no rows and columns, but lines and tiles of their own.
    if (k == kDownCarry) offset = base + place.column * o.step + place.down * o.chunk;
    if (k == kAcrossCarry) offset = base + place.row * o.step + place.across * o.chunk;
    offsets[k] = offset;
}

template <class C> __device__ inline void find_tile(const PlaneBackwardArgs<C>& args, Here& here) {
    const Place place = place_of(args, blockIdx.x);
    const auto least = [](std::int64_t a, int b) { return a < b ? static_cast<int>(a) : b; };
    here.rows = least(args.rows - place.row, args.tile_rows);
    here.columns = least(args.columns - place.column, args.tile_columns);
    here.first_down = place.row > 0 ? 0 : 1;
    here.first_across = place.column > 0 ? 0 : 1;
    here.more_down = place.down + 1 < args.tiles_down;
    const std::int64_t rest = args.planes.summed - blockIdx.x % args.groups * args.run;
    here.planes = static_cast<int>(rest < args.run ? rest : args.run);
    here.more_across = place.across + 1 < args.tiles_across;
}

/// What flows into line `line` of a tile from other tiles. edge: that behind the line, where there is one.
template <class C>
__device__ inline Flow<C> inflow(const Inflow<C>& from, const Operand& carry, std::int64_t offset, int line, C edge) {
    Flow<C> flow;
    if (from.x_before == nullptr) return flow;
    const std::int64_t at = offset + line * carry.step;
    flow.forward_x = from.x_before[at];
    flow.forward_z = from.z_before[at];
    flow.back_x = carried(edge, from.x_behind[at]);
    flow.back_z = carried(edge, from.z_behind[at]);
    return flow;
}

/// scales: z of columns is y_bar times kZFactor, z of rows y_bar times kAcrossZFactor ("line").
template <class C, bool scales> __global__ void __launch_bounds__(kMostThreads<C>, 1)
    plane_backward(const __grid_constant__ PlaneBackwardArgs<C> args) {
    SGS_SHARED(memory);
    Here& here = *reinterpret_cast<Here*>(memory);
    const std::int64_t* offsets = here.offsets[0];
    const auto array = [&](int k) { return reinterpret_cast<C*>(&here + 1) + k * opaque(args.parts.area); };
    const auto pairs = [&] { return reinterpret_cast<Pair<C>*>(array(kPairs)); };
    const Exchange<C> exchange{array(args.exchange), static_cast<int>(blockDim.x)};
    const PlaneParts& parts = args.parts;
    const auto exists = [&](PlaneBackwardOperand k) { return args.operands[k].data != nullptr; };
    const auto row_part = [&] { return own_part(here.rows, parts.across_count, parts.across_length, parts.pitch, 1); };
    const auto column_part = [&] {
        return own_part(here.columns, parts.down_count, parts.down_length, 1, parts.pitch);
    };

    const auto group = [&] { return blockIdx.x % args.groups; };
    find_offsets(args, 0, here.offsets[0]);
    if (threadIdx.x == 0) find_tile(args, here);
    for (int at = static_cast<int>(threadIdx.x); at < parts.area; at += static_cast<int>(blockDim.x)) {
        pairs()[at] = Pair<C>{C(0), C(0)};
        array(kSupport)[at] = C(0);
        if (args.support_sums[0] != nullptr) array(args.support_sums_at)[at] = C(0);
        if (scales && args.support_sums[1] != nullptr) array(args.row_support_sums_at)[at] = C(0);
    }
    __syncthreads();

    const auto get_operand = [&](PlaneBackwardOperand k, const Places& at, C(&v)[kBatch<C>]) {
        get(args.operands[k], offsets[k], at, v);
    };
    // Edges that enter a row, or a column; 1 where there is none.
    const auto get_down = [&](Places at, C(&w)[kBatch<C>]) {
        SGS_UNROLL_ALL
        for (int k = 0; k < kBatch<C>; ++k) w[k] = C(1);
        at.first = static_cast<unsigned>(here.first_down);
        at.end = static_cast<unsigned>(here.rows);
        const Operand& o = args.operands[kDownWeights];
        get(o, offsets[kDownWeights] - o.step, at, w);
    };
    const auto get_across = [&](const Places& at, C(&w)[kBatch<C>]) {
        SGS_UNROLL_ALL
        for (int k = 0; k < kBatch<C>; ++k) w[k] = C(1);
        if (at.column < here.first_across || at.column >= here.columns) return;
        const Operand& o = args.operands[kAcrossWeights];
        get(o, offsets[kAcrossWeights] - o.chunk, at, w);
    };
    const auto put_shared = [&](C* to, const Places& at, const C(&v)[kBatch<C>]) {
        each_of<C>(to, parts.pitch, 1, at, [&](int k, C& e) { e = v[k]; });
    };
    const auto edge_behind = [&](PlaneBackwardOperand k, int row, int column) {
        const Operand& o = args.operands[k];
        return load<C>(o.data, o.dtype, offsets[k] + row * o.step + column * o.chunk);
    };
    each_batch<C>(parts.rows, here.columns, [&](const Places& at) {
        C w[kBatch<C>];
        get_down(at, w);
        put_shared(array(kDownEdges), at, w);
    });
    each_batch<C>(here.rows, parts.columns, [&](const Places& at) {
        C w[kBatch<C>];
        get_across(at, w);
        put_shared(array(args.across_edges), at, w);
    });
    __syncthreads();
    C down_sums[kPart<C>], across_sums[kPart<C>];
    SGS_UNROLL_ALL
    for (int k = 0; k < kPart<C>; ++k) down_sums[k] = across_sums[k] = C(0);
    // Edges are the same for all planes of the group, and so is how far parts reach.
    if (const Own own = row_part(); own.exists) {
        const C* from = array(args.across_edges) + own.at;
        const auto edge = [&](int k) { return from[k]; };
        bool plain;
        const Reach<C> reach = reach_of<C>(parts.across_length, edge, plain);
        exchange.put_reach(0, own, reach, plain);
    }
    if (const Own own = column_part(); own.exists) {
        const C* from = array(kDownEdges) + own.at;
        const auto edge = [&](int k) { return from[k * parts.pitch]; };
        bool plain;
        const Reach<C> reach = reach_of<C>(parts.down_length, edge, plain);
        exchange.put_reach(1, own, reach, plain);
    }

    for (int turn = 0; turn < here.planes; ++turn) {
        offsets = here.offsets[turn % 2];
        const std::int64_t* next = here.offsets[(turn + 1) % 2];
        if (turn + 1 < here.planes) find_offsets(args, turn + 1, here.offsets[(turn + 1) % 2]);
        // Times a factor, if there is one.
        const auto scale = [&](PlaneBackwardOperand factor, const Places& at, C(&v)[kBatch<C>]) {
            if (!exists(factor)) return;
            C r[kBatch<C>] = {};
            get_operand(factor, at, r);
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) v[k] = trusted(r[k], v[k]); // (8)
        };
        const bool edges_left = args.across_edges == kSupport && turn > 0; // results took their place
        each_batch<C>(here.rows, here.columns, [&](const Places& at) {
            C x[kBatch<C>], z[kBatch<C>] = {}, w[kBatch<C>];
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) x[k] = C(1);
            if (exists(kX)) get_operand(kX, at, x);
            get_operand(kZ, at, z);
            if (edges_left) get_across(at, w);
            scale(kXFactor, at, x);
            scale(scales ? kAcrossZFactor : kZFactor, at, z);
            each_of<C>(pairs(), parts.pitch, 1, at, [&](int k, Pair<C>& e) { e = {x[k], z[k]}; });
            if (edges_left) put_shared(array(kSupport), at, w);
        });
        if (edges_left)
            for (int row = opaque(static_cast<int>(threadIdx.x)); row < here.rows; row += static_cast<int>(blockDim.x))
                for (int column = here.columns; column < parts.columns; ++column)
                    array(kSupport)[row * parts.pitch + column] = C(1);
        __syncthreads();

        if (turn + 1 < here.planes) {
            ask_for(args.operands[kX], next[kX], here.rows, here.columns);
            ask_for(args.operands[kZ], next[kZ], here.rows, here.columns);
        }

        { // Along rows.
            const Own own = row_part();
            const auto edge = [from = array(args.across_edges) + own.at](int k) { return from[k]; };
            const Part<C> part{pairs() + own.at, 1, parts.across_length / kSegment};
            Starts<C> starts;
            Flow<C> in;
            if (own.exists) {
                exchange.put(own, exchange.plain(0, own) ? sent_by<true>(part, edge, starts)
                                                         : sent_by<false>(part, edge, starts));
                in = inflow(args.across, args.operands[kAcrossCarry], offsets[kAcrossCarry], own.line,
                            here.more_across ? edge_behind(kAcrossWeights, own.line, here.columns - 1) : C(0));
            }
            __syncthreads();
            const auto put_segment = [&](int first, const Found<C>& found) {
                const bool sums = args.support_sums[scales ? 1 : 0] != nullptr;
                C* sum = array(args.row_support_sums_at) + own.at + first;
                C* to = array(kSupport) + own.at + first;
                C old[kSegment];
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment; ++k) old[k] = sums ? sum[k] : C(0);
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment; ++k) {
                    to[k] = args.times * found.z[k] + found.support_z[k];
                    const C of_x = scales ? found.x[k] + found.support_x[k] : found.support_x[k];
                    if (sums) sum[k] = old[k] + found.z[k] * of_x;
                }
            };
            if (own.exists) {
                exchange.join(0, own, here.rows, parts.across_count, in);
                if (exchange.plain(0, own))
                    walk_back<true>(part, edge, in, starts, across_sums, put_segment);
                else
                    walk_back<false>(part, edge, in, starts, across_sums, put_segment);
            }
            __syncthreads();
        }

        if constexpr (scales) {
            each_batch<C>(here.rows, here.columns, [&](const Places& at) {
                C z[kBatch<C>] = {};
                get_operand(kZ, at, z);
                scale(kZFactor, at, z);
                each_of<C>(pairs(), parts.pitch, 1, at, [&](int k, Pair<C>& e) { e.z = z[k]; });
            });
            __syncthreads();
        }

        { // Along columns.
            const Own own = column_part();
            const int pitch = opaque(parts.pitch);
            const auto edge = [from = array(kDownEdges) + own.at, pitch](int k) { return from[k * pitch]; };
            const Part<C> part{pairs() + own.at, pitch, parts.down_length / kSegment};
            Starts<C> starts;
            Flow<C> in;
            if (own.exists) {
                exchange.put(own, exchange.plain(1, own) ? sent_by<true>(part, edge, starts)
                                                         : sent_by<false>(part, edge, starts));
                in = inflow(args.down, args.operands[kDownCarry], offsets[kDownCarry], own.line,
                            here.more_down ? edge_behind(kDownWeights, here.rows - 1, own.line) : C(0));
            }
            __syncthreads();
            const auto put_segment = [&](int first, const Found<C>& found) {
                const bool sums = args.support_sums[0] != nullptr;
                C* sum = array(args.support_sums_at) + own.at + first * pitch;
                C* to = array(kSupport) + own.at + first * pitch;
                C old[kSegment], across[kSegment];
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment; ++k) {
                    old[k] = sums ? sum[k * pitch] : C(0);
                    across[k] = to[k * pitch];
                }
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment; ++k) {
                    to[k * pitch] = across[k] + (scales ? found.z[k] + found.support_z[k] : found.support_z[k]);
                    if (sums) sum[k * pitch] = old[k] + found.z[k] * (found.x[k] + found.support_x[k]);
                }
            };
            if (own.exists) {
                exchange.join(1, own, here.columns, parts.down_count, in);
                if (exchange.plain(1, own))
                    walk_back<true>(part, edge, in, starts, down_sums, put_segment);
                else
                    walk_back<false>(part, edge, in, starts, down_sums, put_segment);
            }
            __syncthreads();
        }

        each_batch<C>(here.rows, here.columns, [&](const Places& at) {
            C sum[kBatch<C>], c[kBatch<C>], v[kBatch<C>] = {};
            const C* support = array(kSupport);
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) sum[k] = c[k] = C(1);
            each_of<C>(support, parts.pitch, 1, at, [&](int k, C e) { sum[k] = e; });
            if (exists(kConfidence)) get_operand(kConfidence, at, c);
            if (args.confidence_sums != nullptr) {
                get_operand(kX, at, v);
                C* sums = args.confidence_sums + group() * args.support_stride + offsets[kSupportSums];
                const Operand& o = args.operands[kSupportSums];
                each_of<C>(sums, o.step, o.chunk, at, [&](int k, C& e) {
                    const C old = turn > 0 ? e : C(0);
                    e = c[k] != C(0) ? old + v[k] * sum[k] : old;
                });
            }
            if (args.residual) get_operand(kZ, at, v);
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) {
                sum[k] = trusted(c[k], sum[k]);
                if (args.residual && c[k] != C(0)) sum[k] += v[k];
            }
            if (exists(kXBar)) put(args.operands[kXBar], offsets[kXBar], at, sum);
        });
        __syncthreads();
    }

    const Own across = row_part(), down = column_part();
    SGS_UNROLL_ALL
    for (int k = 0; k < kPart<C>; ++k) {
        if (across.exists && k < parts.across_length) pairs()[across.at + k].x = across_sums[k];
        if (down.exists && k < parts.down_length) pairs()[down.at + k * parts.pitch].z = down_sums[k];
    }
    __syncthreads();
    const auto put_sum = [&](C* sums, std::int64_t stride, PlaneBackwardOperand k, int row, int column, C v) {
        if (sums == nullptr) return;
        const Operand& o = args.operands[k];
        sums[group() * stride + offsets[k] + row * o.step + column * o.chunk] = v;
    };
    each_element(Tile{here.rows, here.columns, parts.pitch}, [&](int row, int column) {
        const int at = row * parts.pitch + column;
        if (row >= here.first_down)
            put_sum(args.down_sums, args.down_stride, kDownSums, row - 1, column, pairs()[at].z);
        if (column >= here.first_across)
            put_sum(args.across_sums, args.across_stride, kAcrossSums, row, column - 1, pairs()[at].x);
        if (args.support_sums[0] != nullptr)
            put_sum(args.support_sums[0], args.support_stride, kSupportSums, row, column,
                    array(args.support_sums_at)[at]);
        if (scales)
            put_sum(args.support_sums[1], args.support_stride, kSupportSums, row, column,
                    array(args.row_support_sums_at)[at]);
    });
}

} // namespace plane_backward_kernels

namespace {

// Rows run along the axis with the larger stride in memory.
bool down_is_a(const AnyView& domain, int axis_a, int axis_b) {
    const auto magnitude = [](std::int64_t v) { return v < 0 ? -v : v; };
    return magnitude(domain.strides[axis_a]) >= magnitude(domain.strides[axis_b]);
}

template <class C> PlaneParts parts_of(std::int64_t rows, std::int64_t columns) {
    PlaneParts parts;
    // As few parts as there may be, or one more where less is then beyond the tile.
    const auto cut = [](std::int64_t n, int& length, int& count) {
        const std::int64_t least = divide_up(n, kPart<C>);
        const auto length_of = [n](std::int64_t parts) { return divide_up(n, parts * kSegment) * kSegment; };
        const bool one_more = (least + 1) * length_of(least + 1) < least * length_of(least);
        length = static_cast<int>(length_of(one_more ? least + 1 : least));
        count = static_cast<int>(divide_up(n, length));
    };
    cut(rows, parts.down_length, parts.down_count);
    cut(columns, parts.across_length, parts.across_count);
    parts.rows = parts.down_length * parts.down_count;
    parts.columns = parts.across_length * parts.across_count;
    parts.pitch = parts.columns | 1;
    parts.area = parts.rows * parts.pitch;
    return parts;
}

// One for each part, in whole warps.
template <class C> std::int64_t threads_of(std::int64_t rows, std::int64_t columns) {
    const PlaneParts parts = parts_of<C>(rows, columns);
    const std::int64_t most =
        std::max({parts.down_count * columns, parts.across_count * rows, std::int64_t{parts.columns}});
    return std::max(divide_up(most, 32) * 32, std::int64_t{64});
}

// sums: how many of support are kept in shared memory.
template <class C> std::size_t block_bytes(std::int64_t rows, std::int64_t columns, int sums) {
    const auto area = static_cast<std::size_t>(parts_of<C>(rows, columns).area);
    const auto threads = static_cast<std::size_t>(threads_of<C>(rows, columns));
    return sizeof(Here) + (static_cast<std::size_t>(kOwnArrays + sums) * area + kPartArrays * threads) * sizeof(C) +
           2 * threads * sizeof(int);
}

template <class C> bool fits(std::int64_t rows, std::int64_t columns, int sums) {
    return rows <= kMostThreads<C> && columns <= kMostThreads<C> && threads_of<C>(rows, columns) <= kMostThreads<C> &&
           block_bytes<C>(rows, columns, sums) <= shared_memory_limit();
}

struct Sides {
    std::int64_t rows = 0, columns = 0;
};

constexpr std::int64_t kLeastSide = 32;

// A tile: the plane; or a strip of it as wide or as high as the plane, which needs carries along one axis alone; or
// a square. 0 where a block may have too little shared memory for any.
template <class C> Sides tile_sides(std::int64_t rows, std::int64_t columns, int sums) {
    if (fits<C>(rows, columns, sums)) return {rows, columns};
    constexpr std::int64_t most = sizeof(C) == 4 ? 128 : 64; // a carry's chunk has to fit as well
    const auto shared_out = [](std::int64_t n, std::int64_t side) { return divide_up(n, divide_up(n, side)); };
    for (std::int64_t side = most; side >= kLeastSide; --side) {
        const std::int64_t high = shared_out(rows, side), wide = shared_out(columns, side);
        if (columns <= most && rows > side && fits<C>(high, columns, sums)) return {high, columns};
        if (rows <= most && columns > side && fits<C>(rows, wide, sums)) return {rows, wide};
    }
    for (std::int64_t side = 64; side >= kLeastSide; side -= 4) {
        const std::int64_t high = shared_out(rows, side), wide = shared_out(columns, side);
        if (fits<C>(high, wide, sums)) return {high, wide};
    }
    return {};
}

template <class C> Sides tile_sides(const AnyView& domain, int axis_a, int axis_b, int sums) {
    const bool a_down = down_is_a(domain, axis_a, axis_b);
    return tile_sides<C>(domain.shape[a_down ? axis_a : axis_b], domain.shape[a_down ? axis_b : axis_a], sums);
}

} // namespace

AnyView edges_of(const AnyView& kept, int axis) {
    AnyView edges = kept;
    edges.shape[axis] -= 1;
    return edges;
}

template <class C> bool takes_planes_backward(const AnyView& domain, int axis_a, int axis_b, int sums) {
    return tile_sides<C>(domain, axis_a, axis_b, sums).rows > 0;
}

template <class C>
PlaneBackwardPlan plan_planes_backward(const AnyView& domain, int axis_a, int axis_b, const AnyView& kept, int sums) {
    PlaneBackwardPlan plan;
    const Sides sides = tile_sides<C>(domain, axis_a, axis_b, sums);
    plan.tile_rows = static_cast<int>(sides.rows);
    plan.tile_columns = static_cast<int>(sides.columns);
    plan.threads = static_cast<int>(threads_of<C>(sides.rows, sides.columns));
    plan.shared = block_bytes<C>(sides.rows, sides.columns, sums);
    const std::size_t edges = sizeof(C) * static_cast<std::size_t>(parts_of<C>(sides.rows, sides.columns).area);
    plan.keeps_edges = plan.shared + edges <= shared_memory_limit();
    if (plan.keeps_edges) plan.shared += edges;
    std::int64_t summed = 1, blocks = 1;
    for (int d = 0; d < domain.ndim; ++d) {
        if (d == axis_a || d == axis_b) continue;
        plan.summed[d] = kept.shape[d] == 1;
        (plan.summed[d] ? summed : blocks) *= domain.shape[d];
    }
    for (const int axis : {axis_a, axis_b}) {
        const bool is_down = (axis == axis_a) == down_is_a(domain, axis_a, axis_b);
        blocks *= divide_up(domain.shape[axis], is_down ? sides.rows : sides.columns);
    }
    // As many blocks as the device holds at a time, but few partial sums beside what is summed.
    constexpr std::int64_t least_turns = 4;
    const auto by_shared = static_cast<std::int64_t>(shared_memory_limit() / plan.shared);
    const std::int64_t held = multiprocessors() * std::min<std::int64_t>(by_shared, kMostThreads<C> / plan.threads);
    const std::int64_t groups = std::max<std::int64_t>(1, std::min(held / blocks, divide_up(summed, least_turns)));
    plan.groups = divide_up(summed, divide_up(summed, groups));
    return plan;
}

template <class C> void run_planes_backward(Queue& queue, const AnyView& domain, int axis_a, int axis_b,
                                            const AnyView& kept, const Source& x, const Source& z, const AnyView& w_a,
                                            const AnyView& w_b, std::span<const AnyView> scales,
                                            const PlaneBackwardPlan& plan, const PlaneBackwardOutputs<C>& outputs) {
    const std::size_t mark = queue.mark();
    const bool a_down = down_is_a(domain, axis_a, axis_b);
    const int down = a_down ? axis_a : axis_b, across = a_down ? axis_b : axis_a;
    const AnyView &w_down = a_down ? w_a : w_b, &w_across = a_down ? w_b : w_a;

    PlaneBackwardArgs<C> args{};
    args.rows = domain.shape[down];
    args.columns = domain.shape[across];
    args.tile_rows = plan.tile_rows;
    args.tile_columns = plan.tile_columns;
    args.tiles_down = static_cast<unsigned>(divide_up(args.rows, args.tile_rows));
    args.tiles_across = static_cast<unsigned>(divide_up(args.columns, args.tile_columns));
    args.groups = static_cast<unsigned>(plan.groups);
    args.parts = parts_of<C>(plan.tile_rows, plan.tile_columns);
    args.down_sums = outputs.weights[a_down ? 0 : 1];
    args.across_sums = outputs.weights[a_down ? 1 : 0];
    for (int k = 0; k < 2; ++k) args.support_sums[k] = outputs.supports[scales.empty() || a_down ? k : 1 - k];
    int arrays = kOwnArrays;
    if (args.support_sums[0] != nullptr) args.support_sums_at = arrays++;
    args.row_support_sums_at = args.support_sums_at;
    if (!scales.empty() && args.support_sums[1] != nullptr) args.row_support_sums_at = arrays++;
    args.across_edges = plan.keeps_edges ? arrays++ : kSupport;
    args.exchange = arrays;
    args.confidence_sums = outputs.confidences;
    args.times = static_cast<C>(outputs.times);
    args.residual = outputs.residual;

    const AnyView supports = dense_like(kept, nullptr, dtype_of<C>::value);
    const AnyView edges_down = dense_like(edges_of(kept, down), nullptr, dtype_of<C>::value);
    const AnyView edges_across = dense_like(edges_of(kept, across), nullptr, dtype_of<C>::value);
    args.support_stride = supports.size();
    args.down_stride = edges_down.size();
    args.across_stride = edges_across.size();

    Operand* o = args.operands;
    o[kX] = operand(x.values, domain, down);
    o[kXFactor] = operand(x.factor, domain, down);
    o[kZ] = operand(z.values, domain, down);
    const Source z_down{z.values, scales.empty() ? z.factor : &scales[a_down ? 0 : 1]};
    const Source z_across{z.values, scales.empty() ? z.factor : &scales[a_down ? 1 : 0]};
    o[kZFactor] = operand(z_down.factor, domain, down);
    if (!scales.empty()) o[kAcrossZFactor] = operand(z_across.factor, domain, down);
    o[kDownWeights] = operand(w_down, domain, down);
    o[kAcrossWeights] = operand(w_across, domain, down);
    o[kXBar] = operand(outputs.x_bar, domain, down);
    o[kConfidence] = operand(outputs.confidence, domain, down);
    o[kDownSums] = operand(edges_down, domain, down);
    o[kAcrossSums] = operand(edges_across, domain, down);
    o[kSupportSums] = operand(supports, domain, down);
    std::int64_t steps[kPlaneBackwardOperands], next[kPlaneBackwardOperands] = {};
    if (args.tiles_down > 1 || args.tiles_across > 1) {
        const Tiles tiles{down, across, args.tile_rows, args.tile_columns};
        const auto carries_of = [&](const Source& source) {
            return make_tile_carries<C>(queue, domain, tiles, source, w_down, w_across);
        };
        const TileCarries<C> of_x = carries_of(x), of_z = carries_of(z_down);
        const TileCarries<C> of_z_across = scales.empty() ? of_z : carries_of(z_across);
        const auto set = [&](Inflow<C>& inflow, PlaneBackwardOperand k, int lines, const Carries<C>& from_x,
                             const Carries<C>& from_z) {
            inflow = {from_x.forward, from_x.backward, from_z.forward, from_z.backward};
            o[k] = from_x.layout;
            o[k].step = from_x.layout.strides[lines];
            next[k] = from_x.layout.chunk;
        };
        if (args.tiles_down > 1) set(args.down, kDownCarry, across, of_x.down, of_z.down);
        if (args.tiles_across > 1) set(args.across, kAcrossCarry, down, of_x.across, of_z_across.across);
    }
    for (int k = 0; k < kPlaneBackwardOperands; ++k) {
        steps[k] = o[k].step;
        if (k != kDownCarry && k != kAcrossCarry) next[k] = o[k].strides[across];
    }
    AnyView outer = domain;
    outer.shape[down] = outer.shape[across] = 1;
    args.planes = arrange(outer, -1, 1, domain, args.operands, plan.summed);
    args.run = divide_up(args.planes.summed, plan.groups);
    for (int k = 0; k < kPlaneBackwardOperands; ++k) {
        o[k].step = steps[k];
        o[k].chunk = next[k];
    }
    queue.launch(scales.empty() ? &plane_backward<C, false> : &plane_backward<C, true>,
                 args.planes.count * args.tiles_down * args.tiles_across * plan.groups, plan.threads, plan.shared,
                 args);
    queue.release(mark);
}

#define SGS_INSTANTIATE(C)                                                                                             \
    template bool takes_planes_backward<C>(const AnyView&, int, int, int);                                             \
    template PlaneBackwardPlan plan_planes_backward<C>(const AnyView&, int, int, const AnyView&, int);                 \
    template void run_planes_backward<C>(Queue&, const AnyView&, int, int, const AnyView&, const Source&,              \
                                         const Source&, const AnyView&, const AnyView&, std::span<const AnyView>,      \
                                         const PlaneBackwardPlan&, const PlaneBackwardOutputs<C>&);
SGS_INSTANTIATE(float)
SGS_INSTANTIATE(double)
#undef SGS_INSTANTIATE

} // namespace sgs::cuda
