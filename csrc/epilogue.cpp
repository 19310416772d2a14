// epilogue and its gradient on the CPU. Compiled once per instruction set; cpu.cpp chooses.
//
// Without a filter one loop does everything. With one, an output row at a time, in buffers that stay in the
// cache: the input rows under the filter are weighted and added (vertical pass), and the horizontal pass over
// that sum goes through scale, noise, bias, activation and clamp on its way to memory.
// Every loop has stride one: over the pixels of a row, or, in channels_last layout, over a pixel's channels.
#include <stdlib.h>

#include "activations.h"
#include "parallel.h"
#include "taps.h"

namespace toon {
namespace TOON_ISA {
namespace {

using Index = int64_t;

constexpr Index kRun = 1024;        // elements a loop takes at most: a stand-in for a missing operand is no longer
constexpr Index kEnough = 1 << 14;  // elements that are worth waking a thread for

inline Index least(Index a, Index b) { return a < b ? a : b; }

// out[i] = epilogue(sum over k of w[k] * x[i + k * step]), i < n; without taps of x[i].
// Along pixels scale and bias are one number; along channels the noise is. Without taps out may be x.
template <int kTaps, bool kChannelsLast, class S, class In, class A>
void finish(S *out, const In *x, Index step, const A *w, Index n, const A *scale, const A *noise,
            const A *b, const Scalars<A> &scalars) {
  const Scalars<A> s = scalars;
  const A scale0 = *scale, noise0 = *noise, b0 = *b;
  A tap[kTaps + 1];
  for (int k = 0; k < kTaps; k++) tap[k] = w[k];
#pragma omp simd
  for (Index i = 0; i < n; i++) {
    A v = kTaps ? A(0) : load(x[i]);
    for (int k = 0; k < kTaps; k++) v += tap[k] * load(x[i + k * step]);
    out[i] = store<S>(epilogue_at(v, kChannelsLast ? scale[i] : scale0, kChannelsLast ? noise0 : noise[i],
                                  kChannelsLast ? b[i] : b0, s));
  }
}

// out[i] (+)= sum over j < 4 of w[j] * rows[j][i]
template <bool kAdd, class S, class A>
void weigh_four(A *__restrict out, const S *const *rows, const A *w, Index n) {
  const S *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  const A w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma omp simd
  for (Index i = 0; i < n; i++)
    out[i] = (kAdd ? out[i] : A(0)) + w0 * load(r0[i]) + w1 * load(r1[i]) + w2 * load(r2[i]) + w3 * load(r3[i]);
}

template <class S>
struct Forward {
  using A = Compute<S>;
  static constexpr Index kMax = TOON_MAX_TAPS;

  const ToonEpilogue &p;
  Scalars<A> scalars;
  A zeros[kRun] = {}, ones[kRun];
  bool separable = false;
  A taps[kMax * kMax];                   // correlation order
  A column[kMax], row_taps[kMax];        // of a separable filter, fir_gain in the latter
  Index inner, images, lines, width;     // numbers per pixel; stacks of lines; all lines; pixels of one
  Index padded, left, first, last;       // the row buffer: its pixels; its pixel `left + i` is input pixel i

  explicit Forward(const ToonEpilogue &params) : p(params), scalars(scalars_of<S>(params)) {
    for (A &one : ones) one = 1;
    inner = p.channels_last ? p.c : 1;
    images = p.channels_last ? p.n : p.n * p.c;
    // Without a filter a plane is one long line.
    width = p.f || p.channels_last ? p.out_w : p.out_h * p.out_w;
    lines = images * (p.out_h * p.out_w / width);
    left = p.pad_x0;
    padded = p.out_w + p.f_w - 1;
    first = left < 0 ? -left : 0;        // input pixels that the row buffer has room for
    last = least(p.in_w, padded - left);
    if (!p.f) return;
    const Index count = (p.separable ? 1 : p.f_h) * p.f_w;
    for (Index i = 0; i < count; i++) taps[i] = static_cast<const A *>(p.f)[p.flip ? i : count - 1 - i];
    if (p.separable) memcpy(column, taps, count * sizeof(A)), memcpy(row_taps, taps, count * sizeof(A));
    separable = p.separable || factorise(taps, int(p.f_h), int(p.f_w), column, row_taps);
    for (Index i = 0; i < (separable ? p.f_w : count); i++) (separable ? row_taps : taps)[i] *= A(p.fir_gain);
  }

  // Numbers a worker needs: the row buffer, the sums of the horizontal pass, a row of zeros above the image.
  Index scratch() const { return p.f ? (padded + p.out_w + p.in_w) * inner : 0; }

  // `width` pixels of output from pixel `pixel` of image n (and channel c) on.
  template <int kTaps, class In>
  void finish_line(S *out, const In *x, const A *w, Index n, Index c, Index pixel) const {
    const A *scale = static_cast<const A *>(p.scale), *b = static_cast<const A *>(p.b);
    const A *noise = static_cast<const A *>(p.noise);
    if (noise) noise += (p.shared_noise ? 0 : n) * p.out_h * p.out_w + pixel;
    if (p.channels_last) {
      for (Index i = 0; i < width; i++)
        for (c = 0; c < p.c; c += kRun)
          finish<kTaps, true>(out + i * p.c + c, x + i * p.c + c, p.c, w, least(kRun, p.c - c),
                              scale ? scale + n * p.c + c : ones, noise ? noise + i : zeros, b ? b + c : zeros,
                              scalars);
    } else {
      for (Index i = 0; i < width; i += kRun)
        finish<kTaps, false>(out + i, x + i, 1, w, least(kRun, width - i), scale ? scale + n * p.c + c : ones,
                             noise ? noise + i : zeros, b ? b + c : zeros, scalars);
    }
  }

  // The row buffer becomes the rows under the filter at output row y, weighted with `weights` (f_h of them).
  void vertical_pass(A *row, const S *zero_row, Index image, Index y, const A *weights, Index stride) const {
    if (last <= first) return;  // nothing but padding
    for (Index j = 0; j < p.f_h; j += 4) {
      const S *under[4];
      A w[4];
      for (Index k = 0; k < 4; k++) {
        const Index at = y - p.pad_y0 + j + k;
        const bool inside = j + k < p.f_h && at >= 0 && at < p.in_h;
        under[k] = inside ? static_cast<const S *>(p.x) + ((image * p.in_h + at) * p.in_w + first) * inner : zero_row;
        w[k] = inside ? weights[(j + k) * stride] : A(0);
      }
      A *const out = row + (left + first) * inner;
      if (j) weigh_four<true>(out, under, w, (last - first) * inner);
      else weigh_four<false>(out, under, w, (last - first) * inner);
    }
  }

  void line(Index index, A *work) const {
    const Index image = index / (lines / images), y = index % (lines / images);
    const Index n = p.channels_last ? image : image / p.c, c = p.channels_last ? 0 : image % p.c;
    S *out = static_cast<S *>(p.out) + index * width * inner;
    if (!p.f) return finish_line<0>(out, static_cast<const S *>(p.x) + index * width * inner, ones, n, c, y * width);

    A *const row = work, *const sums = row + padded * inner;
    const S *const zero_row = reinterpret_cast<const S *>(sums + p.out_w * inner);
    if (separable) vertical_pass(row, zero_row, image, y, column, 1);
    if (separable && p.f_w == 4) return finish_line<4>(out, row, row_taps, n, c, y * width);
    memset(sums, 0, width * inner * sizeof(A));
    for (Index k = 0; k < p.f_w; k++) {
      // Any other filter is a sum of columns, one shifted against the next.
      if (!separable) vertical_pass(row, zero_row, image, y, taps + k, p.f_w);
      const A w = separable ? row_taps[k] : A(1);
      const A *const shifted = row + k * inner;
#pragma omp simd
      for (Index i = 0; i < width * inner; i++) sums[i] += w * shifted[i];
    }
    finish_line<0>(out, sums, ones, n, c, y * width);
  }
};

template <class S>
bool run(const ToonEpilogue &p, int threads) {
  using A = Compute<S>;
  if (p.n * p.c == 0) return true;
  const Forward<S> forward(p);
  const Index workers = least(threads, 1 + forward.lines * forward.width * forward.inner / kEnough);
  A *const scratch = static_cast<A *>(calloc(workers * forward.scratch() + 1, sizeof(A)));
  if (!scratch) return false;
  parallel_for(workers, int(workers), [&](int64_t worker) {
    const Index begin = forward.lines * worker / workers, end = forward.lines * (worker + 1) / workers;
    for (Index i = begin; i < end; i++) forward.line(i, scratch + worker * forward.scratch());
  });
  free(scratch);
  return true;
}

// ---------------------------------------------------------------- gradient

template <class S>
struct Backward {
  using A = Compute<S>;

  const ToonEpilogueGrad &p;
  Scalars<A> scalars;
  Index chunks;
  A zeros[kRun] = {}, ones[kRun];

  explicit Backward(const ToonEpilogueGrad &params)
      : p(params), scalars(scalars_of<S>(params)), chunks((params.pixels + params.chunk - 1) / params.chunk) {
    for (A &one : ones) one = 1;
  }

  // Elements [i, i + n) of one plane: `pixels` gets du added, the two channel sums theirs. out may be dy.
  void along_pixels(Index i, Index n, A scale, const A *noise, A *__restrict pixels, A *sum, A *moment) const {
    const S *dy = static_cast<const S *>(p.dy) + i, *y = static_cast<const S *>(p.y) + i;
    S *out = static_cast<S *>(p.out) + i;
    const Scalars<A> s = scalars;
    A total = 0, total_moment = 0;
#pragma omp simd reduction(+ : total, total_moment)
    for (Index k = 0; k < n; k++) {
      const EpilogueGrad<A> g = epilogue_grad_at(load(dy[k]), load(y[k]), s);
      out[k] = store<S>(g.du * scale);
      pixels[k] += g.du;
      total += g.du;
      total_moment += g.du_u - g.du * noise[k];
    }
    *sum += total, *moment += total_moment;
  }

  // Elements [i, i + n), the channels of one pixel, the other way round. Returns the sum of du.
  A along_channels(Index i, Index n, const A *scale, A noise, A *__restrict sums, A *__restrict moments) const {
    const S *dy = static_cast<const S *>(p.dy) + i, *y = static_cast<const S *>(p.y) + i;
    S *out = static_cast<S *>(p.out) + i;
    const Scalars<A> s = scalars;
    A total = 0;
#pragma omp simd reduction(+ : total)
    for (Index k = 0; k < n; k++) {
      const EpilogueGrad<A> g = epilogue_grad_at(load(dy[k]), load(y[k]), s);
      out[k] = store<S>(g.du * scale[k]);
      sums[k] += g.du;
      moments[k] += g.du_u - g.du * noise;
      total += g.du;
    }
    return total;
  }

  // Chunk index % chunks of the pixels of image index / chunks, all channels.
  void chunk(Index index) const {
    const Index n = index / chunks, begin = index % chunks * p.chunk, end = least(begin + p.chunk, p.pixels);
    const A *scale = p.scale ? static_cast<const A *>(p.scale) + n * p.c : nullptr;
    const A *noise = p.noise ? static_cast<const A *>(p.noise) + (p.shared_noise ? 0 : n) * p.pixels : nullptr;
    A *const sums = static_cast<A *>(p.channel_sums) + index * p.c, *const moments = sums + p.n * chunks * p.c;
    A *const pixel_sums = static_cast<A *>(p.pixel_sums) + n * p.pixels;
    memset(sums, 0, p.c * sizeof(A));
    memset(moments, 0, p.c * sizeof(A));
    memset(pixel_sums + begin, 0, (end - begin) * sizeof(A));
    if (p.channels_last) {
      for (Index i = begin; i < end; i++)
        for (Index c = 0; c < p.c; c += kRun)
          pixel_sums[i] += along_channels((n * p.pixels + i) * p.c + c, least(kRun, p.c - c), scale ? scale + c : ones,
                                          noise ? noise[i] : A(0), sums + c, moments + c);
    } else {
      for (Index c = 0; c < p.c; c++)
        for (Index i = begin; i < end; i += kRun)
          along_pixels((n * p.c + c) * p.pixels + i, least(kRun, end - i), scale ? scale[c] : A(1),
                       noise ? noise + i : zeros, pixel_sums + i, sums + c, moments + c);
    }
  }
};

}  // namespace

bool epilogue(const ToonEpilogue &p, int threads) {
  bool done = false;
  with_dtype(p.dtype, [&](auto storage) { done = run<decltype(storage)>(p, threads); });
  return done;
}

void epilogue_grad(const ToonEpilogueGrad &p, int threads) {
  with_dtype(p.dtype, [&](auto storage) {
    const Backward<decltype(storage)> backward(p);
    const Index enough = 1 + p.n * p.c * p.pixels / kEnough;
    parallel_for(p.n * backward.chunks, int(least(threads, enough)), [&](int64_t i) { backward.chunk(i); });
  });
}

}  // namespace TOON_ISA
}  // namespace toon
