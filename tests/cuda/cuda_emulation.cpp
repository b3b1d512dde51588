#include "cuda_emulation.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(SGS_EMULATION_THREADS)
#include <barrier>
#include <mutex>
#include <thread>
#else
#include <csetjmp>
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

thread_local Thread* current = nullptr;

namespace {
int launch_count = 0;
int order_of_threads = 0;
std::size_t most_shared = 99 * 1024;

// Shared memory of one block: a heap block of its own, so that AddressSanitizer sees where it ends.
std::unique_ptr<unsigned char[]> fresh_shared(std::size_t bytes) {
    auto memory = std::make_unique_for_overwrite<unsigned char[]>(bytes);
    std::fill_n(memory.get(), bytes, static_cast<unsigned char>(0xff));
    return memory;
}
} // namespace

void set_order(int order) { order_of_threads = order; }
void set_shared_limit(std::size_t bytes) { most_shared = bytes; }
std::size_t shared_limit() { return most_shared; }
int launches() { return launch_count; }

#if defined(SGS_EMULATION_THREADS)

namespace {
constexpr int kTeams = 2; // blocks at a time
thread_local std::barrier<>* team_barrier = nullptr;
} // namespace

void barrier(const char*, int) { team_barrier->arrive_and_wait(); }

void run_grid(std::int64_t blocks, int threads, std::size_t shared, const std::function<void()>& body) {
    ++launch_count;
    std::vector<std::thread> all;
    std::vector<std::unique_ptr<std::barrier<>>> inside, between;
    std::vector<std::unique_ptr<unsigned char[]>> memory(kTeams);
    for (int team = 0; team < kTeams; ++team) {
        inside.push_back(std::make_unique<std::barrier<>>(threads));
        between.push_back(std::make_unique<std::barrier<>>(threads));
    }
    for (int team = 0; team < kTeams; ++team)
        for (int t = 0; t < threads; ++t)
            all.emplace_back([&, team, t] {
                const auto slot = static_cast<std::size_t>(team);
                Thread self;
                current = &self;
                team_barrier = inside[slot].get();
                for (std::int64_t block = team; block < blocks; block += kTeams) {
                    if (t == 0) memory[slot] = fresh_shared(shared);
                    between[slot]->arrive_and_wait();
                    self.thread.x = static_cast<unsigned>(t);
                    self.block.x = static_cast<unsigned>(block);
                    self.block_size.x = static_cast<unsigned>(threads);
                    self.shared = memory[slot].get();
                    body();
                    between[slot]->arrive_and_wait();
                }
            });
    for (std::thread& t : all) t.join();
}

#else

namespace {

constexpr std::size_t kStack = 256 * 1024;

struct Fiber {
    Thread thread;
    ucontext_t entry{};
    jmp_buf place{};
    std::unique_ptr<char[]> stack{new char[kStack]};
    bool started = false, done = false;
    const char* file = nullptr; // of the barrier it waits at
    int line = 0;
    void* fake_stack = nullptr;
};

jmp_buf scheduler;
const std::function<void()>* work = nullptr;
Fiber* running = nullptr;

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
std::size_t scheduler_size = 0;
void* scheduler_fake_stack = nullptr;
#endif

void arrive_in_fiber(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_size);
#else
    (void)fiber;
#endif
}

void to_scheduler(Fiber& fiber, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_size);
#else
    (void)for_good;
    (void)fiber;
#endif
    _longjmp(scheduler, 1);
}

void enter() {
    Fiber& fiber = *running;
    arrive_in_fiber(fiber);
    (*work)();
    fiber.done = true;
    to_scheduler(fiber, true);
}

void resume(Fiber& fiber) {
    running = &fiber;
    current = &fiber.thread;
    if (_setjmp(scheduler) == 0) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack.get(), kStack);
#endif
        if (fiber.started) _longjmp(fiber.place, 1);
        fiber.started = true;
        setcontext(&fiber.entry);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

template <class T> void put_in_order(std::vector<T>& v, std::mt19937& random) {
    if (order_of_threads == 1) std::reverse(v.begin(), v.end());
    if (order_of_threads == 2) std::shuffle(v.begin(), v.end(), random);
}

void run_block(std::vector<std::unique_ptr<Fiber>>& fibers, std::mt19937& random) {
    std::vector<Fiber*> turn;
    for (auto& f : fibers) {
        f->started = f->done = false;
        f->fake_stack = nullptr;
        getcontext(&f->entry);
        f->entry.uc_stack.ss_sp = f->stack.get();
        f->entry.uc_stack.ss_size = kStack;
        f->entry.uc_link = nullptr;
        makecontext(&f->entry, enter, 0);
        turn.push_back(f.get());
    }
    put_in_order(turn, random);
    for (;;) {
        for (Fiber* f : turn) resume(*f);
        const Fiber& first = *turn.front();
        for (const Fiber* f : turn)
            if (f->done != first.done || (!f->done && (f->file != first.file || f->line != first.line)))
                throw std::runtime_error("emulation: threads " + std::to_string(first.thread.thread.x) + " and " +
                                         std::to_string(f->thread.thread.x) + " do not meet at the same barrier (" +
                                         (first.done ? std::string("end") : std::to_string(first.line)) + ", " +
                                         (f->done ? std::string("end") : std::to_string(f->line)) + ")");
        if (first.done) return;
    }
}

} // namespace

void barrier(const char* file, int line) {
    Fiber& fiber = *running;
    fiber.file = file;
    fiber.line = line;
    if (_setjmp(fiber.place) == 0) to_scheduler(fiber, false);
    arrive_in_fiber(fiber);
}

void run_grid(std::int64_t blocks, int threads, std::size_t shared, const std::function<void()>& body) {
    ++launch_count;
    if (shared > most_shared) throw std::runtime_error("emulation: more shared memory than a block may have");
    static std::vector<std::unique_ptr<Fiber>> pool;
    while (pool.size() < static_cast<std::size_t>(threads)) pool.push_back(std::make_unique<Fiber>());
    std::vector<std::unique_ptr<Fiber>> fibers;
    for (int t = 0; t < threads; ++t) fibers.push_back(std::move(pool[static_cast<std::size_t>(t)]));
    const auto give_back = [&] {
        for (std::size_t t = 0; t < fibers.size(); ++t) pool[t] = std::move(fibers[t]);
    };
    work = &body;
    std::mt19937 random(static_cast<unsigned>(launch_count));
    std::vector<std::int64_t> numbers(static_cast<std::size_t>(blocks));
    std::iota(numbers.begin(), numbers.end(), 0);
    put_in_order(numbers, random);
    try {
        for (const std::int64_t block : numbers) {
            const auto memory = fresh_shared(shared);
            for (int t = 0; t < threads; ++t) {
                Thread& thread = fibers[static_cast<std::size_t>(t)]->thread;
                thread.thread.x = static_cast<unsigned>(t);
                thread.block.x = static_cast<unsigned>(block);
                thread.block_size.x = static_cast<unsigned>(threads);
                thread.shared = memory.get();
            }
            run_block(fibers, random);
        }
    } catch (...) {
        give_back();
        throw;
    }
    give_back();
}

#endif

void copy_16_bytes(void* to, const void* from, const void* aligned) {
    if (reinterpret_cast<std::uintptr_t>(aligned) % 16 != 0)
        throw std::runtime_error("emulation: an access of 16 bytes is not at a 16-byte border");
    std::memcpy(to, from, 16);
}

// What the device's own conversions do: exact, and to nearest with ties to even.
float half_to_float(std::uint16_t bits) {
    const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction != 0 ? std::nanf("") : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

std::uint16_t float_to_half(float value) {
    if (std::isnan(value)) return 0x7e00;
    const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
    const float magnitude = std::fabs(value);
    if (magnitude == 0.0f) return sign;
    if (magnitude >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7c00);
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int last = std::max(exponent - 11, -24); // the exponent of the last bit kept
    const auto units = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, -last)));
    // A subnormal's units are its bits; a normal number's first unit bit adds into the exponent field.
    return static_cast<std::uint16_t>(sign | (units + (static_cast<unsigned>(last + 24) << 10)));
}

} // namespace emulation
