// Support along two axes at once (7). A block holds a tile of a plane and what reaches it along both axes in shared
// memory: down and up the columns, a thread each, then across the rows, a thread each, with the weights of the rows in
// strips beside them. Where a plane has several tiles, what flows into each is found first, along lines.
#include "plane.cuh"

#include <algorithm>

#include "plane_tile.cuh"

namespace sgs::cuda {

// Named, so that a kernel has the same name in every compilation.
inline namespace plane_kernels {

enum PlaneOperand : int {
    kX,
    kFactor,
    kDownWeights,   // of the edges along columns
    kAcrossWeights, // of the edges along rows
    kDownCarry,     // layout of what flows into a tile along columns: an element for each column
    kAcrossCarry,   // and along rows
    kOut,
    kSum,
    kDivisor,
    kSupport,
    kDownReciprocal, // "line": of the support along columns
    kAcrossReciprocal,
    kPlaneOperands
};

/// Operands of planes: step leads to the next row, chunk to the next column; of carries, step to the next line, chunk
/// to the next tile.
template <class C> struct PlaneArgs {
    Lines planes;
    Operand operands[kPlaneOperands];
    std::int64_t rows, columns, tiles_down, tiles_across; // of a plane
    int tile_rows, tile_columns;
    const C *down_before, *down_behind, *across_before, *across_behind; // null for single tiles
    C fill, unsupported, times;
    Finish finish;
    bool only_supported, residual;
    bool keeps_values; // beside the tile, for the residual where confidence changes them
};

constexpr int kStrip = 32;      // columns of weights at a time
constexpr int kStripPitch = 33; // odd, as all pitches: threads walk rows side by side
constexpr int kBatch = 8;       // weights under way at a time

/// scales: what comes along each axis is scaled by itself ("line").
template <class C, bool scales> __global__ void __launch_bounds__(512, 2)
    plane_support(const __grid_constant__ PlaneArgs<C> args) {
    SGS_SHARED(memory);
    auto* offsets = reinterpret_cast<std::int64_t*>(memory);
    C* x = reinterpret_cast<C*>(offsets + kPlaneOperands + kPlaneOperands % 2);
    const int pitch = args.tile_columns | 1;
    C* support = x + args.tile_rows * pitch;
    C* strip = support + args.tile_rows * pitch;
    C* values = args.keeps_values ? strip + args.tile_rows * kStripPitch : nullptr;

    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int warp = thread / 32, lane = thread % 32, warps = threads / 32;
    std::int64_t plane = blockIdx.x;
    const std::int64_t tile_across = split(plane, args.tiles_across), tile_down = split(plane, args.tiles_down);
    const std::int64_t row0 = tile_down * args.tile_rows, column0 = tile_across * args.tile_columns;
    const int rows = static_cast<int>(args.rows - row0 < args.tile_rows ? args.rows - row0 : args.tile_rows);
    const int columns =
        static_cast<int>(args.columns - column0 < args.tile_columns ? args.columns - column0 : args.tile_columns);
    const Tile tile{rows, columns, pitch};
    const auto exists = [&](PlaneOperand k) { return args.operands[k].data != nullptr; };

    if (thread < kPlaneOperands) {
        const Operand& o = args.operands[thread];
        Lane at;
        at.line = plane;
        // Carries have no rows and columns, but lines and tiles of their own.
        const std::int64_t base = offset_of(args.planes, o, at);
        std::int64_t offset = base + row0 * o.step + column0 * o.chunk;
        if (thread == kDownCarry) offset = base + column0 * o.step + tile_down * o.chunk;
        if (thread == kAcrossCarry) offset = base + row0 * o.step + tile_across * o.chunk;
        offsets[thread] = offset;
    }
    __syncthreads();

    if (exists(kX))
        load_plane(tile, x, args.operands[kX], offsets[kX], [x, values](C& to, C v) {
            to = v;
            if (values != nullptr) values[&to - x] = v;
        });
    else
        each_element(tile, [&](int row, int column) { x[row * pitch + column] = C(1); });
    if (exists(kFactor)) {
        __syncthreads();
        load_plane(tile, x, args.operands[kFactor], offsets[kFactor], [](C& to, C c) { to = trusted(c, to); }); // (8)
    }
    __syncthreads();

    // Along columns: F down, B up (4). The weights come straight from memory, neighbouring columns side by side.
    const Operand& down = args.operands[kDownWeights];
    for (int column = thread; column < columns; column += threads)
        with_pointer(down.data, down.dtype, [&](auto p) {
            p += offsets[kDownWeights] + column * down.chunk;
            const std::int64_t carry = offsets[kDownCarry] + column * args.operands[kDownCarry].step;
            C f = args.down_before != nullptr ? args.down_before[carry] : C(0);
            C edges[kBatch];
            for (int row = 0; row < rows; row += kBatch) {
                SGS_UNROLL_ALL
                for (int k = 0; k < kBatch; ++k)
                    edges[k] = row + k < rows && row0 + row + k > 0
                                   ? static_cast<C>(widen(p[(row + k - 1) * down.step]))
                                   : C(1);
                SGS_UNROLL_ALL
                for (int k = 0; k < kBatch; ++k) {
                    if (row + k >= rows) continue;
                    const C term = carried(edges[k], f);
                    support[(row + k) * pitch + column] = term;
                    f = x[(row + k) * pitch + column] + term;
                }
            }
            f = args.down_behind != nullptr ? args.down_behind[carry] : C(0);
            for (int row = rows - 1; row >= 0; row -= kBatch) {
                SGS_UNROLL_ALL
                for (int k = 0; k < kBatch; ++k)
                    edges[k] = row - k >= 0 && row0 + row - k < args.rows - 1
                                   ? static_cast<C>(widen(p[(row - k) * down.step]))
                                   : C(1);
                SGS_UNROLL_ALL
                for (int k = 0; k < kBatch; ++k) {
                    if (row - k < 0) continue;
                    const C term = carried(edges[k], f);
                    support[(row - k) * pitch + column] += term;
                    f = x[(row - k) * pitch + column] + term;
                }
            }
        });

    // Along rows, strip by strip: row `thread` forward, then back. `behind` is 0 for edges that enter a column, 1 for
    // those that leave it.
    const Operand& across = args.operands[kAcrossWeights];
    const auto load_strip = [&](int begin, int behind) {
        with_pointer(across.data, across.dtype, [&](auto p) {
            p += offsets[kAcrossWeights];
            SGS_UNROLL
            for (int row = warp; row < rows; row += warps) {
                const std::int64_t edge = column0 + begin + lane + behind - 1;
                const bool there = begin + lane < columns && edge >= 0 && edge < args.columns - 1;
                strip[row * kStripPitch + lane] =
                    there ? static_cast<C>(widen(p[row * across.step + (edge - column0) * across.chunk])) : C(1);
            }
        });
    };
    // The walk along rows leaves in the strip what it found; from there the threads that loaded the strip scale it,
    // with neighbouring reciprocals side by side.
    const auto scale_strip = [&](int begin, bool forward) {
        const auto reciprocal = [&](PlaneOperand k, int row, int column) {
            const Operand& o = args.operands[k];
            return static_cast<const C*>(o.data)[offsets[k] + row * o.step + column * o.chunk];
        };
        const int column = begin + lane;
        if (column >= columns) return;
        SGS_UNROLL
        for (int row = warp; row < rows; row += warps) {
            const C term = strip[row * kStripPitch + lane], of_row = reciprocal(kAcrossReciprocal, row, column);
            const C own = x[row * pitch + column];
            C& sum = support[row * pitch + column];
            if (forward)
                sum = (own + sum) * reciprocal(kDownReciprocal, row, column) + term * of_row;
            else
                sum += (own + term) * of_row;
        }
    };
    const bool walks = thread < rows;
    const std::int64_t carry = offsets[kAcrossCarry] + thread * args.operands[kAcrossCarry].step;
    C f = walks && args.across_before != nullptr ? args.across_before[carry] : C(0);
    const auto walk = [&](int begin, int k) {
        const int at = thread * pitch + begin + k;
        C& edge = strip[thread * kStripPitch + k];
        const C term = carried(edge, f);
        if constexpr (scales)
            edge = term;
        else
            support[at] += term;
        f = x[at] + term;
    };
    for (int begin = 0; begin < columns; begin += kStrip) {
        __syncthreads();
        load_strip(begin, 0);
        __syncthreads();
        const int count = columns - begin < kStrip ? columns - begin : kStrip;
        for (int k = 0; walks && k < count; ++k) walk(begin, k);
        if constexpr (scales) {
            __syncthreads();
            scale_strip(begin, true);
        }
    }
    f = walks && args.across_behind != nullptr ? args.across_behind[carry] : C(0);
    for (int begin = (columns - 1) / kStrip * kStrip; begin >= 0; begin -= kStrip) {
        __syncthreads();
        load_strip(begin, 1);
        __syncthreads();
        const int count = columns - begin < kStrip ? columns - begin : kStrip;
        for (int k = count - 1; walks && k >= 0; --k) walk(begin, k);
        if constexpr (scales) {
            __syncthreads();
            scale_strip(begin, false);
        }
    }
    __syncthreads();

    each_element(tile, [&](int row, int column) {
        const auto at = [&](PlaneOperand k) {
            return offsets[k] + row * args.operands[k].step + column * args.operands[k].chunk;
        };
        const auto get = [&](PlaneOperand k) { return load<C>(args.operands[k].data, args.operands[k].dtype, at(k)); };
        C v = support[row * pitch + column];
        if (args.times != C(0)) v = args.times * x[row * pitch + column] + v;
        if (exists(kSum)) v = get(kSum) + v;
        if (args.finish == Finish::reciprocal) {
            if (exists(kSupport)) store(args.operands[kSupport].data, args.operands[kSupport].dtype, at(kSupport), v);
            v = args.only_supported && !(v >= least_support<C>()) ? args.unsupported : C(1) / v;
        } else if (args.finish == Finish::divide) {
            const C divisor = get(kDivisor);
            v = args.only_supported && divisor < C(0) ? args.fill : v * divisor;
        }
        if (args.residual && !exists(kFactor)) v += x[row * pitch + column];
        if (args.residual && exists(kFactor) && get(kFactor) != C(0))
            v += values != nullptr ? values[row * pitch + column] : get(kX);
        support[row * pitch + column] = v;
    });
    __syncthreads();
    store_plane(tile, support, args.operands[kOut], offsets[kOut]);
}

} // namespace plane_kernels

namespace {

template <class C> std::size_t tile_bytes(std::int64_t rows, std::int64_t columns) {
    const std::int64_t tiles = 2 * rows * (columns | 1), strip = rows * kStripPitch;
    return (kPlaneOperands + kPlaneOperands % 2) * sizeof(std::int64_t) +
           static_cast<std::size_t>(tiles + strip) * sizeof(C);
}

// Rows run along the axis with the larger stride in memory.
bool down_is_a(const AnyView& domain, int axis_a, int axis_b) {
    const auto magnitude = [](std::int64_t v) { return v < 0 ? -v : v; };
    return magnitude(domain.strides[axis_a]) >= magnitude(domain.strides[axis_b]);
}

constexpr std::int64_t kMostRows = 512; // a thread each
// Tiles within 48 KiB, so that several blocks share a multiprocessor.
template <class C> constexpr std::int64_t kTile = sizeof(C) == 4 ? 64 : 44;
constexpr std::int64_t kLeastSide = 32;

template <class C> bool whole_plane_fits(std::int64_t rows, std::int64_t columns) {
    // The bound on each side keeps the product from overflowing.
    return rows <= kMostRows && columns <= (1 << 16) && tile_bytes<C>(rows, columns) <= shared_memory_limit();
}

} // namespace

template <class C> bool takes_planes(const AnyView& domain, int axis_a, int axis_b) {
    const bool a_down = down_is_a(domain, axis_a, axis_b);
    const std::int64_t rows = domain.shape[a_down ? axis_a : axis_b];
    const std::int64_t columns = domain.shape[a_down ? axis_b : axis_a];
    return whole_plane_fits<C>(rows, columns) || (rows >= kLeastSide && columns >= kLeastSide);
}

template <class C> void run_planes(Queue& queue, const AnyView& domain, int axis_a, int axis_b, const Source& source,
                                   const AnyView& w_a, const AnyView& w_b, const AnyView& out, int times,
                                   std::span<const AnyView> scales, const Epilogue& epilogue) {
    const std::size_t mark = queue.mark();
    const bool a_down = down_is_a(domain, axis_a, axis_b);
    const int down = a_down ? axis_a : axis_b, across = a_down ? axis_b : axis_a;
    const AnyView &w_down = a_down ? w_a : w_b, &w_across = a_down ? w_b : w_a;
    const std::int64_t rows = domain.shape[down], columns = domain.shape[across];

    PlaneArgs<C> args{};
    args.rows = rows;
    args.columns = columns;
    const bool whole = whole_plane_fits<C>(rows, columns);
    args.tile_rows = static_cast<int>(whole ? rows : divide_up(rows, divide_up(rows, kTile<C>)));
    args.tile_columns = static_cast<int>(whole ? columns : divide_up(columns, divide_up(columns, kTile<C>)));
    args.tiles_down = divide_up(rows, args.tile_rows);
    args.tiles_across = divide_up(columns, args.tile_columns);

    Operand* o = args.operands;
    o[kX] = operand(source.values, domain, down);
    o[kFactor] = operand(source.factor, domain, down);
    o[kDownWeights] = operand(w_down, domain, down);
    o[kAcrossWeights] = operand(w_across, domain, down);
    o[kOut] = operand(out, domain, down);
    o[kSum] = operand(epilogue.sum, domain, down);
    o[kDivisor] = operand(epilogue.reciprocal, domain, down);
    o[kSupport] = operand(epilogue.support, domain, down);
    if (!scales.empty()) {
        o[kDownReciprocal] = operand(scales[a_down ? 0 : 1], domain, down);
        o[kAcrossReciprocal] = operand(scales[a_down ? 1 : 0], domain, down);
    }
    const Ranges ranges_down{0, rows, 0, rows}, ranges_across{0, columns, 0, columns};
    std::int64_t steps[kPlaneOperands], next[kPlaneOperands] = {};
    if (args.tiles_down > 1) {
        const Carries<C> c =
            make_carries<C>(queue, domain, down, args.tile_rows, source, w_down, ranges_down, nullptr, nullptr);
        args.down_before = c.forward;
        args.down_behind = c.backward;
        o[kDownCarry] = c.layout;
        o[kDownCarry].step = c.layout.strides[across];
        next[kDownCarry] = c.layout.chunk;
    }
    if (args.tiles_across > 1) {
        const Carries<C> c = make_carries<C>(queue, domain, across, args.tile_columns, source, w_across, ranges_across,
                                             nullptr, nullptr);
        args.across_before = c.forward;
        args.across_behind = c.backward;
        o[kAcrossCarry] = c.layout;
        o[kAcrossCarry].step = c.layout.strides[down];
        next[kAcrossCarry] = c.layout.chunk;
    }
    for (int k = 0; k < kPlaneOperands; ++k) {
        steps[k] = o[k].step;
        if (k != kDownCarry && k != kAcrossCarry) next[k] = o[k].strides[across];
    }
    AnyView outer = domain;
    outer.shape[down] = outer.shape[across] = 1;
    args.planes = arrange(outer, -1, 1, domain, args.operands);
    for (int k = 0; k < kPlaneOperands; ++k) {
        o[k].step = steps[k];
        o[k].chunk = next[k];
    }
    args.fill = static_cast<C>(epilogue.fill);
    args.unsupported = static_cast<C>(epilogue.unsupported);
    args.times = static_cast<C>(times);
    args.finish = epilogue.finish;
    args.only_supported = epilogue.only_supported;
    args.residual = epilogue.residual;
    // As many loads under way as a tile is worth, and a thread for each row.
    const int elements = args.tile_rows * args.tile_columns;
    const int threads = std::max(elements >= 4096 ? 512 : elements >= 1024 ? 256 : 64, (args.tile_rows + 31) / 32 * 32);
    std::size_t shared = tile_bytes<C>(args.tile_rows, args.tile_columns);
    const std::size_t more = sizeof(C) * static_cast<std::size_t>(args.tile_rows * (args.tile_columns | 1));
    args.keeps_values = args.residual && source.factor != nullptr && shared + more <= shared_memory_limit();
    if (args.keeps_values) shared += more;
    queue.launch(scales.empty() ? &plane_support<C, false> : &plane_support<C, true>,
                 args.planes.count * args.tiles_down * args.tiles_across, threads, shared, args);
    queue.release(mark);
}

#define SGS_INSTANTIATE(C)                                                                                             \
    template bool takes_planes<C>(const AnyView&, int, int);                                                           \
    template void run_planes<C>(Queue&, const AnyView&, int, int, const Source&, const AnyView&, const AnyView&,       \
                                const AnyView&, int, std::span<const AnyView>, const Epilogue&);
SGS_INSTANTIATE(float)
SGS_INSTANTIATE(double)
#undef SGS_INSTANTIATE

} // namespace sgs::cuda
