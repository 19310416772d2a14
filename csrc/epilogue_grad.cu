// The gradient of epilogue on CUDA: one pass over dy and y, which also forms the sums over pixels and over channels.
//
// A warp takes `chunk` pixels of `group` channels of one image. Every lane holds 16 bytes of elements: adjacent ones if
// the tensors are aligned, otherwise every 32nd. It sums in registers along the axis it loops over; shuffles sum along
// the other. Each partial sum is written by one lane, without atomics, so the results are the same every time.
#include "activations.h"
#include "cuda.h"

namespace toon {
namespace TOON_ISA {
namespace {

template <class S>
struct Arguments {
  S *out;
  Compute<S> *channel_sums, *pixel_sums;
  const S *dy, *y;
  const Compute<S> *scale, *noise;  // NULL: none
  int64_t n, c, pixels, chunks, groups;
  int chunk, group;
  bool shared_noise;
  Scalars<Compute<S>> scalars;
};

template <class A>
__device__ A add_lanes(A value, int from, int to) {
  for (int step = from; step < to; step *= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// kPack elements from base on, `step` apart; those beyond `end` are 0. One access of 16 bytes if kVector.
template <bool kVector, class S, int kPack>
__device__ Pack<S, kPack> read(const S *base, int step, int end) {
  Pack<S, kPack> pack = {};
  if constexpr (kVector) {
    if (end > 0) pack = *reinterpret_cast<const Pack<S, kPack> *>(base);
  } else {
#pragma unroll
    for (int k = 0; k < kPack; k++)
      if (k * step < end) pack.at[k] = base[k * step];
  }
  return pack;
}

template <bool kVector, class S, int kPack>
__device__ void write(S *base, const Pack<S, kPack> &pack, int step, int end) {
  if constexpr (kVector) {
    if (end > 0) *reinterpret_cast<Pack<S, kPack> *>(base) = pack;
  } else {
#pragma unroll
    for (int k = 0; k < kPack; k++)
      if (k * step < end) base[k * step] = pack.at[k];
  }
}

// Contiguous: lanes are adjacent pixels and loop over the channels.
template <bool kVector, class S>
__global__ void __launch_bounds__(kThreads) planes_kernel(Arguments<S> a) {
  using A = Compute<S>;
  constexpr int kPack = 16 / sizeof(S), kStep = kVector ? 1 : 32;
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  for (int64_t job = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; job < a.n * a.chunks * a.groups;
       job += warps) {
    const int64_t group = job % a.groups, part = job / a.groups, n = part / a.chunks;
    const int64_t pixel = part % a.chunks * a.chunk + lane * (kVector ? kPack : 1);
    const int end =
        int(a.pixels - pixel < a.chunk ? a.pixels - pixel : a.chunk);  // elements from here to the end of the chunk
    A noise[kPack], sums[kPack] = {};
#pragma unroll
    for (int k = 0; k < kPack; k++)
      noise[k] = a.noise && k * kStep < end ? a.noise[(a.shared_noise ? 0 : n) * a.pixels + pixel + k * kStep] : A(0);
    const int64_t last = (group + 1) * a.group < a.c ? (group + 1) * a.group : a.c;
    for (int64_t c = group * a.group; c < last; c++) {
      const int64_t at = (n * a.c + c) * a.pixels + pixel;
      const auto dy = read<kVector, S, kPack>(a.dy + at, kStep, end);
      const auto y = read<kVector, S, kPack>(a.y + at, kStep, end);
      const A scale = a.scale ? a.scale[n * a.c + c] : A(1);
      Pack<S, kPack> out;
      A sum = 0, moment = 0;
#pragma unroll
      for (int k = 0; k < kPack; k++) {
        const EpilogueGrad<A> g = epilogue_grad_at(load(dy.at[k]), load(y.at[k]), a.scalars);
        out.at[k] = store<S>(g.du * scale);
        sums[k] += g.du;
        sum += g.du;
        moment += g.du_u - g.du * noise[k];
      }
      write<kVector>(a.out + at, out, kStep, end);
      sum = add_lanes(sum, 1, 32);
      moment = add_lanes(moment, 1, 32);
      if (lane == 0) {
        a.channel_sums[part * a.c + c] = sum;
        a.channel_sums[(a.n * a.chunks + part) * a.c + c] = moment;
      }
    }
#pragma unroll
    for (int k = 0; k < kPack; k++)
      if (k * kStep < end) a.pixel_sums[(group * a.n + n) * a.pixels + pixel + k * kStep] = sums[k];
  }
}

// channels_last: `lanes` lanes are the channels of a pixel; a warp takes 32 / lanes pixels at a time and loops over the
// others.
template <bool kVector, class S>
__global__ void __launch_bounds__(kThreads) pixels_kernel(Arguments<S> a) {
  using A = Compute<S>;
  constexpr int kPack = 16 / sizeof(S);
  const int lanes = a.group / kPack, pixels_at_once = 32 / lanes, step = kVector ? 1 : lanes;
  const int lane = threadIdx.x % lanes, row = threadIdx.x % 32 / lanes;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  for (int64_t job = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; job < a.n * a.chunks * a.groups;
       job += warps) {
    const int64_t group = job % a.groups, part = job / a.groups, n = part / a.chunks;
    const int64_t c = group * a.group + lane * (kVector ? kPack : 1), first = part % a.chunks * a.chunk;
    const int end = int(a.c - c < a.group ? a.c - c : a.group);
    A scale[kPack], sums[kPack] = {}, moments[kPack] = {};
#pragma unroll
    for (int k = 0; k < kPack; k++) scale[k] = a.scale && k * step < end ? a.scale[n * a.c + c + k * step] : A(1);
    for (int i = 0; i < a.chunk && first + i < a.pixels; i += pixels_at_once) {
      const int64_t pixel = first + i + row, at = (n * a.pixels + pixel) * a.c + c;
      const bool there = i + row < a.chunk && pixel < a.pixels;  // without a branch: the shuffles need all lanes
      const auto dy = read<kVector, S, kPack>(a.dy + at, step, there ? end : 0);
      const auto y = read<kVector, S, kPack>(a.y + at, step, there ? end : 0);
      const A noise = a.noise && there ? a.noise[(a.shared_noise ? 0 : n) * a.pixels + pixel] : A(0);
      Pack<S, kPack> out;
      A sum = 0;
#pragma unroll
      for (int k = 0; k < kPack; k++) {
        const EpilogueGrad<A> g = epilogue_grad_at(load(dy.at[k]), load(y.at[k]), a.scalars);
        out.at[k] = store<S>(g.du * scale[k]);
        sums[k] += g.du;
        moments[k] += g.du_u - g.du * noise;
        sum += g.du;
      }
      write<kVector>(a.out + at, out, step, there ? end : 0);
      sum = add_lanes(sum, 1, lanes);
      if (lane == 0 && there) a.pixel_sums[(group * a.n + n) * a.pixels + pixel] = sum;
    }
#pragma unroll
    for (int k = 0; k < kPack; k++) {
      const A sum = add_lanes(sums[k], lanes, 32), moment = add_lanes(moments[k], lanes, 32);
      if (row == 0 && k * step < end) {
        a.channel_sums[part * a.c + c + k * step] = sum;
        a.channel_sums[(a.n * a.chunks + part) * a.c + c + k * step] = moment;
      }
    }
  }
}

template <class S>
cudaError_t run(const ToonEpilogueGrad &p, const Stream &stream) {
  using A = Compute<S>;
  constexpr int kPack = 16 / sizeof(S);
  const int64_t chunks = (p.pixels + p.chunk - 1) / p.chunk, groups = (p.c + p.group - 1) / p.group;
  const Arguments<S> a{static_cast<S *>(p.out),
                       static_cast<A *>(p.channel_sums),
                       static_cast<A *>(p.pixel_sums),
                       static_cast<const S *>(p.dy),
                       static_cast<const S *>(p.y),
                       static_cast<const A *>(p.scale),
                       static_cast<const A *>(p.noise),
                       p.n,
                       p.c,
                       p.pixels,
                       chunks,
                       groups,
                       int(p.chunk),
                       int(p.group),
                       p.shared_noise != 0,
                       scalars_of<S>(p)};
  const int64_t work = p.n * chunks * groups * 32;
  const bool vector = aligned(p.out) && aligned(p.dy) && aligned(p.y);
  if (p.channels_last)
    return vector && p.c % kPack == 0 ? launch(pixels_kernel<true, S>, kThreads, work, a, stream)
                                      : launch(pixels_kernel<false, S>, kThreads, work, a, stream);
  return vector && p.pixels % kPack == 0 ? launch(planes_kernel<true, S>, kThreads, work, a, stream)
                                         : launch(planes_kernel<false, S>, kThreads, work, a, stream);
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon

const char *toon_epilogue_grad_cuda(const ToonEpilogueGrad *p, int device, void *stream) {
  if (const char *error = toon_invalid(*p)) return error;
  const int64_t pack = p->dtype == TOON_FLOAT64 ? 2 : p->dtype == TOON_FLOAT32 ? 4 : 8, lanes = p->group / pack;
  const bool fits = p->channels_last ? lanes * pack == p->group && lanes >= 1 && lanes <= 32 && !(lanes & (lanes - 1))
                                     : p->chunk == 32 * pack;
  if (!fits || p->chunk > INT32_MAX / 2 || p->group > INT32_MAX / 2) return "the kernel has no such chunk or group";
  if (p->n * p->c * p->pixels == 0) return nullptr;
  return toon::on_device(p->dtype, device, stream,
                         [&](auto storage, const toon::Stream &s) { return toon::run<decltype(storage)>(*p, s); });
}
