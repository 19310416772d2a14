"""What a training tells: a progress bar, a line of JSON per tick, pictures on a fixed grid."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import torch
from tqdm import tqdm

from ..data.images import image_grid, save_image, to_pil
from ..files import append_line
from ..nn import Generator


class Log:
    """Averages what is reported and shows it: ``report`` often, ``tick`` now and then.

    Args:
        folder: gets ``log.jsonl``; appended to, one object a tick.
        total_kimg: length of the bar.
        quiet: no bar.
    """

    def __init__(self, folder: Path, total_kimg: float, *, start: int = 0, desc: str = "train", quiet: bool = False):
        self._path = folder / "log.jsonl"
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._bar = tqdm(
            total=int(total_kimg * 1000), initial=start, desc=desc, unit="img", disable=quiet, dynamic_ncols=True
        )

    def report(self, **values: float | torch.Tensor) -> None:
        for name, value in values.items():
            self._sums[name] += float(value.detach().mean()) if isinstance(value, torch.Tensor) else float(value)
            self._counts[name] += 1

    def advance(self, images: int) -> None:
        self._bar.update(images)

    def tick(self, images: int, **values: float) -> dict[str, float]:
        """Write the means since the last tick; returns them."""
        means = {name: self._sums[name] / self._counts[name] for name in self._sums}
        line = {"kimg": round(images / 1000, 3), **{k: round(v, 5) for k, v in {**means, **values}.items()}}
        self._sums.clear()
        self._counts.clear()
        self._bar.set_postfix({k: f"{v:.3g}" for k, v in line.items() if k != "kimg"}, refresh=False)
        append_line(self._path, json.dumps(line))
        return line

    def close(self) -> None:
        self._bar.close()


class SampleGrid:
    """The same latents painted again and again, so that progress can be seen."""

    def __init__(self, G: Generator, count: int = 32, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        device = G.mapping.w_avg.device
        self.z = torch.randn(count, G.config.z_dim, generator=generator).to(device)
        self.columns = math.ceil(math.sqrt(2 * count))

    @torch.no_grad()
    def save(self, G: Generator, path: Path, psi: float = 0.7) -> None:
        """Paint the grid at truncation ``psi`` and write it, replacing an older one."""
        images = [to_pil(img) for z in self.z.split(8) for img in G(z, psi=psi)]
        save_image(image_grid(images, columns=self.columns), path)
