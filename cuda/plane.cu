// Support along two axes at once (7). A block holds a tile of a plane and what reaches it along both axes in shared
// memory. Its rows, then its columns, go in parts, a thread each (parts.cuh). The weights of rows come from memory side
// by side, as all rows do, into the place of the sums, and wait there for the threads that walk along rows. Where a
// plane has several tiles, what flows into each is found first, along both axes at once.
#include "plane.cuh"

#include <algorithm>

#include "parts.cuh"
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
    int down_part, across_part; // length of a part
    int parts;                  // that a tile has at most, along either axis
    Chunks<C> down, across;     // what flows into tiles; without data for single ones
    C fill, unsupported, times;
    Finish finish;
    bool only_supported, residual;
    bool divides_alone;
    bool keeps_values; // beside the tile, for the residual where confidence changes them
};

template <class C> constexpr int kMostThreads = sizeof(C) == 4 ? 1024 : 512; // with registers for a part each

/// What all threads of a block know of its tile. It stays in shared memory: registers are for parts.
struct Header {
    std::int64_t offsets[kPlaneOperands]; // of the tile's first element
    int rows, columns;
    bool at_top, at_left, at_bottom, at_right; // of the plane
};

/// A block's shared memory: the source, what weights of rows become support, the source's values where asked for.
template <class C> struct PlaneBlock {
    const PlaneArgs<C>& args;
    unsigned char* memory;

    __device__ Header& header() const { return *reinterpret_cast<Header*>(memory); }
    __device__ std::int64_t offset(PlaneOperand k) const { return header().offsets[k]; }
    __device__ int pitch() const { return args.tile_columns | 1; }
    __device__ int area() const { return args.tile_rows * pitch(); }
    __device__ C* x() const { return reinterpret_cast<C*>(memory + sizeof(Header)); }
    __device__ C* support() const { return x() + area(); }
    __device__ C* values() const { return args.keeps_values ? support() + area() : nullptr; }
    __device__ Tile tile() const { return {header().rows, header().columns, pitch()}; }
    __device__ Passages<C> passages(int lines, int length, int part) const {
        return {support() + (args.keeps_values ? 2 : 1) * area(), args.parts, lines, quotient(length + part - 1, part)};
    }
};

template <class C> __device__ inline PlaneBlock<C> open_block(const PlaneArgs<C>& args, unsigned char* memory) {
    const PlaneBlock<C> block{args, memory};
    std::int64_t plane = blockIdx.x;
    const std::int64_t tile_across = split(plane, args.tiles_across), tile_down = split(plane, args.tiles_down);
    const std::int64_t row = tile_down * args.tile_rows, column = tile_across * args.tile_columns;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        const auto within = [](std::int64_t rest, int most) { return static_cast<int>(rest < most ? rest : most); };
        Header& header = block.header();
        header.rows = within(args.rows - row, args.tile_rows);
        header.columns = within(args.columns - column, args.tile_columns);
        header.at_top = row == 0;
        header.at_left = column == 0;
        header.at_bottom = row + header.rows == args.rows;
        header.at_right = column + header.columns == args.columns;
    }
    if (thread < kPlaneOperands) {
        const Operand& o = args.operands[thread];
        Lane at;
        at.line = plane;
        // Carries have no rows and columns, but lines and tiles of their own.
        const std::int64_t base = offset_of(args.planes, o, at);
        std::int64_t offset = base + row * o.step + column * o.chunk;
        if (thread == kDownCarry) offset = base + column * o.step + tile_down * o.chunk;
        if (thread == kAcrossCarry) offset = base + row * o.step + tile_across * o.chunk;
        block.header().offsets[thread] = offset;
    }
    __syncthreads();
    return block;
}

/// The source, and the weights of the edges that enter elements along rows, in the place of the support.
template <class C> __device__ inline void load_tile(const PlaneBlock<C>& block) {
    const Operand* operands = block.args.operands;
    const Operand &source = operands[kX], &factor = operands[kFactor], &w = operands[kAcrossWeights];
    C *x = block.x(), *values = block.values(), *weights = block.support();
    const Tile tile = block.tile();
    if (source.data != nullptr)
        load_plane(tile, x, source, block.offset(kX), [x, values](C& to, C v) {
            to = v;
            if (values != nullptr) values[&to - x] = v;
        });
    else
        each_element(tile, [&](int row, int column) { x[row * tile.pitch + column] = C(1); });
    const bool at_left = block.header().at_left;
    with_pointer(w.data, w.dtype, [&](auto p) {
        p += block.offset(kAcrossWeights) - w.chunk;
        with_stride(w.chunk, [&](auto chunk) {
            each_row(tile, false, [&](int row) {
                return [=, from = p + row * w.step, to = weights + row * tile.pitch](int column) {
                    to[column] = at_left && column == 0 ? C(1) : static_cast<C>(widen(from[column * chunk]));
                };
            });
        });
    });
    __syncthreads();
    if (factor.data == nullptr) return;
    load_plane(tile, x, factor, block.offset(kFactor), [](C& to, C c) { to = trusted(c, to); }); // (8)
    __syncthreads();
}

/// Which part of which line this thread has, and the part's first element. Asked for anew where it is needed: registers
/// are for the part itself.
struct Place {
    int line, part, begin;
};
__device__ inline Place own_place(int lines, int length) {
    const int thread = opaque(static_cast<int>(threadIdx.x)), part = quotient(thread, lines);
    return {thread - part * lines, part, part * length};
}

/// A thread's part, and whether no edge of it is cut.
template <class C> struct Own {
    Part<C> part;
    bool uncut = true;
};

/// The values of lines of n elements that are `step` apart in shared memory, neighbouring lines `next`.
template <class C>
__device__ inline Own<C> own_values(const Place& place, const C* x, int n, int length, int step, int next) {
    Own<C> own;
    const int rest = n - place.begin;
    own.part.length = rest < 0 ? 0 : rest < length ? rest : length;
    const C* from = x + place.line * next + place.begin * step;
    ascending(own.part.length, [&](int k) { own.part.values[k] = from[k * step]; });
    return own;
}

/// Puts the passage of the thread's part where those join them that need it.
template <class C> __device__ inline void pass(Own<C>& own, const Place& place, const Passages<C>& passages) {
    const Passage<C> passage = passage_of(own.part, own.uncut);
    if (place.part < passages.count) passages.put(place.part, place.line, passage);
}

/// alone: as if no edge entered the tile.
template <class C>
__device__ inline Own<C> own_of_row(const PlaneBlock<C>& block, const Passages<C>& passages, bool alone) {
    const Tile tile = block.tile();
    const int length = block.args.across_part;
    const Place place = own_place(tile.rows, length);
    Own<C> own = own_values(place, block.x(), tile.columns, length, 1, tile.pitch);
    const C* weights = block.support() + place.line * tile.pitch + place.begin; // load_tile left them there
    const bool first = alone && place.begin == 0;
    ascending(own.part.length, [&](int k) { own.part.edges[k] = first && k == 0 ? C(1) : weights[k]; });
    pass(own, place, passages);
    return own;
}

template <class C>
__device__ inline Own<C> own_of_column(const PlaneBlock<C>& block, const Passages<C>& passages, bool alone) {
    const Tile tile = block.tile();
    const int length = block.args.down_part;
    const Place place = own_place(tile.columns, length);
    Own<C> own = own_values(place, block.x(), tile.rows, length, tile.pitch, 1);
    const Operand& w = block.args.operands[kDownWeights];
    const bool first = (alone || block.header().at_top) && place.begin == 0;
    with_pointer(w.data, w.dtype, [&](auto p) { // neighbouring columns side by side, straight from memory
        p += block.offset(kDownWeights) + place.line * w.chunk + (place.begin - 1) * w.step;
        ascending(own.part.length,
                  [&](int k) { own.part.edges[k] = first && k == 0 ? C(1) : static_cast<C>(widen(p[k * w.step])); });
    });
    pass(own, place, passages);
    return own;
}

/// The weight of the edge that enters the tile at a line's first element, or leaves it behind the last one; 1 where the
/// plane has none.
template <class C>
__device__ inline C border_edge(const PlaneBlock<C>& block, PlaneOperand weights, int line, bool behind) {
    const Header& header = block.header();
    const Operand& w = block.args.operands[weights];
    const bool down = weights == kDownWeights;
    if (behind ? (down ? header.at_bottom : header.at_right) : (down ? header.at_top : header.at_left)) return C(1);
    const std::int64_t step = down ? w.step : w.chunk, next = down ? w.chunk : w.step;
    const int edge = behind ? (down ? header.rows : header.columns) - 1 : -1;
    return load<C>(w.data, w.dtype, block.offset(weights) + line * next + edge * step);
}

/// from_before(k, term), then from_behind(k, term) for the elements of the thread's part.
template <class C, class Before, class Behind>
__device__ inline void walk(const PlaneBlock<C>& block, const Own<C>& own, const Place& place,
                            const Passages<C>& passages, const Chunks<C>& chunks, PlaneOperand carry,
                            PlaneOperand weights, const Before& from_before, const Behind& from_behind) {
    if (own.part.length == 0) return;
    C f = C(0), b = C(0);
    if (chunks.forward != nullptr) {
        const std::int64_t offset = block.offset(carry) + place.line * block.args.operands[carry].step;
        f = chunks.forward[offset];
        b = carried(border_edge(block, weights, place.line, true), chunks.backward[offset]);
    }
    f = passages.before(place.part, place.line, f);
    if (own.uncut)
        walk_forward<true>(own.part, f, from_before);
    else
        walk_forward<false>(own.part, f, from_before);
    b = passages.behind(place.part, place.line, b);
    if (own.uncut)
        walk_backward<true>(own.part, b, from_behind);
    else
        walk_backward<false>(own.part, b, from_behind);
}

/// The element of an operand of the computing type.
template <class C> __device__ inline C element(const PlaneBlock<C>& block, PlaneOperand k, int row, int column) {
    const Operand& o = block.args.operands[k];
    return static_cast<const C*>(o.data)[block.offset(k) + row * o.step + column * o.chunk];
}

/// What happens to sums once they are there, element by element, in their place: (7) "cross" of one block.
template <class C> __device__ inline void divide(const PlaneBlock<C>& block) {
    const Tile tile = block.tile();
    const Operand& divisor = block.args.operands[kDivisor];
    const C *x = block.x(), *reciprocal = static_cast<const C*>(divisor.data) + block.offset(kDivisor);
    C* support = block.support();
    const C own = block.args.times;
    const bool residual = block.args.residual;
    const bool merges = divisor.chunk == 1 && divisor.step == tile.columns && tile.pitch == tile.columns;
    with_stride(divisor.chunk, [&](auto chunk) {
        each_row(tile, merges, [&](int row) {
            return [=, at = row * tile.pitch, from = reciprocal + row * divisor.step](int column) {
                const C value = x[at + column];
                const C v = (own * value + support[at + column]) * from[column * chunk];
                support[at + column] = residual ? v + value : v;
            };
        });
    });
}

/// In all other cases.
template <class C> __device__ inline void finish(const PlaneBlock<C>& block) {
    const PlaneArgs<C>& args = block.args;
    const Tile tile = block.tile();
    C *x = block.x(), *support = block.support(), *values = block.values();
    const auto exists = [&](PlaneOperand k) { return args.operands[k].data != nullptr; };
    each_element(tile, [&](int row, int column) {
        const auto at = [&](PlaneOperand k) {
            return block.offset(k) + row * args.operands[k].step + column * args.operands[k].chunk;
        };
        const auto get = [&](PlaneOperand k) { return load<C>(args.operands[k].data, args.operands[k].dtype, at(k)); };
        C v = support[row * tile.pitch + column];
        if (args.times != C(0)) v = args.times * x[row * tile.pitch + column] + v;
        if (exists(kSum)) v = get(kSum) + v;
        if (args.finish == Finish::reciprocal) {
            if (exists(kSupport)) store(args.operands[kSupport].data, args.operands[kSupport].dtype, at(kSupport), v);
            v = args.only_supported && !(v >= least_support<C>()) ? args.unsupported : C(1) / v;
        } else if (args.finish == Finish::divide) {
            const C divisor = element(block, kDivisor, row, column);
            v = args.only_supported && divisor < C(0) ? args.fill : v * divisor;
        }
        if (args.residual && !exists(kFactor)) v += x[row * tile.pitch + column];
        if (args.residual && exists(kFactor) && get(kFactor) != C(0))
            v += values != nullptr ? values[row * tile.pitch + column] : get(kX);
        support[row * tile.pitch + column] = v;
    });
}

/// scales: what comes along each axis is scaled by itself ("line").
template <class C, bool scales> __global__ void __launch_bounds__(kMostThreads<C>, 1)
    plane_support(const __grid_constant__ PlaneArgs<C> args) {
    SGS_SHARED(memory);
    const PlaneBlock<C> block = open_block(args, memory);
    load_tile(block);
    {
        const Tile tile = block.tile();
        const Passages<C> passages = block.passages(tile.rows, tile.columns, args.across_part);
        const Own<C> own = own_of_row(block, passages, false);
        __syncthreads(); // passages are there, and all weights have been picked up
        const Place place = own_place(block.header().rows, args.across_part);
        C* to = block.support() + place.line * block.pitch() + place.begin;
        walk(
            block, own, place, passages, args.across, kAcrossCarry, kAcrossWeights,
            [to](int k, C term) { to[k] = term; }, [to](int k, C term) { to[k] += term; });
    }
    __syncthreads();
    if constexpr (scales) {
        const Tile tile = block.tile();
        C *x = block.x(), *support = block.support();
        each_element(tile, [&](int row, int column) {
            C& sum = support[row * tile.pitch + column];
            const C own = x[row * tile.pitch + column];
            sum = (own + sum) * element(block, kAcrossReciprocal, row, column) +
                  own * element(block, kDownReciprocal, row, column);
        });
        __syncthreads(); // nothing waits for it, but without it sm_120 spills a register
    }
    {
        const Tile tile = block.tile();
        const Passages<C> passages = block.passages(tile.columns, tile.rows, args.down_part);
        const Own<C> own = own_of_column(block, passages, false);
        __syncthreads();
        const Place place = own_place(block.header().columns, args.down_part);
        const int pitch = block.pitch();
        C* to = block.support() + place.line + place.begin * pitch;
        const auto add = [&, to, pitch](int k, C term) {
            if constexpr (scales) term *= element(block, kDownReciprocal, place.begin + k, place.line);
            to[k * pitch] += term;
        };
        walk(block, own, place, passages, args.down, kDownCarry, kDownWeights, add, add);
    }
    __syncthreads();
    if (args.divides_alone)
        divide(block);
    else
        finish(block);
    __syncthreads();
    store_plane(block.tile(), block.support(), args.operands[kOut], block.offset(kOut));
}

/// F of the last element of each line of each tile and B of the first one as if nothing flowed into the tile (4), and
/// how much of what does gets through (3).
template <class C> __device__ inline void put_chunks(const PlaneBlock<C>& block, const Passages<C>& passages,
                                                     const Chunks<C>& chunks, PlaneOperand carry,
                                                     PlaneOperand weights) {
    const int line = static_cast<int>(threadIdx.x);
    if (line >= passages.lines) return;
    const std::int64_t at = block.offset(carry) + line * block.args.operands[carry].step;
    const Passage<C> passage = passages.joined_line(line);
    chunks.forward[at] = passage.forward;
    chunks.backward[at] = passage.backward;
    for (int k = 0; k < 2; ++k) {
        Reach<C> reach = passage.reach;
        extend(reach, border_edge(block, weights, line, k == 1));
        chunks.fractions[k][at] = reach.fraction;
        chunks.exponents[k][at] = reach.exponent;
    }
}

/// What each tile makes of what flows into it, along the axes that have several.
template <class C> __global__ void __launch_bounds__(kMostThreads<C>, 1)
    plane_carries(const __grid_constant__ PlaneArgs<C> args) {
    SGS_SHARED(memory);
    const PlaneBlock<C> block = open_block(args, memory);
    load_tile(block);
    const Tile tile = block.tile();
    if (args.across.forward != nullptr) {
        const Passages<C> passages = block.passages(tile.rows, tile.columns, args.across_part);
        own_of_row(block, passages, true);
        __syncthreads();
        put_chunks(block, passages, args.across, kAcrossCarry, kAcrossWeights);
        __syncthreads();
    }
    if (args.down.forward != nullptr) {
        const Passages<C> passages = block.passages(tile.columns, tile.rows, args.down_part);
        own_of_column(block, passages, true);
        __syncthreads();
        put_chunks(block, passages, args.down, kDownCarry, kDownWeights);
    }
}

} // namespace plane_kernels

namespace {

int part_length(std::int64_t n) { return static_cast<int>(divide_up(n, divide_up(n, kPart))); }

// Of a tile, along the axis that has more of them: a thread each.
std::int64_t parts_of(std::int64_t rows, std::int64_t columns) {
    return std::max(columns * divide_up(rows, kPart), rows * divide_up(columns, kPart));
}

template <class C> std::size_t tile_bytes(std::int64_t rows, std::int64_t columns) {
    return sizeof(Header) + static_cast<std::size_t>(2 * rows * (columns | 1)) * sizeof(C) +
           static_cast<std::size_t>(passage_bytes<C>(parts_of(rows, columns)));
}

// Rows run along the axis with the larger stride in memory.
bool down_is_a(const AnyView& domain, int axis_a, int axis_b) {
    const auto magnitude = [](std::int64_t v) { return v < 0 ? -v : v; };
    return magnitude(domain.strides[axis_a]) >= magnitude(domain.strides[axis_b]);
}

// Tiles within 48 KiB, so that several blocks share a multiprocessor.
template <class C> constexpr std::int64_t kTile = sizeof(C) == 4 ? 64 : 44;
constexpr std::int64_t kLeastSide = 32;

template <class C> bool tile_fits(std::int64_t rows, std::int64_t columns) {
    return parts_of(rows, columns) <= kMostThreads<C> && tile_bytes<C>(rows, columns) <= shared_memory_limit();
}

template <class C> bool whole_plane_fits(std::int64_t rows, std::int64_t columns) {
    // The bound on each side keeps the products from overflowing.
    constexpr std::int64_t most = kMostThreads<C>;
    return rows <= most && columns <= most && tile_fits<C>(rows, columns);
}

} // namespace

template <class C> bool takes_planes(const AnyView& domain, int axis_a, int axis_b) {
    const bool a_down = down_is_a(domain, axis_a, axis_b);
    const std::int64_t rows = domain.shape[a_down ? axis_a : axis_b];
    const std::int64_t columns = domain.shape[a_down ? axis_b : axis_a];
    return whole_plane_fits<C>(rows, columns) || (rows >= kLeastSide && columns >= kLeastSide);
}

namespace {

// Operands beside the source, its weights and what flows into tiles are there already.
template <class C> void lay_out(PlaneArgs<C>& args, const AnyView& domain, const Tiles& tiles, const Source& source,
                                const AnyView& w_down, const AnyView& w_across) {
    args.rows = domain.shape[tiles.down];
    args.columns = domain.shape[tiles.across];
    args.tile_rows = tiles.rows;
    args.tile_columns = tiles.columns;
    args.tiles_down = divide_up(args.rows, tiles.rows);
    args.tiles_across = divide_up(args.columns, tiles.columns);
    args.down_part = part_length(tiles.rows);
    args.across_part = part_length(tiles.columns);
    args.parts = static_cast<int>(parts_of(tiles.rows, tiles.columns));

    Operand* o = args.operands;
    o[kX] = operand(source.values, domain, tiles.down);
    o[kFactor] = operand(source.factor, domain, tiles.down);
    o[kDownWeights] = operand(w_down, domain, tiles.down);
    o[kAcrossWeights] = operand(w_across, domain, tiles.down);
    o[kDownCarry] = args.down.layout;
    o[kAcrossCarry] = args.across.layout;
    std::int64_t steps[kPlaneOperands], next[kPlaneOperands];
    for (int k = 0; k < kPlaneOperands; ++k) {
        steps[k] = o[k].step;
        next[k] = o[k].strides[tiles.across];
    }
    steps[kDownCarry] = o[kDownCarry].strides[tiles.across];
    steps[kAcrossCarry] = o[kAcrossCarry].strides[tiles.down];
    next[kDownCarry] = o[kDownCarry].chunk;
    next[kAcrossCarry] = o[kAcrossCarry].chunk;
    AnyView outer = domain;
    outer.shape[tiles.down] = outer.shape[tiles.across] = 1;
    args.planes = arrange(outer, -1, 1, domain, args.operands);
    for (int k = 0; k < kPlaneOperands; ++k) {
        o[k].step = steps[k];
        o[k].chunk = next[k];
    }
}

template <class C> std::int64_t blocks_of(const PlaneArgs<C>& args) {
    return args.planes.count * args.tiles_down * args.tiles_across;
}

// A thread for each part.
template <class C> int threads_of(const PlaneArgs<C>& args) { return static_cast<int>(divide_up(args.parts, 32)) * 32; }

} // namespace

template <class C> TileCarries<C> make_tile_carries(Queue& queue, const AnyView& domain, const Tiles& tiles,
                                                    const Source& source, const AnyView& w_down,
                                                    const AnyView& w_across) {
    const bool several_down = tiles.rows < domain.shape[tiles.down];
    const bool several_across = tiles.columns < domain.shape[tiles.across];
    TileCarries<C> carries;
    if (!tile_fits<C>(tiles.rows, tiles.columns)) {
        const auto along = [&](int axis, int length, const AnyView& w) {
            const Ranges all{0, domain.shape[axis], 0, domain.shape[axis]};
            return make_carries<C>(queue, domain, axis, length, source, w, all, nullptr, nullptr);
        };
        if (several_down) carries.down = along(tiles.down, tiles.rows, w_down);
        if (several_across) carries.across = along(tiles.across, tiles.columns, w_across);
        return carries;
    }
    if (several_down) carries.down = take_carries<C>(queue, domain, tiles.down, tiles.rows);
    if (several_across) carries.across = take_carries<C>(queue, domain, tiles.across, tiles.columns);
    const std::size_t mark = queue.mark();
    PlaneArgs<C> args{};
    if (several_down) args.down = take_chunks(queue, domain, tiles.down, tiles.rows, carries.down);
    if (several_across) args.across = take_chunks(queue, domain, tiles.across, tiles.columns, carries.across);
    lay_out(args, domain, tiles, source, w_down, w_across);
    queue.launch(&plane_carries<C>, blocks_of(args), threads_of(args), tile_bytes<C>(tiles.rows, tiles.columns), args);
    if (several_down) join_chunks<C>(queue, domain, tiles.down, tiles.rows, args.down);
    if (several_across) join_chunks<C>(queue, domain, tiles.across, tiles.columns, args.across);
    queue.release(mark);
    return carries;
}

template <class C> void run_planes(Queue& queue, const AnyView& domain, int axis_a, int axis_b, const Source& source,
                                   const AnyView& w_a, const AnyView& w_b, const AnyView& out, int times,
                                   std::span<const AnyView> scales, const Epilogue& epilogue) {
    const std::size_t mark = queue.mark();
    const bool a_down = down_is_a(domain, axis_a, axis_b);
    const AnyView &w_down = a_down ? w_a : w_b, &w_across = a_down ? w_b : w_a;
    Tiles tiles{a_down ? axis_a : axis_b, a_down ? axis_b : axis_a, 0, 0};
    const std::int64_t rows = domain.shape[tiles.down], columns = domain.shape[tiles.across];
    const bool whole = whole_plane_fits<C>(rows, columns);
    tiles.rows = static_cast<int>(whole ? rows : divide_up(rows, divide_up(rows, kTile<C>)));
    tiles.columns = static_cast<int>(whole ? columns : divide_up(columns, divide_up(columns, kTile<C>)));

    PlaneArgs<C> args{};
    if (!whole) {
        const TileCarries<C> carries = make_tile_carries<C>(queue, domain, tiles, source, w_down, w_across);
        args.down = Chunks<C>{carries.down};
        args.across = Chunks<C>{carries.across};
    }
    Operand* o = args.operands;
    o[kOut] = operand(out, domain, tiles.down);
    o[kSum] = operand(epilogue.sum, domain, tiles.down);
    o[kDivisor] = operand(epilogue.reciprocal, domain, tiles.down);
    o[kSupport] = operand(epilogue.support, domain, tiles.down);
    if (!scales.empty()) {
        o[kDownReciprocal] = operand(scales[a_down ? 0 : 1], domain, tiles.down);
        o[kAcrossReciprocal] = operand(scales[a_down ? 1 : 0], domain, tiles.down);
    }
    lay_out(args, domain, tiles, source, w_down, w_across);
    args.fill = static_cast<C>(epilogue.fill);
    args.unsupported = static_cast<C>(epilogue.unsupported);
    args.times = static_cast<C>(times);
    args.finish = epilogue.finish;
    args.only_supported = epilogue.only_supported;
    args.residual = epilogue.residual;
    args.divides_alone = epilogue.finish == Finish::divide && times != 0 && epilogue.sum == nullptr &&
                         !epilogue.only_supported && source.factor == nullptr;
    std::size_t shared = tile_bytes<C>(tiles.rows, tiles.columns);
    const std::size_t more = sizeof(C) * static_cast<std::size_t>(tiles.rows * (tiles.columns | 1));
    args.keeps_values = args.residual && source.factor != nullptr && shared + more <= shared_memory_limit();
    if (args.keeps_values) shared += more;
    queue.launch(scales.empty() ? &plane_support<C, false> : &plane_support<C, true>, blocks_of(args), threads_of(args),
                 shared, args);
    queue.release(mark);
}

#define SGS_INSTANTIATE(C)                                                                                             \
    template bool takes_planes<C>(const AnyView&, int, int);                                                           \
    template void run_planes<C>(Queue&, const AnyView&, int, int, const Source&, const AnyView&, const AnyView&,       \
                                const AnyView&, int, std::span<const AnyView>, const Epilogue&);                       \
    template TileCarries<C> make_tile_carries<C>(Queue&, const AnyView&, const Tiles&, const Source&, const AnyView&,  \
                                                 const AnyView&);
SGS_INSTANTIATE(float)
SGS_INSTANTIATE(double)
#undef SGS_INSTANTIATE

} // namespace sgs::cuda
