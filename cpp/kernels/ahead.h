// What kernels ask the memory for while they compute. Only for files under kernels/.
#pragma once

#include "../kernels.h"

namespace sgs::SGS_ISA {
namespace {

// The lines that belong to position j of `count` rows from `first` on, which are to be written.
template <int count> __attribute__((always_inline, nothrow)) inline void
fetch_written(const RowsAhead& ahead, std::int64_t j, std::int64_t first = 0) {
    const char* const line =
        ahead.rows + j / kChannels * kChannels * ahead.step + ahead.places[j % kChannels] + first * ahead.stride;
#pragma GCC unroll 4
    for (int r = 0; r < count; ++r) __builtin_prefetch(line + r * ahead.stride, 1, 2);
}

} // namespace
} // namespace sgs::SGS_ISA
