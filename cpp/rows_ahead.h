// Where rows of planes side by side lie in memory, for kernels that ask for them in passing.
#pragma once

#include "kernels.h"

namespace sgs {

static_assert(kChannels == kGradientLanes); // one description for both

/// Of `lanes` planes of v that start `offsets` from `rows`; strides in elements.
inline RowsAhead rows_ahead(const AnyView& v, const void* rows, std::int64_t row_stride, std::int64_t column_stride,
                            const std::int64_t* offsets, int lanes = kChannels) {
    const auto item = static_cast<std::int64_t>(item_size(v.dtype));
    RowsAhead ahead{static_cast<const char*>(rows), row_stride * item, column_stride * item, {}};
    for (int l = 0; l < kChannels; ++l)
        ahead.places[l] = (column_stride == 1 ? offsets[l * lanes / kChannels] : l * column_stride) * item;
    return ahead;
}

} // namespace sgs
