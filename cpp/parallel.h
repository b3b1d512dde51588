// Parallel loop over independent tasks. What a task computes never depends on the number of threads.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "sgs.h"

namespace sgs {

/// Runs task(i, worker) for i in [0, count); worker < workers(count, options) names the thread's own scratch.
/// Throws Cancelled once options.cancelled said so; rethrows the first exception of a task.
void parallel_for(std::int64_t count, const Options& options,
                  const std::function<void(std::int64_t index, int worker)>& task);

/// Threads that parallel_for will use: 1 in a forked child, where OpenMP would hang.
int workers(std::int64_t count, const Options& options);

/// One scratch for each worker of a parallel_for over `tasks`.
template <class T> class PerWorker {
  public:
    template <class... Args> PerWorker(std::int64_t tasks, const Options& options, const Args&... args) {
        const int count = workers(tasks, options);
        for (int k = 0; k < count; ++k) all_.push_back(std::make_unique<T>(args...));
    }
    T& operator[](int worker) const { return *all_[static_cast<std::size_t>(worker)]; }
    int count() const { return static_cast<int>(all_.size()); }

  private:
    std::vector<std::unique_ptr<T>> all_;
};

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
