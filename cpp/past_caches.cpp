#include "past_caches.h"

namespace sgs {

// What is not read before counts where the memory is busy. A few threads of an Intel processor do not make it so: each
// core waits for the dozen lines that it has under way, where one that is written past the caches stays for longer than
// one that comes, and cannot be asked for while there are sums to make (docs/performance.md).
bool cores_are_the_limit(int threads) {
#if defined(__x86_64__)
    constexpr int kFewThreads = 4;
    static const bool intel = __builtin_cpu_is("intel") != 0;
    return intel && threads <= kFewThreads;
#else
    (void)threads;
    return false;
#endif
}

} // namespace sgs
