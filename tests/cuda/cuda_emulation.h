// As much of CUDA as the kernels use, for a C++ compiler: included by cuda/launch.cuh where nvcc does not compile.
//
// Every CUDA thread is a fiber (deterministic, threads and blocks in one of three orders, barriers that some threads
// skip are reported) or, with SGS_EMULATION_THREADS, a thread of its own (for ThreadSanitizer; two blocks run at a
// time). Shared memory is fresh from the heap for each block, exactly as large as asked for, and filled with NaN.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define SGS_SHARED(name) unsigned char* name = ::emulation::current->shared
#define __syncthreads() ::emulation::barrier(__FILE__, __LINE__)
#define threadIdx (::emulation::current->thread)
#define blockIdx (::emulation::current->block)
#define blockDim (::emulation::current->block_size)

using std::fabs;
using std::frexp;
using std::isfinite;
using std::ldexp;
using std::sqrt;

namespace emulation {

struct Index {
    unsigned x = 0;
};

struct Thread {
    Index thread, block, block_size;
    unsigned char* shared = nullptr;
};

extern thread_local Thread* current;

void barrier(const char* file, int line);

/// Runs body once for every thread of every block.
void run_grid(std::int64_t blocks, int threads, std::size_t shared, const std::function<void()>& body);

template <class Args>
void launch(void (*kernel)(Args), std::int64_t blocks, int threads, std::size_t shared, const Args& args) {
    run_grid(blocks, threads, shared, [&] { kernel(args); });
}

/// 0 ascending, 1 descending, 2 random (fibers only).
void set_order(int order);
/// Shared memory that a block may have, in bytes: 99 KiB unless set.
void set_shared_limit(std::size_t bytes);
std::size_t shared_limit();
int launches();

/// One access of 16 bytes; std::runtime_error where `aligned`, the end of it in memory, is not at a 16-byte border.
void copy_16_bytes(void* to, const void* from, const void* aligned);

float half_to_float(std::uint16_t bits);
std::uint16_t float_to_half(float value);

} // namespace emulation
