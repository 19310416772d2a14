// Whether a device can run what was compiled.
#include "cuda.h"

namespace {
__global__ void probe() {}
}  // namespace

const char *toon_cuda_check(int device) {
  toon::DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return toon::message(guard.error());
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  cudaGetLastError();  // not to be found by the next launch
  return toon::message(error);
}
