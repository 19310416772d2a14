// 3x3 convolutions on the CPU with the rest of their layer. Compiled once per instruction set; cpu.cpp chooses.
// conv3x3.h has the algorithm, api.h the formula.
//
// Images are channels_last, so every loop runs over channels with stride one. A thread takes some tens of tiles at a
// time and keeps them in its cache through all steps:
//   1. in:       patches, scaled by the styles, become v[frequency][tile][channel in];
//   2. products: m[frequency] = v[frequency] * u[frequency], matrix products with the packed weights;
//   3. out:      m becomes kTile x kTile outputs, which go through scale, noise, bias, activation and clamp and are
//                written once.
#include "conv3x3_tiles.h"

namespace toon {
namespace TOON_ISA {
namespace {

constexpr int64_t kCache = 768 << 10;  // bytes that a thread's v and m may take

template <class Kind>
struct Job : Tiles<Kind, ToonConv3x3> {
  using Base = Tiles<Kind, ToonConv3x3>;
  using Base::kFreq, Base::kTile, Base::p, Base::tiles;
  int64_t panels, plane_v, plane_m;
  int64_t at_once;  // tiles in a piece of work
  float alpha, gain, limit;

  Job(const ToonConv3x3 &params, int threads) : Base(params) {
    panels = (p.c_out + kPanel - 1) / kPanel;
    const int64_t bytes = 4 * kFreq * kFreq * (p.c_in + panels * kPanel);
    int64_t most = kCache / bytes / kRowsAtOnce * kRowsAtOnce;
    if (most < 4 * kRowsAtOnce) most = 4 * kRowsAtOnce;  // fewer would read the weights too often
    // Pieces of equal size, and the same number of them for each thread.
    const int64_t pieces = round_up((tiles + most - 1) / most, threads);
    at_once = (tiles + pieces - 1) / pieces;
    plane_v = odd_lines(at_once * p.c_in);
    plane_m = odd_lines(at_once * panels * kPanel);
    alpha = float(p.alpha);
    gain = float(p.gain);
    limit = p.clamp < 0 ? INFINITY : float(p.clamp);
  }

  int64_t scratch() const { return kFreq * kFreq * (plane_v + plane_m) + p.c_in; }

  // kRows rows of m, one panel wide.
  template <int kRows>
  static void product_rows(float *m, int64_t pitch, const float *v, const float *u, int64_t depth) {
    Vec sum[kRows][2] = {};
    for (int64_t k = 0; k < depth; k++) {
      const Vec u0 = load_vector(u + k * kPanel), u1 = load_vector(u + k * kPanel + kWidth);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) {
        const float a = v[r * depth + k];
        sum[r][0] += a * u0;
        sum[r][1] += a * u1;
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      store_vector(m + r * pitch, sum[r][0]);
      store_vector(m + r * pitch + kWidth, sum[r][1]);
    }
  }

  template <int kRows>
  static void product_rows(int64_t rows, float *m, int64_t pitch, const float *v, const float *u, int64_t depth) {
    if (rows == kRows) return product_rows<kRows>(m, pitch, v, u, depth);
    if constexpr (kRows > 1) product_rows<kRows - 1>(rows, m, pitch, v, u, depth);
  }

  void products(float *m, const float *v, int64_t count) const {
    const int64_t pitch = panels * kPanel, groups = (count + kRowsAtOnce - 1) / kRowsAtOnce;
    for (int f = 0; f < kFreq * kFreq; f++)
      for (int64_t q = 0; q < panels; q++) {
        const float *u = p.u + (f * panels + q) * p.c_in * kPanel;
        for (int64_t g = 0; g < groups; g++) {
          const int64_t t = count * g / groups, rows = count * (g + 1) / groups - t;  // groups of about equal size
          product_rows<kRowsAtOnce>(rows, m + f * plane_m + t * pitch + q * kPanel, pitch, v + f * plane_v + t * p.c_in,
                                    u, p.c_in);
        }
      }
  }

  void out(const float *m, int64_t tile) const {
    const auto at = this->place(tile);
    float *to[kTile][kTile];
    float noise[kTile][kTile];
    for (int i = 0; i < kTile; i++)
      for (int j = 0; j < kTile; j++) {
        const int64_t y = at.y + i, x = at.x + j, pixel = y * p.out_w + x;
        const bool inside = y < p.out_h && x < p.out_w;
        to[i][j] = inside ? p.out + (at.n * p.out_h * p.out_w + pixel) * p.c_out : nullptr;
        noise[i][j] = p.noise && inside ? p.noise[at.n * p.noise_step + pixel] : 0;
      }
    for (int64_t c = 0; c < p.c_out; c += kWidth) {
      Vec rows[kTile][kFreq], line[kFreq];
      for (int j = 0; j < kFreq; j++) {
#pragma GCC unroll 16
        for (int i = 0; i < kFreq; i++) line[i] = load_vector(m + (i * kFreq + j) * plane_m + c);
        multiply<Kind::kOut, kTile, kFreq>(&rows[0][j], kFreq, line, 1);
      }
      const Vec none = {}, b = p.b ? load_vector(p.b + c) : none;
      const Vec d = p.d ? load_vector(p.d + at.n * p.d_step + c) : none + 1;
      for (int i = 0; i < kTile; i++) {
        Vec y[kTile];
        multiply<Kind::kOut, kTile, kFreq>(y, 1, rows[i], 1);
#pragma GCC unroll 8
        for (int j = 0; j < kTile; j++) {
          if (!to[i][j]) continue;
          Vec t = y[j] * d + (b + noise[i][j]);
          t = (t > 0 ? t : t * alpha) * gain;
          t = t > limit ? none + limit : t;
          t = t < -limit ? none - limit : t;
          store_vector(to[i][j] + c, t);
        }
      }
    }
  }
};

template <class Kind>
bool run(const ToonConv3x3 &p, int threads) {
  const Job<Kind> job(p, threads);
  const int64_t pieces = (job.tiles + job.at_once - 1) / job.at_once;
  return parallel_all(pieces, threads, [&](int64_t piece) {
    float *const v = scratch.get(job.scratch());
    if (!v) return false;
    float *const m = v + Kind::kFreq * Kind::kFreq * job.plane_v;
    float *const zeros = m + Kind::kFreq * Kind::kFreq * job.plane_m;
    memset(zeros, 0, p.c_in * sizeof(float));
    const int64_t first = piece * job.at_once;
    const int64_t count = job.tiles - first < job.at_once ? job.tiles - first : job.at_once;
    for (int64_t t = 0; t < count; t++) job.in(v + t * p.c_in, job.plane_v, zeros, first + t);
    job.products(m, v, count);
    for (int64_t t = 0; t < count; t++) job.out(m + t * job.panels * kPanel, first + t);
    return true;
  });
}

template <class Kind>
void pack(const ToonConv3x3Pack &p, int threads) {
  constexpr int kFreq = Kind::kFreq;
  const int64_t panels = (p.c_out + kPanel - 1) / kPanel;
  parallel_for(p.c_in, threads, [&](int64_t k) {
    for (int64_t c = 0; c < panels * kPanel; c += kWidth) {
      Vec taps[3][3] = {}, rows[3][kFreq], line[kFreq];
      if (c < p.c_out)
        for (int l = 0; l < kWidth; l++) {
          const float *w = p.w + k * p.in_step + (c + l) * p.out_step;
          for (int i = 0; i < 9; i++) taps[i / 3][i % 3][l] = w[i * p.tap_step];
        }
      if (p.energy && c < p.c_out) {
        Vec energy = {};
        for (int i = 0; i < 9; i++) energy += taps[i / 3][i % 3] * taps[i / 3][i % 3];
        store_vector(p.energy + k * p.c_out + c, energy);
      }
      for (int i = 0; i < 3; i++) multiply<Kind::kWeight, kFreq, 3>(rows[i], 1, taps[i], 1);
      for (int j = 0; j < kFreq; j++) {
        multiply<Kind::kWeight, kFreq, 3>(line, 1, &rows[0][j], kFreq);
        for (int i = 0; i < kFreq; i++)
          store_vector(p.u + ((i * kFreq + j) * panels + c / kPanel) * p.c_in * kPanel + k * kPanel + c % kPanel,
                       line[i]);
      }
    }
  });
}

}  // namespace

bool conv3x3(const ToonConv3x3 &p, int threads) {
  if (p.kind == TOON_PLAIN) return run<Plain>(p, threads);
  if (p.kind == TOON_UP) return run<Up>(p, threads);
  return run<Down>(p, threads);
}

void conv3x3_pack(const ToonConv3x3Pack &p, int threads) {
  if (p.kind == TOON_PLAIN) pack<Plain>(p, threads);
  else if (p.kind == TOON_UP) pack<Up>(p, threads);
  else pack<Down>(p, threads);
}

int64_t conv3x3_packed(int64_t kind, int64_t c_in, int64_t c_out) {
  const int64_t freq = kind == TOON_DOWN ? Down::kFreq : Plain::kFreq;
  return freq * freq * c_in * round_up(c_out, kPanel);
}

}  // namespace TOON_ISA
}  // namespace toon
