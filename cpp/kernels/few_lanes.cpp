// kFewChannels planes side by side in float32: shorter vectors than AVX-512 has, but its registers and instructions.
#define SGS_SHORT_VECTORS
#include "lanes.h"

namespace sgs::SGS_ISA {

extern constinit const LanesKernels<float> few_lanes_float = of_planes<float, kFewChannels>();

} // namespace sgs::SGS_ISA
