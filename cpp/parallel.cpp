#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace sgs {
namespace {

std::atomic<bool> in_forked_child{false};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
#endif

// Asks the caller's callback at most every 50 ms: asking takes the interpreter's lock. The time of the last question
// outlives a loop, since a call may consist of many short ones.
bool cancel_requested(const Options& options) {
    using Clock = std::chrono::steady_clock;
    thread_local Clock::time_point last{};
    if (options.cancelled == nullptr) return false;
    const auto now = Clock::now();
    if (now - last < std::chrono::milliseconds(50)) return false;
    last = now;
    return options.cancelled(options.context);
}

#if defined(_OPENMP)
// Tasks of one thread. Shares are written by their own threads for the most part: each has lines of memory of its own.
struct alignas(128) Share {
    std::atomic<std::int64_t> next;
    std::int64_t end;
};
#endif

} // namespace

bool forked() { return in_forked_child; }

int workers(std::int64_t count, const Options& options) {
#if defined(_OPENMP)
    if (forked()) return 1;
    return static_cast<int>(std::clamp<std::int64_t>(options.num_threads, 1, std::max<std::int64_t>(count, 1)));
#else
    (void)count, (void)options;
    return 1;
#endif
}

void CancelFlag::check(int worker) {
    if (worker == 0 && cancel_requested(options_)) cancelled_ = true;
    if (cancelled_.load(std::memory_order_relaxed)) throw Cancelled{};
}

void parallel_for(std::int64_t count, const Options& options, const std::function<void(std::int64_t, int)>& task) {
    const int threads = workers(count, options);
    if (threads == 1) {
        for (std::int64_t i = 0; i < count; ++i) {
            if (cancel_requested(options)) throw Cancelled{};
            task(i, 0);
        }
        return;
    }
#if defined(_OPENMP)
    // Each thread has its share of neighbouring tasks, in whose memory it stays, and helps with the others' in the end.
    std::vector<Share> shares(static_cast<std::size_t>(threads));
    for (int k = 0; k < threads; ++k) {
        shares[static_cast<std::size_t>(k)].next = count * k / threads;
        shares[static_cast<std::size_t>(k)].end = count * (k + 1) / threads;
    }
    std::atomic<bool> stop{false};
    bool cancelled = false;
    std::exception_ptr error;
#pragma omp parallel num_threads(threads)
    {
        const int worker = omp_get_thread_num();
        for (int k = 0; k < threads; ++k) {
            Share& share = shares[static_cast<std::size_t>((worker + k) % threads)];
            while (!stop.load(std::memory_order_relaxed)) {
                // Many threads look at shares that are done: they only read them.
                if (share.next.load(std::memory_order_relaxed) >= share.end) break;
                const std::int64_t i = share.next.fetch_add(1, std::memory_order_relaxed);
                if (i >= share.end) break;
                // Worker 0 is the calling thread, the only one that may run the caller's signal handlers.
                if (worker == 0 && cancel_requested(options)) {
                    cancelled = true;
                    stop = true;
                    break;
                }
                try {
                    task(i, worker);
                } catch (...) {
#pragma omp critical(sgs_parallel_error)
                    if (!error) error = std::current_exception();
                    stop = true;
                }
            }
        }
    }
    if (error) std::rethrow_exception(error);
    if (cancelled) throw Cancelled{};
#endif
}

} // namespace sgs
