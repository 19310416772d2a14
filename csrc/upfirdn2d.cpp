// upfirdn2d on the CPU. Compiled once per instruction set; cpu.cpp chooses.
//
// One row of output at a time, in a buffer that stays in the cache:
//   1. vertical pass: the input rows under the filter, weighted and added, in the compute type;
//   2. split: with downsampling, samples go to planes by their index modulo the horizontal stride;
//   3. horizontal pass: each phase of the output is a weighted sum of those planes, shifted;
//   4. join: the phases are interleaved and rounded to the storage type.
// Every loop over samples has stride one, whatever the resampling. In channels_last layout a "sample" is the
// vector of all channels of a pixel (`inner` numbers); in contiguous layout it is one number.
// A filter that is not an outer product goes through 1 to 3 once per filter row and adds up.
#include <stdlib.h>

#include "parallel.h"
#include "taps.h"

namespace toon {
namespace TOON_ISA {
namespace {

using Index = int64_t;

// out[i] (+)= sum over j < kTaps of w[j] * rows[j][i]
template <int kTaps, bool kAdd, class Out, class In, class A>
void weighted_sum(Out *__restrict out, const In *const *rows, const A *w, Index n) {
  const In *r[kTaps];
  A v[kTaps];
  for (int j = 0; j < kTaps; j++) r[j] = rows[j], v[j] = w[j];
#pragma omp simd
  for (Index i = 0; i < n; i++) {
    A sum = kAdd ? load(out[i]) : A(0);
    for (int j = 0; j < kTaps; j++) sum += v[j] * load(r[j][i]);
    out[i] = store<Out>(sum);
  }
}

template <bool kAdd, class Out, class In, class A>
void up_to_four(Out *out, const In *const *rows, const A *w, Index taps, Index n) {
  if (taps == 4) weighted_sum<4, kAdd>(out, rows, w, n);
  else if (taps == 3) weighted_sum<3, kAdd>(out, rows, w, n);
  else if (taps == 2) weighted_sum<2, kAdd>(out, rows, w, n);
  else if (taps == 1) weighted_sum<1, kAdd>(out, rows, w, n);
  else if (!kAdd) memset(out, 0, n * sizeof(Out));
}

// The same for any number of taps, in groups of four. Out is the compute type wherever there are more.
template <class Out, class In, class A>
void weighted_sum(Out *out, const In *const *rows, const A *w, Index taps, Index n, bool add) {
  if (add) up_to_four<true>(out, rows, w, taps < 4 ? taps : 4, n);
  else up_to_four<false>(out, rows, w, taps < 4 ? taps : 4, n);
  for (Index j = 4; j < taps; j += 4) up_to_four<true>(out, rows + j, w + j, taps - j < 4 ? taps - j : 4, n);
}

// x[(q * planes + s) * inner + c] -> out[s][q * inner + c], q < count
template <class A>
void split(A *out, Index plane, const A *x, Index planes, Index count, Index inner) {
  if (planes == 2 && inner == 1) {
    A *__restrict even = out, *__restrict odd = out + plane;
#pragma omp simd
    for (Index q = 0; q < count; q++) even[q] = x[2 * q], odd[q] = x[2 * q + 1];
    return;
  }
  for (Index s = 0; s < planes; s++)
    for (Index q = 0; q < count; q++)
      for (Index c = 0; c < inner; c++) out[s * plane + q * inner + c] = x[(q * planes + s) * inner + c];
}

// x[r][q * inner + c] -> out[(q * phases + r) * inner + c], q * phases + r < size
template <class S, class A>
void join(S *__restrict out, const A *x, Index plane, Index phases, Index size, Index inner) {
  if (phases == 1) {
#pragma omp simd
    for (Index i = 0; i < size * inner; i++) out[i] = store<S>(x[i]);
    return;
  }
  if (phases == 2 && inner == 1) {
    const A *first = x, *second = x + plane;
#pragma omp simd
    for (Index q = 0; q < size / 2; q++) {
      out[2 * q] = store<S>(first[q]);
      out[2 * q + 1] = store<S>(second[q]);
    }
    if (size % 2) out[size - 1] = store<S>(first[size / 2]);
    return;
  }
  for (Index r = 0; r < phases; r++)
    for (Index q = 0; q * phases + r < size; q++)
#pragma omp simd
      for (Index c = 0; c < inner; c++) out[(q * phases + r) * inner + c] = store<S>(x[r * plane + q * inner + c]);
}

// If f (height x width) is, to rounding, the outer product of a column and a row, writes the column, puts the
// row in place of the first row of f and returns true.
template <class A>
bool factorise(A *f, Index height, Index width, A *column) {
  const auto magnitude = [](A a) { return a < 0 ? -a : a; };
  Index pivot = 0;
  for (Index i = 1; i < height * width; i++)
    if (magnitude(f[i]) > magnitude(f[pivot])) pivot = i;
  const A top = f[pivot] != 0 ? f[pivot] : A(1), tolerance = sizeof(A) == 8 ? A(0x1p-50) : A(0x1p-21);
  const A *const widest = f + pivot / width * width;
  for (Index y = 0; y < height; y++) {
    column[y] = f[y * width + pivot % width] / top;
    for (Index x = 0; x < width; x++) {
      const A tap = f[y * width + x];
      if (magnitude(tap - column[y] * widest[x]) > tolerance * magnitude(tap)) return false;
    }
  }
  memmove(f, widest, width * sizeof(A));
  return true;
}

Index greatest_common_divisor(Index a, Index b) {
  return b ? greatest_common_divisor(b, a % b) : a;
}

template <class S>
struct Plan {
  using A = Compute<S>;
  static constexpr Index kMax = TOON_MAX_TAPS;

  const ToonUpfirdn2d &p;
  bool separable;
  A column[kMax] = {};        // vertical weights of a separable filter
  A rows[kMax * kMax] = {};   // horizontal weights, gain included: one filter row if separable, else f_h
  Index inner, images;        // numbers per sample; stacks of rows
  Index phases, stride;       // horizontally, output q * phases + r starts at first[r].input + q * stride
  Index left, width;          // the row buffer holds samples [-left, width - left), zero outside the image
  Index buffer, plane, phase;  // lengths in numbers: row buffer, one plane of the split, one phase

  explicit Plan(const ToonUpfirdn2d &params) : p(params) {
    const Index count = (p.separable ? 1 : p.f_h) * p.f_w;
    for (Index i = 0; i < count; i++) rows[i] = static_cast<const A *>(p.f)[p.flip ? i : count - 1 - i];
    if (p.separable) memcpy(column, rows, count * sizeof(A));
    separable = p.separable || factorise(rows, p.f_h, p.f_w, column);
    for (Index i = 0; i < (separable ? p.f_w : count); i++) rows[i] *= A(p.gain);

    inner = p.channels_last ? p.c : 1;
    images = p.channels_last ? p.n : p.n * p.c;
    const Index divisor = greatest_common_divisor(p.up_x, p.down_x);
    phases = p.up_x / divisor;
    stride = p.down_x / divisor;
    left = 0;
    Index right = p.in_w;
    for (Index r = 0; r < phases && r < p.out_w; r++) {
      const Taps<Index> first = horizontal(r), last = horizontal(r + (samples(r) - 1) * phases);
      if (-first.input > left) left = -first.input;
      if (last.input + last.count > right) right = last.input + last.count;
    }
    const Index round = 64 / sizeof(A);
    width = (left + right + stride - 1) / stride * stride;
    buffer = (width * inner + round - 1) / round * round;
    plane = (width / stride * inner + round - 1) / round * round;
    phase = (samples(0) * inner + round - 1) / round * round;
  }

  Taps<Index> horizontal(Index o) const { return taps_at(o, p.up_x, p.down_x, p.pad_x0, p.f_w); }
  Index samples(Index r) const { return (p.out_w - r + phases - 1) / phases; }
  Index scratch() const { return buffer + (stride > 1 ? stride * plane : 0) + phases * phase; }

  // Adds (or sets) the horizontal pass of the row buffer to the phases.
  template <class Out>
  void horizontal_pass(Out *out, const A *row, const A *weights, bool add) const {
    const Index pitch = stride > 1 ? plane : 0;
    for (Index r = 0; r < phases && r < p.out_w; r++) {
      const Taps<Index> t = horizontal(r);
      const A *shifted[kMax];
      A w[kMax];
      for (Index j = 0; j < t.count; j++) {
        const Index sample = left + t.input + j;
        shifted[j] = row + sample % stride * pitch + sample / stride * inner;
        w[j] = weights[t.tap + j * p.up_x];
      }
      weighted_sum(out + r * phase, shifted, w, t.count, samples(r) * inner, add);
    }
  }

  // Output row `index`, counted through all images. `work` is scratch() numbers, zero before the first call.
  void output_row(Index index, A *work) const {
    const Index image = index / p.out_h, y = index % p.out_h;
    S *out = static_cast<S *>(p.out) + index * p.out_w * inner;
    const Taps<Index> t = clip(taps_at(y, p.up_y, p.down_y, p.pad_y0, p.f_h), p.up_y, p.in_h);
    if (t.count == 0) {
      memset(out, 0, p.out_w * inner * sizeof(S));
      return;
    }
    const S *under[kMax];
    A w[kMax];
    for (Index j = 0; j < t.count; j++) {
      under[j] = static_cast<const S *>(p.x) + (image * p.in_h + t.input + j) * p.in_w * inner;
      w[j] = column[t.tap + j * p.up_y];
    }
    A *const row = work, *const planes = work + buffer, *const sums = planes + (stride > 1 ? stride * plane : 0);
    const auto split_row = [&] {
      if (stride == 1) return row;
      split(planes, plane, row, stride, width / stride, inner);
      return planes;
    };
    if (separable) {
      weighted_sum(row + left * inner, under, w, t.count, p.in_w * inner, false);
      if (phases == 1 && p.f_w <= 4) return horizontal_pass(out, split_row(), rows, false);
      horizontal_pass(sums, split_row(), rows, false);
    } else {
      const A one = 1;
      for (Index j = 0; j < t.count; j++) {
        weighted_sum(row + left * inner, under + j, &one, 1, p.in_w * inner, false);
        horizontal_pass(sums, split_row(), rows + (t.tap + j * p.up_y) * p.f_w, j > 0);
      }
    }
    join(out, sums, phase, phases, p.out_w, inner);
  }
};

template <class S>
bool run(const ToonUpfirdn2d &p, int threads) {
  using A = Compute<S>;
  const Plan<S> plan(p);
  const Index rows = plan.images * p.out_h;
  const Index enough = 1 + rows * p.out_w * plan.inner / (1 << 14);  // a thread must be worth waking
  const Index workers = enough < threads ? enough : threads;
  A *const scratch = static_cast<A *>(calloc(workers * plan.scratch(), sizeof(A)));
  if (!scratch) return false;
  parallel_for(workers, int(workers), [&](int64_t worker) {
    A *const work = scratch + worker * plan.scratch();
    for (Index i = rows * worker / workers; i < rows * (worker + 1) / workers; i++) plan.output_row(i, work);
  });
  free(scratch);
  return true;
}

}  // namespace

bool upfirdn2d(const ToonUpfirdn2d &p, int threads) {
  bool done = false;
  with_dtype(p.dtype, [&](auto storage) { done = run<decltype(storage)>(p, threads); });
  return done;
}

}  // namespace TOON_ISA
}  // namespace toon
