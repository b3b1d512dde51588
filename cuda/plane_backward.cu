// Derivatives of the support along two axes at once (11). A block holds a tile of x and of z = y_bar / S in shared
// memory and takes its rows, then its columns. Each line is cut into parts, a thread for each: it finds what its part
// alone sends on both ways, joins what the other parts of the line send to it, and goes back over its part with all
// that flows in. The block does so for all planes of its group; the edges' derivatives are summed in registers, each
// part's with its thread, other sums in shared memory. With a scale for each axis, z is y_bar times that of the axis.
#include "plane_backward.cuh"

#include <algorithm>

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

constexpr int kMostThreads = 512;
// Steps whose values are in registers at a time.
template <class C> constexpr int kSegment = sizeof(C) == 4 ? 4 : 2;
// A part is what one thread has of a line: its sums are in registers.
template <class C> constexpr int kSegments = sizeof(C) == 4 ? 5 : 4;
template <class C> constexpr int kPart = kSegment<C> * kSegments<C>;
constexpr int kPartArrays = 6; // of an element for each thread: what parts send both ways, and how far they reach
// Elements that a thread has under way from memory, of each operand.
template <class C> constexpr int kBatch = sizeof(C) == 4 ? 4 : 2;

// Arrays in shared memory that are always there. Those for sums follow, and the rows' edges where they stay; where they
// do not, each element's support takes the place of the edge that enters it.
enum PlaneArray : int { kXs, kZs, kSupport, kDownEdges, kOwnArrays };

/// v, but not found ahead of where it is asked for: what is found ahead for all planes takes registers.
__device__ inline int opaque(int v) {
#if defined(__CUDACC__)
    asm volatile("" : "+r"(v));
#endif
    return v;
}

// ---- one part of a line

/// A part of a line in shared memory, of whole segments: what is beyond the tile is 0 there, joined by edges of 1.
template <class C> struct Part {
    const C *x, *z;
    int stride, segments;

    __device__ void load(int segment, C (&xs)[kSegment<C>], C (&zs)[kSegment<C>]) const {
        SGS_UNROLL_ALL
        for (int k = 0; k < kSegment<C>; ++k) {
            xs[k] = x[(segment * kSegment<C> + k) * stride];
            zs[k] = z[(segment * kSegment<C> + k) * stride];
        }
    }
};

template <class Edge, class C> __device__ inline void load_edges(const Edge& edge, int segment, C (&w)[kSegment<C>]) {
    SGS_UNROLL_ALL
    for (int k = 0; k < kSegment<C>; ++k) w[k] = edge(segment * kSegment<C> + k);
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

/// What f becomes on its way through a part.
template <class C> __device__ inline C passed(const Reach<C>& r, C f) {
    return r.exponent == 0 ? carried(r.fraction, f) : through(r, f);
}

/// F (4) from what is in `flow`, and F before each segment. edge(k) enters step k.
template <bool plain, class C, class Edge>
__device__ inline void walk_forward(const Part<C>& part, const Edge& edge, Flow<C>& flow, Starts<C>& starts) {
    SGS_UNROLL_ALL
    for (int s = 0; s < kSegments<C>; ++s) {
        if (s >= part.segments) continue;
        starts.x[s] = flow.forward_x;
        starts.z[s] = flow.forward_z;
        C x[kSegment<C>], z[kSegment<C>], w[kSegment<C>];
        part.load(s, x, z);
        load_edges(edge, s, w);
        SGS_UNROLL_ALL
        for (int k = 0; k < kSegment<C>; ++k) {
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
            C x[kSegment<C>], z[kSegment<C>], w[kSegment<C>];
            part.load(s, x, z);
            load_edges(edge, s, w);
            SGS_UNROLL_ALL
            for (int k = 0; k < kSegment<C>; ++k) {
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
            C x[kSegment<C>], z[kSegment<C>], w[kSegment<C>];
            part.load(s, x, z);
            load_edges(edge, s, w);
            SGS_UNROLL_ALL
            for (int k = kSegment<C> - 1; k >= 0; --k) {
                flow.back_x = carried(w[k], x[k] + flow.back_x);
                flow.back_z = carried(w[k], z[k] + flow.back_z);
            }
        }
    }
    return flow;
}

/// What walk_back finds for a segment.
template <class C> struct Found {
    C x[kSegment<C>], z[kSegment<C>];
    C support_x[kSegment<C>], support_z[kSegment<C>]; // from both sides
    C products[kSegment<C>]; // F_{k-1}(x) B_k(z) + F_{k-1}(z) B_k(x), of the edge that enters k (11)
};

/// Over a part with all that flows in; `starts` are those that sent_by left. put(first step, found) for each segment.
template <bool plain, class C, class Edge, class Put>
__device__ inline void walk_back(const Part<C>& part, const Edge& edge, Flow<C> in, Starts<C>& starts, const Put& put) {
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
        C w[kSegment<C>], forward_x[kSegment<C> + 1], forward_z[kSegment<C> + 1]; // [k] enters step k
        part.load(s, found.x, found.z);
        load_edges(edge, s, w);
        forward_x[0] = starts.x[s];
        forward_z[0] = starts.z[s];
        SGS_UNROLL_ALL
        for (int k = 0; k < kSegment<C>; ++k) {
            found.support_x[k] = crossing<plain>(w[k], forward_x[k]);
            found.support_z[k] = crossing<plain>(w[k], forward_z[k]);
            forward_x[k + 1] = found.x[k] + found.support_x[k];
            forward_z[k + 1] = found.z[k] + found.support_z[k];
        }
        SGS_UNROLL_ALL
        for (int k = kSegment<C> - 1; k >= 0; --k) {
            const C b = found.x[k] + in.back_x, c = found.z[k] + in.back_z; // B of x and of z
            found.products[k] = forward_x[k] * c + forward_z[k] * b;
            found.support_x[k] += in.back_x;
            found.support_z[k] += in.back_z;
            in.back_x = crossing<plain>(w[k], b);
            in.back_z = crossing<plain>(w[k], c);
        }
        put(s * kSegment<C>, found);
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
    own.part = own.thread / lines;
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
            flow.forward_x = array(0)[at] + passed(r, flow.forward_x);
            flow.forward_z = array(1)[at] + passed(r, flow.forward_z);
        }
        for (int part = count - 1; part > own.part; --part) {
            const int at = part * lines + own.line;
            const Reach<C> r = reach(direction, at);
            flow.back_x = array(2)[at] + passed(r, flow.back_x);
            flow.back_z = array(3)[at] + passed(r, flow.back_z);
        }
    }
};

// ---- between memory and shared memory

/// Elements of a tile, neighbouring threads' in neighbouring columns; row < 0: none.
template <class C> struct Places {
    int row[kBatch<C>], column[kBatch<C>];
};

/// f(places) until all elements had their turn: warps take runs of 32 columns.
template <class C, class F> __device__ inline void each_batch(int rows, int columns, const F& f) {
    const int thread = opaque(static_cast<int>(threadIdx.x)), warp = thread / 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
    const int runs = (columns + 31) / 32, rows_on = warps / runs, runs_on = warps % runs;
    int row = warp / runs, run = warp % runs;
    while (row < rows) {
        Places<C> at;
        SGS_UNROLL_ALL
        for (int k = 0; k < kBatch<C>; ++k) {
            at.column[k] = run * 32 + thread % 32;
            at.row[k] = row < rows && at.column[k] < columns ? row : -1;
            row += rows_on;
            run += runs_on;
            if (run >= runs) {
                run -= runs;
                ++row;
            }
        }
        f(at);
    }
}

/// v[k] = the operand's elements.
template <class C>
__device__ inline void get(const Operand& o, std::int64_t offset, const Places<C>& at, C (&v)[kBatch<C>]) {
    with_pointer(o.data, o.dtype, [&](auto p) {
        SGS_UNROLL_ALL
        for (int k = 0; k < kBatch<C>; ++k)
            if (at.row[k] >= 0) v[k] = static_cast<C>(widen(p[offset + at.row[k] * o.step + at.column[k] * o.chunk]));
    });
}

/// The operand's elements = v[k].
template <class C>
__device__ inline void put(const Operand& o, std::int64_t offset, const Places<C>& at, const C (&v)[kBatch<C>]) {
    with_pointer(o.data, o.dtype, [&](auto data) {
        auto* p = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(data)>>*>(data);
        SGS_UNROLL_ALL
        for (int k = 0; k < kBatch<C>; ++k)
            if (at.row[k] >= 0) narrow(v[k], p[offset + at.row[k] * o.step + at.column[k] * o.chunk]);
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
    std::int64_t offsets[kPlaneBackwardOperands]; // where operands have its first element
    int rows, columns;                            // inside the plane
    int first_down, first_across;                 // the first row and column that an edge enters
    int more_down, more_across;                   // tiles follow
    int planes;                                   // of the group
};
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
template <class C, bool scales> __global__ void __launch_bounds__(kMostThreads, 1)
    plane_backward(const __grid_constant__ PlaneBackwardArgs<C> args) {
    SGS_SHARED(memory);
    Here& here = *reinterpret_cast<Here*>(memory);
    std::int64_t* offsets = here.offsets;
    const auto array = [&](int k) { return reinterpret_cast<C*>(&here + 1) + k * opaque(args.parts.area); };
    const Exchange<C> exchange{array(args.exchange), static_cast<int>(blockDim.x)};
    const PlaneParts& parts = args.parts;
    const auto exists = [&](PlaneBackwardOperand k) { return args.operands[k].data != nullptr; };
    const auto row_part = [&] { return own_part(here.rows, parts.across_count, parts.across_length, parts.pitch, 1); };
    const auto column_part = [&] {
        return own_part(here.columns, parts.down_count, parts.down_length, 1, parts.pitch);
    };

    const auto group = [&] { return blockIdx.x % args.groups; };
    find_offsets(args, 0, offsets);
    if (threadIdx.x == 0) find_tile(args, here);
    for (int at = static_cast<int>(threadIdx.x); at < parts.area; at += static_cast<int>(blockDim.x)) {
        array(kXs)[at] = array(kZs)[at] = C(0);
        if (args.support_sums[0] != nullptr) array(args.support_sums_at)[at] = C(0);
        if (scales && args.support_sums[1] != nullptr) array(args.row_support_sums_at)[at] = C(0);
    }
    __syncthreads();

    // edges[row][column]: that which enters there.
    const auto load_weights = [&](PlaneBackwardOperand operand, C* edges, int down) {
        const Operand& o = args.operands[operand];
        const int rows = here.rows, columns = here.columns;
        const int first_row = down != 0 ? here.first_down : 0, first_column = down != 0 ? 0 : here.first_across;
        const int edge_rows = down != 0 ? parts.rows : rows, edge_columns = down != 0 ? columns : parts.columns;
        each_batch<C>(edge_rows, edge_columns, [&](const Places<C>& at) {
            Places<C> from = at;
            C w[kBatch<C>];
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) {
                w[k] = C(1);
                const int row = at.row[k], column = at.column[k];
                if (row < first_row || row >= rows || column < first_column || column >= columns) from.row[k] = -1;
            }
            get(o, offsets[operand] - (down != 0 ? o.step : o.chunk), from, w);
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k)
                if (at.row[k] >= 0) edges[at.row[k] * parts.pitch + at.column[k]] = w[k];
        });
    };
    const auto edge_behind = [&](PlaneBackwardOperand k, int row, int column) {
        const Operand& o = args.operands[k];
        return load<C>(o.data, o.dtype, offsets[k] + row * o.step + column * o.chunk);
    };
    load_weights(kDownWeights, array(kDownEdges), 1);
    load_weights(kAcrossWeights, array(args.across_edges), 0);
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
        if (turn > 0) {
            find_offsets(args, turn, offsets);
            __syncthreads();
        }
        const auto load_z = [&](const Places<C>& at, PlaneBackwardOperand factor, C(&v)[kBatch<C>]) {
            C r[kBatch<C>];
            get(args.operands[kZ], offsets[kZ], at, v);
            if (!exists(factor)) return;
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) r[k] = C(0);
            get(args.operands[factor], offsets[factor], at, r);
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) v[k] = trusted(r[k], v[k]);
        };
        each_batch<C>(here.rows, here.columns, [&](const Places<C>& at) {
            C xs[kBatch<C>], zs[kBatch<C>], c[kBatch<C>];
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) xs[k] = zs[k] = c[k] = C(1);
            if (exists(kX)) get(args.operands[kX], offsets[kX], at, xs);
            if (exists(kXFactor)) get(args.operands[kXFactor], offsets[kXFactor], at, c);
            load_z(at, scales ? kAcrossZFactor : kZFactor, zs);
            C *x = array(kXs), *z = array(kZs);
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) {
                if (at.row[k] < 0) continue;
                x[at.row[k] * parts.pitch + at.column[k]] = exists(kXFactor) ? trusted(c[k], xs[k]) : xs[k]; // (8)
                z[at.row[k] * parts.pitch + at.column[k]] = zs[k];
            }
        });
        if (args.across_edges == kSupport && turn > 0) load_weights(kAcrossWeights, array(kSupport), 0);
        __syncthreads();

        { // Along rows.
            const Own own = row_part();
            const auto edge = [from = array(args.across_edges) + own.at](int k) { return from[k]; };
            const Part<C> part{array(kXs) + own.at, array(kZs) + own.at, 1, parts.across_length / kSegment<C>};
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
                C old[kSegment<C>];
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment<C>; ++k) {
                    across_sums[first + k] += found.products[k];
                    old[k] = sums ? sum[k] : C(0);
                }
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment<C>; ++k) {
                    to[k] = args.times * found.z[k] + found.support_z[k];
                    const C of_x = scales ? found.x[k] + found.support_x[k] : found.support_x[k];
                    if (sums) sum[k] = old[k] + found.z[k] * of_x;
                }
            };
            if (own.exists) {
                exchange.join(0, own, here.rows, parts.across_count, in);
                if (exchange.plain(0, own))
                    walk_back<true>(part, edge, in, starts, put_segment);
                else
                    walk_back<false>(part, edge, in, starts, put_segment);
            }
            __syncthreads();
        }

        if constexpr (scales) {
            each_batch<C>(here.rows, here.columns, [&](const Places<C>& at) {
                C zs[kBatch<C>] = {};
                load_z(at, kZFactor, zs);
                SGS_UNROLL_ALL
                for (int k = 0; k < kBatch<C>; ++k)
                    if (at.row[k] >= 0) array(kZs)[at.row[k] * parts.pitch + at.column[k]] = zs[k];
            });
            __syncthreads();
        }

        { // Along columns.
            const Own own = column_part();
            const int pitch = opaque(parts.pitch);
            const auto edge = [from = array(kDownEdges) + own.at, pitch](int k) { return from[k * pitch]; };
            const Part<C> part{array(kXs) + own.at, array(kZs) + own.at, pitch, parts.down_length / kSegment<C>};
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
                C old[kSegment<C>], across[kSegment<C>];
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment<C>; ++k) {
                    down_sums[first + k] += found.products[k];
                    old[k] = sums ? sum[k * pitch] : C(0);
                    across[k] = to[k * pitch];
                }
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment<C>; ++k) {
                    to[k * pitch] = across[k] + (scales ? found.z[k] + found.support_z[k] : found.support_z[k]);
                    if (sums) sum[k * pitch] = old[k] + found.z[k] * (found.x[k] + found.support_x[k]);
                }
            };
            if (own.exists) {
                exchange.join(1, own, here.columns, parts.down_count, in);
                if (exchange.plain(1, own))
                    walk_back<true>(part, edge, in, starts, put_segment);
                else
                    walk_back<false>(part, edge, in, starts, put_segment);
            }
            __syncthreads();
        }

        each_batch<C>(here.rows, here.columns, [&](const Places<C>& at) {
            C sum[kBatch<C>], c[kBatch<C>], v[kBatch<C>];
            SGS_UNROLL_ALL
            for (int k = 0; k < kBatch<C>; ++k) {
                sum[k] = at.row[k] >= 0 ? array(kSupport)[at.row[k] * parts.pitch + at.column[k]] : C(0);
                c[k] = C(1);
                v[k] = C(0);
            }
            if (exists(kConfidence)) get(args.operands[kConfidence], offsets[kConfidence], at, c);
            if (args.confidence_sums != nullptr) {
                get(args.operands[kX], offsets[kX], at, v);
                const Operand& o = args.operands[kSupportSums];
                C* sums = args.confidence_sums + group() * args.support_stride + offsets[kSupportSums];
                SGS_UNROLL_ALL
                for (int k = 0; k < kBatch<C>; ++k) {
                    if (at.row[k] < 0) continue;
                    C& to = sums[at.row[k] * o.step + at.column[k] * o.chunk];
                    const C old = turn > 0 ? to : C(0);
                    to = c[k] != C(0) ? old + v[k] * sum[k] : old;
                }
            }
            if (args.residual) get(args.operands[kZ], offsets[kZ], at, v);
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
        if (across.exists && k < parts.across_length) array(kXs)[across.at + k] = across_sums[k];
        if (down.exists && k < parts.down_length) array(kZs)[down.at + k * parts.pitch] = down_sums[k];
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
            put_sum(args.down_sums, args.down_stride, kDownSums, row - 1, column, array(kZs)[at]);
        if (column >= here.first_across)
            put_sum(args.across_sums, args.across_stride, kAcrossSums, row, column - 1, array(kXs)[at]);
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
    const auto cut = [](std::int64_t n, int& length, int& count) {
        length = static_cast<int>(divide_up(divide_up(n, divide_up(n, kPart<C>)), kSegment<C>) * kSegment<C>);
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
    const std::int64_t most = std::max(parts.down_count * columns, parts.across_count * rows);
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
    return rows <= kMostThreads && columns <= kMostThreads && threads_of<C>(rows, columns) <= kMostThreads &&
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
        if (columns <= most && rows > side && fits<C>(side, columns, sums)) return {shared_out(rows, side), columns};
        if (rows <= most && columns > side && fits<C>(rows, side, sums)) return {rows, shared_out(columns, side)};
    }
    for (std::int64_t side = 64; side >= kLeastSide; side -= 4)
        if (fits<C>(side, side, sums)) return {shared_out(rows, side), shared_out(columns, side)};
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
    const std::int64_t held = multiprocessors() * std::min<std::int64_t>(by_shared, kMostThreads / plan.threads);
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
    const auto find_inflow = [&](int axis, int lines, int length, const Source& z, const AnyView& w, Inflow<C>& inflow,
                                 PlaneBackwardOperand layout) {
        const Ranges all{0, domain.shape[axis], 0, domain.shape[axis]};
        const Carries<C> of_x = make_carries<C>(queue, domain, axis, length, x, w, all, nullptr, nullptr);
        const Carries<C> of_z = make_carries<C>(queue, domain, axis, length, z, w, all, nullptr, nullptr);
        inflow = {of_x.forward, of_x.backward, of_z.forward, of_z.backward};
        o[layout] = of_x.layout;
        o[layout].step = of_x.layout.strides[lines];
        next[layout] = of_x.layout.chunk;
    };
    if (args.tiles_down > 1) find_inflow(down, across, args.tile_rows, z_down, w_down, args.down, kDownCarry);
    if (args.tiles_across > 1)
        find_inflow(across, down, args.tile_columns, z_across, w_across, args.across, kAcrossCarry);
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
