// When results are best written past the caches.
#pragma once

#include <cstdint>

namespace sgs {

/// Bytes of results that the caches do not keep: written past them, these need not be read before.
constexpr std::int64_t kBeyondCaches = 1 << 24;
/// Bytes of results that no core keeps in a cache of its own.
constexpr std::int64_t kBeyondCore = 1 << 20;

/// Whether so many threads rather ask for the lines that they are going to write.
bool cores_are_the_limit(int threads);

} // namespace sgs
