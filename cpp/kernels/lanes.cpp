// Planes side by side that fill vectors.
#include "lanes.h"

namespace sgs::SGS_ISA {

extern constinit const LanesKernels<float> lanes_float = of_planes<float, kChannels>();
extern constinit const LanesKernels<double> lanes_double = of_planes<double, kChannels>();
extern constinit const LanesKernels<double> few_lanes_double = of_planes<double, kFewChannels>();

} // namespace sgs::SGS_ISA
