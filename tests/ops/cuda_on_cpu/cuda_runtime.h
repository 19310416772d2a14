// As much of the CUDA runtime as csrc/*.cu use, for a C++ compiler. A launch runs its blocks one after the other,
// and the threads of a block in turns: each runs until it comes to a barrier or a shuffle, or to its end. That tests
// the index arithmetic, the use of shared memory and the barriers of the CUDA kernels where there is no GPU; it says
// nothing of speed, and nothing of half conversions, which are intrinsics on a GPU.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

typedef int cudaError_t;
typedef void *cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
};
struct cudaFuncAttributes {};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

inline cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char *cudaGetErrorString(cudaError_t) { return "invalid device"; }

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, Kernel) { return cudaSuccess; }

// Few enough threads that grid-stride loops go round more than once.
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int) { return *value = 2, cudaSuccess; }
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *value, Kernel, int, size_t) {
  return *value = 2, cudaSuccess;
}

namespace emulation {

enum State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  State state;
  double value;  // what it offers in a shuffle
};

inline std::vector<Thread> threads;
inline ucontext_t scheduler;
inline void (*entry)(const void *);
inline const void *entry_arguments;

inline void wait(State state) {
  Thread &self = threads[threadIdx.x];
  self.state = state;
  swapcontext(&self.context, &scheduler);
}

inline void begin() {
  entry(entry_arguments);
  wait(kDone);
}

inline void check(bool good, const char *what) {
  if (!good) fprintf(stderr, "cuda_on_cpu: %s\n", what), abort();
}

inline void run_block() {
  const unsigned count = blockDim.x;
  if (threads.size() < count) threads.resize(count);
  for (unsigned i = 0; i < count; i++) {
    Thread &t = threads[i];
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.data();
    t.context.uc_stack.ss_size = t.stack.size();
    t.context.uc_link = nullptr;
    t.state = kReady;
    makecontext(&t.context, begin, 0);
  }
  for (unsigned done = 0; done < count;) {
    for (unsigned i = 0; i < count; i++) {
      if (threads[i].state == kDone) continue;
      threadIdx.x = i;
      swapcontext(&scheduler, &threads[i].context);
      done += threads[i].state == kDone;
    }
    for (unsigned i = 0; i < count; i++) {  // who waits must have all those it waits for beside it
      check((threads[i].state == kAtBarrier) == (threads[0].state == kAtBarrier), "not all came to the barrier");
      check((threads[i].state == kAtShuffle) == (threads[i / 32 * 32].state == kAtShuffle),
            "not all of a warp came to the shuffle");
    }
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::kAtBarrier); }

template <class A>
A __shfl_xor_sync(unsigned mask, A value, int lanes) {
  emulation::check(mask == 0xffffffffu && lanes < 32, "only whole warps shuffle here");
  emulation::threads[threadIdx.x].value = value;
  emulation::wait(emulation::kAtShuffle);
  const A other = A(emulation::threads[threadIdx.x ^ unsigned(lanes)].value);
  emulation::wait(emulation::kAtShuffle);  // nobody offers anything else before all have read
  return other;
}

template <class Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Arguments), Arguments arguments) {
  struct Call {
    void (*kernel)(Arguments);
    Arguments *arguments;
  } call{kernel, &arguments};
  emulation::entry = [](const void *c) {
    const Call &call = *static_cast<const Call *>(c);
    call.kernel(*call.arguments);
  };
  emulation::entry_arguments = &call;
  gridDim = config->gridDim, blockDim = config->blockDim;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) emulation::run_block();
  emulation::entry_arguments = nullptr;
  return cudaSuccess;
}
