// Shared by the CUDA launchers.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include "check.h"
#include "storage.h"

namespace toon {
namespace TOON_ISA {

constexpr int kThreads = 256;

// Makes a device current while it exists, then the caller's device again.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&previous_);
    if (error_ == cudaSuccess && previous_ != device) error_ = cudaSetDevice(device), changed_ = true;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard &) = delete;
  DeviceGuard &operator=(const DeviceGuard &) = delete;
  cudaError_t error() const { return error_; }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

inline const char *message(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

// 16 bytes, or one element, in one access.
template <class S, int kWidth>
struct alignas(sizeof(S) * kWidth) Pack {
  S at[kWidth];
};

inline bool aligned(const void *pointer) { return uintptr_t(pointer) % 16 == 0; }

struct Stream {
  int device;
  cudaStream_t stream;
};

// Launches kernel(arguments), a grid-stride loop over `work` items, in as many blocks of `threads` as the device
// holds of this kernel at a time. Nothing is allocated and nothing waits, so that a launch can be captured in a
// CUDA graph. A function call rather than <<< >>> keeps the sources plain C++, which the tests run without a GPU.
template <class Arguments>
inline cudaError_t launch(void (*kernel)(Arguments), int threads, int64_t work, const Arguments &arguments,
                          const Stream &stream) {
  int processors = 1, resident = 1;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, stream.device);
  cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, 0);
  const int64_t needed = (work + threads - 1) / threads, most = int64_t(processors) * resident;
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(needed < most ? needed : most));
    config.blockDim = dim3(unsigned(threads));
    config.stream = stream.stream;
    error = cudaLaunchKernelEx(&config, kernel, arguments);
  }
  cudaGetLastError();  // reported here: clear it, so that the next launch does not report it again
  return error;
}

// Calls run(a value of the storage type that `dtype` names, stream) with `device` current.
template <class Run>
inline const char *on_device(int64_t dtype, int device, void *stream, const Run &run) {
  DeviceGuard guard(device);
  cudaError_t error = guard.error();
  if (error == cudaSuccess)
    with_dtype(dtype, [&](auto storage) { error = run(storage, Stream{device, static_cast<cudaStream_t>(stream)}); });
  return message(error);
}

}  // namespace TOON_ISA
}  // namespace toon
