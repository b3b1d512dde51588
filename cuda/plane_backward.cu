// Derivatives of the support along two axes at once (11). A block holds a tile of x and of z = y_bar / S in shared
// memory: a thread goes down each column and back, then a thread across each row and back, and x_bar is written. F is
// kept at the start of every kSegment steps alone and found again from there on the way back. The block does so for
// all planes of its group; sums over these stay there until the end, those for weights in registers, each element's
// with one thread. With a scale for each axis, z is y_bar times that of the axis.
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
    int tile_rows, tile_columns;
    C times;
    bool residual;
    bool keeps_x, keeps_y; // beside the tile, what is asked for again at the end where there is confidence
};

template <class C> constexpr int kMostThreads = sizeof(C) == 4 ? 384 : 256;
// Steps between places where F is kept.
template <class C> constexpr int kSegment = sizeof(C) == 4 ? 8 : 4;
constexpr int kHanded = 16; // rows whose products are handed over at a time, whole segments
constexpr int kStrip = 16;  // columns of weights at a time, whole segments
constexpr int kStripPitch = kStrip + 1;
// Sums that a thread holds of each kind, in registers.
template <class C> constexpr int kOwned = sizeof(C) == 4 ? 25 : 17;

__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
template <class C> __host__ __device__ constexpr int kept_size(int rows, int columns) {
    return larger((rows - 1) / kSegment<C> * columns, (columns - 1) / kSegment<C> * rows);
}
__host__ __device__ constexpr int strip_size(int rows, int pitch) {
    return larger(rows * kStripPitch, kHanded * pitch);
}

/// One segment backwards: F found again from what flows in (f of x, g of z), then B of x and of z (b and c), which are
/// those of the step behind. put(k, p, sx, sz, x, z): p = F(x) c + F(z) b belongs to the edge behind step k, sx and sz
/// are the support of x and z. edges[k] enters step k.
template <class C, class Put> __device__ inline void walk_back(const C* x, const C* z, int stride, int count,
                                                               const C (&edges)[kSegment<C> + 1], C f, C g, C& b, C& c,
                                                               const Put& put) {
    C forward_x[kSegment<C> + 1], forward_z[kSegment<C> + 1]; // [k] enters step k
    SGS_UNROLL_ALL
    for (int k = 0; k < kSegment<C>; ++k) {
        forward_x[k] = f;
        forward_z[k] = g;
        if (k < count) {
            f = step(*x, edges[k], f); // (4)
            g = step(*z, edges[k], g);
        }
        x += stride;
        z += stride;
    }
    forward_x[kSegment<C>] = f;
    forward_z[kSegment<C>] = g;
    SGS_UNROLL_ALL
    for (int k = kSegment<C> - 1; k >= 0; --k) {
        x -= stride;
        z -= stride;
        if (k >= count) continue;
        const C from_x = carried(edges[k + 1], b), from_z = carried(edges[k + 1], c);
        const C product = forward_x[k + 1] * c + forward_z[k + 1] * b;
        const C xk = *x, zk = *z;
        put(k, product, carried(edges[k], forward_x[k]) + from_x, carried(edges[k], forward_z[k]) + from_z, xk, zk);
        b = xk + from_x;
        c = zk + from_z;
    }
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

/// scales: z of columns is y_bar times kZFactor, z of rows y_bar times kAcrossZFactor ("line").
template <class C, bool scales> __global__ void __launch_bounds__(kMostThreads<C>, 1)
    plane_backward(const __grid_constant__ PlaneBackwardArgs<C> args) {
    SGS_SHARED(memory);
    auto* offsets = reinterpret_cast<std::int64_t*>(memory);
    C* x = reinterpret_cast<C*>(offsets + kPlaneBackwardOperands + kPlaneBackwardOperands % 2);
    const int pitch = args.tile_columns | 1, area = args.tile_rows * pitch;
    C* z = x + area;
    C* support = z + area; // of z
    const int kept = kept_size<C>(args.tile_rows, args.tile_columns);
    C* kept_x = support + area; // F where segments start, but the first
    C* kept_z = kept_x + kept;
    C* strip = kept_z + kept; // weights of rows; before that products on the way to their owners
    C* support_sums = strip + strip_size(args.tile_rows, pitch);
    C* row_support_sums = support_sums + (scales && args.support_sums[0] != nullptr ? area : 0);
    C* confidence_sums = row_support_sums + (args.support_sums[scales ? 1 : 0] != nullptr ? area : 0);
    C* kept_end = confidence_sums + (args.confidence_sums != nullptr ? area : 0);
    C* all_x = args.keeps_x ? kept_end : nullptr;
    C* all_y = args.keeps_y ? kept_end + (args.keeps_x ? area : 0) : nullptr;

    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int warp = thread / 32, lane = thread % 32, warps = threads / 32;
    const unsigned group = blockIdx.x % args.groups;
    const Place place = place_of(args, blockIdx.x);
    const int rows = static_cast<int>(args.rows - place.row < args.tile_rows ? args.rows - place.row : args.tile_rows);
    const int columns = static_cast<int>(args.columns - place.column < args.tile_columns ? args.columns - place.column
                                                                                         : args.tile_columns);
    // Rows and columns of the tile, and those behind it, that an edge enters.
    const int first_down = place.row > 0 ? 0 : 1, end_down = place.row + rows < args.rows ? rows + 1 : rows;
    const int first_across = place.column > 0 ? 0 : 1,
              end_across = place.column + columns < args.columns ? columns + 1 : columns;
    const Tile tile{rows, columns, pitch};
    const auto exists = [&](PlaneBackwardOperand k) { return args.operands[k].data != nullptr; };
    const Operand& down = args.operands[kDownWeights];
    const Operand& across = args.operands[kAcrossWeights];

    // Elements thread, thread + threads, ... of the tile, of which the bits tell those that are none.
    constexpr int owned = kOwned<C>;
    C down_sums[owned], across_sums[owned];
    unsigned is_element = 0;
    SGS_UNROLL_ALL
    for (int k = 0; k < owned; ++k) {
        const int e = thread + k * threads;
        if (e < rows * pitch && e % pitch < columns) is_element |= 1u << k;
        down_sums[k] = across_sums[k] = C(0);
    }
    const bool sums_support = args.support_sums[0] != nullptr, sums_confidence = args.confidence_sums != nullptr;
    const bool sums_row_support = args.support_sums[scales ? 1 : 0] != nullptr;
    each_element(tile, [&](int row, int column) {
        if (sums_support) support_sums[row * pitch + column] = C(0);
        if (scales && sums_row_support) row_support_sums[row * pitch + column] = C(0);
        if (sums_confidence) confidence_sums[row * pitch + column] = C(0);
    });

    const std::int64_t run = divide_up(args.planes.summed, args.groups), begin = group * run;
    const std::int64_t end = begin + run < args.planes.summed ? begin + run : args.planes.summed;
    for (std::int64_t s = begin; s < end; ++s) {
        if (thread < kPlaneBackwardOperands) {
            const Operand& o = args.operands[thread];
            const Place here = place_of(args, blockIdx.x); // not kept in registers all the time
            Lane at;
            at.line = here.plane;
            // Carries have no rows and columns, but lines and tiles of their own.
            const std::int64_t base = offset_of(args.planes, o, at, s);
            std::int64_t offset = base + here.row * o.step + here.column * o.chunk;
            if (thread == kDownCarry) offset = base + here.column * o.step + here.down * o.chunk;
            if (thread == kAcrossCarry) offset = base + here.row * o.step + here.across * o.chunk;
            offsets[thread] = offset;
        }
        __syncthreads();

        if (exists(kX))
            load_plane(tile, x, args.operands[kX], offsets[kX], [x, all_x](C& to, C v) {
                to = v;
                if (all_x != nullptr) all_x[&to - x] = v;
            });
        else
            each_element(tile, [&](int row, int column) { x[row * pitch + column] = C(1); });
        const bool adds_source = args.residual && !exists(kConfidence);
        C* begun = scales ? nullptr : adds_source ? support : all_y; // y_bar waits there for the rest of x_bar
        load_plane(tile, z, args.operands[kZ], offsets[kZ], [z, begun](C& to, C v) {
            to = v;
            if (begun != nullptr) begun[&to - z] = v;
        });
        __syncthreads();
        if (exists(kXFactor))
            load_plane(tile, x, args.operands[kXFactor], offsets[kXFactor],
                       [](C& to, C c) { to = trusted(c, to); }); // (8)
        // With scales, z of columns is where their support will be, while y_bar waits in z for that of rows.
        C* down_z = scales ? support : z;
        if (exists(kZFactor))
            load_plane(tile, z, args.operands[kZFactor], offsets[kZFactor],
                       [z, down_z](C& y, C r) { down_z[&y - z] = trusted(r, y); });
        __syncthreads();

        // Along columns. The weights come straight from memory, neighbouring columns side by side.
        const bool goes_down = thread < columns;
        const auto load_edges = [&](C(&edges)[kSegment<C> + 1], int row) { // edges[k] enters row + k
            with_pointer(down.data, down.dtype, [&](auto p) {
                std::int64_t at = offsets[kDownWeights] + thread * down.chunk + (row - 1) * down.step;
                SGS_UNROLL_ALL
                for (int k = 0; k <= kSegment<C>; ++k) {
                    const bool there = row + k >= first_down && row + k < end_down;
                    edges[k] = there ? static_cast<C>(widen(p[at])) : C(1);
                    at += down.step;
                }
            });
        };
        const auto inflow = [](const C* carries, std::int64_t at) { return carries != nullptr ? carries[at] : C(0); };
        if (goes_down) {
            const std::int64_t carry = offsets[kDownCarry] + thread * args.operands[kDownCarry].step;
            C f = inflow(args.down.x_before, carry), g = inflow(args.down.z_before, carry);
            for (int row = 0; row < rows; row += kSegment<C>) {
                if (row > 0) {
                    kept_x[(row / kSegment<C> - 1) * columns + thread] = f;
                    kept_z[(row / kSegment<C> - 1) * columns + thread] = g;
                }
                C edges[kSegment<C> + 1];
                load_edges(edges, row);
                const int at = row * pitch + thread;
                SGS_UNROLL_ALL
                for (int k = 0; k < kSegment<C>; ++k) {
                    if (row + k >= rows) break;
                    f = step(x[at + k * pitch], edges[k], f);
                    g = step(down_z[at + k * pitch], edges[k], g);
                }
            }
        }
        C b = C(0), c = C(0); // B of x and z
        if (goes_down) {
            const std::int64_t carry = offsets[kDownCarry] + thread * args.operands[kDownCarry].step;
            b = inflow(args.down.x_behind, carry);
            c = inflow(args.down.z_behind, carry);
        }
        // F where a segment starts.
        const auto kept_at = [&](const Inflow<C>& from, PlaneBackwardOperand carry, int segment, int width, C& f,
                                 C& g) {
            if (segment > 0) {
                f = kept_x[(segment - 1) * width + thread];
                g = kept_z[(segment - 1) * width + thread];
            } else {
                const std::int64_t at = offsets[carry] + thread * args.operands[carry].step;
                f = inflow(from.x_before, at);
                g = inflow(from.z_before, at);
            }
        };
        for (int top = (rows - 1) / kHanded * kHanded; top >= 0; top -= kHanded) {
            for (int row = top + kHanded - kSegment<C>; goes_down && row >= top; row -= kSegment<C>) {
                if (row >= rows) continue;
                C edges[kSegment<C> + 1];
                load_edges(edges, row);
                const int at = row * pitch + thread;
                C* to = strip + (row - top) * pitch + thread;
                C f, g;
                kept_at(args.down, kDownCarry, row / kSegment<C>, columns, f, g);
                walk_back(x + at, down_z + at, pitch, rows - row, edges, f, g, b, c,
                          [&](int k, C product, C sx, C sz, C xk, C zk) {
                              C& sum = support[at + k * pitch];
                              if constexpr (scales)
                                  sum = adds_source ? z[at + k * pitch] + zk + sz : zk + sz;
                              else
                                  sum = adds_source ? sum + sz : sz;
                              to[k * pitch] = product;
                              if (sums_support) support_sums[at + k * pitch] += zk * (xk + sx);
                          });
            }
            __syncthreads();
            const int count = kHanded * pitch;
            int e = thread - top * pitch;
            SGS_UNROLL_ALL
            for (int k = 0; k < owned; ++k) {
                if ((is_element >> k & 1u) != 0 && e >= 0 && e < count) down_sums[k] += strip[e];
                e += threads;
            }
            __syncthreads();
        }

        if constexpr (scales)
            load_plane(tile, z, args.operands[kAcrossZFactor], offsets[kAcrossZFactor],
                       [](C& y, C r) { y = trusted(r, y); });

        // Along rows, strip by strip: column k of the strip has the edges that enter column begin + k.
        const auto load_strip = [&](int first) {
            with_pointer(across.data, across.dtype, [&](auto p) {
                p += offsets[kAcrossWeights];
                for (int row = warp; row < rows; row += warps)
                    for (int k = lane; k <= kStrip; k += 32) {
                        const bool there = first + k >= first_across && first + k < end_across;
                        strip[row * kStripPitch + k] =
                            there ? static_cast<C>(widen(p[row * across.step + (first + k - 1) * across.chunk])) : C(1);
                    }
            });
        };
        const bool goes_across = thread < rows;
        const auto row_edges = [&](C(&edges)[kSegment<C> + 1], int k) {
            SGS_UNROLL_ALL
            for (int i = 0; i <= kSegment<C>; ++i) edges[i] = strip[thread * kStripPitch + k + i];
        };
        {
            C f = C(0), g = C(0);
            if (goes_across) {
                const std::int64_t carry = offsets[kAcrossCarry] + thread * args.operands[kAcrossCarry].step;
                f = inflow(args.across.x_before, carry);
                g = inflow(args.across.z_before, carry);
                b = inflow(args.across.x_behind, carry);
                c = inflow(args.across.z_behind, carry);
            }
            for (int first = 0; first < columns; first += kStrip) {
                load_strip(first);
                __syncthreads();
                for (int k = 0; goes_across && k < kStrip && first + k < columns; ++k) {
                    if (k % kSegment<C> == 0 && first + k > 0) {
                        kept_x[((first + k) / kSegment<C> - 1) * rows + thread] = f;
                        kept_z[((first + k) / kSegment<C> - 1) * rows + thread] = g;
                    }
                    const int at = thread * pitch + first + k;
                    const C edge = strip[thread * kStripPitch + k];
                    f = step(x[at], edge, f);
                    g = step(z[at], edge, g);
                }
                __syncthreads();
            }
        }
        for (int first = (columns - 1) / kStrip * kStrip; first >= 0; first -= kStrip) {
            load_strip(first);
            __syncthreads();
            for (int k = kStrip - kSegment<C>; goes_across && k >= 0; k -= kSegment<C>) {
                const int column = first + k;
                if (column >= columns) continue;
                C edges[kSegment<C> + 1];
                row_edges(edges, k);
                const int at = thread * pitch + column;
                C f, g;
                kept_at(args.across, kAcrossCarry, column / kSegment<C>, rows, f, g);
                // The results go where x and z are done with.
                walk_back(x + at, z + at, 1, columns - column, edges, f, g, b, c,
                          [&](int i, C product, C sx, C sz, C xk, C zk) {
                              x[at + i] = product;
                              z[at + i] = args.times * zk + support[at + i] + sz;
                              if (sums_row_support) row_support_sums[at + i] += zk * (scales ? xk + sx : sx);
                          });
            }
            __syncthreads();
        }

        SGS_UNROLL_ALL
        for (int k = 0; k < owned; ++k)
            if ((is_element >> k & 1u) != 0) across_sums[k] += x[thread + k * threads];
        if (exists(kConfidence)) {
            const auto get = [&](PlaneBackwardOperand k, int row, int column) {
                const Operand& o = args.operands[k];
                return load<C>(o.data, o.dtype, offsets[k] + row * o.step + column * o.chunk);
            };
            each_element(tile, [&](int row, int column) {
                const int at = row * pitch + column;
                const C trust = get(kConfidence, row, column), sum = z[at];
                if (sums_confidence && trust != C(0))
                    confidence_sums[at] += (all_x != nullptr ? all_x[at] : get(kX, row, column)) * sum;
                z[at] = trusted(trust, sum);
                if (args.residual && trust != C(0)) z[at] += all_y != nullptr ? all_y[at] : get(kZ, row, column);
            });
            __syncthreads();
        }
        if (exists(kXBar)) store_plane(tile, z, args.operands[kXBar], offsets[kXBar]);
        __syncthreads();
    }

    const auto put = [&](C* sums, std::int64_t stride, PlaneBackwardOperand k, int row, int column, C v) {
        if (sums == nullptr) return;
        const Operand& o = args.operands[k];
        sums[group * stride + offsets[k] + row * o.step + column * o.chunk] = v;
    };
    SGS_UNROLL_ALL
    for (int k = 0; k < owned; ++k) {
        if ((is_element >> k & 1u) == 0) continue;
        const int e = thread + k * threads, row = e / pitch, column = e - row * pitch;
        if (row + 1 < end_down) put(args.down_sums, args.down_stride, kDownSums, row, column, down_sums[k]);
        if (column + 1 < end_across)
            put(args.across_sums, args.across_stride, kAcrossSums, row, column, across_sums[k]);
    }
    each_element(tile, [&](int row, int column) {
        const int at = row * pitch + column;
        if (sums_support) put(args.support_sums[0], args.support_stride, kSupportSums, row, column, support_sums[at]);
        if (scales && sums_row_support)
            put(args.support_sums[1], args.support_stride, kSupportSums, row, column, row_support_sums[at]);
        if (sums_confidence)
            put(args.confidence_sums, args.support_stride, kSupportSums, row, column, confidence_sums[at]);
    });
}

} // namespace plane_backward_kernels

namespace {

// Rows run along the axis with the larger stride in memory.
bool down_is_a(const AnyView& domain, int axis_a, int axis_b) {
    const auto magnitude = [](std::int64_t v) { return v < 0 ? -v : v; };
    return magnitude(domain.strides[axis_a]) >= magnitude(domain.strides[axis_b]);
}

// sums: how many are kept in shared memory, of support and of confidence.
template <class C> std::size_t block_bytes(std::int64_t rows, std::int64_t columns, int sums) {
    const auto r = static_cast<int>(rows), c = static_cast<int>(columns);
    const int pitch = c | 1, elements = (3 + sums) * r * pitch + 2 * kept_size<C>(r, c) + strip_size(r, pitch);
    return (kPlaneBackwardOperands + kPlaneBackwardOperands % 2) * sizeof(std::int64_t) +
           static_cast<std::size_t>(elements) * sizeof(C);
}

template <class C> bool fits(std::int64_t rows, std::int64_t columns, int sums) {
    return rows <= kMostThreads<C> && columns <= kMostThreads<C> &&
           rows * (columns | 1) <= kOwned<C> * kMostThreads<C> &&
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
    plan.shared = block_bytes<C>(sides.rows, sides.columns, sums);
    const std::int64_t owners = divide_up(sides.rows * (sides.columns | 1), kOwned<C>);
    const std::int64_t threads = std::max({std::int64_t{64}, sides.rows, sides.columns, owners});
    plan.threads = static_cast<int>(divide_up(threads, 32) * 32);
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
    args.down_sums = outputs.weights[a_down ? 0 : 1];
    args.across_sums = outputs.weights[a_down ? 1 : 0];
    for (int k = 0; k < 2; ++k) args.support_sums[k] = outputs.supports[scales.empty() || a_down ? k : 1 - k];
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
    for (int k = 0; k < kPlaneBackwardOperands; ++k) {
        o[k].step = steps[k];
        o[k].chunk = next[k];
    }
    std::size_t shared = plan.shared;
    const std::size_t area = sizeof(C) * static_cast<std::size_t>(args.tile_rows * (args.tile_columns | 1));
    const auto takes = [&](bool wanted) {
        const bool fits = wanted && shared + area <= shared_memory_limit();
        if (fits) shared += area;
        return fits;
    };
    args.keeps_x = takes(outputs.confidences != nullptr);
    args.keeps_y = takes(outputs.residual && outputs.confidence != nullptr);
    queue.launch(scales.empty() ? &plane_backward<C, false> : &plane_backward<C, true>,
                 args.planes.count * args.tiles_down * args.tiles_across * plan.groups, plan.threads, shared, args);
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
