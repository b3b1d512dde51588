// Support along two axes at once: a plane, or a tile of it, in shared memory.
#pragma once

#include "lines.cuh"

namespace sgs::cuda {

/// Whether run_planes takes these axes of domain: the plane fits into shared memory, or is large enough both ways for
/// tiles.
template <class C> bool takes_planes(const AnyView& domain, int axis_a, int axis_b);

/// out = epilogue(times the source plus its support along both axes), or with scales, one for each axis, epilogue(the
/// sum over axes of scale times source and support); x is read once where a plane fits, else twice. scales are of the
/// computing type.
template <class C> void run_planes(Queue& queue, const AnyView& domain, int axis_a, int axis_b, const Source& source,
                                   const AnyView& w_a, const AnyView& w_b, const AnyView& out, int times,
                                   std::span<const AnyView> scales, const Epilogue& epilogue);

/// Planes cut into tiles: rows go down axis `down`, columns go along axis `across`.
struct Tiles {
    int down, across;
    int rows, columns; // of a tile
};

/// What flows into tiles (4); without data along an axis that is not cut.
template <class C> struct TileCarries {
    Carries<C> down, across;
};

/// Of a source, which is read once.
template <class C> TileCarries<C> make_tile_carries(Queue& queue, const AnyView& domain, const Tiles& tiles,
                                                    const Source& source, const AnyView& w_down,
                                                    const AnyView& w_across);

} // namespace sgs::cuda
