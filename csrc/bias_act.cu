// bias_act on CUDA: one pass over memory, 16 bytes at a time where the tensors allow it.
#include "activations.h"
#include "cuda.h"

namespace toon {
namespace TOON_ISA {
namespace {

template <class S>
struct Arguments {
  S *out;
  const S *ref, *dy, *ddx;
  const Compute<S> *b;  // NULL: none
  int64_t numel, size_b, step_b;
  int64_t act;
  Scalars<Compute<S>> scalars;
};

// Elements [i, i + kWidth).
template <int kOrder, int kWidth, class S>
__device__ void piece(const Arguments<S> &a, int64_t i) {
  using A = Compute<S>;
  using P = Pack<S, kWidth>;
  const auto read = [i](const S *tensor) { return *reinterpret_cast<const P *>(tensor + i); };
  const P ref = read(a.ref);
  P dy = ref, ddx = ref, out = ref;
  if constexpr (kOrder >= 1) dy = read(a.dy);
  if constexpr (kOrder >= 2) ddx = read(a.ddx);

  A bias[kWidth] = {};
  if (a.b) {
    const bool narrow = a.numel <= INT32_MAX;  // 64-bit division is slow
    const int64_t row = narrow ? int64_t(uint32_t(i) / uint32_t(a.step_b)) : i / a.step_b;
    int64_t c = narrow ? int64_t(uint32_t(row) % uint32_t(a.size_b)) : row % a.size_b;
    if (a.step_b % kWidth == 0) {  // all elements have the same bias
      bias[0] = a.b[c];
#pragma unroll
      for (int k = 1; k < kWidth; k++) bias[k] = bias[0];
    } else {
      int64_t rest = i - row * a.step_b;  // elements with this bias before element i
#pragma unroll
      for (int k = 0; k < kWidth; k++) {
        bias[k] = a.b[c];
        if (++rest == a.step_b) {
          rest = 0;
          if (++c == a.size_b) c = 0;
        }
      }
    }
  }
  with_activation(a.act, [&](auto activation) {
    using Act = decltype(activation);
#pragma unroll
    for (int k = 0; k < kWidth; k++)
      out.at[k] =
          store<S>(bias_act_at<kOrder, Act>(load(ref.at[k]), bias[k], load(dy.at[k]), load(ddx.at[k]), a.scalars));
  });
  *reinterpret_cast<P *>(a.out + i) = out;
}

// Packs of kWidth, then the rest of the tensor element by element.
template <int kOrder, int kWidth, class S>
__global__ void __launch_bounds__(kThreads) kernel(Arguments<S> a) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, stride = int64_t(gridDim.x) * blockDim.x;
  const int64_t packs = a.numel / kWidth;
  for (int64_t p = thread; p < packs; p += stride) piece<kOrder, kWidth>(a, p * kWidth);
  if (kWidth > 1 && packs * kWidth + thread < a.numel) piece<kOrder, 1>(a, packs * kWidth + thread);
}

template <int kOrder, class S>
cudaError_t run(const ToonBiasAct &p, const Stream &stream) {
  using A = Compute<S>;
  const Arguments<S> a{static_cast<S *>(p.out),
                       static_cast<const S *>(p.ref),
                       static_cast<const S *>(p.dy),
                       static_cast<const S *>(p.ddx),
                       static_cast<const A *>(p.b),
                       p.numel,
                       p.size_b,
                       p.step_b,
                       p.act,
                       scalars_of<S>(p)};
  // float64, which only tests use, has no packs: the second order would need too many registers.
  constexpr int kWidth = sizeof(S) == 8 ? 1 : 16 / sizeof(S);
  if (aligned(p.out) && aligned(p.ref) && (kOrder < 1 || aligned(p.dy)) && (kOrder < 2 || aligned(p.ddx)))
    return launch(kernel<kOrder, kWidth, S>, kThreads, p.numel / kWidth + kWidth, a, stream);
  return launch(kernel<kOrder, 1, S>, kThreads, p.numel, a, stream);
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon

const char *toon_bias_act_cuda(const ToonBiasAct *p, int device, void *stream) {
  if (const char *error = toon_invalid(*p)) return error;
  if (p->numel == 0) return nullptr;
  return toon::on_device(p->dtype, device, stream, [&](auto storage, const toon::Stream &s) {
    using S = decltype(storage);
    return p->order == 0 ? toon::run<0, S>(*p, s) : p->order == 1 ? toon::run<1, S>(*p, s) : toon::run<2, S>(*p, s);
  });
}
