// The gradient of conv3x3 by its weights: the adjoint of the forward kernel. Compiled once per instruction set.
//
// With m = v * u for each frequency, the adjoint of `out` takes dy to dm, and du = v^T * dm, summed over all tiles; the
// adjoint of the packing takes du to the gradient. It takes as few products as the forward kernel.
#include "conv3x3_tiles.h"

namespace toon {
namespace TOON_ISA {
namespace {

constexpr int64_t kAtOnce = 192;     // tiles summed before du is updated: many, because each update reads and writes du
constexpr int64_t kMost = 24 << 20;  // bytes of v and dm

template <class Kind>
struct WeightJob : Tiles<Kind, ToonConv3x3Weight> {
  using Base = Tiles<Kind, ToonConv3x3Weight>;
  using Base::kFreq, Base::kTile, Base::p, Base::tiles;
  static constexpr auto kBack = transposed(Kind::kOut);
  static constexpr auto kUnpack = transposed(Kind::kWeight);
  int64_t panels, pitch, at_once, plane_v, plane_m;

  explicit WeightJob(const ToonConv3x3Weight &params) : Base(params) {
    panels = (p.c_out + kPanel - 1) / kPanel;
    pitch = panels * kPanel;
    at_once = kMost / (4 * kFreq * kFreq * (p.c_in + pitch));
    if (at_once > kAtOnce) at_once = kAtOnce;
    if (at_once > tiles) at_once = tiles;
    plane_v = odd_lines(at_once * p.c_in);
    plane_m = odd_lines(at_once * pitch);
  }

  int64_t size_v() const { return kFreq * kFreq * plane_v; }
  int64_t size_m() const { return kFreq * kFreq * plane_m; }
  int64_t size_u() const { return kFreq * kFreq * p.c_in * pitch; }

  // dm[frequency * plane_m + channel] of a tile: the adjoint of `out`.
  void back(float *dm, const float *zeros, int64_t tile) const {
    const auto at = this->place(tile);
    const float *from[kTile][kTile];
    for (int i = 0; i < kTile; i++)
      for (int j = 0; j < kTile; j++) {
        const int64_t y = at.y + i, x = at.x + j;
        const bool inside = y < p.out_h && x < p.out_w;
        from[i][j] = inside ? p.dy + ((at.n * p.out_h + y) * p.out_w + x) * p.c_out : zeros;
      }
    for (int64_t c = 0; c < p.c_out; c += kWidth) {
      Vec rows[kTile][kFreq], line[kFreq];
      const Vec none = {}, d = p.d ? load_vector(p.d + at.n * p.c_out + c) : none + 1;
      for (int i = 0; i < kTile; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < kTile; j++) line[j] = load_vector(from[i][j] + c) * d;
        multiply<kBack, kFreq, kTile>(rows[i], 1, line, 1);
      }
      for (int j = 0; j < kFreq; j++) {
        multiply<kBack, kFreq, kTile>(line, 1, &rows[0][j], kFreq);
#pragma GCC unroll 16
        for (int i = 0; i < kFreq; i++) store_vector(dm + (i * kFreq + j) * plane_m + c, line[i]);
      }
    }
  }

  // kRows rows of du, one panel wide: = or += the product of `count` tiles.
  template <int kRows>
  static void product_rows(float *du, int64_t pitch, const float *v, int64_t c_in, const float *dm, int64_t count,
                           bool add) {
    Vec sum[kRows][2] = {};
    if (add) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) {
        sum[r][0] = load_vector(du + r * pitch);
        sum[r][1] = load_vector(du + r * pitch + kWidth);
      }
    }
    for (int64_t t = 0; t < count; t++) {
      const Vec m0 = load_vector(dm + t * pitch), m1 = load_vector(dm + t * pitch + kWidth);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) {
        const float a = v[t * c_in + r];
        sum[r][0] += a * m0;
        sum[r][1] += a * m1;
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      store_vector(du + r * pitch, sum[r][0]);
      store_vector(du + r * pitch + kWidth, sum[r][1]);
    }
  }

  template <int kRows>
  static void product_rows(int64_t rows, float *du, int64_t pitch, const float *v, int64_t c_in, const float *dm,
                           int64_t count, bool add) {
    if (rows == kRows) return product_rows<kRows>(du, pitch, v, c_in, dm, count, add);
    if constexpr (kRows > 1) product_rows<kRows - 1>(rows, du, pitch, v, c_in, dm, count, add);
  }

  // The product of one frequency and panel.
  void products(float *du, const float *v, const float *dm, int64_t f, int64_t panel, int64_t count, bool add) const {
    const int64_t groups = (p.c_in + kRowsAtOnce - 1) / kRowsAtOnce;
    for (int64_t g = 0; g < groups; g++) {
      const int64_t c = p.c_in * g / groups, rows = p.c_in * (g + 1) / groups - c;
      product_rows<kRowsAtOnce>(rows, du + (f * p.c_in + c) * pitch + panel * kPanel, pitch, v + f * plane_v + c,
                                p.c_in, dm + f * plane_m + panel * kPanel, count, add);
    }
  }

  // Input channel k of the gradient: the adjoint of the packing.
  void unpack(const float *du, int64_t k) const {
    for (int64_t c = 0; c < p.c_out; c += kWidth) {
      Vec rows[kFreq][3], line[kFreq];
      for (int i = 0; i < kFreq; i++) {
        for (int j = 0; j < kFreq; j++) line[j] = load_vector(du + ((i * kFreq + j) * p.c_in + k) * pitch + c);
        multiply<kUnpack, 3, kFreq>(rows[i], 1, line, 1);
      }
      for (int j = 0; j < 3; j++) {
        multiply<kUnpack, 3, kFreq>(line, 1, &rows[0][j], 3);
        for (int l = 0; l < kWidth; l++) {
          const int64_t first = k * p.in_step + (c + l) * p.out_step + j * p.tap_step;
          const float e = p.e ? p.e[k * p.e_in_step + (c + l) * p.e_out_step] : 0;
          for (int i = 0; i < 3; i++) {
            const int64_t at = first + 3 * i * p.tap_step;
            p.dw[at] = p.e ? line[i][l] + p.w[at] * e : line[i][l];
          }
        }
      }
    }
  }
};

template <class Kind>
bool run(const ToonConv3x3Weight &p, int threads) {
  const WeightJob<Kind> job(p);
  const int64_t zeros_size = p.c_in > p.c_out ? p.c_in : p.c_out;
  float *const v = scratch.get(job.size_v() + job.size_m() + job.size_u() + zeros_size);
  if (!v) return false;
  float *const dm = v + job.size_v(), *const du = dm + job.size_m(), *const zeros = du + job.size_u();
  memset(zeros, 0, zeros_size * sizeof(float));
  if (job.pitch > p.c_out) memset(dm, 0, job.size_m() * sizeof(float));  // padding of the panels is multiplied too
  for (int64_t first = 0; first < job.tiles; first += job.at_once) {
    const int64_t count = job.tiles - first < job.at_once ? job.tiles - first : job.at_once;
    parallel_for(count, threads, [&](int64_t t) {
      job.in(v + t * p.c_in, job.plane_v, zeros, first + t);
      job.back(dm + t * job.pitch, zeros, first + t);
    });
    parallel_for(Kind::kFreq * Kind::kFreq * job.panels, threads,
                 [&](int64_t i) { job.products(du, v, dm, i / job.panels, i % job.panels, count, first > 0); });
  }
  parallel_for(p.c_in, threads, [&](int64_t k) { job.unpack(du, k); });
  return true;
}

}  // namespace

bool conv3x3_weight(const ToonConv3x3Weight &p, int threads) {
  return p.kind == TOON_PLAIN ? run<Plain>(p, threads) : run<Down>(p, threads);
}

}  // namespace TOON_ISA
}  // namespace toon
