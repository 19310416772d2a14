// The whole C interface of the kernels. No header of torch or Python is needed on either side:
// stylegan_toon/ops/library.py fills the structs and calls the launchers through ctypes.
//
// Conventions
// - A launcher returns NULL on success, otherwise a message with static lifetime.
// - Every field is 8 bytes wide, so a struct has the same layout for every compiler.
// - Tensors are dense. "Compute type" means double for TOON_FLOAT64 and float for all the other dtypes:
//   sums are formed in it, and the small operands (bias, filter) are passed in it.
// - CPU launchers take the number of threads, so that torch.set_num_threads holds for them too.
//   CUDA launchers take a device and a stream, launch on that stream and do not wait.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define TOON_API __declspec(dllexport)
#else
#define TOON_API __attribute__((visibility("default")))
#endif

// Increased whenever a struct or the meaning of a field changes; library.py refuses any other number.
#define TOON_ABI_VERSION 5

enum ToonDtype { TOON_FLOAT32, TOON_FLOAT64, TOON_FLOAT16, TOON_BFLOAT16 };

enum ToonActivation {
  TOON_LINEAR,
  TOON_RELU,
  TOON_LRELU,
  TOON_TANH,
  TOON_SIGMOID,
  TOON_ELU,
  TOON_SELU,
  TOON_SOFTPLUS,
  TOON_SWISH,
  TOON_ACTIVATION_COUNT
};

// y = clamp(gain * act(x + b)). Its slope D = dy/dx is a function of one reference tensor: of y, which the next layer
// keeps anyway, for every activation but swish, and of x for swish.
//   order 0:  out = y(x)             ref = x
//   order 1:  out = dy * D(ref)      ref = y  (swish: x)
//   order 2:  out = ddx * dy * D'(ref), D' being the derivative by that same reference
typedef struct ToonBiasAct {
  void *out;
  const void *ref;
  const void *b;    // [size_b] in the compute type, or NULL; orders 1 and 2 read it for swish only
  const void *dy;   // orders 1 and 2
  const void *ddx;  // order 2
  int64_t numel;    // out, ref, dy and ddx share shape and strides
  int64_t size_b;   // the bias of element i is b[i / step_b % size_b], i counting along memory
  int64_t step_b;
  int64_t dtype;
  int64_t act;
  int64_t order;
  double alpha;  // slope of lrelu below zero, not negative
  double gain;
  double clamp;  // negative: no clamp
} ToonBiasAct;

// Per axis: insert up - 1 zeros after every sample, pad (crop where negative), correlate with the filter
// (convolve unless flip), keep every down-th sample, scale by gain.
typedef struct ToonUpfirdn2d {
  void *out;      // [n, c, out_h, out_w]
  const void *x;  // [n, c, in_h, in_w], same layout as out
  const void *f;  // [f_h, f_w] in the compute type; if separable [f_w], used along both axes
  int64_t n, c;
  int64_t in_h, in_w;
  int64_t out_h, out_w;
  int64_t f_h, f_w;  // at most TOON_MAX_TAPS each; separable: equal
  int64_t up_x, up_y;
  int64_t down_x, down_y;
  int64_t pad_x0, pad_y0;  // padding before the first sample; out_h and out_w imply the padding after the last
  int64_t flip;
  int64_t separable;  // CPU only: CUDA callers run two passes
  int64_t channels_last;
  int64_t dtype;
  double gain;
} ToonUpfirdn2d;

#define TOON_MAX_TAPS 32

// A 3x3 layer of the networks in one pass over memory; CPU, float32, channels_last:
//   out = clamp(gain * act(conv(x * s) * d + noise + b)),  act(t) = t > 0 ? t : alpha * t
// Kinds: TOON_PLAIN is correlation with padding 1; TOON_UP is transposed convolution of stride 2 followed by the
// filter (1, 3, 3, 1) / 8 along each axis with padding 1 and gain 4; TOON_DOWN is that filter with padding 2 and then
// correlation of stride 2. c_in and c_out are multiples of 16.
enum ToonConvKind { TOON_PLAIN, TOON_UP, TOON_DOWN };

typedef struct ToonConv3x3 {
  float *out;          // [n, out_h, out_w, c_out]
  const float *x;      // [n, in_h, in_w, c_in]
  const float *u;      // weights as toon_conv3x3_pack_cpu writes them
  const float *s;      // [n, c_in], or NULL
  const float *d;      // [c_out] for each image, or NULL
  const float *noise;  // [out_h, out_w] for each image, or NULL
  const float *b;      // [c_out], or NULL
  int64_t n, c_in, c_out;
  int64_t in_h, in_w;
  int64_t out_h, out_w;        // plain: in; up: 2 in; down: in / 2, in being even
  int64_t d_step, noise_step;  // numbers from image to image; 0: the same for all
  int64_t kind;
  double alpha, gain;
  double clamp;  // negative: no clamp
} ToonConv3x3;

// The gradient of conv(x * s) by the weights, for the gradient dy * d by its output. For TOON_UP, use TOON_DOWN with x
// and dy, and s and d, exchanged. With e, w * e is added: the part of the gradient that comes through demodulation.
typedef struct ToonConv3x3Weight {
  float *dw;           // as w of ToonConv3x3Pack
  const float *x, *s;  // as in ToonConv3x3
  const float *dy;     // [n, out_h, out_w, c_out]
  const float *d;      // [n, c_out], or NULL
  const float *w;      // as dw; only with e
  const float *e;      // its value for channels i and o is e[i * e_in_step + o * e_out_step]; or NULL
  int64_t n, c_in, c_out;
  int64_t in_h, in_w;
  int64_t out_h, out_w;
  int64_t kind;
  int64_t in_step, out_step, tap_step;
  int64_t e_in_step, e_out_step;
} ToonConv3x3Weight;

typedef struct ToonConv3x3Pack {
  float *u;        // toon_conv3x3_packed_cpu(kind, c_in, c_out) numbers, in the layout of the instruction set in use
  const float *w;  // tap (y, x) of channels i and o is w[i * in_step + o * out_step + (3 y + x) * tap_step]
  float *energy;   // [c_in, c_out]: the sum of the squared taps; or NULL
  int64_t c_in, c_out;
  int64_t kind;
  int64_t in_step, out_step, tap_step;  // may be negative
} ToonConv3x3Pack;

// The orthonormal Haar transform of 2x2 pixels, or its inverse; haar.h has the matrix.
typedef struct ToonHaar {
  void *out;      // up: [n, c, 2 h, 2 w]; else [n, 4 c, h, w]
  const void *x;  // up: [n, 4 c, h, w]; else [n, c, 2 h, 2 w]; same layout as out
  int64_t n, c, h, w;
  int64_t up;
  int64_t channels_last;
  int64_t dtype;  // CPU: TOON_FLOAT32
} ToonHaar;

// A depthwise-separable layer in one pass over memory; CPU, float32, channels_last:
//   out = act(pointwise(depthwise(in * style)) + noise + b),  act(t) = t > 0 ? t : slope * t
// in is x or, with up_style, the inverse Haar transform of x * up_style. c_in and c_out are multiples of 16.
typedef struct ToonSeparable {
  float *out;              // [n, h, w, c_out]
  const float *x;          // [n, h, w, c_in], or with up_style [n, h / 2, w / 2, 4 c_in]
  const float *up_style;   // [n, 4 c_in], or NULL
  const float *style;      // [n, c_in]
  const float *depthwise;  // [c_in, 3, 3], correlated with padding 1
  const float *u;          // [c_out, c_in] as toon_separable_pack_cpu writes it: depth c_in, columns c_out
  const float *b;          // [c_out]
  const float *noise;      // [h, w] for each image, or NULL
  int64_t n, c_in, c_out;
  int64_t h, w;        // of out
  int64_t noise_step;  // numbers from image to image; 0: the same for all
  double slope;        // not negative
} ToonSeparable;

// Its gradient, with du = dy * act'(y). What is NULL is not computed. Each of `parts` threads forms partial sums, which
// are then added in a fixed order.
typedef struct ToonSeparableGrad {
  float *dx;                                      // like x; or NULL
  float *d_up_style;                              // like up_style; NULL unless dx
  float *d_style;                                 // like style; NULL unless dx or d_depthwise
  float *d_depthwise;                             // like depthwise; or NULL
  float *d_pointwise;                             // [c_out, c_in], or NULL
  float *d_b;                                     // like b, or NULL
  float *d_noise;                                 // [n, h, w], or NULL
  float *sums;                                    // [parts, toon_separable_sums(n, c_in, c_out)]
  float *pointwise_parts;                         // [parts - 1, c_out, c_in]; with d_pointwise
  const float *dy, *y;                            // [n, h, w, c_out]
  const float *x, *up_style, *style, *depthwise;  // as in ToonSeparable
  const float *u;  // pointwise [c_out, c_in], packed: depth c_out, columns c_in; with dx or d_depthwise
  int64_t n, c_in, c_out;
  int64_t h, w;
  int64_t parts;  // at least 1; no more threads are used
  double slope;
} ToonSeparableGrad;

// A 1x1 convolution that makes 2x2 pixels of a few colours from each pixel: its outputs are the corners (0,0), (0,1),
// (1,0), (1,1), each with all its colours; CPU, float32, channels_last.
typedef struct ToonCorners {
  float *out;           // [n, 2 h, 2 w, colours]
  const float *x;       // [n, h, w, c]
  const float *weight;  // [n, 4, colours, c]
  const float *b;       // [4, colours]
  int64_t n, c, h, w;   // c: a multiple of 16
  int64_t colours;      // 1 to 4
} ToonCorners;

typedef struct ToonCornersGrad {
  float *dx;        // like x; or NULL
  float *d_weight;  // like weight; or NULL
  float *d_b;       // like b; or NULL
  float *sums;      // [parts, 4 * colours * (n * c + 1)]
  const float *dy;  // like out
  const float *x, *weight;
  int64_t n, c, h, w;
  int64_t colours;
  int64_t parts;  // as in ToonSeparableGrad
} ToonCornersGrad;

// Rearranges a matrix into panels of columns, as the matrix products read it.
typedef struct ToonSeparablePack {
  float *u;        // toon_separable_packed_cpu(depth, columns) numbers, in the layout of the instruction set in use
  const float *w;  // row k, column j is w[k * k_step + j * column_step]
  int64_t depth, columns;  // multiples of 16
  int64_t k_step, column_step;
} ToonSeparablePack;

// The rest of a synthesis layer, after its convolution:
//   y = clamp(gain * act(v * scale + noise + b)),  v = fir(x): pad, then correlate (convolve unless flip)
// act(u) is u above zero and alpha * u below: linear (alpha 1), relu (0) and lrelu.
typedef struct ToonEpilogue {
  void *out;          // [n, c, out_h, out_w]
  const void *x;      // [n, c, in_h, in_w], same layout as out
  const void *f;      // [f_h, f_w] in the compute type; if separable [f_w], used along both axes; NULL: v = x
  const void *scale;  // [n, c] in the compute type, or NULL: 1
  const void *noise;  // [n, out_h, out_w] in the compute type, [out_h, out_w] if shared; or NULL: 0
  const void *b;      // [c] in the compute type, or NULL: 0
  int64_t n, c;
  int64_t in_h, in_w;
  int64_t out_h, out_w;
  int64_t f_h, f_w;  // at most TOON_MAX_TAPS each; separable: equal; without f 1
  int64_t pad_x0, pad_y0;
  int64_t flip;
  int64_t separable;  // CPU only
  int64_t shared_noise;
  int64_t channels_last;
  int64_t dtype;
  double fir_gain, alpha, gain;
  double clamp;  // negative: no clamp
} ToonEpilogue;

// Its gradient, computed from y: above and below zero, y = m * u with a slope m that follows from the sign of y. With
// du = m * dy (0 where the clamp limits):
//   out = du * scale                          the gradient by v
//   channel_sums[0] = sum du                  over the pixels: the gradient by the bias
//   channel_sums[1] = sum du * (u - noise)    over the pixels; with b * channel_sums[0] subtracted and divided by
//                                             scale, the gradient by the scale
//   pixel_sums = sum du                       over the channels: the gradient by the noise
// The sums are returned in parts, for the caller to add in a fixed order.
typedef struct ToonEpilogueGrad {
  void *out;           // [n, c, pixels], like y and dy; CPU: may be dy
  void *channel_sums;  // [2, n, ceil(pixels / chunk), c] in the compute type: of `chunk` pixels each
  void *pixel_sums;    // [ceil(c / group), n, pixels] in the compute type: of `group` channels each
  const void *dy, *y;
  const void *scale;  // as in ToonEpilogue
  const void *noise;
  int64_t n, c, pixels;
  int64_t chunk, group;  // CPU: group = c. CUDA: see toon_epilogue_grad_cuda
  int64_t shared_noise;
  int64_t channels_last;
  int64_t dtype;
  double alpha, gain, clamp;
} ToonEpilogueGrad;

static inline int64_t toon_separable_sums(int64_t n, int64_t c_in, int64_t c_out) { return 14 * n * c_in + c_out; }

#ifdef __cplusplus
extern "C" {
#endif

TOON_API int toon_abi_version(void);
TOON_API int64_t toon_sizeof(const char *name);  // bytes of the struct of that name ("ToonHaar"); -1: there is none
TOON_API const char *toon_build(void);           // compilers, and whether CUDA is in: "g++ 12.2.0, OpenMP; CUDA 13.0"
TOON_API const char *toon_cpu_isa(void);         // the instruction set in use, the widest this processor has: "avx2"
TOON_API const char *toon_choose_cpu_isa(const char *isa);  // use another one, for tests and benchmarks

TOON_API const char *toon_bias_act_cpu(const ToonBiasAct *p, int threads);
TOON_API const char *toon_upfirdn2d_cpu(const ToonUpfirdn2d *p, int threads);
TOON_API const char *toon_conv3x3_cpu(const ToonConv3x3 *p, int threads);
TOON_API const char *toon_conv3x3_weight_cpu(const ToonConv3x3Weight *p, int threads);
TOON_API const char *toon_conv3x3_pack_cpu(const ToonConv3x3Pack *p, int threads);
TOON_API int64_t toon_conv3x3_packed_cpu(int64_t kind, int64_t c_in, int64_t c_out);

TOON_API const char *toon_haar_cpu(const ToonHaar *p, int threads);
TOON_API const char *toon_separable_cpu(const ToonSeparable *p, int threads);
TOON_API const char *toon_separable_grad_cpu(const ToonSeparableGrad *p, int threads);
TOON_API const char *toon_corners_cpu(const ToonCorners *p, int threads);
TOON_API const char *toon_corners_grad_cpu(const ToonCornersGrad *p, int threads);
TOON_API const char *toon_separable_pack_cpu(const ToonSeparablePack *p, int threads);
TOON_API int64_t toon_separable_packed_cpu(int64_t depth, int64_t columns);

TOON_API const char *toon_epilogue_cpu(const ToonEpilogue *p, int threads);
TOON_API const char *toon_epilogue_grad_cpu(const ToonEpilogueGrad *p, int threads);

// Present only in a library built with CUDA. toon_cuda_check tells whether the kernels can run on a device
// (driver new enough, machine code for its architecture).
TOON_API const char *toon_cuda_check(int device);
TOON_API const char *toon_bias_act_cuda(const ToonBiasAct *p, int device, void *stream);
TOON_API const char *toon_upfirdn2d_cuda(const ToonUpfirdn2d *p, int device, void *stream);
TOON_API const char *toon_haar_cuda(const ToonHaar *p, int device, void *stream);
TOON_API const char *toon_epilogue_cuda(const ToonEpilogue *p, int device, void *stream);
TOON_API const char *toon_epilogue_grad_cuda(const ToonEpilogueGrad *p, int device, void *stream);

#ifdef __cplusplus
}
#endif
