// Where CUDA ends and the host's emulation begins, and the queue that every launch and every piece of scratch goes
// through.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
/// Dynamic shared memory of the block, from its first byte.
#define SGS_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define SGS_UNROLL _Pragma("unroll 4")
#define SGS_UNROLL_ALL _Pragma("unroll")
#define SGS_UNROLL_NOT _Pragma("unroll 1")
#else
#include "cuda_emulation.h"
#define SGS_UNROLL
#define SGS_UNROLL_ALL
#define SGS_UNROLL_NOT
#endif

#include "sgs_cuda.h"

namespace sgs::cuda {

/// Scratch and launches of one call. Without memory it only counts bytes and launches nothing.
class Queue {
  public:
    Queue(void* stream, void* memory) : stream_(stream), memory_(static_cast<char*>(memory)) {}

    std::size_t bytes() const { return most_; }

    template <class T> T* take(std::int64_t count) {
        constexpr std::size_t alignment = 256;
        const std::size_t begin = used_;
        used_ += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
        most_ = used_ > most_ ? used_ : most_;
        return memory_ != nullptr ? reinterpret_cast<T*>(memory_ + begin) : nullptr;
    }
    /// What was taken after mark() is free again after release(mark): work on one stream runs in order.
    std::size_t mark() const { return used_; }
    void release(std::size_t mark) { used_ = mark; }

    template <class Args>
    void launch(void (*kernel)(Args), std::int64_t blocks, int threads, std::size_t shared, const Args& args) {
        if (memory_ == nullptr || blocks == 0) return;
        if (blocks > INT32_MAX) throw std::invalid_argument("sgs: more than 2^31 - 1 blocks would be needed");
#if defined(__CUDACC__)
        constexpr std::size_t always_there = 48 * 1024;
        if (shared > always_there)
            check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
        kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared,
                 static_cast<cudaStream_t>(stream_)>>>(args);
        check(cudaGetLastError());
#else
        emulation::launch(kernel, blocks, threads, shared, args);
#endif
    }

  private:
#if defined(__CUDACC__)
    static void check(cudaError_t error) {
        if (error != cudaSuccess) throw std::runtime_error(std::string("sgs: CUDA: ") + cudaGetErrorString(error));
    }
#endif
    void* stream_;
    char* memory_;
    std::size_t used_ = 0;
    std::size_t most_ = 0;
};

/// Runs body(queue) once to count the workspace, and again for real where there is one.
template <class Body> std::size_t run(void* stream, const Workspace* workspace, const Body& body) {
    Queue count(stream, nullptr);
    body(count);
    if (workspace == nullptr) return count.bytes();
    if (workspace->bytes < count.bytes())
        throw std::invalid_argument("workspace: expected at least " + std::to_string(count.bytes()) + " bytes, got " +
                                    std::to_string(workspace->bytes));
    static char none; // where no byte is needed, any address says that there is a workspace
    Queue queue(stream, workspace->data != nullptr ? workspace->data : &none);
    body(queue);
    return count.bytes();
}

/// body(C()) with C the computing type of dtype.
template <class Body> void with_compute_type(DType dtype, const Body& body) {
    if (dtype == DType::float64)
        body(double{});
    else
        body(float{});
}

} // namespace sgs::cuda
