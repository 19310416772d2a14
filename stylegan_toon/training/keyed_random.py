"""Random numbers that belong to a sample of the batch, not to the process that happens to compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

LANE = 4  # samples that share one stream; changing it changes all random numbers

_FRESH = {torch.rand, torch.randn}
_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
_REFUSED = {
    torch.bernoulli, torch.multinomial, torch.normal, torch.poisson, torch.randint_like, torch.randperm,
    torch.Tensor.bernoulli, torch.Tensor.bernoulli_, torch.Tensor.multinomial, torch.Tensor.normal_,
    torch.Tensor.random_, torch.Tensor.uniform_,
}  # fmt: skip


class KeyedRandom(TorchFunctionMode):
    """Inside this context ``torch.rand``, ``randn``, ``randint`` and the ``_like`` forms are functions of the sample.

    A tensor whose first axis is the batch is drawn four samples (a lane) at a time, each lane from a stream of its
    own, seeded with ``key`` and the lane's place in the global batch. A scalar is one number for the whole batch. So
    the numbers are the same to the last bit however the batch is cut up among processes and into parts, and a
    training that goes on needs no stored random state: the key determines everything. Torch's own generators are not
    used.

    Args:
        rows: samples of the global batch that are computed in this context.
        key: whole numbers from 0 up that no other use shares, such as (seed, purpose, step).

    Raises:
        ValueError: inside, for a tensor of another shape (its values would depend on how the batch is cut up) or a
            random function that is not named above.
    """

    def __init__(self, rows: range, *key: int) -> None:
        super().__init__()
        self.rows, self.key = rows, key
        self._streams: dict[tuple[torch.device, int], torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _REFUSED:
            raise ValueError(f"{func.__name__} has no meaning for a part of a batch: use rand, randn or randint")
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in _FRESH:
            size = kwargs.pop("size", args[0] if args and not isinstance(args[0], int) else args)
            return self._draw(func, (), size, kwargs)
        if func in _LIKE:
            like = args[0]
            return self._draw(_LIKE[func], (), like.shape, {"device": like.device, "dtype": like.dtype, **kwargs})
        if func is torch.randint:
            size = kwargs.pop("size", None)
            bounds = args if size is not None else args[:-1]
            return self._draw(func, bounds, args[-1] if size is None else size, kwargs)
        return func(*args, **kwargs)

    def _draw(self, func: Callable[..., Tensor], bounds: tuple[int, ...], size: Any, kwargs: dict[str, Any]) -> Tensor:
        size = tuple(size)
        device = torch.device(kwargs.get("device") or "cpu")
        if not size:
            return func(*bounds, size, generator=self._stream(device, 0), **kwargs)
        if size[0] != len(self.rows):
            raise ValueError(f"a random tensor must be a scalar or have the batch ({len(self.rows)}) first, not {size}")
        first, last = self.rows.start // LANE, (self.rows.stop - 1) // LANE
        lanes = [
            func(*bounds, (LANE, *size[1:]), generator=self._stream(device, 1 + lane), **kwargs)
            for lane in range(first, last + 1)
        ]
        start = self.rows.start - first * LANE
        return torch.cat(lanes)[start : start + len(self.rows)]

    def _stream(self, device: torch.device, number: int) -> torch.Generator:
        if (device, number) not in self._streams:
            self._streams[device, number] = torch.Generator(device).manual_seed(_seed(*self.key, number))
        return self._streams[device, number]


def seed_torch(*key: int) -> None:
    """Seed torch's own generators, on every device, with ``key``: whole numbers from 0 up, like (seed, step).

    Called before each step it makes any random function one of the step, as `KeyedRandom` does for parts of a batch.
    """
    torch.manual_seed(_seed(*key))


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
