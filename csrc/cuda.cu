// Whether a device can run the kernels that were compiled.
#include "cuda.h"

namespace {
__global__ void probe() {}
}  // namespace

const char *toon_cuda_check(int device) {
  toon::DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return toon::message(guard.error());
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  cudaGetLastError();  // clears the error, so that the next launch does not report it
  return toon::message(error);
}
