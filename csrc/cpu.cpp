// The entrance: what the library is, and the choice of instruction set.
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
};

Kernels choose() {
#ifdef TOON_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return {"avx512", toon::avx512::bias_act, toon::avx512::upfirdn2d};
  if (avx2) return {"avx2", toon::avx2::bias_act, toon::avx2::upfirdn2d};
#endif
  return {"baseline", toon::baseline::bias_act, toon::baseline::upfirdn2d};
}

const Kernels kernels = choose();

}  // namespace

int toon_abi_version(void) { return TOON_ABI_VERSION; }
const char *toon_build(void) { return TOON_BUILD; }
const char *toon_cpu_isa(void) { return kernels.isa; }

const char *toon_bias_act_cpu(const ToonBiasAct *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  kernels.bias_act(*p, threads);
  return nullptr;
}

const char *toon_upfirdn2d_cpu(const ToonUpfirdn2d *p, int threads) {
  if (const char *error = toon_invalid(*p)) return error;
  return kernels.upfirdn2d(*p, threads) ? nullptr : "out of memory";
}
