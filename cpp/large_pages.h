// Large pages for large new arrays.
#pragma once

#include <cstddef>

namespace sgs {

/// Asks the system for large pages in `bytes` from `data` on, memory that nobody has touched: to touch
/// small ones for the first time takes longer than to filter what comes into them. Small arrays are left alone.
void prefer_large_pages(void* data, std::size_t bytes);

} // namespace sgs
