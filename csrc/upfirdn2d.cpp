// upfirdn2d on the CPU. Compiled once per instruction set; cpu.cpp chooses.
//
// A worker takes a run of output rows, in strips of columns so narrow that what it needs stays in the cache:
//   1. load: an input row, in the compute type, between zeros for the padding; with downsampling in contiguous
//      layout, samples go to planes by their index modulo the horizontal stride;
//   2. across: a weighted sum of the row at several shifts, once per phase of the output; phases are interleaved;
//   3. down: a weighted sum of the last few rows that came out of 2, which a ring holds, is an output row.
// So every input row is read and filtered horizontally once, and every loop over samples has stride one. In
// channels_last layout a "sample" is the vector of all channels of a pixel (`inner` numbers); in contiguous layout
// it is one number. If the filter is not an outer product, the ring holds what came out of 1, and 2 and 3 are one
// sum over all taps.
#include <stdlib.h>

#include "parallel.h"
#include "simd.h"
#include "taps.h"

namespace toon {
namespace TOON_ISA {
namespace {

using Index = int64_t;
constexpr Index kMax = TOON_MAX_TAPS;
constexpr Index kStripBytes = 1 << 16;  // of row buffer and ring: within every L2 cache

// out[i] = sum over j of w[j] * rows[j][i], i < n. Reads whole vectors of the rows, writes no more than n numbers.
template <int kTaps, class S, class A>
void sum_of(S *out, const A *const *rows, const A *w, Index taps, Index n) {
  constexpr Index L = kLanes<A>;
  const A *r[kTaps ? kTaps : 1];
  A v[kTaps ? kTaps : 1];
  if constexpr (kTaps) {  // copies, which the output cannot overwrite, stay in registers
    taps = kTaps;
    for (Index j = 0; j < taps; j++) r[j] = rows[j], v[j] = w[j];
    rows = r, w = v;
  }
  Index i = 0;
  for (; i + 2 * L <= n; i += 2 * L) {
    Vector<A> one = w[0] * load_vector(rows[0] + i), two = w[0] * load_vector(rows[0] + i + L);
    for (Index j = 1; j < taps; j++) {
      one += w[j] * load_vector(rows[j] + i);
      two += w[j] * load_vector(rows[j] + i + L);
    }
    store_vector(out + i, one);
    store_vector(out + i + L, two);
  }
  for (; i < n; i += L) {
    Vector<A> sum = w[0] * load_vector(rows[0] + i);
    for (Index j = 1; j < taps; j++) sum += w[j] * load_vector(rows[j] + i);
    if (i + L <= n) store_vector(out + i, sum);
    else store_some(out + i, sum, n - i);
  }
}

// A weighted sum of rows that is yet to be formed.
template <class A, Index kMost>
struct Sum {
  const A *rows[kMost];
  A w[kMost];
  Index taps = 0;

  void add(const A *row, A weight) { rows[taps] = row, w[taps++] = weight; }
  void move(Index by) { for (Index j = 0; j < taps; j++) rows[j] += by; }

  template <class S>
  void into(S *out, Index n) const {
    if (taps == 4) sum_of<4>(out, rows, w, 4, n);
    else if (taps == 2) sum_of<2>(out, rows, w, 2, n);
    else if (taps > 0) sum_of<0>(out, rows, w, taps, n);
    else memset(out, 0, n * sizeof(S));
  }
};

// x[q * planes + s] -> out[s][q], q < count
template <class A>
void split(A *out, Index plane, const A *x, Index planes, Index count) {
  if (planes == 2) {
    A *__restrict even = out, *__restrict odd = out + plane;
#pragma omp simd
    for (Index q = 0; q < count; q++) even[q] = x[2 * q], odd[q] = x[2 * q + 1];
    return;
  }
  for (Index s = 0; s < planes; s++)
    for (Index q = 0; q < count; q++) out[s * plane + q] = x[q * planes + s];
}

// x[r][q] -> out[q * phases + r], q * phases + r < size
template <class S, class A>
void join(S *__restrict out, const A *x, Index plane, Index phases, Index size) {
  if (phases == 2) {
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
    for (Index q = 0; q * phases + r < size; q++) out[q * phases + r] = store<S>(x[r * plane + q]);
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

// Where the filter lies horizontally over the row buffer, for one phase of the output: f_w / up_x taps.
struct Over {
  Index offset[kMax];  // of the sample under a tap, from the start of a loaded row
  Index tap[kMax];
  Index taps;
};

// What is the same for all rows. Lengths are in numbers of the compute type.
template <class S>
struct Plan {
  using A = Compute<S>;

  const ToonUpfirdn2d &p;
  bool separable;
  A column[kMax] = {};       // vertical weights of a separable filter
  A rows[kMax * kMax] = {};  // horizontal weights, gain included: one filter row if separable, else f_h
  Index inner, images;       // numbers per sample; stacks of rows
  Index phases, stride;      // output o lies over input o / phases * stride + constant(o % phases)
  bool planes;               // rows are split by the stride and joined from phases (else whole pixels: no need to)
  Index ring;                // rows that the filter spans, rounded up to a power of two
  Index strip;               // columns of output at a time
  Index width;               // samples under a strip
  Index row, plane, loaded, phase, pitch;  // row buffer; one plane of it; all planes; phase; row in the ring
  Taps<Index> *down = nullptr;             // of every output row

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
    planes = !p.channels_last && (phases > 1 || stride > 1);
    for (ring = 1; ring < (p.f_h + p.up_y - 1) / p.up_y;) ring *= 2;
    const Index least = 8, fitting = kStripBytes / Index(sizeof(A)) / (ring + 1) / inner / phases;
    strip = (fitting < least ? least : fitting) * phases;
    if (strip > p.out_w) strip = p.out_w;

    const Index taps = (p.f_w + p.up_x - 1) / p.up_x;
    width = ((strip - 1) / phases + 2 + (taps - 1) / stride + 1) * stride;
    row = padded(width * inner);
    plane = padded(width / stride);
    loaded = planes && stride > 1 ? stride * plane : row;
    phase = padded((strip - 1) / phases + 1);
    pitch = separable ? padded(strip * inner) : loaded;
  }

  static Index padded(Index n) { return (n + 31) / 16 * 16; }  // sums read whole vectors

  Index parts() const { return phases < strip ? phases : strip; }  // phases that a strip has
  Index table_bytes() const { return p.out_h * sizeof(Taps<Index>); }
  Index buffers() const { return row + loaded + parts() * phase + ring * pitch + padded(strip * inner); }
  Index worker_bytes() const { return (buffers() * sizeof(A) + parts() * sizeof(Over) + 127) / 64 * 64; }
};

// Does a run of output rows, strip after strip, in worker_bytes() of its own.
template <class S>
class Worker {
  using A = Compute<S>;

  const Plan<S> &plan_;
  const ToonUpfirdn2d &p;
  const bool past_cache_;
  A *const row_, *const planes_, *const phases_, *const ring_;
  S *const staging_;
  Over *const over_;
  Index x_ = 0, columns_ = 0;  // the strip: first column of output, how many
  Index left_ = 0;             // the row buffer holds the samples from left_ on
  Index begin_ = 0, end_ = 0;  // of them, [begin_, end_) lie within the image; zeros stand for the others

 public:
  Worker(const Plan<S> &plan, void *memory, bool past_cache)
      : plan_(plan), p(plan.p), past_cache_(past_cache),
        row_(static_cast<A *>(memory)), planes_(row_ + plan.row), phases_(planes_ + plan.loaded),
        ring_(phases_ + plan.parts() * plan.phase), staging_(reinterpret_cast<S *>(ring_ + plan.ring * plan.pitch)),
        over_(reinterpret_cast<Over *>(row_ + (plan.buffers() * sizeof(A) + 63) / 64 * 64 / sizeof(A))) {}

  // Output rows [first, last), counted through all images.
  void run(Index first, Index last) {
    for (Index x = 0; x < p.out_w; x += plan_.strip) {
      start_strip(x, x + plan_.strip < p.out_w ? plan_.strip : p.out_w - x);
      for (Index i = first, to; i < last; i = to) {
        const Index image = i / p.out_h;
        to = (image + 1) * p.out_h < last ? (image + 1) * p.out_h : last;
        rows_of(image, i - image * p.out_h, to - image * p.out_h);
      }
    }
    if (past_cache_) finish_past_cache();
  }

 private:
  void start_strip(Index x, Index columns) {
    x_ = x, columns_ = columns;
    const auto taps = [&](Index o) { return taps_at(o, p.up_x, p.down_x, p.pad_x0, p.f_w); };
    left_ = taps(x).input;  // the least: it grows with the column
    begin_ = left_ > 0 ? left_ : 0;
    end_ = left_ + plan_.width < p.in_w ? left_ + plan_.width : p.in_w;
    for (Index r = 0; r < plan_.parts(); r++) {
      const Taps<Index> t = taps(x + r);
      over_[r].taps = t.count;
      for (Index k = 0; k < t.count; k++) {
        const Index sample = t.input - left_ + k;
        over_[r].tap[k] = t.tap + k * p.up_x;
        over_[r].offset[k] = !plan_.planes ? sample * plan_.inner
                                           : sample % plan_.stride * plan_.plane + sample / plan_.stride;
      }
    }
    memset(row_, 0, plan_.buffers() * sizeof(A));  // the zeros around the image stay
  }

  // Step 1. Returns where the row is: in `to`, which may be a slot of the ring.
  const A *load_row(A *to, const S *x) {
    const bool splits = plan_.planes && plan_.stride > 1;
    A *const row = splits ? row_ : to;
    if (begin_ < end_) widen(row + (begin_ - left_) * plan_.inner, x + begin_ * plan_.inner, (end_ - begin_) * plan_.inner);
    if (splits) split(to, plan_.plane, row, plan_.stride, plan_.width / plan_.stride);
    return to;
  }

  // Step 2: columns_ samples from `count` loaded rows, each with its own weights.
  template <class Out>
  void across(Out *out, const A *const *rows, const A *const *weights, Index count) {
    const Index inner = plan_.inner;
    for (Index r = 0; r < plan_.phases && r < columns_; r++) {
      const Over &over = over_[r];
      Sum<A, kMax * kMax> sum;
      for (Index j = 0; j < count; j++)
        for (Index k = 0; k < over.taps; k++) sum.add(rows[j] + over.offset[k], weights[j][over.tap[k]]);
      const Index samples = (columns_ - r + plan_.phases - 1) / plan_.phases;
      if (plan_.phases == 1 && plan_.stride == 1) sum.into(out, columns_ * inner);
      else if (plan_.phases == 1 && plan_.planes) sum.into(out, columns_);
      else if (plan_.planes) sum.into(phases_ + r * plan_.phase, whole_vectors<A>(samples));
      else for (Index q = 0; q < samples; q++, sum.move(plan_.stride * inner))
        sum.into(out + (q * plan_.phases + r) * inner, inner);
    }
    if (plan_.planes && plan_.phases > 1) join(out, phases_, plan_.phase, plan_.phases, columns_);
  }

  // Output rows [first, last) of one image.
  void rows_of(Index image, Index first, Index last) {
    const Index inner = plan_.inner, n = columns_ * inner;
    const auto slot = [&](Index row) { return ring_ + (row & (plan_.ring - 1)) * plan_.pitch; };
    Index next = 0;  // the first input row that is not in the ring
    for (Index y = first; y < last; y++) {
      S *const out = static_cast<S *>(p.out) + ((image * p.out_h + y) * p.out_w + x_) * inner;
      S *const to = past_cache_ ? staging_ : out;
      const Taps<Index> &t = plan_.down[y];
      for (next = next > t.input ? next : t.input; next < t.input + t.count; next++) {
        const S *const x = static_cast<const S *>(p.x) + (image * p.in_h + next) * p.in_w * inner;
        if (plan_.separable) {
          const A *const row = load_row(planes_, x), *const weights = plan_.rows;
          across(slot(next), &row, &weights, 1);
        } else {
          load_row(slot(next), x);
        }
      }
      if (plan_.separable) {
        Sum<A, kMax> sum;
        for (Index j = 0; j < t.count; j++) sum.add(slot(t.input + j), plan_.column[t.tap + j * p.up_y]);
        sum.into(to, n);
      } else {
        const A *rows[kMax], *weights[kMax];
        for (Index j = 0; j < t.count; j++) {
          rows[j] = slot(t.input + j);
          weights[j] = plan_.rows + (t.tap + j * p.up_y) * p.f_w;
        }
        across(to, rows, weights, t.count);
      }
      if (past_cache_) copy_past_cache(out, to, n * sizeof(S));
    }
  }
};

template <class S>
bool run(const ToonUpfirdn2d &p, int threads) {
  Plan<S> plan(p);
  const Index rows = plan.images * p.out_h, numbers = rows * p.out_w * plan.inner;
  const Index enough = 1 + numbers / (1 << 14);  // a thread must be worth waking
  const Index workers = enough < threads ? enough : threads;
  const Index table = (plan.table_bytes() + 63) / 64 * 64;
  char *const memory = static_cast<char *>(malloc(64 + table + workers * plan.worker_bytes()));
  if (!memory) return false;
  char *const aligned = memory + (-reinterpret_cast<uintptr_t>(memory) & 63);
  plan.down = reinterpret_cast<Taps<Index> *>(aligned);
  for (Index y = 0; y < p.out_h; y++)
    plan.down[y] = clip(taps_at(y, p.up_y, p.down_y, p.pad_y0, p.f_h), p.up_y, p.in_h);
  const bool past = past_cache(numbers * sizeof(S), p.out, p.x);
  parallel_for(workers, int(workers), [&](int64_t i) {
    Worker<S> worker(plan, aligned + table + i * plan.worker_bytes(), past);
    worker.run(rows * i / workers, rows * (i + 1) / workers);
  });
  free(memory);
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
