// Whether there is a device, and what this build was made for.
#include "lines.cuh"

#if !defined(SGS_CUDA_ARCHITECTURES)
#define SGS_CUDA_ARCHITECTURES ""
#endif

namespace sgs::cuda {

#if defined(__CUDACC__)

namespace {
cudaError_t count_devices() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    (void)cudaGetLastError(); // not left behind for the next call to find
    return error == cudaSuccess && count == 0 ? cudaErrorNoDevice : error;
}
} // namespace

bool cuda_available() { return count_devices() == cudaSuccess; }

const char* reason_unavailable() {
    const cudaError_t error = count_devices();
    int driver = 0; // stays 0 where there is none, which CUDA's own words call too old
    if (error == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        return "no NVIDIA driver is installed";
    return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

const char* cuda_version() {
    static const std::string version =
        std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
    return version.c_str();
}

const char* cuda_architectures() { return SGS_CUDA_ARCHITECTURES; }

std::size_t shared_memory_limit() {
    int device = 0, bytes = 48 * 1024;
    if (cudaGetDevice(&device) == cudaSuccess)
        (void)cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return static_cast<std::size_t>(bytes);
}

int multiprocessors() {
    int device = 0, count = 1;
    if (cudaGetDevice(&device) == cudaSuccess)
        (void)cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
}

#else

int multiprocessors() { return 8; }
std::size_t shared_memory_limit() { return emulation::shared_limit(); }

bool cuda_available() { return true; }
const char* reason_unavailable() { return ""; }
const char* cuda_version() { return "emulated"; }
const char* cuda_architectures() { return ""; }

#endif

} // namespace sgs::cuda
