"""Smoothing over time: without delay where what comes after is known, and with little delay where it is not."""

from __future__ import annotations

import math

import numpy as np


def smooth(times: np.ndarray, values: np.ndarray, sigma: float, degree: int = 1) -> np.ndarray:
    """Local polynomial regression with Gaussian weights (Cleveland 1979): smooth, and delayed by nothing.

    A motion that is a polynomial of ``degree`` comes out as it went in, at the ends too, and samples need not be evenly
    spaced.

    Args:
        times: ``[T]``, rising, in seconds.
        values: ``[T, ...]``.
        sigma: standard deviation of the weights in seconds; 0 = no smoothing.
        degree: 0 (weighted mean), 1 or 2.

    Returns:
        float64, like ``values``.
    """
    times = np.asarray(times, np.float64)
    flat = np.asarray(values, np.float64).reshape(len(times), -1)
    if sigma <= 0 or len(times) < 3:
        return flat.reshape(np.shape(values))
    out = np.empty_like(flat)
    first = np.searchsorted(times, times - 3.5 * sigma)
    last = np.searchsorted(times, times + 3.5 * sigma, side="right")
    for i, (a, b) in enumerate(zip(first, last)):
        apart = (times[a:b] - times[i]) / sigma
        weight = np.exp(-0.5 * apart**2)
        powers = apart[:, None] ** np.arange(min(degree, b - a - 1) + 1)
        # The value of the fitted polynomial at apart = 0 is a linear function of the samples.
        row = np.linalg.pinv(powers * np.sqrt(weight)[:, None])[0] * np.sqrt(weight)
        out[i] = row @ flat[a:b]
    return out.reshape(np.shape(values))


def fill_gaps(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values`` ``[T, ...]`` with straight lines between the samples for which ``known`` ``[T]`` is True."""
    at = np.flatnonzero(known)
    flat = np.asarray(values, np.float64).reshape(len(known), -1)
    columns = [np.interp(np.arange(len(known)), at, column[at]) for column in flat.T]
    return np.stack(columns, 1).reshape(np.shape(values))


class OneEuro:
    """The 1-euro filter (Casiez et al. 2012): for sources that go on, such as a camera.

    It smooths much while little moves and little while much moves, so that neither jitter nor delay is seen.

    Args:
        cutoff: in Hz, while nothing moves.
        beta: how fast the cutoff rises with speed, in Hz for one unit a second.
        speed_cutoff: in Hz, of the estimate of speed.
    """

    def __init__(self, cutoff: float = 1.0, beta: float = 0.02, speed_cutoff: float = 1.0) -> None:
        self.cutoff, self.beta, self.speed_cutoff = cutoff, beta, speed_cutoff
        self._time: float | None = None
        self._value = self._speed = np.zeros(0)

    def __call__(self, time: float, value: np.ndarray) -> np.ndarray:
        """The smoothed value; ``time`` in seconds must rise from call to call."""
        value = np.asarray(value, np.float64)
        if self._time is None or time <= self._time or value.shape != self._value.shape:
            self._time, self._value, self._speed = time, value, np.zeros_like(value)
            return value
        step = time - self._time
        speed = (value - self._value) / step
        self._speed = self._speed + _share(self.speed_cutoff, step) * (speed - self._speed)
        moving = self.cutoff + self.beta * np.abs(self._speed)
        self._value = self._value + _share(moving, step) * (value - self._value)
        self._time = time
        return self._value


def _share(cutoff: np.ndarray | float, step: float) -> np.ndarray | float:
    """Weight of the newest sample in an exponential filter."""
    turn = 2 * math.pi * cutoff * step
    return turn / (turn + 1)
