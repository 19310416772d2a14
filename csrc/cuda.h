// What the CUDA launchers share.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include "check.h"
#include "storage.h"

namespace toon {
namespace TOON_ISA {

constexpr int kThreads = 256;

// Makes a device current, and the caller's device again at the end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&previous_);
    if (error_ == cudaSuccess && previous_ != device) error_ = cudaSetDevice(device), changed_ = true;
  }
  ~DeviceGuard() { if (changed_) cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard &) = delete;
  DeviceGuard &operator=(const DeviceGuard &) = delete;
  cudaError_t error() const { return error_; }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

inline const char *message(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Launches kernel(arguments), a grid-stride loop over `work` items, in as many blocks as the device holds at a
// time. A function call rather than <<< >>> keeps the sources plain C++, which the tests run without a GPU.
template <class Arguments>
inline cudaError_t launch(void (*kernel)(Arguments), int64_t work, const Arguments &arguments, int device,
                          cudaStream_t stream) {
  int processors = 1, resident = 2048;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&resident, cudaDevAttrMaxThreadsPerMultiProcessor, device);
  const int64_t needed = (work + kThreads - 1) / kThreads, most = int64_t(processors) * (resident / kThreads);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(needed < most ? needed : most));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments);
  cudaGetLastError();  // reported here, not to be found by the next launch
  return error;
}

}  // namespace TOON_ISA
}  // namespace toon
