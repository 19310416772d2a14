"""How much toon networks keep of the person, and how near they stay to the cartoon, at the same latents as a base.

Every network makes pictures from the same ws. They are compared with those of the base, the person's network, by a face
recogniser (the judge), the face mesh and the colours of skin and hair; and as a set with pictures of the cartoon: those
that the toon network makes of other latents, or drawings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.datasets import ImageDataset
from ..data.images import to_pil
from ..errors import ToonError
from ..faces.align import has_face
from ..faces.mesh import Mesh, face_mesh
from ..features.extractors import Textures
from ..features.identity import FaceEmbedder
from ..features.perceptual import fit
from ..models import Generator
from ..progress import progress
from ..weights import provenance_of
from .attributes import HAIR_BOX
from .batches import latents, pictures_of
from .feature_cache import chosen
from .skin import cheeks_lab, to_cielab
from .style_features import StyleFeatures, toon_distance

SIZE = 256  # pixels of the pictures that are compared
TONES = ("dark", "middle", "light")
_EYES = (33, 263)  # outer corners: the unit of distances between landmarks


@dataclass(frozen=True)
class ColourShift:
    """The mean of network minus base in CIELAB, and the mean length of the difference (CIE 1976).

    Attributes:
        lightness, a, b: of L*, a* and b*.
        distance: of the colours; a difference of about 2 is just visible.
    """

    lightness: float
    a: float
    b: float
    distance: float


@dataclass(frozen=True)
class Likeness:
    """What `measure_likeness` finds for one network.

    Attributes:
        identity: mean cosine of the judge's embeddings with those of the base's pictures.
        identity_error: standard error of that mean.
        identity_low: the cosine that a tenth of the pictures are below.
        toon_distance: of its pictures to those of the cartoon, by the first network of features, see
            `style_features.toon_distance`.
        toon_share: where that lies between the base (0) and the toon itself (1).
        toon_distances: the distance by each network of features.
        landmarks: mean distance between landmarks, in percent of the distance of the outer corners of the eyes.
        detection: share of pictures in which MTCNN finds a face.
        skin: shift of the cheeks' colour, for "all" and by thirds of the base's lightness: "dark", "middle", "light".
        hair: the same of the top of the head, by the same thirds.
    """

    identity: float
    identity_error: float
    identity_low: float
    toon_distance: float
    toon_share: float
    toon_distances: dict[str, float]
    landmarks: float
    detection: float
    skin: dict[str, ColourShift]
    hair: dict[str, ColourShift]


@dataclass(frozen=True)
class _Seen:
    """What is kept of a network's pictures: rows of features, one for each picture."""

    faces: Tensor  # [N, E]
    style: dict[str, Tensor]  # [N, D] by name of the network of features
    points: np.ndarray  # [N, 478, 2], in pixels
    skin: np.ndarray  # [N, 3]
    hair: np.ndarray  # [N, 3]
    found: np.ndarray  # [N]


@torch.no_grad()
def measure_likeness(
    networks: Mapping[str, Generator],
    base: Generator,
    toon: Generator,
    judge: FaceEmbedder,
    *,
    count: int = 200,
    psi: float = 0.7,
    seed: int = 0,
    batch: int = 8,
    style: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    drawings: ImageDataset | None = None,
    quiet: bool = True,
) -> dict[str, Likeness]:
    """Measure networks against the person's network and the toon's.

    Args:
        networks: by name; each takes the base's ws.
        base: whose pictures show the person; its mapping network makes ws for all.
        toon: whose pictures of ``count`` other latents are what a cartoon looks like.
        judge: not the recogniser that a network was trained with.
        count: pictures of each network.
        psi: truncation.
        seed: of the latents.
        batch: pictures computed at once.
        style: networks of features by name, pictures ``[N, 3, 256, 256]`` -> ``[N, D]``; the first is that of
            ``toon_distance``. None = `StyleFeatures`.
        drawings: what a cartoon looks like, at most ``count`` of them, in place of the toon's pictures.
        quiet: show no progress.

    Returns:
        by name of the network.

    Raises:
        ToonError: fewer than 2 pictures or drawings, networks that take other ws, or one that was trained with the
            judge.
    """
    if count < 2:
        raise ToonError("Likeness is measured over at least 2 seeds: give more.")
    if drawings is not None and len(drawings) < 2:
        raise ToonError("The distance to drawings needs at least 2 of them: give more.")
    for name, network in {**networks, "the toon": toon}.items():
        if (network.num_ws, network.config.w_dim) != (base.num_ws, base.config.w_dim):
            raise ToonError(f"{name} takes other latents than the base: give networks that were made from it.")
        refuse_judge(name, network, judge)
    device = base.mapping.w_avg.device
    style = style or {Textures.name: StyleFeatures(device=device)}
    z = latents(base, 2 * count, seed).to(device)
    ours, others = torch.cat([base.mapping(part, psi=psi) for part in z.split(64)]).split(count)
    # Base and toon are always looked at: they are the ends of the scale of `toon_share`.
    distinct = {id(network): network for network in (base, toon, *networks.values())}
    shown = count if drawings is None else min(count, len(drawings))
    with progress(total=shown + count * len(distinct), quiet=quiet, unit="img", desc="likeness") as bar:
        examples = (
            pictures_of(toon, others, SIZE, batch=batch)
            if drawings is None
            else _drawings(drawings, shown, batch, device)
        )
        cartoon = _styles(style, _counted(examples, bar.update))
        person = _look(base, ours, judge, style, batch, bar.update)
        seen = {id(base): person}
        for key, network in distinct.items():
            if key != id(base):
                seen[key] = _look(network, ours, judge, style, batch, bar.update, person)
    first = next(iter(style))
    farthest, nearest = (toon_distance(seen[id(network)].style[first], cartoon[first]) for network in (base, toon))
    return {
        name: _compared(seen[id(network)], person, cartoon, nearest, farthest) for name, network in networks.items()
    }


def refuse_judge(name: str, network: Generator, judge: FaceEmbedder) -> None:
    """Raise ToonError if the network was trained with the judge."""
    if provenance_of(network).get("identity") == judge.name:
        raise ToonError(f"{name} was trained with {judge.name}, which cannot judge it: choose another --judge.")


def tone_thirds(lightness: np.ndarray) -> dict[str, np.ndarray]:
    """Which pictures belong to each third of the lightness of skin ``[N]``: bool ``[N]``."""
    low, high = np.nanquantile(lightness, [1 / 3, 2 / 3])
    return dict(zip(TONES, (lightness <= low, (lightness > low) & (lightness <= high), lightness > high)))


def as_json(result: Likeness) -> dict[str, Any]:
    """The numbers, rounded to what they can tell."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(part) for key, part in value.items()}
        return round(value, 5)

    return rounded(asdict(result))


def table(results: Mapping[str, Likeness]) -> str:
    """The results as lines of text."""
    width = max(map(len, results), default=0)
    lines = [f"{'':<{width}}  identity  a tenth below  toon distance  share  landmarks  found  skin  hair"]
    for name, r in results.items():
        lines.append(
            f"{name:<{width}}  {r.identity:8.3f}  {r.identity_low:13.3f}  {r.toon_distance:13.3f}  {r.toon_share:5.2f}"
            f"  {r.landmarks:8.1f}%  {100 * r.detection:4.0f}%  {r.skin['all'].distance:4.1f}"
            f"  {r.hair['all'].distance:4.1f}"
        )
    return "\n".join(lines)


def _drawings(dataset: ImageDataset, count: int, batch: int, device: torch.device) -> Iterator[Tensor]:
    """``count`` pictures spread evenly over a set, ``batch`` at a time: ``[n, 3, 256, 256]`` in [-1, 1]."""
    for rows in torch.tensor(chosen(dataset, count)).split(batch):
        pictures = torch.stack([dataset[row][0] for row in rows.tolist()])
        yield fit(pictures.to(device) / 127.5 - 1, SIZE)


def _counted(pictures: Iterable[Tensor], update: Callable[[int], object]) -> Iterator[Tensor]:
    """The batches themselves; ``update`` gets the size of each when it has been used."""
    for img in pictures:
        yield img
        update(len(img))


def _look(
    G: Generator,
    ws: Tensor,
    judge: FaceEmbedder,
    style: Mapping[str, Callable[[Tensor], Tensor]],
    batch: int,
    update: Callable[[int], object],
    person: _Seen | None = None,
) -> _Seen:
    faces, styles, points, skin, hair, found = [], [], [], [], [], []  # a row or a batch each
    for img in _counted(pictures_of(G, ws, SIZE, batch=batch), update):
        faces.append(judge(img).cpu())
        styles.append(_styles(style, [img]))
        for picture in map(to_pil, img):
            mesh = face_mesh(picture)
            place = mesh if person is None else Mesh(person.points[len(points)], mesh.depth, 1.0)
            skin.append(_cheeks(picture, place))
            hair.append(_hair_lab(picture))
            points.append(mesh.points)
            found.append(has_face(picture))
    joined = {name: torch.cat([part[name] for part in styles]) for name in style}
    return _Seen(torch.cat(faces), joined, *(np.array(part) for part in (points, skin, hair, found)))


def _styles(style: Mapping[str, Callable[[Tensor], Tensor]], pictures: Iterable[Tensor]) -> dict[str, Tensor]:
    """Features ``[N, D]`` on the CPU by name, of batches of pictures."""
    parts = [{name: network(img).cpu() for name, network in style.items()} for img in pictures]
    return {name: torch.cat([part[name] for part in parts]) for name in style}


def _cheeks(picture: Image.Image, mesh: Mesh) -> tuple[float, float, float]:
    """The colour of the cheeks; not a number where they lie outside the picture."""
    try:
        return cheeks_lab(picture, mesh)
    except ToonError:
        return (np.nan, np.nan, np.nan)


def _hair_lab(picture: Image.Image) -> np.ndarray:
    left, top, right, bottom = (round(share * picture.width) for share in HAIR_BOX)
    return np.median(to_cielab(np.asarray(picture.convert("RGB"))[top:bottom, left:right]), axis=(0, 1))


def _compared(rows: _Seen, person: _Seen, cartoon: dict[str, Tensor], nearest: float, farthest: float) -> Likeness:
    cosines = (rows.faces * person.faces).sum(1).double()
    distances = {name: toon_distance(part, cartoon[name]) for name, part in rows.style.items()}
    distance = next(iter(distances.values()))
    eyes = np.linalg.norm(person.points[:, _EYES[0]] - person.points[:, _EYES[1]], axis=1)
    moved = np.linalg.norm(rows.points - person.points, axis=2).mean(1) / eyes
    groups = {"all": np.ones(len(cosines), bool), **tone_thirds(person.skin[:, 0])}
    return Likeness(
        identity=float(cosines.mean()),
        identity_error=float(cosines.std() / len(cosines) ** 0.5),
        identity_low=float(cosines.quantile(0.1)),
        toon_distance=distance,
        toon_share=(farthest - distance) / (farthest - nearest) if farthest != nearest else 0.0,
        toon_distances=distances,
        landmarks=float(100 * moved.mean()),
        detection=float(rows.found.mean()),
        skin={name: _shift((rows.skin - person.skin)[group]) for name, group in groups.items()},
        hair={name: _shift((rows.hair - person.hair)[group]) for name, group in groups.items()},
    )


def _shift(difference: np.ndarray) -> ColourShift:
    difference = difference[np.isfinite(difference).all(1)]
    if not len(difference):
        return ColourShift(0.0, 0.0, 0.0, 0.0)
    lightness, a, b = (float(value) for value in difference.mean(0))
    return ColourShift(lightness, a, b, float(np.linalg.norm(difference, axis=1).mean()))
