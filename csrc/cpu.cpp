// The entry points of the CPU kernels, the description of the build, and the choice of instruction set.
#include <string.h>

#include <atomic>

#include "check.h"
#include "cpu.h"

#ifndef TOON_BUILD
#define TOON_BUILD "unknown build"
#endif

namespace {

struct Kernels {
  const char *isa;
  void (*bias_act)(const ToonBiasAct &, int);
  bool (*upfirdn2d)(const ToonUpfirdn2d &, int);
  bool (*epilogue)(const ToonEpilogue &, int);
  void (*epilogue_grad)(const ToonEpilogueGrad &, int);
  bool (*conv3x3)(const ToonConv3x3 &, int);
  bool (*conv3x3_weight)(const ToonConv3x3Weight &, int);
  void (*conv3x3_pack)(const ToonConv3x3Pack &, int);
  int64_t (*conv3x3_packed)(int64_t, int64_t, int64_t);
  void (*haar2d)(const ToonHaar &, int);
  bool (*separable)(const ToonSeparable &, int);
  void (*separable_pack)(const ToonSeparablePack &, int);
  int64_t (*separable_packed)(int64_t, int64_t);
  bool (*separable_grad)(const ToonSeparableGrad &, int);
  bool (*corners)(const ToonCorners &, int);
  bool (*corners_grad)(const ToonCornersGrad &, int);
};

#define TOON_KERNELS(isa)       \
  {#isa,                        \
   toon::isa::bias_act,         \
   toon::isa::upfirdn2d,        \
   toon::isa::epilogue,         \
   toon::isa::epilogue_grad,    \
   toon::isa::conv3x3,          \
   toon::isa::conv3x3_weight,   \
   toon::isa::conv3x3_pack,     \
   toon::isa::conv3x3_packed,   \
   toon::isa::haar2d,           \
   toon::isa::separable,        \
   toon::isa::separable_pack,   \
   toon::isa::separable_packed, \
   toon::isa::separable_grad,   \
   toon::isa::corners,          \
   toon::isa::corners_grad}
const Kernels baseline = TOON_KERNELS(baseline);
#ifdef TOON_X86
const Kernels avx2 = TOON_KERNELS(avx2);
const Kernels avx512 = TOON_KERNELS(avx512);
#endif

// The widest instruction set that this processor has, or, if `wanted`, that one if the processor has it.
const Kernels *choose(const char *wanted) {
  const auto fits = [&](const Kernels &k) { return !wanted || !strcmp(wanted, k.isa); };
#ifdef TOON_X86
  __builtin_cpu_init();
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && fits(avx512)) return &avx512;
  if (has_avx2 && fits(avx2)) return &avx2;
#endif
  return fits(baseline) ? &baseline : nullptr;
}

// Atomic, because tests and benchmarks change it while other threads may run kernels.
std::atomic<const Kernels *> chosen{choose(nullptr)};

const Kernels *kernels() { return chosen.load(std::memory_order_relaxed); }

}  // namespace

int toon_abi_version(void) { return TOON_ABI_VERSION; }

int64_t toon_sizeof(const char *name) {
#define TOON_SIZE(type) \
  if (!strcmp(name, #type)) return sizeof(type);
  TOON_SIZE(ToonBiasAct)
  TOON_SIZE(ToonUpfirdn2d)
  TOON_SIZE(ToonConv3x3)
  TOON_SIZE(ToonConv3x3Weight)
  TOON_SIZE(ToonConv3x3Pack)
  TOON_SIZE(ToonHaar)
  TOON_SIZE(ToonSeparable)
  TOON_SIZE(ToonSeparableGrad)
  TOON_SIZE(ToonCorners)
  TOON_SIZE(ToonCornersGrad)
  TOON_SIZE(ToonSeparablePack)
  TOON_SIZE(ToonEpilogue)
  TOON_SIZE(ToonEpilogueGrad)
#undef TOON_SIZE
  return -1;
}

const char *toon_build(void) { return TOON_BUILD; }
const char *toon_cpu_isa(void) { return kernels()->isa; }

const char *toon_choose_cpu_isa(const char *isa) {
  const Kernels *wanted = choose(isa);
  if (!wanted) return "this processor or this library does not have that instruction set";
  chosen.store(wanted, std::memory_order_relaxed);
  return nullptr;
}

const char *toon_bias_act_cpu(const ToonBiasAct *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  kernels()->bias_act(*p, threads);
  return nullptr;
}

const char *toon_upfirdn2d_cpu(const ToonUpfirdn2d *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->upfirdn2d(*p, threads) ? nullptr : "out of memory";
}

const char *toon_conv3x3_cpu(const ToonConv3x3 *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->conv3x3(*p, threads) ? nullptr : "out of memory";
}

const char *toon_conv3x3_weight_cpu(const ToonConv3x3Weight *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->conv3x3_weight(*p, threads) ? nullptr : "out of memory";
}

const char *toon_conv3x3_pack_cpu(const ToonConv3x3Pack *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  kernels()->conv3x3_pack(*p, threads);
  return nullptr;
}

int64_t toon_conv3x3_packed_cpu(int64_t kind, int64_t c_in, int64_t c_out) {
  return kernels()->conv3x3_packed(kind, c_in, c_out);
}

const char *toon_haar_cpu(const ToonHaar *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  if (p->dtype != TOON_FLOAT32) return "the kernel for the CPU takes float32";
  kernels()->haar2d(*p, threads);
  return nullptr;
}

const char *toon_separable_cpu(const ToonSeparable *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->separable(*p, threads) ? nullptr : "out of memory";
}

const char *toon_separable_grad_cpu(const ToonSeparableGrad *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->separable_grad(*p, threads) ? nullptr : "out of memory";
}

const char *toon_corners_cpu(const ToonCorners *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->corners(*p, threads) ? nullptr : "out of memory";
}

const char *toon_corners_grad_cpu(const ToonCornersGrad *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->corners_grad(*p, threads) ? nullptr : "out of memory";
}

const char *toon_separable_pack_cpu(const ToonSeparablePack *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  kernels()->separable_pack(*p, threads);
  return nullptr;
}

int64_t toon_separable_packed_cpu(int64_t depth, int64_t columns) {
  return kernels()->separable_packed(depth, columns);
}

const char *toon_epilogue_cpu(const ToonEpilogue *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels()->epilogue(*p, threads) ? nullptr : "out of memory";
}

const char *toon_epilogue_grad_cpu(const ToonEpilogueGrad *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  kernels()->epilogue_grad(*p, threads);
  return nullptr;
}
