// Parallel loop over independent tasks. What a task computes never depends on the number of threads.
#pragma once

#include <atomic>
#include <functional>

#include "sgs.h"

namespace sgs {

/// Runs task(i, worker) for i in [0, count); worker < workers(count, options) names the thread's own scratch.
/// Throws Cancelled once options.cancelled said so; rethrows the first exception of a task.
void parallel_for(std::int64_t count, const Options& options,
                  const std::function<void(std::int64_t index, int worker)>& task);

/// Threads that parallel_for will use: 1 in a forked child, where OpenMP would hang.
int workers(std::int64_t count, const Options& options);

/// For tasks of a parallel_for that are long themselves.
class CancelFlag {
  public:
    explicit CancelFlag(const Options& options) : options_(options) {}
    /// Throws Cancelled once options.cancelled said so to worker 0, the calling thread.
    void check(int worker);

  private:
    const Options& options_;
    std::atomic<bool> cancelled_{false};
};

} // namespace sgs
