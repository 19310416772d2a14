"""The geometry of a face: its depth from a dense mesh, the light that falls on it, and the warp of the animated style.

Points of the mesh are numbered as MediaPipe's face mesh numbers them. Lengths are in 1/256 of the side of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import ConvexHull

from ..faces import mesh as M
from .filters import blur, resized, smoothstep
from .pen import UNIT

# Image-left eye first; each from the outer corner to the inner one.
UPPER_LID = (M.LEFT_EYE_UPPER, M.RIGHT_EYE_UPPER[::-1])
LOWER_LID = (M.LEFT_EYE_LOWER, M.RIGHT_EYE_LOWER[::-1])
CREASE = ((247, 30, 29, 27, 28, 56, 190), (467, 260, 259, 257, 258, 286, 414))
IRIS = (M.LEFT_IRIS, M.RIGHT_IRIS)
BROW_TOP = (M.LEFT_BROW_UPPER, M.RIGHT_BROW_UPPER[::-1])
BROW_BOTTOM = (M.LEFT_BROW_LOWER, M.RIGHT_BROW_LOWER[::-1])
LIPS_OUTER = (*M.LIPS_OUTER_UPPER, *M.LIPS_OUTER_LOWER[-2:0:-1])
LIPS_INNER = (*M.LIPS_INNER_UPPER, *M.LIPS_INNER_LOWER[-2:0:-1])
OVAL = M.FACE_OVAL
NOSE_TIP, BRIDGE, CHIN = 4, 168, 152
WINGS = (129, 358)
CHEEKS = (50, 280)
HAIRLINE = (54, 103, 67, 109, 10, 338, 297, 332, 284)
BROW_LINE = (70, 63, 105, 66, 9, 296, 334, 293, 300)  # below each of the points of the hairline
FINE = 128  # side of the grid that smooth fields are computed on


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres ``[1, n]`` and ``[n, 1]`` of a crop of n x n pixels."""
    x = ((np.arange(n, dtype=np.float32) + 0.5) * (UNIT / n))[None, :]
    return x, x.T


def polygon(points: np.ndarray, n: int, soft: float = 0.0) -> np.ndarray:
    """Coverage ``[n, n]`` in [0, 1] of the closed smooth curve through ``points [k, 2]``, its edge ``soft`` wide."""
    steps = np.linspace(0, len(points), 4 * len(points), endpoint=False)
    curve = ndimage.map_coordinates(
        points.astype(np.float64), np.meshgrid(steps, [0, 1], indexing="ij"), order=3, mode="grid-wrap"
    ) * (n / UNIT)
    sigma = soft * n / UNIT
    out = np.zeros((n, n), np.float32)
    low = np.clip(np.floor(curve.min(0) - 3 * sigma - 2), 0, n - 1).astype(int)
    high = np.clip(np.ceil(curve.max(0) + 3 * sigma + 2), low + 1, n).astype(int)
    width, height = high - low
    # The window holds the whole curve, except where the picture cuts it off.
    canvas = Image.new("L", (4 * width, 4 * height) if n <= 256 else (2 * width, 2 * height))
    times = canvas.width // width
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in (curve - low) * times - 0.5], fill=255)
    mask = np.asarray(canvas.resize((width, height), Image.Resampling.BOX), np.float32) / 255
    out[low[1] : high[1], low[0] : high[0]] = blur(mask, sigma) if sigma > 0.2 else mask
    return out


@dataclass(frozen=True)
class Warp:
    """A smooth displacement: target point + shift = source point; ``shift [FINE, FINE, 2]`` as (x, y)."""

    shift: np.ndarray

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """``[n, n, c]`` -> ``[n, n, c]``, bicubic."""
        n = picture.shape[0]
        x, y = grid(n)
        source = np.stack(
            [(base + resized(self.shift[..., k], n)) * (2 / UNIT) - 1 for k, base in enumerate((x, y))], -1
        )
        tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32))[None]
        out = torch.nn.functional.grid_sample(
            tensor, torch.from_numpy(source)[None], mode="bicubic", padding_mode="border", align_corners=False
        )
        return out[0].permute(1, 2, 0).numpy()

    def carry(self, points: np.ndarray) -> np.ndarray:
        """Where points ``[k, 2]`` of the source come to lie: the fixed point of target = source - shift(target)."""
        target = points.astype(np.float64)
        for _ in range(12):
            at = (target * (FINE / UNIT) - 0.5).T[::-1]
            move = [ndimage.map_coordinates(self.shift[..., k], at, order=1, mode="nearest") for k in range(2)]
            target = points - np.stack(move, -1)
        return target


def film_warp(mesh: np.ndarray, growth: Sequence[float]) -> Warp:
    """Larger eyes with their lids, a smaller nose, a softer jaw: a sum of smooth bumps.

    Args:
        mesh: ``[478, 3]``.
        growth: how much each eye grows, 0.3 for 1.3 times.
    """
    x, y = np.broadcast_arrays(*grid(FINE))
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    for side in range(2):
        lids = mesh[list(UPPER_LID[side] + LOWER_LID[side]), :2]
        ex, ey = lids.mean(0)
        reach = 0.88 * max(float(np.ptp(lids[:, 0])), 14.0)
        tall = np.where(y < ey, 0.80, 0.92) * reach  # less reach above, so that brows hardly move
        bump = np.exp(-((((x - ex) / reach) ** 2 + ((y - ey) / tall) ** 2) ** 2))
        pull = (1 - 1 / (1 + growth[side])) * bump
        dx -= pull * (x - ex)
        dy -= 1.1 * pull * (y - ey)
    nx, ny = mesh[NOSE_TIP, :2]
    width = float(np.hypot(*(mesh[WINGS[0], :2] - mesh[WINGS[1], :2])))
    nose = np.exp(-(((x - nx) / (0.55 * width)) ** 2) - (((y - ny) / (0.62 * width)) ** 2))
    dx += 0.17 * nose * (x - nx)
    dy += 0.12 * nose * (y - ny + 4)
    # Below the mouth the face tapers and is a little shorter; beyond the jaw the pull fades out.
    mouth = mesh[[61, 291], :2].mean(0)
    chin = mesh[CHIN, :2]
    middle = (mouth[0] + chin[0]) / 2
    half = max(float(np.ptp(mesh[list(OVAL), 0])) / 2, 40.0)
    down = max(float(chin[1] - mouth[1]), 20.0)
    low = smoothstep(y, mouth[1] - 0.8 * down, chin[1] - 0.1 * down) * (
        1 - smoothstep(y, chin[1] + 0.1 * down, chin[1] + 1.3 * down)
    )
    off = x - middle
    dx += 0.085 * off * low * np.exp(-((off / (1.05 * half)) ** 4))
    dy += 0.05 * (y - mouth[1]) * low * np.exp(-((off / (1.1 * half)) ** 4))
    # Fuller cheeks and temples make the head rounder.
    cheek = np.exp(-(((y - (mesh[NOSE_TIP, 1] - 6)) / 34) ** 2))
    dx -= 0.035 * off * cheek * np.exp(-((off / (1.15 * half)) ** 4))
    edge = smoothstep(
        np.minimum(np.minimum(x, UNIT - x), np.minimum(y, UNIT - y)), 0, 14
    )  # no displacement at the border
    return Warp(np.stack([dx * edge, dy * edge], -1).astype(np.float32))


@dataclass(frozen=True)
class Relief:
    """Depth and normals of a face on the FINE grid.

    Attributes:
        inside: ``[FINE, FINE]``, 1 well inside the mesh, 0 outside it.
        normal: ``[FINE, FINE, 3]``, unit vectors; x to the right, y down, z towards the viewer.
        hollow: ``[FINE, FINE]``, depth of a place behind its surroundings, in units; 0 where it stands out.
    """

    inside: np.ndarray
    normal: np.ndarray
    hollow: np.ndarray


def relief(mesh: np.ndarray) -> Relief:
    """Interpolate the mesh ``[478, 3]`` (z grows away from the viewer)."""
    x, y = np.broadcast_arrays(*grid(FINE))
    points = mesh[:468] * (1, 1, -1)
    # In a turned head the far side lies behind nearer parts: points that are hidden are left out.
    distance = np.hypot(*(points[:, None, :2] - points[None, :, :2]).transpose(2, 0, 1))
    nearest_depth = np.where(distance < 7, points[None, :, 2], -np.inf).max(1)
    points = points[points[:, 2] > nearest_depth - 14]
    # The mesh ends below the hairline: the forehead is continued as a dome.
    ridge = mesh[list(BROW_LINE)] * (1, 1, -1)
    top = mesh[list(HAIRLINE)] * (1, 1, -1)
    rise = top - ridge
    domes = [top + rise * (k, k, 0) + (0, 0, 1) * (rise[:, 2:] * k - 7 * k * k) for k in (0.4, 0.8, 1.3)]
    points = np.concatenate([points, *domes]).astype(np.float64)
    depth = LinearNDInterpolator(points[:, :2], points[:, 2])(x, y)
    covered = np.isfinite(depth)
    # Outside the mesh, depth is that of the nearest point inside minus the distance to it.
    away, nearest = cast("tuple[np.ndarray, np.ndarray]", ndimage.distance_transform_edt(~covered, return_indices=True))
    depth = (depth[tuple(nearest)] - 1.0 * away * (UNIT / FINE)).astype(np.float32)
    px = FINE / UNIT
    # Finest around the nose and the mouth; foreheads and cheeks are smooth, or the triangles would show.
    middle = mesh[[NOSE_TIP, 13, BRIDGE], :2].mean(0)
    central = np.exp(-((((x - middle[0]) / 30) ** 2 + ((y - middle[1]) / 40) ** 2) ** 2))
    broad = blur(depth, 6 * px)
    smooth = broad + central * (blur(depth, 2.4 * px) - broad)
    gy, gx = np.gradient(smooth, 1 / px)
    normal = np.stack([-gx, -gy, np.ones_like(gx)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    outline = np.concatenate([mesh[list(OVAL), :2], top[:, :2] + 0.8 * rise[:, :2]])
    hull = outline[ConvexHull(outline).vertices]
    inside = smoothstep(blur(polygon(hull, FINE), 6 * px), 0.4, 0.95) * smoothstep(normal[..., 2], 0.2, 0.6)
    inside = blur(inside, 2 * px)
    hollow = np.maximum(blur(depth, 9 * px) - smooth, 0)
    return Relief(inside, normal.astype(np.float32), hollow * inside)


def light_of(normal: np.ndarray, light: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Lightness explained by the shape: c0 + c . normal, fitted by weighted least squares.

    Args:
        normal: ``[m, m, 3]``.
        light: lightness ``[m, m]``.
        weight: ``[m, m]``, higher where a pixel is more likely skin.

    Returns:
        The coefficients, float32 ``[4]``.
    """
    basis = np.concatenate([np.ones_like(normal[..., :1]), normal], -1).reshape(-1, 4).astype(np.float64)
    weight = weight.ravel().astype(np.float64)
    wanted = light.ravel().astype(np.float64)
    ridge = np.diag([1e-6, 1, 1, 1]) * 0.002 * weight.sum()
    solution = np.zeros(4)
    for _ in range(3):  # Hair, glare and deep shadow are outliers
        normal_equations = basis.T @ (basis * weight[:, None]) + ridge
        solution = np.linalg.solve(normal_equations, basis.T @ (weight * wanted))
        weight = weight / (1 + ((wanted - basis @ solution) / 0.08) ** 2)
    return solution.astype(np.float32)
