// bias_act on CUDA: one pass over memory, 16 bytes at a time where the tensors allow it.
#include "activations.h"
#include "cuda.h"

namespace toon {
namespace TOON_ISA {
namespace {

template <class S, int kWidth>
struct alignas(sizeof(S) * kWidth) Pack {
  S at[kWidth];
};

template <class S>
struct Arguments {
  S *out;
  const S *ref, *dy, *ddx;
  const Compute<S> *b;  // NULL: none
  int64_t numel, size_b, step_b;
  int64_t act;
  Scalars<Compute<S>> scalars;
};

template <int kOrder, int kWidth, class S>
__global__ void __launch_bounds__(kThreads) kernel(Arguments<S> a) {
  using A = Compute<S>;
  using P = Pack<S, kWidth>;
  const bool narrow = a.numel <= INT32_MAX;  // 64-bit division is slow
  const int64_t packs = a.numel / kWidth, stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; p < packs; p += stride) {
    const P ref = reinterpret_cast<const P *>(a.ref)[p];
    P dy = ref, ddx = ref, out = ref;
    if constexpr (kOrder >= 1) dy = reinterpret_cast<const P *>(a.dy)[p];
    if constexpr (kOrder >= 2) ddx = reinterpret_cast<const P *>(a.ddx)[p];

    A bias[kWidth] = {};
    if (a.b) {
      const int64_t i = p * kWidth;
      const int64_t row = narrow ? int64_t(uint32_t(i) / uint32_t(a.step_b)) : i / a.step_b;
      int64_t rest = i - row * a.step_b;  // elements of this row that lie before the pack
      int64_t c = narrow ? int64_t(uint32_t(row) % uint32_t(a.size_b)) : row % a.size_b;
#pragma unroll
      for (int k = 0; k < kWidth; k++) {
        bias[k] = a.b[c];
        if (++rest == a.step_b) {
          rest = 0;
          if (++c == a.size_b) c = 0;
        }
      }
    }
    with_activation(a.act, [&](auto activation) {
      using Act = decltype(activation);
#pragma unroll
      for (int k = 0; k < kWidth; k++)
        out.at[k] = store<S>(bias_act_at<kOrder, Act>(load(ref.at[k]), bias[k], load(dy.at[k]), load(ddx.at[k]),
                                                      a.scalars));
    });
    reinterpret_cast<P *>(a.out)[p] = out;
  }
}

template <int kOrder, class S>
cudaError_t run(const ToonBiasAct &p, int device, cudaStream_t stream) {
  using A = Compute<S>;
  const Arguments<S> a{static_cast<S *>(p.out), static_cast<const S *>(p.ref), static_cast<const S *>(p.dy),
                       static_cast<const S *>(p.ddx), static_cast<const A *>(p.b), p.numel, p.size_b, p.step_b,
                       p.act, scalars_of<S>(p)};
  constexpr int kWidth = 16 / sizeof(S);
  const uintptr_t all = uintptr_t(p.out) | uintptr_t(p.ref) | (kOrder >= 1 ? uintptr_t(p.dy) : 0) |
                        (kOrder >= 2 ? uintptr_t(p.ddx) : 0);
  if (p.numel % kWidth == 0 && all % 16 == 0)
    return launch(kernel<kOrder, kWidth, S>, p.numel / kWidth, a, device, stream);
  return launch(kernel<kOrder, 1, S>, p.numel, a, device, stream);
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon

const char *toon_bias_act_cuda(const ToonBiasAct *p, int device, void *stream) {
  if (const char *error = toon_invalid(*p)) return error;
  if (p->numel == 0) return nullptr;
  toon::DeviceGuard guard(device);
  cudaError_t error = guard.error();
  if (error != cudaSuccess) return toon::message(error);
  toon::with_dtype(p->dtype, [&](auto storage) {
    using S = decltype(storage);
    const cudaStream_t s = static_cast<cudaStream_t>(stream);
    error = p->order == 0   ? toon::run<0, S>(*p, device, s)
            : p->order == 1 ? toon::run<1, S>(*p, device, s)
                            : toon::run<2, S>(*p, device, s);
  });
  return toon::message(error);
}
