// Depthwise-separable layers on the CPU in one pass over memory. Compiled once per instruction set; cpu.cpp chooses.
// api.h has the formula.
//
// Images are channels_last, so every loop runs over channels with stride one. A thread goes down the rows and takes
// some tens of pixels at a time:
//   1. with up_style, the rows of the inverse Haar transform that the taps reach next, into a ring of a few rows;
//   2. depthwise: v[pixel][channel in], into the cache; the style is a factor on the taps;
//   3. products: sums over v with the packed pointwise weights, in registers, to which noise, bias and activation are
//      applied before they are written once.
#include "separable_tiles.h"

#include "cpu.h"

namespace toon {
namespace TOON_ISA {
namespace {

thread_local Scratch scratch;

}  // namespace

bool separable(const ToonSeparable &p, int threads) {
  const Bands bands(p.n, p.h, p.w, p.up_style != nullptr, threads);
  const int64_t pitch = odd_lines(p.c_in), tile = larger(kTilePixels, round_up(6144 / p.c_in, kRowsAtOnce));
  const int64_t pairs = Input::pairs_for(bands.rows + 2), plane = p.w * p.c_in;
  const float slope = float(p.slope);
  return in_parts(bands.parts, [&](int part) {
    float *const v = scratch.get(tile * pitch + 10 * p.c_in + (p.up_style ? pairs * 2 * plane : 0));
    if (!v) return false;
    float *const taps = v + tile * pitch, *const zeros = taps + 9 * p.c_in;
    memset(zeros, 0, p.c_in * sizeof(float));
    Input input{p.x, p.up_style, p.h, p.w, p.c_in, zeros, zeros + p.c_in, pairs};
    bands.each(part, [&](int64_t n, int64_t first_row, int64_t last_row) {
      if (n != input.n) arrange_taps(taps, p.depthwise, p.style + n * p.c_in, p.c_in, false);
      input.need(n, first_row - 1, last_row + 1);
      const int64_t last = last_row * p.w;
      for (int64_t first = first_row * p.w, count; first < last; first += count) {
        count = smaller(tile, last - first);
        for (int64_t at = first, run; at < first + count; at += run) {
          const int64_t y = at / p.w, x = at % p.w;
          run = smaller(p.w - x, first + count - at);
          const Row rows[3] = {input.row(y - 1), input.row(y), input.row(y + 1)};
          float *const to = v + (at - first - x) * pitch;
          depthwise(rows, p.w, x, x + run, taps, p.c_in, zeros, [&](int64_t i, int64_t c, const Vec *sum, auto many) {
            for (int j = 0; j < many(); j++) store_vector(to + (i + j) * pitch + c, sum[j]);
          });
        }
        float *const out = p.out + (n * p.h * p.w + first) * p.c_out;
        const float *const noise = p.noise ? p.noise + n * p.noise_step + first : nullptr;
        product(count, p.c_out, p.c_in, {v, pitch, 1}, p.u, kPanel, p.c_in * kPanel,
                [&](int64_t r, int64_t column, Vec sum) {
                  sum += load_vector(p.b + column);
                  if (noise) sum += noise[r];
                  store_vector(out + r * p.c_out + column, sum > 0 ? sum : sum * slope);
                });
      }
    });
    return true;
  });
}

void separable_pack(const ToonSeparablePack &p, int threads) {
  const int64_t panels = (p.columns + kPanel - 1) / kPanel;
  parallel_for(panels, p.columns * p.depth < 1 << 14 ? 1 : threads, [&](int64_t q) {
    float *const to = p.u + q * p.depth * kPanel;
    const int64_t wide = smaller(kPanel, p.columns - q * kPanel);
    for (int64_t k0 = 0; k0 < p.depth; k0 += 16)  // as many weights as a cache line has
      for (int64_t j = 0; j < kPanel; j++)
        for (int64_t k = k0; k < k0 + 16; k++)
          to[k * kPanel + j] = j < wide ? p.w[k * p.k_step + (q * kPanel + j) * p.column_step] : 0;
  });
}

int64_t separable_packed(int64_t depth, int64_t columns) { return depth * round_up(columns, kPanel); }

}  // namespace TOON_ISA
}  // namespace toon
