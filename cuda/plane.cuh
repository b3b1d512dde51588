// Support along two axes at once: a plane, or a tile of it, in shared memory.
#pragma once

#include "lines.cuh"

namespace sgs::cuda {

/// Whether run_planes takes these axes of domain: the plane fits into shared memory, or is large enough both ways for
/// tiles.
template <class C> bool takes_planes(const AnyView& domain, int axis_a, int axis_b);

/// out = epilogue(times the source plus its support along both axes); x is read once where a plane fits, else three
/// times.
template <class C> void run_planes(Queue& queue, const AnyView& domain, int axis_a, int axis_b, const Source& source,
                                   const AnyView& w_a, const AnyView& w_b, const AnyView& out, int times,
                                   const Epilogue& epilogue);

} // namespace sgs::cuda
