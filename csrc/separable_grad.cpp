// The gradient of separable layers on the CPU, in one pass over memory. Compiled once per instruction set; cpu.cpp
// chooses. api.h has the formula; with du = dy * act'(y), the gradients are
//
//   v = depthwise(in * style)   recomputed          d_pointwise = du^T v
//   dv = du * pointwise                             d_taps[t] = sum over pixels of dv * (in, shifted by t)
//   g = flipped depthwise(dv)                       d_in = g * style, d_style = sum over pixels of g * in
//
// A thread goes down the rows as the forward kernel does. Rows of dv are made when the flipped depthwise convolution
// reaches them, into a ring of a few rows; with up_style, so are the rows of `in`. d_taps is the gradient by the
// product style * depthwise; `finish` makes those by the two factors from it.
#include "separable_tiles.h"

#include "cpu.h"

namespace toon {
namespace TOON_ISA {
namespace {

thread_local Scratch scratch;

// taps[t] += sum over the pixels of dv * (in, shifted by t).
template <int kCount, class At>
inline void taps_pixels(float *taps, const float *dv, int64_t c_size, const At &at) {
  for (int64_t c = 0; c < c_size; c += kWidth, taps += 9 * kWidth) {
    Vec d[kCount];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; j++) d[j] = load_vector(dv + j * c_size + c);
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
      Vec sum[3];
#pragma GCC unroll 3
      for (int t = 0; t < 3; t++) sum[t] = load_vector(taps + (3 * i + t) * kWidth);
#pragma GCC unroll 8
      for (int j = 0; j < kCount + 2; j++) {
        const Vec x = load_vector(at(i, j) + c);
#pragma GCC unroll 3
        for (int t = 0; t < 3; t++)
          if (j - t >= 0 && j - t < kCount) sum[t] += d[j - t] * x;
      }
#pragma GCC unroll 3
      for (int t = 0; t < 3; t++) store_vector(taps + (3 * i + t) * kWidth, sum[t]);
    }
  }
}

struct Job {
  const ToonSeparableGrad &p;
  Bands bands;
  int64_t plane, pitch_in, pitch_out, tile, ring_rows, pairs;
  int64_t sums;  // size of a thread's partial sums: [n, 9 c_in] taps, [n, c_in] style, [n, 4 c_in] up_style, [c_out]
  float slope;

  Job(const ToonSeparableGrad &params, int threads) : p(params), bands(p.n, p.h, p.w, p.up_style != nullptr, threads) {
    plane = p.w * p.c_in;
    pitch_in = odd_lines(p.c_in);
    pitch_out = odd_lines(p.c_out);
    tile = kTilePixels;
    ring_rows = bands.rows + 2;
    pairs = Input::pairs_for(bands.rows + 2);
    sums = toon_separable_sums(p.n, p.c_in, p.c_out);
    slope = float(p.slope);
  }

  // The buffers of one thread.
  struct Buffers {
    float *du, *v, *taps, *flipped, *zeros, *dv, *wide, *ring;
    float *d_taps, *d_style, *d_up_style, *d_b, *d_pointwise;
    bool fresh = true;  // nothing was added to d_pointwise yet
    int64_t made = 0;   // rows of dv that are complete
  };

  int64_t scratch_size() const {
    const int64_t in_cache = tile * (pitch_in + pitch_out) + 19 * p.c_in + ring_rows * plane;
    return in_cache + (p.up_style ? (2 + 2 * pairs) * plane : 0);
  }

  Buffers buffers(float *at, int part) const {
    Buffers my;
    const auto cut = [&](int64_t numbers) { return at += numbers, at - numbers; };
    my.du = cut(tile * pitch_out);
    my.v = cut(tile * pitch_in);
    my.taps = cut(9 * p.c_in);
    my.flipped = cut(9 * p.c_in);
    my.zeros = cut(p.c_in);
    my.dv = cut(ring_rows * plane);
    my.wide = p.up_style ? cut(2 * plane) : nullptr;
    my.ring = at;
    memset(my.zeros, 0, p.c_in * sizeof(float));
    my.d_taps = p.sums + part * sums;
    my.d_style = my.d_taps + 9 * p.n * p.c_in;
    my.d_up_style = my.d_style + p.n * p.c_in;
    my.d_b = my.d_up_style + 4 * p.n * p.c_in;
    memset(my.d_taps, 0, sums * sizeof(float));
    my.d_pointwise = part && p.d_pointwise ? p.pointwise_parts + (part - 1) * p.c_out * p.c_in : p.d_pointwise;
    return my;
  }

  Row dv_row(const Buffers &my, int64_t y) const {
    if (y < 0 || y >= p.h) return {my.zeros, 0};
    return {my.dv + y % ring_rows * plane, p.c_in};
  }

  // du of `count` pixels; for the thread's own pixels also the gradients by bias and noise.
  void make_du(const Buffers &my, int64_t n, int64_t first, int64_t count, bool own) const {
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = n * p.h * p.w + first + i;
      Vec sum = {};
      for (int64_t c = 0; c < p.c_out; c += kWidth) {
        const Vec dy = load_vector(p.dy + at * p.c_out + c), y = load_vector(p.y + at * p.c_out + c);
        const Vec du = y > 0 ? dy : dy * slope;
        store_vector(my.du + i * pitch_out + c, du);
        sum += du;
        if (own && p.d_b) store_vector(my.d_b + c, load_vector(my.d_b + c) + du);
      }
      if (own && p.d_noise) p.d_noise[at] = horizontal(sum);
    }
  }

  // d_pointwise += du^T v of `count` pixels.
  void by_pointwise(Buffers &my, const Input &input, int64_t first, int64_t count) const {
    for (int64_t at = first, run; at < first + count; at += run) {
      const int64_t y = at / p.w, x = at % p.w;
      run = smaller(p.w - x, first + count - at);
      const Row rows[3] = {input.row(y - 1), input.row(y), input.row(y + 1)};
      float *const to = my.v + (at - first - x) * pitch_in;
      depthwise(rows, p.w, x, x + run, my.taps, p.c_in, my.zeros, [&](int64_t i, int64_t c, const Vec *sum, auto many) {
        for (int j = 0; j < many(); j++) store_vector(to + (i + j) * pitch_in + c, sum[j]);
      });
    }
    const bool fresh = my.fresh;
    product(p.c_out, p.c_in, count, {my.du, 1, pitch_out}, my.v, pitch_in, kPanel,
            [&](int64_t r, int64_t column, Vec sum) {
              float *const to = my.d_pointwise + r * p.c_in + column;
              store_vector(to, fresh ? sum : load_vector(to) + sum);
            });
    my.fresh = false;
  }

  // The rows of dv up to `last`; those in [own_first, own_last) are this thread's own.
  void make(Buffers &my, const Input &input, int64_t n, int64_t last, int64_t own_first, int64_t own_last) const {
    for (int64_t at = my.made * p.w, count; at < last * p.w; at += count) {
      const int64_t y = at / p.w;
      const bool own = y >= own_first && y < own_last;
      const int64_t same = own ? smaller(own_last, last) : y < own_first ? own_first : last;
      const int64_t unbroken = smaller(same, y + ring_rows - y % ring_rows);  // the ring wraps round
      count = smaller(tile, unbroken * p.w - at);
      make_du(my, n, at, count, own);
      if (p.dx || p.d_depthwise) {
        float *const to = my.dv + (y % ring_rows * p.w + at % p.w) * p.c_in;
        product(count, p.c_in, p.c_out, {my.du, pitch_out, 1}, p.u, kPanel, p.c_out * kPanel,
                [&](int64_t r, int64_t column, Vec sum) { store_vector(to + r * p.c_in + column, sum); });
      }
      if (own && p.d_pointwise) by_pointwise(my, input, at, count);
    }
    my.made = last;
  }

  // A row of d_in, and d_style unless it follows from d_taps.
  void by_input(const Buffers &my, const Input &input, int64_t n, int64_t y) const {
    const Row rows[3] = {dv_row(my, y - 1), dv_row(my, y), dv_row(my, y + 1)}, in = input.row(y);
    const float *const style = p.style + n * p.c_in;
    float *const d_style = p.d_style && !p.d_depthwise ? my.d_style + n * p.c_in : nullptr;
    float *const to = p.up_style ? my.wide + y % 2 * plane : p.dx + (n * p.h + y) * plane;
    depthwise(rows, p.w, 0, p.w, my.flipped, p.c_in, my.zeros, [&](int64_t i, int64_t c, const Vec *g, auto many) {
      const Vec s = load_vector(style + c);
      for (int j = 0; j < many(); j++) store_vector(to + (i + j) * p.c_in + c, g[j] * s);
      if (!d_style) return;
      Vec sum = load_vector(d_style + c);
      for (int j = 0; j < many(); j++) sum += g[j] * load_vector(in.at + (i + j) * p.c_in + c);
      store_vector(d_style + c, sum);
    });
    if (!p.up_style || y % 2 == 0) return;
    const int64_t from = (n * p.h + y) / 2 * 2 * plane;  // half as many rows, of half the pixels with 4 c_in channels
    haar_row_down(p.dx + from, my.wide, my.wide + plane, p.w / 2, p.c_in, p.up_style + n * 4 * p.c_in, p.x + from,
                  my.d_up_style + n * 4 * p.c_in);
  }

  void by_taps(const Buffers &my, const Input &input, int64_t n, int64_t y) const {
    const Row rows[3] = {input.row(y - 1), input.row(y), input.row(y + 1)}, dv = dv_row(my, y);
    along_row(rows, p.w, 0, p.w, my.zeros, [&](int64_t x, auto count, const auto &at) {
      taps_pixels<count()>(my.d_taps + 9 * n * p.c_in, dv.at + x * p.c_in, p.c_in, at);
    });
  }

  bool part(int part) const {
    float *const memory = scratch.get(scratch_size());
    if (!memory) return false;
    Buffers my = buffers(memory, part);
    Input input{p.x, p.up_style, p.h, p.w, p.c_in, my.zeros, my.ring, pairs};
    int64_t own_first = 0;
    bands.each(part, [&](int64_t n, int64_t first, int64_t last) {
      if (n != input.n) {
        arrange_taps(my.taps, p.depthwise, p.style + n * p.c_in, p.c_in, false);
        arrange_taps(my.flipped, p.depthwise, nullptr, p.c_in, true);
        own_first = first;
        my.made = larger(first - 1, 0);
      }
      if (p.d_pointwise || p.d_depthwise || p.d_style) input.need(n, first - 1, last + 2);
      else input.n = n;
      make(my, input, n, smaller(last + 1, p.h), own_first, bands.last_row(part, n));
      for (int64_t y = first; y < last; y++) {
        if (p.d_depthwise) by_taps(my, input, n, y);
        if (p.dx) by_input(my, input, n, y);
      }
    });
    return true;
  }

  // Adds the sums of the threads in a fixed order, and makes d_style and d_depthwise from d_taps.
  void finish(int threads) const {
    float *const total = p.sums;
    for (int part = 1; part < bands.parts; part++)
      for (int64_t i = 0; i < sums; i++) total[i] += p.sums[part * sums + i];
    const float *const d_style = total + 9 * p.n * p.c_in, *const d_up_style = d_style + p.n * p.c_in;
    if (p.d_up_style) memcpy(p.d_up_style, d_up_style, 4 * p.n * p.c_in * sizeof(float));
    if (p.d_b) memcpy(p.d_b, d_up_style + 4 * p.n * p.c_in, p.c_out * sizeof(float));
    if (p.d_style && !p.d_depthwise) memcpy(p.d_style, d_style, p.n * p.c_in * sizeof(float));
    if (p.d_depthwise)
      for (int64_t c = 0; c < p.c_in; c++) {
        float by_depthwise[9] = {};
        for (int64_t n = 0; n < p.n; n++) {
          float by_style = 0;
          for (int t = 0; t < 9; t++) {
            const float tap = total[9 * n * p.c_in + (c / kWidth * 9 + t) * kWidth + c % kWidth];
            by_style += tap * p.depthwise[c * 9 + t];
            by_depthwise[t] += tap * p.style[n * p.c_in + c];
          }
          if (p.d_style) p.d_style[n * p.c_in + c] = by_style;
        }
        memcpy(p.d_depthwise + c * 9, by_depthwise, sizeof(by_depthwise));
      }
    if (p.d_pointwise && bands.parts > 1)
      parallel_for(p.c_out, threads, [&](int64_t o) {
        for (int part = 1; part < bands.parts; part++)
          for (int64_t c = 0; c < p.c_in; c++)
            p.d_pointwise[o * p.c_in + c] += p.pointwise_parts[((part - 1) * p.c_out + o) * p.c_in + c];
      });
  }
};

}  // namespace

bool separable_grad(const ToonSeparableGrad &p, int threads) {
  const Job job(p, threads < p.parts ? threads : int(p.parts));
  if (!in_parts(job.bands.parts, [&](int part) { return job.part(part); })) return false;
  job.finish(threads);
  return true;
}

}  // namespace TOON_ISA
}  // namespace toon
