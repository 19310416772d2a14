"""StyleGAN2 implemented a second time from the papers, as a reference: float64, slow, no op of the package.

Modulation scales per-sample weights (the paper's form), upsampling inserts zeros and convolves with an explicit
kernel, and each sample goes through alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

SQRT2 = math.sqrt(2)


def lrelu(x):
    return torch.where(x >= 0, x, 0.2 * x)


def fc(state, name, x, lr_multiplier=1.0, act=False):
    w, b = state[f"{name}.weight"], state[f"{name}.bias"]
    y = x @ w.T * (lr_multiplier / math.sqrt(w.shape[1])) + b * lr_multiplier
    return SQRT2 * lrelu(y) if act else y


def unit(x):
    return x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def mapping(state, prefix, z, c, layers, lr_multiplier=0.01):
    parts = [unit(z)] if z is not None else []
    if c is not None:
        parts.append(unit(fc(state, f"{prefix}.embed", c)))
    x = torch.cat(parts, 1)
    for i in range(layers):
        x = fc(state, f"{prefix}.fc{i}", x, lr_multiplier, act=True)
    return x


def kernel(taps):
    k = torch.tensor(taps, dtype=torch.float64)
    k = torch.outer(k, k)
    return k / k.sum()


def blur(x, k, before, after):
    """Convolve every channel with ``k`` (true convolution: the kernel is turned)."""
    x = F.pad(x, (before, after, before, after))
    c = x.shape[1]
    return F.conv2d(x, k.flip(0, 1).expand(c, 1, *k.shape), groups=c)


def insert_zeros(x):
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, 2 * h, 2 * w)
    y[:, :, ::2, ::2] = x
    return y


def upsample(x, k):
    n = len(k)
    return blur(insert_zeros(x), 4 * k, (n + 1) // 2, (n - 2) // 2)


def downsample(x, k):
    n = len(k)
    return blur(x, k, (n - 1) // 2, (n - 2) // 2)[:, :, ::2, ::2]


def up_conv(x, w, k):
    """Zeros inserted, kernel w applied as a true convolution, then the low-pass: StyleGAN2's order."""
    (height, width), pad, n = x.shape[2:], w.shape[-1] - 1, len(k)
    y = insert_zeros(x)[:, :, : 2 * height - 1, : 2 * width - 1]
    y = F.conv2d(F.pad(y, (pad,) * 4), w.flip(2, 3))
    if w.shape[-1] == 1:
        return upsample(F.conv2d(x, w), k)
    return blur(y, 4 * k, (n - 1) // 2, (n - 2) // 2)


def down_conv(x, w, k):
    n, size = len(k), w.shape[-1]
    if size == 1:
        return F.conv2d(downsample(x, k), w)
    return F.conv2d(blur(x, k, n // 2, (n - 1) // 2 + (1 - n % 2)), w)[:, :, ::2, ::2]


def conv3x3(x, w, kind):
    """What the library's op of this name does, in the tensors' own type."""
    k = kernel((1, 3, 3, 1)).to(x.dtype)
    return F.conv2d(x, w, padding=1) if kind == "plain" else {"up": up_conv, "down": down_conv}[kind](x, w, k)


def synthesis_layer(state, name, x, w, k, up, noise, gain, clamp):
    out = []
    style = fc(state, f"{name}.affine", w)
    for i in range(len(x)):
        weight = state[f"{name}.weight"] * style[i][None, :, None, None]
        weight = weight / (weight.pow(2).sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = up_conv(x[i : i + 1], weight, k) if up else F.conv2d(x[i : i + 1], weight, padding=1)
        out.append(y)
    y = torch.cat(out)
    if noise:
        y = y + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
    y = SQRT2 * gain * lrelu(y + state[f"{name}.bias"][:, None, None])
    return y if clamp is None else y.clamp(-clamp * gain, clamp * gain)


def torgb(state, name, x, w, clamp):
    weight = state[f"{name}.weight"][:, :, 0, 0]
    style = fc(state, f"{name}.affine", w) / math.sqrt(weight.shape[1])
    y = torch.einsum("nchw,oc,nc->nohw", x, weight, style) + state[f"{name}.bias"][:, None, None]
    return y if clamp is None else y.clamp(-clamp, clamp)


def synthesis(state, ws, resolution, architecture, taps=(1, 3, 3, 1), noise=True, clamp=None):
    k, img, x, i, res = kernel(taps), None, None, 0, 4
    while res <= resolution:
        p = f"synthesis.b{res}"
        if res == 4:
            x = state[f"{p}.const"].expand(len(ws), -1, -1, -1)
            x = synthesis_layer(state, f"{p}.conv1", x, ws[:, i], k, False, noise, 1, clamp)
            i += 1
        else:
            gain = math.sqrt(0.5) if architecture == "resnet" else 1
            y = x
            x = synthesis_layer(state, f"{p}.conv0", x, ws[:, i], k, True, noise, 1, clamp)
            x = synthesis_layer(state, f"{p}.conv1", x, ws[:, i + 1], k, False, noise, gain, clamp)
            i += 2
            if architecture == "resnet":
                w = state[f"{p}.skip.weight"]
                x = x + gain * up_conv(y, w / math.sqrt(w.shape[1]), k)
        if img is not None:
            img = upsample(img, k)
        if architecture == "skip" or res == resolution:
            y = torgb(state, f"{p}.torgb", x, ws[:, i], clamp)
            img = y if img is None else img + y
        res *= 2
    return img


def d_conv(state, name, x, k, down=False, gain=1.0, clamp=None, linear=False):
    w = state[f"{name}.weight"]
    w = w / math.sqrt(w[0].numel())
    y = down_conv(x, w, k) if down else F.conv2d(x, w, padding=w.shape[-1] // 2)
    if linear:
        return y * gain
    y = SQRT2 * gain * lrelu(y + state[f"{name}.bias"][:, None, None])
    return y if clamp is None else y.clamp(-clamp * gain, clamp * gain)


def discriminator(state, img, c, resolution, architecture, taps=(1, 3, 3, 1), group=4, clamp=None, layers=8):
    k, x, res = kernel(taps), None, resolution
    while res > 4:
        p = f"b{res}"
        if res == resolution or architecture == "skip":
            y = d_conv(state, f"{p}.fromrgb", img, k, clamp=clamp)
            x = y if x is None else x + y
            img = downsample(img, k)
        gain = math.sqrt(0.5) if architecture == "resnet" else 1
        y = x
        x = d_conv(state, f"{p}.conv0", x, k, clamp=clamp)
        x = d_conv(state, f"{p}.conv1", x, k, down=True, gain=gain, clamp=clamp)
        if architecture == "resnet":
            x = x + d_conv(state, f"{p}.skip", y, k, down=True, gain=gain, linear=True)
        res //= 2
    if architecture == "skip":
        x = x + d_conv(state, "b4.fromrgb", img, k)
    n, group = len(x), min(group, len(x))
    extra = torch.empty(n, 1, 4, 4, dtype=x.dtype)
    for start in range(n // group):  # sample i is grouped with i + n / group, i + 2 n / group, ...
        members = list(range(start, n, n // group))
        std = (x[members].var(0, unbiased=False) + 1e-8).sqrt().mean()
        extra[members] = std
    x = d_conv(state, "b4.conv", torch.cat([x, extra], 1), k, clamp=clamp)
    x = fc(state, "b4.fc", x.flatten(1), act=True)
    x = fc(state, "b4.out", x)
    if c is not None:
        m = mapping(state, "mapping", None, c, layers)
        x = (x * m).sum(1, keepdim=True) / math.sqrt(m.shape[1])
    return x
