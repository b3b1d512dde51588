// When results are best written past the caches.
#pragma once

#include "sgs.h"

namespace sgs {

/// Bytes of results that the caches do not keep: written past them, these need not be read before.
constexpr std::int64_t kBeyondCaches = 1 << 24;
/// Bytes of results that no core keeps in a cache of its own.
constexpr std::int64_t kBeyondCore = 1 << 20;

/// Whether y, stored as it is computed, in C, is more than the caches keep.
template <class C> bool outgrows_caches(const AnyView& y) {
    return y.dtype == dtype_of<C>::value && y.size() * static_cast<std::int64_t>(sizeof(C)) >= kBeyondCaches;
}

/// Whether so many threads rather ask for the lines that they are going to write.
bool cores_are_the_limit(int threads);

} // namespace sgs
