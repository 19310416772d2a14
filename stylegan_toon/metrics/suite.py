"""The networks a choice of metrics needs, and the figures they give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.datasets import ImageDataset
from ..errors import ToonError
from ..features.extractors import NAMES, Extractor, extractor
from ..features.hub import Unavailable
from ..features.perceptual import Perceptual, load_lpips, perceptual
from . import cache
from .collect import agree, collect, processes, to_bytes
from .distances import frechet_distance, kernel_distance, moments, precision_recall
from .faces import FaceDetection, embedder
from .names import COMPARED, Metric, parse_metric
from .path import path_length

MAX_REALS = 50_000  # more real pictures than this change no figure that anybody publishes


class Suite:
    """Metrics with the networks they need, loaded once: at the start of a training, say.

    Args:
        metrics: names, see `metrics.names`.
        networks: extractors of your own by name, for ``fd-MINE`` and the like.
        device: where they run. Distances are computed there too, in float64, if it is a GPU that has it.

    Raises:
        ToonError: an unknown name, or a network that is not to be had; the sentence names one that is.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        networks: Mapping[str, Extractor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        own = dict(networks or {})
        self.device = torch.device(device)
        self.metrics = [parse_metric(name, (*NAMES, *own)) for name in dict.fromkeys(metrics)]
        if not self.metrics:
            raise ToonError("There is nothing to measure: name at least one metric.")
        self.extractors: dict[str, Extractor] = {}
        for name in dict.fromkeys(m.network for m in self.of_kind(*COMPARED)):
            self.extractors[name] = own[name].to(device) if name in own else extractor(name, device=device)
        self.extractors |= {m.network: FaceDetection(device) for m in self.of_kind("detection")}
        self.embedders = {m.network: embedder(m.network, device=device) for m in self.of_kind("identity")}
        self.perceptual = {name: _perceptual(name, device) for name in {m.network for m in self.of_kind("ppl")}}

    def of_kind(self, *kinds: str) -> list[Metric]:
        """The metrics of some kinds."""
        return [metric for metric in self.metrics if metric.kind in kinds]

    @property
    def compares(self) -> bool:
        """Whether real pictures are needed."""
        return bool(self.of_kind(*COMPARED))

    def features(self, pictures: Tensor) -> dict[str, Tensor]:
        """uint8 ``[N, 3, R, R]`` -> rows ``[N, D]`` of every extractor."""
        pictures = pictures.to(self.device)
        return {name: network(pictures) for name, network in self.extractors.items()}

    def reals(
        self, pictures: ImageDataset, count: int | None = None, *, grey: bool = False, batch: int = 16,
        quiet: bool = False,
    ) -> dict[str, dict[str, Tensor]]:  # fmt: skip
        """What the metrics need to know of real pictures, from the cache or into it.

        Args:
            count: pictures to use, spread evenly; all, up to 50,000, if None.
            grey: the pictures compared with are grey, so these become so.

        Returns:
            for each network ``count``, ``mean`` ``[D]``, ``cov`` ``[D, D]`` and, where needed, ``rows`` ``[N, D]``.
            Process 0 has them, other processes may get less.
        """
        count = min(count or MAX_REALS, len(pictures))
        found: dict[str, dict[str, Tensor]] = {}
        for name in dict.fromkeys(m.network for m in self.of_kind(*COMPARED)):
            parts = ["moments"] + ["rows"] * any(m.network == name for m in self.of_kind("kd", "pr"))
            paths, kept = {}, []
            if processes()[0] == 0:  # one process decides for all: their folders may differ
                where = partial(cache.cache_path, pictures, self.extractors[name], count, grey=grey)
                paths = {part: where(part=part) for part in parts}
                kept = [cache.load(path) for path in paths.values()]
            complete = torch.tensor(float(bool(kept) and None not in kept), device=self.device)
            if not agree(complete):
                step = partial(self._read, pictures, cache.chosen(pictures, count), name, grey)
                rows = collect(count, step, batch=batch, desc=f"real pictures, {name}", quiet=quiet)[name]
                mean, cov = moments(rows)
                made = {"moments": {"mean": mean, "cov": cov}, "rows": {"rows": rows}}
                kept = [made[part] for part in parts]
                for part, path in paths.items():
                    cache.store(path, made[part])
            found[name] = {"count": torch.tensor(count), **{k: v for part in kept for k, v in part.items()}}
        return found

    def _read(
        self, pictures: ImageDataset, rows: list[int], network: str, grey: bool, indices: Tensor
    ) -> dict[str, Tensor]:
        images = torch.stack([pictures[rows[index]][0] for index in indices.tolist()])
        if grey:
            images = to_bytes(images.float().mean(dim=1, keepdim=True) / 127.5 - 1)
        return {network: self.extractors[network](images.to(self.device))}

    def score(
        self, fakes: dict[str, Tensor], reals: dict[str, dict[str, Tensor]], *, quiet: bool = False
    ) -> dict[str, float]:
        """Figures from rows: of the fakes ``[N, D]`` by network (paths and identity: ``[N]`` by metric).

        Warns where there are fewer pictures than features, which biases a Frechet distance.
        """
        values: dict[str, float] = {}
        device = self.device if self.device.type == "cuda" else "cpu"  # mps has no float64
        for metric in self.metrics:
            bar = partial(tqdm, desc=metric.name, disable=quiet, leave=False, dynamic_ncols=True)
            rows = fakes[metric.name if metric.kind in ("ppl", "identity") else metric.network].to(device)
            real = {key: tensor.to(device) for key, tensor in reals.get(metric.network, {}).items()}
            if metric.kind == "fd":
                fewest = min(len(rows), int(real["count"]))
                if fewest <= rows.shape[1]:
                    warnings.warn(
                        f"{metric.name} compares {fewest} pictures by {rows.shape[1]} features: it comes out too "
                        "large, and is comparable only with figures of as many pictures (kd-… is with any).",
                        stacklevel=2,
                    )
                found = (frechet_distance(*moments(rows), real["mean"], real["cov"]),)
            elif metric.kind == "kd":
                found = (kernel_distance(real["rows"], rows, progress=bar),)
            elif metric.kind == "pr":
                found = precision_recall(real["rows"], rows, progress=bar)
            elif metric.kind == "ppl":
                found = (path_length(rows),)
            else:
                found = (float(rows.double().mean()),)
            values.update(zip(metric.results, found))
        return values

    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights behind features, by network."""
        return {name: network.digest for name, network in self.extractors.items()}

    def results(self) -> list[str]:
        """Names of all figures, in order."""
        return [name for metric in self.metrics for name in metric.results]

    def share(self, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Let process 0 compute figures and tell them to the others."""
        rank, world = processes()
        if world == 1:
            return compute()
        names = self.results()
        values = compute() if rank == 0 else dict.fromkeys(names, 0.0)
        told = agree(torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device))
        return dict(zip(names, told.tolist()))


def _perceptual(name: str, device: torch.device | str) -> Perceptual:
    if name != "lpips":
        return perceptual(name, device=device)
    try:
        return load_lpips().eval().requires_grad_(False).to(device)
    except Unavailable as error:
        raise ToonError(
            f"LPIPS is not to be had ({error}): use ppl-wend-vgg or the like, which needs no connection."
        ) from error
