"""Measure a network, a set of pictures, how much toons look like their photos, and what networks keep of a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

from . import __version__, cli
from .data.datasets import ImageDataset
from .data.images import image_grid, save_image, to_pil
from .errors import ToonError
from .features.extractors import EXTRA, NAMES, OFFLINE, Textures
from .features.identity import face_embedder
from .files import append_line, atomic_path, refuse_overwrite, results_folder
from .metrics import DEFAULT, Suite, evaluate, evaluate_pictures, parse_metric
from .metrics.batches import labels_of, latents
from .metrics.likeness import as_json, measure_likeness, table
from .metrics.likeness_chart import chart
from .metrics.names import COMPARED
from .metrics.photo_pairs import evaluate_pairs, match
from .metrics.style_features import StyleFeatures
from .metrics.suite import MAX_REALS
from .models import Generator
from .pipelines.blend import blend
from .pipelines.likeness import faces_sheet, named_networks
from .pipelines.likeness import family as blends
from .weights import load_network, provenance_of

SAMPLES = 5000
COLUMNS = 8


class MetricsType(click.ParamType):
    """``fid,detection`` -> ["fid", "detection"]; every name is one of a metric."""

    name = "metrics"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
        try:
            return [parse_metric(name).name for name in names]
        except ToonError as error:
            self.fail(str(error), param, ctx)


def sheet(measured: list[Image.Image], reals: ImageDataset | None) -> Image.Image:
    """Some of the pictures that were measured, above some of the real ones."""
    rows = -(-len(measured) // COLUMNS)
    beside = [reals.image(i) for i in range(min(16, len(reals.names)))] if reals else []
    measured = measured + [Image.new("RGB", measured[0].size, "white")] * (rows * COLUMNS - len(measured))
    labels = ["measured"] * rows + ["real"] * -(-len(beside) // COLUMNS)
    return image_grid(measured + beside, COLUMNS, size=128, row_labels=labels)


@cli.command_group(
    """python -m stylegan_toon.evaluate --network faces --data faces.zip --samples 2000
python -m stylegan_toon.evaluate likeness --count 1000
python -m stylegan_toon.evaluate likeness out/finetoon/finetoon.safetensors --swap b64,b128""",
    default="metrics",
)
def main() -> None:
    """Measure networks and pictures, or how much of the person toon networks keep.

    "evaluate --network NAME ..." is short for "evaluate metrics --network NAME ...".
    """


@main.subcommand(
    "metrics",
    """python -m stylegan_toon.evaluate --network faces --data faces.zip --samples 2000
python -m stylegan_toon.evaluate --pictures out/generate --data faces.zip --metrics fid,kid
python -m stylegan_toon.evaluate --photos photos --toons out/toonify --metrics identity-dlib,detection""",
)
@cli.network(None)
@click.option("--pictures", type=cli.TEXT, help="Measure these pictures instead: folder, zip or tar shards.")
@click.option("--photos", type=cli.PATH, help="Measure pairs instead: a folder of photos ...")
@click.option("--toons", type=cli.PATH, help="... and one of their toons, as toonify writes it.")
@cli.aligned("The photos are aligned square crops already.")
@click.option("--data", type=cli.TEXT, help="Real pictures to compare with: folder, zip or tar shards (also http).")
@click.option(
    "--metrics", type=MetricsType(), metavar="NAME,...",
    help="fid, kid, fd-NET, kd-NET, pr-NET (NET is inception, vgg16 or, offline, efficientnet-lite0 or textures), "
    "ppl-zfull, ppl-wfull, ppl-zend, ppl-wend, identity, detection; offline ppl-...-vgg and identity-dlib. "
    "By default fd, kd and pr with efficientnet-lite0 and detection; identity-dlib of pairs.",
)  # fmt: skip
@cli.base(None, help="Network that identity compares --network with, at the same latents.")
@click.option(
    "--samples", type=cli.integer(2, 200_000),
    help=f"Pictures to measure: {SAMPLES} of a network (papers take 50000), all of a set.",
)  # fmt: skip
@click.option(
    "--reals", type=cli.integer(2, 50_000_000), help="Real pictures to compare with; all, up to 50000, if not given."
)
@cli.psi(1.0)
@cli.batch(16)
@cli.out("out/evaluate")
@cli.device()
@cli.dtype()
@cli.seed()
@cli.quiet()
@cli.overwrite()
def metrics_command(
    network: str | None, pictures: str | None, photos: Path | None, toons: Path | None, aligned: bool,
    data: str | None, metrics: list[str] | None, base: str | None, samples: int | None, reals: int | None, psi: float,
    batch: int, out: Path, device: torch.device, dtype: torch.dtype | None, seed: int, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Measure a network, a set of pictures, or how much toons look like their photos.

    Prints the results; writes NAME.json and NAME.png to --out and appends a line to metrics.jsonl there. Features of
    the real pictures are kept for the next time. The default metrics need: pip install 'stylegan_toon[evaluate]'.
    """
    given = [source for source in (network, pictures, photos) if source is not None]
    if len(given) != 1 or (photos is None) != (toons is None):
        raise ToonError("Say what to measure: one of --network, --pictures, or --photos together with --toons.")
    name = Path(str(given[0]).partition("#")[0]).resolve().stem
    files = [out / f"{name}.json", out / f"{name}.png"]
    refuse_overwrite(files, overwrite)
    metrics = metrics or list(DEFAULT if photos is None else ["identity-dlib"])
    _check_packages(metrics)
    compares = any(parse_metric(metric).kind in COMPARED for metric in metrics)
    if data is None and photos is None and compares:
        raise ToonError("These metrics compare with real pictures: give a set of them with --data.")
    with results_folder(out):
        if photos is not None and toons is not None:
            matched = match(photos, toons)
            suite = Suite(metrics, device=device)
            pairs = evaluate_pairs(matched, suite, aligned=aligned, quiet=quiet)
            picture = pairs.sheet
            report = {"toons": toons.name, "pairs": pairs.count, **_results(suite, pairs.metrics)}
        elif pictures is not None:
            measured = ImageDataset(pictures, resize=True)
            real = _real_pictures(data, measured.resolution)
            suite = Suite(metrics, device=device)
            count = min(samples or len(measured), len(measured))
            results = evaluate_pictures(
                measured, real, suite, samples=count, real_samples=reals, batch=batch, quiet=quiet
            )
            picture = sheet([measured.image(i) for i in range(min(16, len(measured)))], real)
            report = {"samples": count, **_about_reals(suite, data, real, reals), **_results(suite, results)}
        else:
            G = load_network(str(network), device=device)
            real = _real_pictures(data, G.config.resolution, labels=G.config.c_dim > 0)
            suite = Suite(metrics, device=device)
            count = samples or SAMPLES
            results = evaluate(
                G, real, suite, samples=count, reals=reals, base=load_network(base, device=device) if base else None,
                seed=seed, psi=psi, dtype=dtype, batch=batch, quiet=quiet,
            )  # fmt: skip
            picture = sheet(_some(G, real, count, seed, psi), real)
            report = {"sha256": provenance_of(G).get("sha256"), "psi": psi, "seed": seed, "samples": count}
            report |= {"base": Path(base).name} if base else {}
            report |= {**_about_reals(suite, data, real, reals), **_results(suite, results)}
        report = {"name": name, **report, "version": __version__}
        with atomic_path(files[0]) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        append_line(out / "metrics.jsonl", json.dumps(report))
        save_image(picture, files[1])
    _print(metrics, report["metrics"])
    click.echo(files[0])


@main.subcommand(
    "likeness",
    """python -m stylegan_toon.evaluate likeness --count 1000
python -m stylegan_toon.evaluate likeness out/finetoon/finetoon.safetensors --swap b64,b128 --swap b128""",
)
@click.argument("networks", nargs=-1, metavar="[NETWORK]...", type=cli.TEXT)
@cli.base()
@cli.toon()
@click.option("--swap", "swaps", multiple=True, type=cli.TEXT, help="Measure this blend of the two, too; repeatable.")
@click.option("--family/--no-family", default=True, help="Measure the named blends of the two.")
@click.option(
    "--data", type=cli.TEXT,
    help="Drawings to measure the distance to, in place of the toon network's own pictures: folder, zip or tar shards.",
)  # fmt: skip
@click.option("--count", type=cli.integer(2, 100_000), default=200, help="Pictures of each network.")
@click.option(
    "--judge", type=cli.TEXT, default="faceres",
    help="Face recogniser that compares with the base: faceres, dlib, facenet, or a file with FaceNet's weights.",
)  # fmt: skip
@click.option(
    "--features", multiple=True, type=click.Choice(list(NAMES)), default=[Textures.name],
    help="Features of the distance to the toon: textures (of the VGG16 that ships) or those of another network. "
    "Repeatable; the chart shows the first.",
)  # fmt: skip
@cli.psi()
@cli.batch(8)
@cli.out("out/likeness")
@cli.device()
@cli.seed()
@cli.quiet()
@cli.overwrite()
def likeness_command(
    networks: tuple[str, ...], base: str, toon: str, swaps: tuple[str, ...], family: bool, data: str | None, count: int,
    judge: str, features: tuple[str, ...], psi: float, batch: int, out: Path, device: torch.device, seed: int,
    quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Measure how much of the person toon networks keep, and how near they stay to the cartoon.

    Every network makes pictures from the same latents as --base. Prints a table; writes likeness.json, likeness.png (a
    chart of identity over the distance to the cartoon's pictures) and likeness-faces.png.
    """
    files = {name: out / name for name in ("likeness.json", "likeness.png", "likeness-faces.png")}
    refuse_overwrite(list(files.values()), overwrite)
    chosen = face_embedder(judge, device=device)
    drawings = _real_pictures(data, None)
    person, cartoon = load_network(base, device=device), load_network(toon, device=device)
    compared = blends(person, cartoon) if family else {}
    compared |= {swap: blend(person, cartoon, swap) for swap in swaps} | named_networks(networks, device)
    style = {name: StyleFeatures(name, device=device) for name in dict.fromkeys(features)}
    with results_folder(out):
        results = measure_likeness(
            compared, person, cartoon, chosen, count=count, psi=psi, seed=seed, batch=batch, style=style,
            drawings=drawings, quiet=quiet,
        )  # fmt: skip
        report = {
            "base": base, "toon": toon, "data": data and Path(data).name, "judge": chosen.name,
            "features": list(style), "count": count, "psi": psi, "seed": seed,
            "networks": {name: as_json(result) for name, result in results.items()},
            "version": __version__,
        }  # fmt: skip
        with atomic_path(files["likeness.json"]) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        points = {name: (result.toon_distance, result.identity) for name, result in results.items()}
        save_image(chart(points, judge=chosen.name), files["likeness.png"])
        save_image(faces_sheet(compared, person, psi=psi, seed=seed), files["likeness-faces.png"])
    click.echo(table(results))
    click.echo(files["likeness.json"])


def _check_packages(metrics: Sequence[str]) -> None:
    """Refuse metrics whose packages are not installed, before anything is loaded."""
    for name in metrics:
        network = parse_metric(name).network
        package = "efficientnet_lite_pytorch" if network == OFFLINE else "torch_fidelity"
        if network in NAMES and network != Textures.name and find_spec(package) is None:
            raise ToonError(f"{name} needs packages that are not installed: {EXTRA}, or use --metrics detection.")


def _real_pictures(data: str | None, resolution: int | None, labels: bool = False) -> ImageDataset | None:
    return None if data is None else ImageDataset(data, resolution, resize=True, labels=labels)


def _about_reals(suite: Suite, data: str | None, real: ImageDataset | None, reals: int | None) -> dict[str, Any]:
    if not suite.compares or data is None or real is None:
        return {}
    return {"data": Path(data).name, "reals": min(reals or MAX_REALS, len(real)), "resolution": real.resolution}


def _results(suite: Suite, results: dict[str, float]) -> dict[str, Any]:
    return {"metrics": results, "networks": suite.digests()}


def _some(G: Generator, real: ImageDataset | None, samples: int, seed: int, psi: float) -> list[Image.Image]:
    """The first 16 pictures that were measured."""
    z = latents(G, samples, seed)[:16].to(G.mapping.w_avg.device)
    c = labels_of(real, samples, seed)[:16].to(z.device) if real is not None and G.config.c_dim else None
    with torch.no_grad():
        return [to_pil(img) for img in G(z, c, psi=psi)]


def _print(metrics: Sequence[str], results: dict[str, float]) -> None:
    width = max(len(name) for name in results)
    for metric in map(parse_metric, dict.fromkeys(metrics)):
        for name in metric.results:
            click.echo(f"{name:<{width}}  {results[name]:12.5g}  {metric.better} is better")


if __name__ == "__main__":
    main()
