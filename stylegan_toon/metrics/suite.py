"""A choice of metrics with the networks that they need, and their values from features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..data.datasets import ImageDataset
from ..errors import ToonError
from ..features.extractors import NAMES, Extractor, extractor
from ..features.hub import Unavailable
from ..features.perceptual import Perceptual, load_lpips, perceptual
from ..progress import progress
from . import feature_cache as cache
from .batches import agree, collect, processes, to_bytes
from .distances import frechet_distance, kernel_distance, moments, precision_recall
from .face_networks import FaceDetection, embedder
from .names import COMPARED, Metric, parse_metric
from .perceptual_path import path_length

MAX_REALS = 50_000  # as many as published metrics use at most


class Suite:
    """Metrics with the networks they need, which are loaded once, for example at the start of a training.

    Args:
        metrics: names, see `metrics.names`.
        networks: extractors of your own by name, for ``fd-MINE`` and the like.
        device: where they run. On CUDA, distances are also computed there.

    Raises:
        ToonError: an unknown name, or a network that cannot be loaded; the sentence names another one.
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
        """The features of real pictures that the metrics need, from the cache if they are there.

        Args:
            count: pictures to use, spread evenly; all, up to 50,000, if None.
            grey: make the pictures grey, since those they are compared with are.

        Returns:
            for each network ``count``, ``mean`` ``[D]``, ``cov`` ``[D, D]`` and, where needed, ``rows`` ``[N, D]``.
            Process 0 has all of them; other processes may have fewer.
        """
        count = min(count or MAX_REALS, len(pictures))
        features: dict[str, dict[str, Tensor]] = {}
        for name in dict.fromkeys(m.network for m in self.of_kind(*COMPARED)):
            parts = ["moments"] + ["rows"] * any(m.network == name for m in self.of_kind("kd", "pr"))
            paths, cached = {}, []
            if processes()[0] == 0:  # one process decides for all, since their cache folders may differ
                path_of = partial(cache.cache_path, pictures, self.extractors[name], count, grey=grey)
                paths = {part: path_of(part=part) for part in parts}
                cached = [tensors for path in paths.values() if (tensors := cache.load(path)) is not None]
            complete = torch.tensor(float(len(cached) == len(parts)), device=self.device)
            if not agree(complete):
                step = partial(self._read, pictures, cache.chosen(pictures, count), name, grey)
                rows = collect(count, step, batch=batch, desc=f"real pictures, {name}", quiet=quiet)[name]
                mean, cov = moments(rows)
                computed = {"moments": {"mean": mean, "cov": cov}, "rows": {"rows": rows}}
                cached = [computed[part] for part in parts]
                for part, path in paths.items():
                    cache.store(path, computed[part])
            features[name] = {"count": torch.tensor(count), **{k: v for part in cached for k, v in part.items()}}
        return features

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
        """The values of the metrics.

        Warns if there are fewer pictures than features, which biases a Frechet distance.

        Args:
            fakes: rows ``[N, D]`` by network; for ppl and identity ``[N]`` by metric.
            reals: from `reals`.
        """
        values: dict[str, float] = {}
        device = self.device if self.device.type == "cuda" else "cpu"  # mps has no float64
        for metric in self.metrics:
            bar = partial(progress, desc=metric.name, quiet=quiet, leave=False)
            rows = fakes[metric.name if metric.kind in ("ppl", "identity") else metric.network].to(device)
            real = {key: tensor.to(device) for key, tensor in reals.get(metric.network, {}).items()}
            if metric.kind == "fd":
                fewest = min(len(rows), int(real["count"]))
                if fewest <= rows.shape[1]:
                    warnings.warn(
                        f"{metric.name} compares {fewest} pictures by {rows.shape[1]} features: it is too large, and "
                        "comparable only with values of as many pictures (kd-… is comparable with any number).",
                        stacklevel=2,
                    )
                results = (frechet_distance(*moments(rows), real["mean"], real["cov"]),)
            elif metric.kind == "kd":
                results = (kernel_distance(real["rows"], rows, progress=bar),)
            elif metric.kind == "pr":
                results = precision_recall(real["rows"], rows, progress=bar)
            elif metric.kind == "ppl":
                results = (path_length(rows),)
            else:
                results = (float(rows.double().mean()),)
            values.update(zip(metric.results, results))
        return values

    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights behind features, by network."""
        return {name: network.digest for name, network in self.extractors.items()}

    def results(self) -> list[str]:
        """Names of all values, in order."""
        return [name for metric in self.metrics for name in metric.results]

    def share(self, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Compute values in process 0 and send them to the others."""
        rank, world = processes()
        if world == 1:
            return compute()
        names = self.results()
        values = compute() if rank == 0 else dict.fromkeys(names, 0.0)
        shared = agree(torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device))
        return dict(zip(names, shared.tolist()))


def _perceptual(name: str, device: torch.device | str) -> Perceptual:
    if name != "lpips":
        return perceptual(name, device=device)
    try:
        return load_lpips().eval().requires_grad_(False).to(device)
    except Unavailable as error:
        raise ToonError(
            f"LPIPS cannot be loaded ({error}): use ppl-wend-vgg or the like, which needs no connection."
        ) from error
