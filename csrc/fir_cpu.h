// FIR filters on the CPU, shared by upfirdn2d and epilogue (fir_cuda.h has those for CUDA).
//
// One row of output at a time, in pieces so short that their buffers stay in the L1 cache:
//   1. vertical: the input rows under the filter are weighted and added, in the compute type, with zeros as padding;
//   2. split: with downsampling, samples go to planes by their index modulo the horizontal stride;
//   3. horizontal: each phase of the output is a weighted sum of those planes, shifted;
//   4. join: the phases are interleaved.
// Every loop over samples has stride one, whatever the resampling. The input rows under a filter are still in the cache
// from the row before, so keeping filtered rows would save nothing and cost a copy. In channels_last layout a "sample"
// is the vector of all channels of a pixel (`inner` numbers), and steps 2 and 4 are needed only if the channels are
// few; in contiguous layout it is one number. If the filter is not an outer product, step 1 copies each row under it,
// and step 3 is one sum over all taps.
//
// A `Sink` consumes the filtered pieces:
//   T *sink.place(buffer, row, column)       where to form the piece: `buffer`, or the output itself
//   sink.done(piece, row, column, columns)   called when the piece is complete
//   sink.end()                               called when a thread has made all its rows
// `row` counts through the output rows of all images, `column` through the pixels of a row.
#pragma once

#include <stdlib.h>

#include "parallel.h"
#include "simd.h"
#include "taps.h"

#define TOON_NOINLINE __attribute__((noinline))

namespace toon {
namespace TOON_ISA {
namespace {

using Index = int64_t;
constexpr Index kMax = TOON_MAX_TAPS;
constexpr Index kPiece = 1 << 13;  // numbers: 32 kilobytes of float32

// out[i] = f(load, i), i < n, where load(p) is the number at p, or a vector of numbers from there on.
template <class S, class F>
inline void fill(S *out, Index n, const F &f) {
  constexpr Index L = kLanes<Compute<S>>;
  const auto vector = [](const auto *p) { return load_vector(p); };
  const auto number = [](const auto *p) { return load(*p); };
  Index i = 0;
  for (; i + 2 * L <= n; i += 2 * L) {
    const auto one = f(vector, i), two = f(vector, i + L);
    store_vector(out + i, one);
    store_vector(out + i + L, two);
  }
  for (; i + L <= n; i += L) store_vector(out + i, f(vector, i));
  for (; i < n; i++) out[i] = store<S>(f(number, i));
}

// The same with even(load, q) and odd(load, q) in turn: out[2 q] and out[2 q + 1].
template <class S, class F, class G>
inline void fill_pairs(S *out, Index n, const F &even, const G &odd) {
  using A = Compute<S>;
  constexpr Index L = kLanes<A>;
  const auto vector = [](const auto *p) { return load_vector(p); };
  const auto number = [](const auto *p) { return load(*p); };
  Index q = 0;
  for (; 2 * (q + L) <= n; q += L) {
    const Vector<A> a = even(vector, q), b = odd(vector, q);
    store_vector(out + 2 * q, interleave_first<A>(a, b));
    store_vector(out + 2 * q + L, interleave_second<A>(a, b));
  }
  for (; 2 * q < n; q++) {
    out[2 * q] = store<S>(even(number, q));
    if (2 * q + 1 < n) out[2 * q + 1] = store<S>(odd(number, q));
  }
}

// A weighted sum of rows, formed by `into` or `with`.
template <class In, Index kMost>
struct Sum {
  using A = Compute<In>;
  const In *rows[kMost];
  A w[kMost];
  Index taps = 0;

  void add(const In *row, A weight) { rows[taps] = row, w[taps++] = weight; }
  void move(Index by) {
    for (Index j = 0; j < taps; j++) rows[j] += by;
  }

  template <class S>
  void into(S *out, Index n) const {
    if (taps == 4) four(out, n, rows[0], rows[1], rows[2], rows[3], w[0], w[1], w[2], w[3]);
    else if (taps == 2) two(out, n, rows[0], rows[1], w[0], w[1]);
    else if (taps > 0) fill(out, n, [&](auto load, Index i) { return at(load, i); });
    else memset(out, 0, n * sizeof(S));
  }

  // Even numbers of out from this sum, odd ones from the other.
  template <class S>
  void with(const Sum &odd, S *out, Index n) const {
    if (taps == 2 && odd.taps == 2)
      return pairs(out, n, rows[0], rows[1], odd.rows[0], odd.rows[1], w[0], w[1], odd.w[0], odd.w[1]);
    fill_pairs(
        out, n, [&](auto load, Index q) { return at(load, q); }, [&](auto load, Index q) { return odd.at(load, q); });
  }

 private:
  template <class Load>
  auto at(const Load &load, Index i) const {
    auto sum = w[0] * load(rows[0] + i);
    for (Index j = 1; j < taps; j++) sum += w[j] * load(rows[j] + i);
    return sum;
  }

  // Not inlined, so that the taps are passed in registers: reading them back as vectors right after they were
  // written one by one would stall.
  template <class S>
  TOON_NOINLINE static void four(S *out, Index n, const In *a, const In *b, const In *c, const In *d, A wa, A wb, A wc,
                                 A wd) {
    fill(out, n,
         [=](auto load, Index i) { return wa * load(a + i) + wb * load(b + i) + wc * load(c + i) + wd * load(d + i); });
  }

  template <class S>
  TOON_NOINLINE static void two(S *out, Index n, const In *a, const In *b, A wa, A wb) {
    fill(out, n, [=](auto load, Index i) { return wa * load(a + i) + wb * load(b + i); });
  }

  template <class S>
  TOON_NOINLINE static void pairs(S *out, Index n, const In *a, const In *b, const In *c, const In *d, A wa, A wb, A wc,
                                  A wd) {
    fill_pairs(
        out, n, [=](auto load, Index q) { return wa * load(a + q) + wb * load(b + q); },
        [=](auto load, Index q) { return wc * load(c + q) + wd * load(d + q); });
  }
};

// Sample q * planes + s of x -> sample q of plane s, q < count
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

// Sample q of phase r -> sample q * phases + r of out, which has `size` samples
template <class S, class A>
void join(S *out, const A *x, Index phase, Index phases, Index size, Index inner) {
  for (Index r = 0; r < phases; r++)
    for (Index q = 0; q * phases + r < size; q++)
      for (Index c = 0; c < inner; c++) out[(q * phases + r) * inner + c] = store<S>(x[r * phase + q * inner + c]);
}

Index greatest_common_divisor(Index a, Index b) { return b ? greatest_common_divisor(b, a % b) : a; }

// The taps of one phase of the output, f_w / up_x of them, and the samples of a loaded row that they multiply.
struct Over {
  Index offset[kMax];  // of the sample under a tap, from the start of the row
  Index tap[kMax];
  Index taps;
};

// What is the same for all rows. Lengths are in numbers of the compute type.
template <class S>
struct FirPlan {
  using A = Compute<S>;

  const ToonUpfirdn2d &p;
  bool separable = p.separable;
  A column[kMax] = {};              // vertical weights of a separable filter
  A rows[kMax * kMax] = {};         // horizontal weights, gain included: one filter row if separable, else f_h
  Index inner, images;              // numbers per sample; stacks of rows
  Index phases, stride;             // output o lies over input o / phases * stride + constant(o % phases)
  bool apart;                       // samples are short: steps 2 and 4 are needed
  Index columns, samples;           // of a piece: columns of output, samples under them
  Index row, plane, loaded, phase;  // lengths: row buffer; one plane of it; all planes; one phase
  Taps<Index> *down = nullptr;      // of every output row

  explicit FirPlan(const ToonUpfirdn2d &params) : p(params) {
    const Index count = (p.separable ? 1 : p.f_h) * p.f_w;
    for (Index i = 0; i < count; i++) rows[i] = static_cast<const A *>(p.f)[p.flip ? i : count - 1 - i];
    A row_taps[kMax];
    if (p.separable) {
      memcpy(column, rows, count * sizeof(A));
    } else if (factorise(rows, int(p.f_h), int(p.f_w), column, row_taps)) {
      memcpy(rows, row_taps, p.f_w * sizeof(A));
      separable = true;
    }
    for (Index i = 0; i < (separable ? p.f_w : count); i++) rows[i] *= A(p.gain);

    inner = p.channels_last ? p.c : 1;
    images = p.channels_last ? p.n : p.n * p.c;
    const Index divisor = greatest_common_divisor(p.up_x, p.down_x);
    phases = p.up_x / divisor;
    stride = p.down_x / divisor;
    apart = inner < kLanes<A> && (phases > 1 || stride > 1);
    const Index least = 8, fitting = kPiece / inner / phases;
    columns = (fitting < least ? least : fitting) * phases;  // a multiple: phase 0 begins every piece
    if (columns > p.out_w) columns = p.out_w;

    const Index taps = (p.f_w + p.up_x - 1) / p.up_x;
    samples = ((columns - 1) / phases + 2 + (taps - 1) / stride + 1) * stride;
    row = rounded(samples * inner);
    plane = rounded(samples / stride * inner);
    loaded = apart && stride > 1 ? stride * plane : row;
    phase = rounded(((columns - 1) / phases + 1) * inner);
  }

  static Index rounded(Index n) { return (n + 15) / 16 * 16; }

  Taps<Index> across(Index o) const { return taps_at(o, p.up_x, p.down_x, p.pad_x0, p.f_w); }
  Index parts() const { return phases < columns ? phases : columns; }  // phases that a piece has
  Index rows_loaded() const { return separable ? 1 : p.f_h; }
  Index numbers() const { return row + rows_loaded() * loaded + parts() * phase + rounded(columns * inner); }
  Index table_bytes() const { return (p.out_h * sizeof(Taps<Index>) + 63) / 64 * 64; }
  Index over_at() const { return (numbers() * sizeof(A) + 63) / 64 * 64; }
  Index worker_bytes() const { return over_at() + (parts() * sizeof(Over) + 63) / 64 * 64; }
};

// Makes a range of output rows, in worker_bytes() of its own.
template <class S, class T, class Sink>
class FirWorker {
  using A = Compute<S>;

  const FirPlan<S> &plan_;
  const ToonUpfirdn2d &p;
  const Sink &sink_;
  A *const row_, *const loaded_, *const phases_;
  T *const piece_;
  Over *const over_;
  const Index left_;  // the first sample under column 0

 public:
  FirWorker(const FirPlan<S> &plan, char *memory, const Sink &sink)
      : plan_(plan),
        p(plan.p),
        sink_(sink),
        row_(reinterpret_cast<A *>(memory)),
        loaded_(row_ + plan.row),
        phases_(loaded_ + plan.rows_loaded() * plan.loaded),
        piece_(reinterpret_cast<T *>(phases_ + plan.parts() * plan.phase)),
        over_(reinterpret_cast<Over *>(memory + plan.over_at())),
        left_(plan.across(0).input) {
    for (Index r = 0; r < plan.parts(); r++) {
      const Taps<Index> t = plan.across(r);
      over_[r].taps = t.count;
      for (Index k = 0; k < t.count; k++) {
        const Index sample = t.input - left_ + k;
        over_[r].tap[k] = t.tap + k * p.up_x;
        over_[r].offset[k] =
            !plan.apart ? sample * plan.inner : sample % plan.stride * plan.plane + sample / plan.stride * plan.inner;
      }
    }
  }

  // Output rows [first, last), counted through all images.
  void run(Index first, Index last) {
    for (Index i = first; i < last; i++) {
      const Index image = i / p.out_h;
      const Taps<Index> &t = plan_.down[i - image * p.out_h];
      const S *const x = static_cast<const S *>(p.x) + (image * p.in_h + t.input) * p.in_w * plan_.inner;
      for (Index c = 0; c < p.out_w; c += plan_.columns) {
        const Index columns = c + plan_.columns < p.out_w ? plan_.columns : p.out_w - c;
        T *const to = sink_.place(piece_, i, c);
        if (t.count) piece(to, x, t, c, columns);
        else memset(to, 0, columns * plan_.inner * sizeof(T));
        sink_.done(to, i, c, columns);
      }
    }
    sink_.end();
  }

 private:
  // Columns [c, c + columns) of the output row with vertical taps t, which begin at row x.
  void piece(T *out, const S *x, const Taps<Index> &t, Index c, Index columns) {
    const Index pitch = p.in_w * plan_.inner, left = left_ + c / plan_.phases * plan_.stride;
    const A *loaded[kMax], *weights[kMax];
    if (plan_.separable) {
      Sum<S, kMax> sum;
      for (Index j = 0; j < t.count; j++) sum.add(x + j * pitch, plan_.column[t.tap + j * p.up_y]);
      loaded[0] = load_row(loaded_, sum, left);
      weights[0] = plan_.rows;
      return across(out, loaded, weights, 1, columns);
    }
    for (Index j = 0; j < t.count; j++) {
      Sum<S, kMax> sum;
      sum.add(x + j * pitch, 1);
      loaded[j] = load_row(loaded_ + j * plan_.loaded, sum, left);
      weights[j] = plan_.rows + (t.tap + j * p.up_y) * p.f_w;
    }
    across(out, loaded, weights, t.count, columns);
  }

  // Steps 1 and 2: a sum of input rows, from sample `left` on.
  const A *load_row(A *to, Sum<S, kMax> &sum, Index left) {
    const Index inner = plan_.inner, right = left + plan_.samples;
    Index begin = left > 0 ? left : 0, end = right < p.in_w ? right : p.in_w;
    if (begin >= end) begin = end = left;  // nothing but padding
    const bool splits = plan_.apart && plan_.stride > 1;
    A *const row = splits ? row_ : to;
    if (left < begin) memset(row, 0, (begin - left) * inner * sizeof(A));
    sum.move(begin * inner);
    if (begin < end) sum.into(row + (begin - left) * inner, (end - begin) * inner);
    if (end < right) memset(row + (end - left) * inner, 0, (right - end) * inner * sizeof(A));
    if (splits) split(to, plan_.plane, row, plan_.stride, plan_.samples / plan_.stride, inner);
    return to;
  }

  // Steps 3 and 4: a row of output from `count` loaded rows, each with its own weights.
  void across(T *out, const A *const *rows, const A *const *weights, Index count, Index columns) {
    const Index inner = plan_.inner, phases = plan_.phases;
    const auto sum_of_phase = [&](Index r) {
      Sum<A, kMax * kMax> sum;
      for (Index j = 0; j < count; j++)
        for (Index k = 0; k < over_[r].taps; k++) sum.add(rows[j] + over_[r].offset[k], weights[j][over_[r].tap[k]]);
      return sum;
    };
    if (phases == 1 && (plan_.apart || plan_.stride == 1)) return sum_of_phase(0).into(out, columns * inner);
    if (plan_.parts() == 2 && inner == 1 && over_[0].taps && over_[1].taps)
      return sum_of_phase(0).with(sum_of_phase(1), out, columns);
    for (Index r = 0; r < phases && r < columns; r++) {
      auto sum = sum_of_phase(r);
      const Index samples = (columns - r + phases - 1) / phases;
      if (plan_.apart) sum.into(phases_ + r * plan_.phase, samples * inner);
      else
        for (Index q = 0; q < samples; q++, sum.move(plan_.stride * inner))
          sum.into(out + (q * phases + r) * inner, inner);
    }
    if (plan_.apart) join(out, phases_, plan_.phase, phases, columns, inner);
  }
};

// Filters everything that p describes; the sink writes p.out. T: the type that pieces are formed in, S or Compute<S>.
// Returns false if memory cannot be allocated.
template <class S, class T, class Sink>
bool fir(const ToonUpfirdn2d &p, int threads, const Sink &sink) {
  if (p.n * p.c == 0) return true;
  FirPlan<S> plan(p);
  const Index rows = plan.images * p.out_h, numbers = rows * p.out_w * plan.inner;
  const Index enough = 1 + numbers / (1 << 14);  // fewer numbers are not worth waking a thread for
  const Index workers = enough < threads ? enough : threads;
  char *const memory = static_cast<char *>(malloc(64 + plan.table_bytes() + workers * plan.worker_bytes()));
  if (!memory) return false;
  char *const aligned = memory + (-reinterpret_cast<uintptr_t>(memory) & 63);
  plan.down = reinterpret_cast<Taps<Index> *>(aligned);
  for (Index y = 0; y < p.out_h; y++)
    plan.down[y] = clip(taps_at(y, p.up_y, p.down_y, p.pad_y0, p.f_h), p.up_y, p.in_h);
  parallel_for(workers, int(workers), [&](int64_t i) {
    FirWorker<S, T, Sink> worker(plan, aligned + plan.table_bytes() + i * plan.worker_bytes(), sink);
    worker.run(rows * i / workers, rows * (i + 1) / workers);
  });
  free(memory);
  return true;
}

}  // namespace
}  // namespace TOON_ISA
}  // namespace toon
