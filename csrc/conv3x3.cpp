// 3x3 convolutions on the CPU, with everything a layer of the networks does around them. Compiled once per
// instruction set; cpu.cpp chooses. conv3x3.h has the scheme, api.h the formula.
//
// Pictures are channels_last, so every loop runs over channels with stride one. A thread takes some tens of tiles at
// a time and keeps them in its cache from end to end:
//   1. in:       patches, scaled by the styles, become v[frequency][tile][channel in];
//   2. products: m[frequency] = v[frequency] * u[frequency], matrix products with the packed weights;
//   3. out:      m becomes kTile x kTile outputs, which are scaled, noised, biased, bent, clamped and written once.
#include <stdlib.h>

#include <cmath>

#include "conv3x3.h"
#include "parallel.h"

namespace toon {
namespace TOON_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRowsAtOnce = 12;  // 24 sums, 2 weights, 1 input: of 32 registers
#elif defined(__AVX__)
constexpr int kLanes = 8, kRowsAtOnce = 6;  // 12, 2 and 1 of 16
#else
constexpr int kLanes = 4, kRowsAtOnce = 6;
#endif
constexpr int kPanel = 2 * kLanes;  // output channels that one pass over the inputs makes
constexpr int64_t kCache = 768 << 10;  // bytes that a thread's v and m may take

typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Vec load_vec(const float *p) { return *reinterpret_cast<const Vec *>(p); }
inline void store_vec(float *p, Vec v) { *reinterpret_cast<Vec *>(p) = v; }

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// to[i * to_step] = sum over j of m[i][j] * from[j * from_step]. All constants: zeros cost nothing.
template <const auto &kMatrix, int kRows, int kColumns>
TOON_HD void multiply(Vec *to, int to_step, const Vec *from, int from_step) {
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++) {
    Vec sum = {};
    bool first = true;
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; j++) {
      const float k = float(kMatrix.at[i][j]);
      if (k == 0) continue;
      sum = first ? k * from[j * from_step] : sum + k * from[j * from_step];
      first = false;
    }
    to[i * to_step] = sum;
  }
}

template <class Kind>
struct Job {
  static constexpr int kPatch = Kind::kPatch, kFreq = Kind::kFreq, kTile = Kind::kTile;
  const ToonConv3x3 &p;
  int64_t tiles_y, tiles_x, tiles;  // tiles of all pictures
  int64_t panels, plane_v, plane_m;  // numbers from frequency to frequency; odd multiples of a cache line
  int64_t at_once;                   // tiles of a piece of work
  float alpha, gain, limit;

  Job(const ToonConv3x3 &params, int threads) : p(params) {
    tiles_y = (p.out_h + kTile - 1) / kTile;
    tiles_x = (p.out_w + kTile - 1) / kTile;
    tiles = p.n * tiles_y * tiles_x;
    panels = (p.c_out + kPanel - 1) / kPanel;
    const int64_t bytes = 4 * kFreq * kFreq * (p.c_in + panels * kPanel);
    int64_t most = kCache / bytes / kRowsAtOnce * kRowsAtOnce;
    if (most < 4 * kRowsAtOnce) most = 4 * kRowsAtOnce;  // fewer would read the weights too often
    // Pieces of equal size, as many for each thread.
    const int64_t pieces = round_up((tiles + most - 1) / most, threads);
    at_once = (tiles + pieces - 1) / pieces;
    plane_v = odd_lines(at_once * p.c_in);
    plane_m = odd_lines(at_once * panels * kPanel);
    alpha = float(p.alpha);
    gain = float(p.gain);
    limit = p.clamp < 0 ? INFINITY : float(p.clamp);
  }

  static int64_t odd_lines(int64_t numbers) { return ((numbers + 15) / 16 | 1) * 16; }

  int64_t scratch() const { return kFreq * kFreq * (plane_v + plane_m) + p.c_in; }

  struct Place { int64_t n, y, x; };  // picture; output row and column of the tile's first corner
  Place place(int64_t tile) const {
    const int64_t row = tile / tiles_x;
    return {row / tiles_y, row % tiles_y * kTile, tile % tiles_x * kTile};
  }

  void in(float *v, const float *zeros, int64_t tile) const {
    const Place at = place(tile);
    const int64_t y0 = at.y / kTile * Kind::kStep + Kind::kOrigin - p.pad, x0 = at.x / kTile * Kind::kStep + Kind::kOrigin - p.pad;
    const float *patch[kPatch][kPatch];
    for (int i = 0; i < kPatch; i++)
      for (int j = 0; j < kPatch; j++) {
        const int64_t y = y0 + i, x = x0 + j;
        const bool inside = y >= 0 && y < p.in_h && x >= 0 && x < p.in_w;
        patch[i][j] = inside ? p.x + ((at.n * p.in_h + y) * p.in_w + x) * p.c_in : zeros;
      }
    const float *styles = p.s ? p.s + at.n * p.c_in : nullptr;
    for (int64_t c = 0; c < p.c_in; c += kLanes) {
      Vec rows[kPatch][kFreq], line[kPatch > kFreq ? kPatch : kFreq];
      for (int i = 0; i < kPatch; i++) {
        if (styles) {
          const Vec s = load_vec(styles + c);
#pragma GCC unroll 16
          for (int j = 0; j < kPatch; j++) line[j] = load_vec(patch[i][j] + c) * s;
        } else {
#pragma GCC unroll 16
          for (int j = 0; j < kPatch; j++) line[j] = load_vec(patch[i][j] + c);
        }
        multiply<Kind::kIn, kFreq, kPatch>(rows[i], 1, line, 1);
      }
      for (int j = 0; j < kFreq; j++) {
        multiply<Kind::kIn, kFreq, kPatch>(line, 1, &rows[0][j], kFreq);
#pragma GCC unroll 16
        for (int i = 0; i < kFreq; i++) store_vec(v + (i * kFreq + j) * plane_v + c, line[i]);
      }
    }
  }

  // kRows rows of m, one panel wide.
  template <int kRows>
  static void product_rows(float *m, int64_t pitch, const float *v, const float *u, int64_t depth) {
    Vec sum[kRows][2] = {};
    for (int64_t k = 0; k < depth; k++) {
      const Vec u0 = load_vec(u + k * kPanel), u1 = load_vec(u + k * kPanel + kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) {
        const float a = v[r * depth + k];
        sum[r][0] += a * u0;
        sum[r][1] += a * u1;
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      store_vec(m + r * pitch, sum[r][0]);
      store_vec(m + r * pitch + kLanes, sum[r][1]);
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
          product_rows<kRowsAtOnce>(rows, m + f * plane_m + t * pitch + q * kPanel, pitch,
                                    v + f * plane_v + t * p.c_in, u, p.c_in);
        }
      }
  }

  void out(const float *m, int64_t tile) const {
    const Place at = place(tile);
    float *to[kTile][kTile];
    float noise[kTile][kTile];
    for (int i = 0; i < kTile; i++)
      for (int j = 0; j < kTile; j++) {
        const int64_t y = at.y + i, x = at.x + j, pixel = y * p.out_w + x;
        const bool inside = y < p.out_h && x < p.out_w;
        to[i][j] = inside ? p.out + (at.n * p.out_h * p.out_w + pixel) * p.c_out : nullptr;
        noise[i][j] = p.noise && inside ? p.noise[at.n * p.noise_step + pixel] : 0;
      }
    for (int64_t c = 0; c < p.c_out; c += kLanes) {
      Vec rows[kTile][kFreq], line[kFreq];
      for (int j = 0; j < kFreq; j++) {
#pragma GCC unroll 16
        for (int i = 0; i < kFreq; i++) line[i] = load_vec(m + (i * kFreq + j) * plane_m + c);
        multiply<Kind::kOut, kTile, kFreq>(&rows[0][j], kFreq, line, 1);
      }
      const Vec none = {}, b = p.b ? load_vec(p.b + c) : none;
      const Vec d = p.d ? load_vec(p.d + at.n * p.d_step + c) : none + 1;
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
          store_vec(to[i][j] + c, t);
        }
      }
    }
  }
};

// Per thread and kept: fresh pages for every call would cost more than the work.
struct Scratch {
  float *data = nullptr;
  int64_t size = 0;
  ~Scratch() { free(data); }
  float *get(int64_t numbers) {
    if (numbers > size) {
      free(data);
      data = static_cast<float *>(malloc(numbers * sizeof(float)));
      size = data ? numbers : 0;
    }
    return data;
  }
};
thread_local Scratch scratch;

template <class Kind>
bool run(const ToonConv3x3 &p, int threads) {
  const Job<Kind> job(p, threads);
  const int64_t pieces = (job.tiles + job.at_once - 1) / job.at_once;
  bool failed = false;
  parallel_for(pieces, threads, [&](int64_t piece) {
    float *const v = scratch.get(job.scratch());
    if (!v) {
      failed = true;
      return;
    }
    float *const m = v + Kind::kFreq * Kind::kFreq * job.plane_v;
    float *const zeros = m + Kind::kFreq * Kind::kFreq * job.plane_m;
    memset(zeros, 0, p.c_in * sizeof(float));
    const int64_t first = piece * job.at_once;
    const int64_t count = job.tiles - first < job.at_once ? job.tiles - first : job.at_once;
    for (int64_t t = 0; t < count; t++) job.in(v + t * p.c_in, zeros, first + t);
    job.products(m, v, count);
    for (int64_t t = 0; t < count; t++) job.out(m + t * job.panels * kPanel, first + t);
  });
  return !failed;
}

template <class Kind>
void pack(const ToonConv3x3Pack &p, int threads) {
  constexpr int kFreq = Kind::kFreq;
  const int64_t panels = (p.c_out + kPanel - 1) / kPanel;
  parallel_for(p.c_in, threads, [&](int64_t k) {
    for (int64_t c = 0; c < panels * kPanel; c += kLanes) {
      Vec taps[3][3] = {}, rows[3][kFreq], line[kFreq];
      if (c < p.c_out)
        for (int i = 0; i < 9; i++) taps[i / 3][i % 3] = load_vec(p.w + (k * 9 + i) * p.c_out + c);
      for (int i = 0; i < 3; i++) multiply<Kind::kWeight, kFreq, 3>(rows[i], 1, taps[i], 1);
      for (int j = 0; j < kFreq; j++) {
        multiply<Kind::kWeight, kFreq, 3>(line, 1, &rows[0][j], kFreq);
        for (int i = 0; i < kFreq; i++)
          store_vec(p.u + ((i * kFreq + j) * panels + c / kPanel) * p.c_in * kPanel + k * kPanel + c % kPanel, line[i]);
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
