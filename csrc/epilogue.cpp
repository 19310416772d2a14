// epilogue and its gradient on the CPU. Compiled once per instruction set; cpu.cpp chooses.
//
// Without a filter one loop does everything. With one, fir_cpu.h forms a piece of a filtered row in the cache, and the
// same loop takes it through scale, noise, bias, activation and clamp to memory.
// Every loop has stride one: over the pixels of a row, or, in channels_last layout, over a pixel's channels.
#include "activations.h"
#include "fir_cpu.h"

namespace toon {
namespace TOON_ISA {
namespace {

constexpr Index kRun = 1024;        // the most elements of one loop: constants that replace an operand are as long
constexpr Index kEnough = 1 << 14;  // fewer elements are not worth waking a thread for

inline Index least(Index a, Index b) { return a < b ? a : b; }

// out[i] = epilogue(v[i]), i < n. Along pixels scale and bias are one number; along channels the noise is.
// out may be v.
template <bool kChannelsLast, class S, class In, class A>
void finish(S *out, const In *v, Index n, const A *scale, const A *noise, const A *b, const Scalars<A> &scalars) {
  const Scalars<A> s = scalars;
  const A scale0 = *scale, noise0 = *noise, b0 = *b;
#pragma omp simd
  for (Index i = 0; i < n; i++)
    out[i] = store<S>(epilogue_at(load(v[i]), kChannelsLast ? scale[i] : scale0, kChannelsLast ? noise0 : noise[i],
                                  kChannelsLast ? b[i] : b0, s));
}

// What follows the filter; a sink of fir_cpu.h.
template <class S>
struct Finish {
  using A = Compute<S>;

  const ToonEpilogue &p;
  Scalars<A> scalars;
  A zeros[kRun] = {}, ones[kRun];

  explicit Finish(const ToonEpilogue &params) : p(params), scalars(scalars_of<S>(params)) {
    for (A &one : ones) one = 1;
  }

  A *place(A *buffer, Index, Index) const { return buffer; }
  void done(const A *piece, Index row, Index column, Index columns) const { line(piece, row, column, columns); }
  void end() const {}

  // `count` pixels of v, the first of which is pixel `column` of output row `row`, counted through all images.
  template <class In>
  void line(const In *v, Index row, Index column, Index count) const {
    const Index image = row / p.out_h, pixel = row % p.out_h * p.out_w + column;
    const Index n = p.channels_last ? image : image / p.c;
    const A *scale = static_cast<const A *>(p.scale), *b = static_cast<const A *>(p.b);
    const A *noise = static_cast<const A *>(p.noise);
    if (noise) noise += (p.shared_noise ? 0 : n) * p.out_h * p.out_w + pixel;
    S *const out = static_cast<S *>(p.out) + (row * p.out_w + column) * (p.channels_last ? p.c : 1);
    if (p.channels_last) {
      for (Index i = 0; i < count; i++)
        for (Index c = 0; c < p.c; c += kRun)
          finish<true>(out + i * p.c + c, v + i * p.c + c, least(kRun, p.c - c), scale ? scale + n * p.c + c : ones,
                       noise ? noise + i : zeros, b ? b + c : zeros, scalars);
    } else {
      const Index c = image % p.c;
      for (Index i = 0; i < count; i += kRun)
        finish<false>(out + i, v + i, least(kRun, count - i), scale ? scale + n * p.c + c : ones,
                      noise ? noise + i : zeros, b ? b + c : zeros, scalars);
    }
  }
};

// The filter of an epilogue as upfirdn2d without resampling.
ToonUpfirdn2d filter_of(const ToonEpilogue &p) {
  ToonUpfirdn2d f = {};
  f.x = p.x, f.f = p.f;
  f.n = p.n, f.c = p.c;
  f.in_h = p.in_h, f.in_w = p.in_w, f.out_h = p.out_h, f.out_w = p.out_w;
  f.f_h = p.f_h, f.f_w = p.f_w;
  f.up_x = f.up_y = f.down_x = f.down_y = 1;
  f.pad_x0 = p.pad_x0, f.pad_y0 = p.pad_y0;
  f.flip = p.flip, f.separable = p.separable, f.channels_last = p.channels_last, f.dtype = p.dtype;
  f.gain = p.fir_gain;
  return f;
}

template <class S>
bool run(const ToonEpilogue &p, int threads) {
  if (p.n * p.c == 0) return true;
  const Finish<S> finish(p);
  if (p.f) return fir<S, Compute<S>>(filter_of(p), threads, finish);
  // Contiguous: a plane is one long line.
  const Index rows = p.channels_last ? 1 : p.out_h, lines = p.channels_last ? p.n * p.out_h : p.n * p.c;
  const Index pixels = rows * p.out_w, numbers = pixels * (p.channels_last ? p.c : 1);
  parallel_for(lines, int(least(threads, 1 + lines * numbers / kEnough)),
               [&](int64_t i) { finish.line(static_cast<const S *>(p.x) + i * numbers, i * rows, 0, pixels); });
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
