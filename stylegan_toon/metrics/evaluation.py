"""Measuring a generator, or a set of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..data.datasets import ImageDataset
from ..errors import ToonError
from ..models import Generator
from .batches import collect, labels_of, latents, to_bytes
from .feature_cache import chosen
from .names import Metric
from .perceptual_path import path_distances
from .suite import Suite


@torch.no_grad()
def evaluate(
    G: Generator,
    pictures: ImageDataset | None,
    metrics: Sequence[str] | Suite,
    *,
    samples: int = 50_000,
    reals: int | None = None,
    base: Generator | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    psi: float = 1.0,
    noise_mode: str = "const",
    dtype: torch.dtype | None = None,
    batch: int = 16,
    quiet: bool = True,
) -> dict[str, float]:
    """Measure a generator.

    The values do not depend on the number of processes, and torch's global random state is neither read nor changed
    (except for ``noise_mode="random"``). Under torch.distributed every process must call it.

    Args:
        G: in eval mode.
        pictures: the real ones, of the same resolution; with labels if G is conditional, whose labels are then drawn
            from them. None if no metric compares with real pictures.
        metrics: names, see `metrics.names`, or a `Suite`, which loads its networks once.
        samples: pictures to generate; papers use 50,000.
        reals: real pictures to compare with; all, up to 50,000, if None.
        base: the network that ``identity`` compares with.
        device: of the networks of ``metrics``, if they are names; that of G if None.
        seed: of latents, labels and paths.
        psi: truncation; 1 in papers.
        noise_mode, dtype: as for `stylegan2.SynthesisNetwork`.
        batch: pictures at a time.
        quiet: show no progress bars.

    Returns:
        values by name of the metric; ``pr-NET`` gives ``precision-NET`` and ``recall-NET``.

    Raises:
        ToonError: pictures, labels or ``base`` are missing or do not fit; and as `Suite`.
    """
    home = G.mapping.w_avg.device
    suite = metrics if isinstance(metrics, Suite) else Suite(metrics, device=device or home)
    _check(G, pictures, base, suite)
    config = G.config
    z = latents(G, samples, seed)
    labels = labels_of(pictures, samples, seed) if pictures and config.c_dim else z.new_zeros(samples, 0)

    def generated(network: Generator, indices: Tensor) -> Tensor:
        c = labels[indices].to(home) if network.config.c_dim else None
        return network(z[indices].to(home), c, psi=psi, noise_mode=noise_mode, dtype=dtype)

    def step(indices: Tensor) -> dict[str, Tensor]:
        img = generated(G, indices).to(suite.device)
        rows = suite.features(to_bytes(img))
        if base is not None and suite.embedders:
            other = generated(base, indices).to(suite.device)
            rows |= {m.name: suite.embedders[m.network].similarity(img, other) for m in suite.of_kind("identity")}
        return rows

    def step_along(metric: Metric, ends: Tensor, t: Tensor, indices: Tensor) -> dict[str, Tensor]:
        c = labels[indices].to(home) if config.c_dim else None
        ends, t = ends[:, indices].to(home), t[indices].to(home)
        network = suite.perceptual[metric.network]

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return network.distance(a.to(suite.device), b.to(suite.device))

        return {metric.name: path_distances(G, ends, t, c, distance, space=metric.path[0], psi=psi)}

    real = {}
    if pictures is not None and suite.compares:  # first, so that a set that cannot be read is reported at once
        real = suite.reals(pictures, reals, grey=config.img_channels == 1, batch=batch, quiet=quiet)
    fakes: dict[str, Tensor] = {}
    if suite.extractors or suite.embedders:
        fakes = collect(samples, step, batch=batch, desc="generated pictures", quiet=quiet)
    for metric in suite.of_kind("ppl"):
        ends = torch.stack([z, latents(G, samples, seed + 1)])
        t = torch.rand(samples, generator=torch.Generator().manual_seed(seed)) * metric.path.endswith("full")
        walk = partial(step_along, metric, ends, t)
        fakes |= collect(samples, walk, batch=max(1, batch // 2), desc=metric.name, quiet=quiet)
    return suite.share(lambda: suite.score(fakes, real, quiet=quiet))


def _check(G: Generator, pictures: ImageDataset | None, base: Generator | None, suite: Suite) -> None:
    config = G.config
    if suite.compares and pictures is None:
        raise ToonError("These metrics compare with real pictures: give a set of them.")
    if suite.compares and pictures and pictures.resolution != config.resolution:
        raise ToonError(f"The network makes {config.resolution} px pictures, the set has {pictures.resolution} px.")
    if config.c_dim and (pictures is None or pictures.label_dim != config.c_dim):
        raise ToonError(
            f"The network makes one of {config.c_dim} classes: give a set with the labels it was trained on."
        )
    if suite.embedders and base is None:
        raise ToonError("identity compares with the pictures of another network at the same z: give it as the base.")
    if suite.embedders and base and (base.config.z_dim != config.z_dim or base.config.c_dim not in (0, config.c_dim)):
        raise ToonError(
            "The base takes other latents or labels than the network: give the one that it was fine-tuned from."
        )


@torch.no_grad()
def evaluate_pictures(
    fakes: ImageDataset,
    reals: ImageDataset | None,
    metrics: Sequence[str] | Suite,
    *,
    samples: int | None = None,
    real_samples: int | None = None,
    device: torch.device | str = "cpu",
    batch: int = 16,
    quiet: bool = True,
) -> dict[str, float]:
    """Measure a set of pictures, as `evaluate` measures those of a network.

    Args:
        fakes, reals: of the same resolution; ``reals`` None if no metric compares with real pictures.
        metrics, device, batch, quiet: as for `evaluate`.
        samples, real_samples: how many of each, spread evenly; all, up to 50,000 reals, if None.

    Returns:
        values by name of the metric.

    Raises:
        ToonError: a metric that only a network has (ppl, identity), a set that is missing or does not fit.
    """
    suite = metrics if isinstance(metrics, Suite) else Suite(metrics, device=device)
    for metric in (*suite.of_kind("ppl"), *suite.of_kind("identity")):
        raise ToonError(f"{metric.name} needs a network, not pictures: leave it out.")
    if suite.compares and (reals is None or reals.resolution != fakes.resolution):
        raise ToonError("These metrics compare with real pictures: give a set of them, of the same resolution.")
    rows = chosen(fakes, min(samples or len(fakes), len(fakes)))

    def step(indices: Tensor) -> dict[str, Tensor]:
        return suite.features(torch.stack([fakes[rows[index]][0] for index in indices.tolist()]))

    real = suite.reals(reals, real_samples, batch=batch, quiet=quiet) if reals and suite.compares else {}
    measured = collect(len(rows), step, batch=batch, desc="pictures", quiet=quiet)
    return suite.share(lambda: suite.score(measured, real, quiet=quiet))
