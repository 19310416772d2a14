// FIR filters on CUDA, shared by upfirdn2d and epilogue (fir_cpu.h has those for the CPU). A `Finish` turns a filtered
// sample into an output:
//   Finish::Line line = finish.line(n, c);     what is the same for one plane of the output
//   A y = finish(v, line, n, pixel);           the value to store
//
// Three kernels. `tile_kernel` and `column_kernel` are for contiguous and for channels_last images, with the
// factors and the 4 x 4 taps of the networks as constants; `any_kernel` is for everything else.
#pragma once

#include "cuda.h"
#include "taps.h"

namespace toon {
namespace TOON_ISA {

template <class S, class Int, class Finish>
struct Fir {
  S *out;
  const S *x;
  const Compute<S> *f;
  Int n, c, in_h, in_w, out_h, out_w, f_h, f_w;
  Int up_x, up_y, down_x, down_y, pad_x0, pad_y0;
  bool flip, channels_last;
  bool in_aligned, out_aligned;  // every row (channels_last: pixel) begins on 16 bytes
  Compute<S> gain;
  Finish finish;
};

struct Steps {
  int64_t up_x = 1, up_y = 1, down_x = 1, down_y = 1;
};

// The filter that the parameters of an op describe; `out` and `x` are not known to be aligned yet.
template <class S, class Params, class Finish>
Fir<S, int64_t, Finish> fir_of(const Params &p, const Steps &steps, Compute<S> gain, const Finish &finish) {
  Fir<S, int64_t, Finish> a{static_cast<S *>(p.out), static_cast<const S *>(p.x), static_cast<const Compute<S> *>(p.f)};
  a.n = p.n, a.c = p.c, a.in_h = p.in_h, a.in_w = p.in_w, a.out_h = p.out_h, a.out_w = p.out_w;
  a.f_h = p.f_h, a.f_w = p.f_w, a.pad_x0 = p.pad_x0, a.pad_y0 = p.pad_y0;
  a.up_x = steps.up_x, a.up_y = steps.up_y, a.down_x = steps.down_x, a.down_y = steps.down_y;
  a.flip = p.flip != 0, a.channels_last = p.channels_last != 0;
  a.gain = gain, a.finish = finish;
  return a;
}

// One thread for each output sample, in the order of memory; inserted zeros are never read.
template <class S, class Int, class Finish>
__global__ void __launch_bounds__(kThreads) any_kernel(Fir<S, Int, Finish> a) {
  using A = Compute<S>;
  const Int inner = a.channels_last ? a.c : 1, total = a.n * a.c * a.out_h * a.out_w;
  const Int stride = Int(gridDim.x) * Int(blockDim.x);
  for (Int i = Int(blockIdx.x) * Int(blockDim.x) + Int(threadIdx.x); i < total; i += stride) {
    const Int channel = i % inner, pixel = i / inner;
    const Int x = pixel % a.out_w, row = pixel / a.out_w, y = row % a.out_h, image = row / a.out_h;
    const Taps<Int> tx = clip(taps_at(x, a.up_x, a.down_x, a.pad_x0, a.f_w), a.up_x, a.in_w);
    const Taps<Int> ty = clip(taps_at(y, a.up_y, a.down_y, a.pad_y0, a.f_h), a.up_y, a.in_h);
    const S *const corner = a.x + ((image * a.in_h + ty.input) * a.in_w + tx.input) * inner + channel;
    // Correlation order is the order of f if flip is set; otherwise it runs backwards from the end.
    const A *const tap = a.f + (a.flip ? ty.tap * a.f_w + tx.tap : (a.f_h - 1 - ty.tap) * a.f_w + a.f_w - 1 - tx.tap);
    const Int tap_y = (a.flip ? a.up_y : -a.up_y) * a.f_w, tap_x = a.flip ? a.up_x : -a.up_x;
    A sum = 0;
    for (Int j = 0; j < ty.count; j++)
      for (Int k = 0; k < tx.count; k++) sum += tap[j * tap_y + k * tap_x] * load(corner[(j * a.in_w + k) * inner]);
    const Int n = a.channels_last ? image : image / a.c, c = a.channels_last ? channel : image % a.c;
    a.out[i] = store<S>(a.finish(sum * a.gain, a.finish.line(n, c), n, y * a.out_w + x));
  }
}

// ---------------------------------------------------------------- 4 x 4 taps

constexpr int kTaps = 4, kTileThreads = 128;

// The taps in correlation order. An outer product, as all the networks' filters are, takes half the arithmetic.
template <class A>
struct Weights {
  A full[kTaps * kTaps], column[kTaps], row[kTaps];
  bool separable;

  template <class S, class Int, class Finish>
  TOON_HD explicit Weights(const Fir<S, Int, Finish> &a) {
#pragma unroll
    for (int i = 0; i < kTaps * kTaps; i++) full[i] = a.f[a.flip ? i : kTaps * kTaps - 1 - i] * a.gain;
    separable = factorise(full, kTaps, kTaps, column, row);
  }
};

// How many input samples the filter covers for `outputs` adjacent outputs, the first of which begins on a sample.
TOON_HD constexpr int reach(int outputs, int up, int down) { return ((outputs - 1) * down + kTaps - 1) / up + 1; }

// Rows that a thread makes: as many as have their sums and the samples under them in registers.
TOON_HD constexpr int rows_of(int down) { return down == 2 ? 2 : 4; }

// Contiguous images. A block brings the samples under a tile of the output to shared memory, 16 bytes a load;
// a thread then makes `rows_of` rows of 16 bytes of output and reads each sample under them once.
template <class S, int kUp, int kDown>
struct Tile {
  static constexpr int kLanes = 16, kStrips = kTileThreads / kLanes;
  static constexpr int kPack = 16 / sizeof(S), kRows = rows_of(kDown);
  static constexpr int kWidth = kLanes * kPack, kHeight = kStrips * kRows;
  static constexpr int kCols = reach(kPack, kUp, kDown), kRowsIn = reach(kRows, kUp, kDown);
  static constexpr int kHeightIn = reach(kHeight, kUp, kDown);
  static constexpr int kPacks =
      (reach(kWidth, kUp, kDown) + 2 * kPack - 2) / kPack;  // for a row that begins anywhere in a pack

  // Adjacent threads are 2 to 16 samples apart; a gap after every 32 samples puts them in different banks.
  static TOON_HD constexpr int gapped(int i) { return i + i / 32; }
  static constexpr int kPitch = gapped(kPacks * kPack);
};

template <class S, int kUp, int kDown, class Finish>
__global__ void __launch_bounds__(kTileThreads) tile_kernel(Fir<S, int, Finish> a) {
  using A = Compute<S>;
  using T = Tile<S, kUp, kDown>;
  using P = Pack<S, T::kPack>;
  __shared__ A samples[T::kHeightIn * T::kPitch];
  const Weights<A> weights(a);
  const int lane = threadIdx.x % T::kLanes, strip = threadIdx.x / T::kLanes;
  const int across = (a.out_w + T::kWidth - 1) / T::kWidth, down = (a.out_h + T::kHeight - 1) / T::kHeight;

  for (int tile = blockIdx.x; tile < a.n * a.c * across * down; tile += gridDim.x) {
    const int image = tile / (across * down);
    const int left = tile % across * T::kWidth, top = tile / across % down * T::kHeight;
    // The tile's first output begins on a sample: padding is even where up is 2.
    const int y0 = (top * kDown - a.pad_y0) / kUp, x0 = (left * kDown - a.pad_x0) / kUp;
    const int offset = x0 & (T::kPack - 1);
    for (int r = strip; r < T::kHeightIn; r += T::kStrips) {
      const int y = y0 + r;
      const S *const line = a.x + (image * a.in_h + y) * a.in_w;
      for (int q = lane; q < T::kPacks; q += T::kLanes) {
        const int x = x0 - offset + q * T::kPack;
        P pack = {};
        if (y >= 0 && y < a.in_h && x > -T::kPack && x < a.in_w) {
          if (a.in_aligned) {
            pack = *reinterpret_cast<const P *>(line + x);
          } else {
#pragma unroll
            for (int k = 0; k < T::kPack; k++)
              if (x + k >= 0 && x + k < a.in_w) pack.at[k] = line[x + k];
          }
        }
#pragma unroll
        for (int k = 0; k < T::kPack; k++) samples[r * T::kPitch + T::gapped(q * T::kPack + k)] = load(pack.at[k]);
      }
    }
    __syncthreads();

    A sums[T::kRows][T::kPack] = {};
    const A *const corner = samples + strip * (T::kRows * kDown / kUp) * T::kPitch;
    const int begin = offset + lane * (T::kPack * kDown / kUp);
#pragma unroll
    for (int r = 0; r < T::kRowsIn; r++) {
      A under[T::kCols];
#pragma unroll
      for (int i = 0; i < T::kCols; i++) under[i] = corner[r * T::kPitch + T::gapped(begin + i)];
      if (weights.separable) {
#pragma unroll
        for (int k = 0; k < T::kPack; k++) {
          A across_row = 0;
#pragma unroll
          for (int i = 0; i < T::kCols; i++)
            if (i * kUp - k * kDown >= 0 && i * kUp - k * kDown < kTaps)
              across_row += weights.row[i * kUp - k * kDown] * under[i];
#pragma unroll
          for (int o = 0; o < T::kRows; o++)
            if (r * kUp - o * kDown >= 0 && r * kUp - o * kDown < kTaps)
              sums[o][k] += weights.column[r * kUp - o * kDown] * across_row;
        }
      } else {
#pragma unroll
        for (int o = 0; o < T::kRows; o++)
          if (r * kUp - o * kDown >= 0 && r * kUp - o * kDown < kTaps)
#pragma unroll
            for (int k = 0; k < T::kPack; k++)
#pragma unroll
              for (int i = 0; i < T::kCols; i++)
                if (i * kUp - k * kDown >= 0 && i * kUp - k * kDown < kTaps)
                  sums[o][k] += weights.full[(r * kUp - o * kDown) * kTaps + i * kUp - k * kDown] * under[i];
      }
    }

    const int x = left + lane * T::kPack, n = image / a.c;
    const auto line = a.finish.line(n, image % a.c);
#pragma unroll
    for (int o = 0; o < T::kRows; o++) {
      const int y = top + strip * T::kRows + o;
      if (y >= a.out_h || x >= a.out_w) continue;
      S *const out = a.out + (image * a.out_h + y) * a.out_w + x;
      if (a.out_aligned) {
        P pack;
#pragma unroll
        for (int k = 0; k < T::kPack; k++) pack.at[k] = store<S>(a.finish(sums[o][k], line, n, y * a.out_w + x + k));
        *reinterpret_cast<P *>(out) = pack;
      } else {
#pragma unroll
        for (int k = 0; k < T::kPack; k++)
          if (x + k < a.out_w) out[k] = store<S>(a.finish(sums[o][k], line, n, y * a.out_w + x + k));
      }
    }
    __syncthreads();  // before the samples of the next tile overwrite these
  }
}

// channels_last images. A thread makes `rows_of` rows of 16 bytes of channels of one column. Accesses are aligned for
// any padding; the three adjacent threads that read the same sample find it in the first-level cache.
template <class S, int kUp, int kDown, class Finish>
__global__ void __launch_bounds__(kTileThreads) column_kernel(Fir<S, int, Finish> a) {
  using A = Compute<S>;
  constexpr int kPack = 16 / sizeof(S), kRows = rows_of(kDown), kRowsIn = reach(kRows, kUp, kDown);
  constexpr int kCols = kTaps / kUp;
  using P = Pack<S, kPack>;
  const Weights<A> weights(a);
  const int packs = a.c / kPack, strips = (a.out_h + kRows - 1) / kRows, total = a.n * strips * a.out_w * packs;

  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
    const int c = i % packs * kPack, x = i / packs % a.out_w, strip = i / packs / a.out_w;
    const int n = strip / strips, top = strip % strips * kRows;
    const int start = x * kDown - a.pad_x0, phase = start & (kUp - 1), x0 = (start + phase) / kUp;
    const int y0 = (top * kDown - a.pad_y0) / kUp;  // begins on a sample: see tile_kernel
    A sums[kRows][kPack] = {};
#pragma unroll
    for (int r = 0; r < kRowsIn; r++) {
      const int y = y0 + r;
      if (y < 0 || y >= a.in_h) continue;
      A across_row[kPack] = {};
#pragma unroll
      for (int j = 0; j < kCols; j++) {
        if (x0 + j < 0 || x0 + j >= a.in_w) continue;
        const P under = *reinterpret_cast<const P *>(a.x + ((n * a.in_h + y) * a.in_w + x0 + j) * a.c + c);
        const int last = j * kUp + kUp - 1;  // the tap of phase 1, where there are two
        if (weights.separable) {
          const A tap = phase ? weights.row[last] : weights.row[j * kUp];
#pragma unroll
          for (int k = 0; k < kPack; k++) across_row[k] += tap * load(under.at[k]);
        } else {
#pragma unroll
          for (int o = 0; o < kRows; o++) {
            const int t = r * kUp - o * kDown;
            if (t < 0 || t >= kTaps) continue;
            const A tap = phase ? weights.full[t * kTaps + last] : weights.full[t * kTaps + j * kUp];
#pragma unroll
            for (int k = 0; k < kPack; k++) sums[o][k] += tap * load(under.at[k]);
          }
        }
      }
      if (weights.separable) {
#pragma unroll
        for (int o = 0; o < kRows; o++)
          if (r * kUp - o * kDown >= 0 && r * kUp - o * kDown < kTaps)
#pragma unroll
            for (int k = 0; k < kPack; k++) sums[o][k] += weights.column[r * kUp - o * kDown] * across_row[k];
      }
    }
#pragma unroll
    for (int o = 0; o < kRows; o++) {
      const int y = top + o, pixel = y * a.out_w + x;
      if (y >= a.out_h) continue;
      P pack;
#pragma unroll
      for (int k = 0; k < kPack; k++) pack.at[k] = store<S>(a.finish(sums[o][k], a.finish.line(n, c + k), n, pixel));
      *reinterpret_cast<P *>(a.out + (n * a.out_h * a.out_w + pixel) * a.c + c) = pack;
    }
  }
}

// ---------------------------------------------------------------- launching

template <class S, int kUp, int kDown, class Finish>
cudaError_t launch_four(const Fir<S, int, Finish> &a, const Stream &stream) {
  if (a.channels_last) {
    const int strips = (a.out_h + rows_of(kDown) - 1) / rows_of(kDown);
    const int64_t work = int64_t(a.n) * strips * a.out_w * (a.c * sizeof(S) / 16);
    return launch(column_kernel<S, kUp, kDown, Finish>, kTileThreads, work, a, stream);
  }
  using T = Tile<S, kUp, kDown>;
  const int64_t across = (a.out_w + T::kWidth - 1) / T::kWidth, down = (a.out_h + T::kHeight - 1) / T::kHeight;
  return launch(tile_kernel<S, kUp, kDown, Finish>, kTileThreads, a.n * a.c * across * down * kTileThreads, a, stream);
}

// Filters with the fastest kernel that fits. kResamples: up and down may differ from 1.
template <bool kResamples, class S, class Finish>
cudaError_t fir(const Fir<S, int64_t, Finish> &a, const Stream &stream) {
  // 32-bit indices where none of them, nor a step of the grid beyond the end, can overflow.
  const int64_t most = INT32_MAX / 2;
  const auto small = [&](int64_t n) { return n < most && n > -most; };
  const int64_t total = a.n * a.c * a.out_h * a.out_w;
  if (!small(total) || !small(a.n * a.c * a.in_h * a.in_w) || !small(a.out_w * a.down_x) ||
      !small(a.out_h * a.down_y) || !small(a.in_w * a.up_x) || !small(a.in_h * a.up_y) || !small(a.pad_x0) ||
      !small(a.pad_y0))
    return launch(any_kernel<S, int64_t, Finish>, kThreads, total, a, stream);

  Fir<S, int, Finish> b{a.out,           a.x,           a.f,           int(a.n),      int(a.c),      int(a.in_h),
                        int(a.in_w),     int(a.out_h),  int(a.out_w),  int(a.f_h),    int(a.f_w),    int(a.up_x),
                        int(a.up_y),     int(a.down_x), int(a.down_y), int(a.pad_x0), int(a.pad_y0), a.flip,
                        a.channels_last, false,         false,         a.gain,        a.finish};
  const int64_t step = 16 / sizeof(S);
  b.in_aligned = aligned(a.x) && (a.channels_last ? a.c : a.in_w) % step == 0;
  b.out_aligned = aligned(a.out) && (a.channels_last ? a.c : a.out_w) % step == 0;
  const bool square = a.f_w == kTaps && a.f_h == kTaps && a.up_x == a.up_y && a.down_x == a.down_y;
  // Only tests filter float64. Very small images would leave most of a tile empty.
  if constexpr (sizeof(S) < sizeof(double)) {
    if (square && (a.channels_last ? b.in_aligned && b.out_aligned : a.out_w >= 2 * step)) {
      if (a.up_x == 1 && a.down_x == 1) return launch_four<S, 1, 1>(b, stream);
      if constexpr (kResamples) {
        if (a.up_x == 1 && a.down_x == 2) return launch_four<S, 1, 2>(b, stream);
        if (a.up_x == 2 && a.down_x == 1 && a.pad_x0 % 2 == 0 && a.pad_y0 % 2 == 0)
          return launch_four<S, 2, 1>(b, stream);
      }
    }
  }
  return launch(any_kernel<S, int, Finish>, kThreads, total, b, stream);
}

}  // namespace TOON_ISA
}  // namespace toon
