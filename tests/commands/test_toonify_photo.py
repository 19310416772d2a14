"""What `toonify` makes of the colours and the EXIF of a photo, and of faces that are doubtful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shell
from icc import as_p3, profile
from PIL import Image, ImageDraw

from stylegan_toon import toonify
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.paste import paste_back
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.inversion.encoder import encoder
from stylegan_toon.pipelines.covered import COVERED, misfit
from stylegan_toon.pipelines.toonify import draw_faces
from stylegan_toon.toonify import main
from stylegan_toon.weights import load_network


def pixels(path: object) -> np.ndarray:
    return np.asarray(path if isinstance(path, Image.Image) else Image.open(str(path))).astype(int)


@pytest.fixture
def options(checkpoint, toon_checkpoint, tmp_path) -> list[object]:
    return ["--base", checkpoint, "--toon", toon_checkpoint, "--swap", "b16-", "--features", checkpoint, "--aligned",
            "--steps", 0, "--tune", 0, "--device", "cpu", "--paste-back", "--no-preserve-colour",
            "--out", tmp_path / "out"]  # fmt: skip


def test_a_photo_in_display_p3(options, tmp_path, crop):
    """The photo's numbers stay where nothing is pasted, the cartoon becomes P3, and the profile says so."""
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "someone"
    turned = Image.open(crop).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "p3.png", icc_profile=profile(), exif=exif)
    Image.open(crop).save(tmp_path / "plain.png")
    result = shell.run(main, tmp_path / "p3.png", tmp_path / "plain.png", *options, "--quiet")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    pasted, toon = Image.open(out / "p3-pasted.png"), Image.open(out / "p3-toon.png")
    assert pasted.info["icc_profile"] == profile() and "icc_profile" not in toon.info
    assert pasted.getexif()[0x013B] == "someone" and 0x0112 not in pasted.getexif()
    assert np.abs(pixels(pasted)[:6, :3] - pixels(crop)[:6, :3]).max() == 0  # background, outside the mask
    # As if the cartoon, converted by the formulas, had been pasted; which without a conversion is another picture.
    photo = open_photo(tmp_path / "p3.png", 32, aligned=True)
    as_it_is = pixels(toon)
    converted = Image.fromarray(as_p3(as_it_is).round().astype(np.uint8))
    expected, otherwise = (paste_back(photo.image, photo.faces[0], picture) for picture in (converted, toon))
    assert np.abs(pixels(pasted) - pixels(expected)).mean() < 1 < np.abs(pixels(pasted) - pixels(otherwise)).mean() / 3
    assert Image.open(out / "plain-pasted.png").info.get("icc_profile") == Image.open(crop).info.get("icc_profile")


def test_strip_leaves_the_profile_only(options, tmp_path, crop):
    exif = Image.Exif()
    exif[0x013B] = "someone"
    Image.open(crop).save(tmp_path / "a.png", icc_profile=profile(), exif=exif)
    assert shell.run(main, tmp_path / "a.png", *options, "--strip").exit_code == 0
    pasted = Image.open(tmp_path / "out" / "a-pasted.png")
    assert pasted.info["icc_profile"] == profile() and not pasted.getexif()
    settings = [option for option in options if option != "--paste-back"]
    assert "add --paste-back" in shell.refused(main, tmp_path / "a.png", *settings, "--strip", "--out", tmp_path / "b")


# Doubtful faces


@pytest.fixture
def masked(portrait) -> Image.Image:
    """The portrait with a face mask, in folds."""
    quad = open_photo(portrait, 64).faces[0].quad
    x, y = quad[3] - quad[0], quad[1] - quad[0]

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [tuple(quad[0] + u * x + v * y) for u, v in points]

    picture = Image.open(portrait).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.polygon(at((0.27, 0.56), (0.5, 0.52), (0.73, 0.56), (0.7, 0.8), (0.5, 0.92), (0.3, 0.8)), (120, 160, 190))
    for height in (0.62, 0.68, 0.74):
        draw.line(at((0.29, height), (0.5, height + 0.05), (0.71, height)), (100, 138, 168), 4)
    return picture


def test_a_covered_face_is_told(portrait, masked):
    """By the shipped encoder and network: a face mask over half of the face."""
    base, network = load_network("faces"), encoder("cpu")
    bare, hidden = (open_photo(picture, 256, aligned=False).faces[0].image for picture in (portrait, masked))
    assert misfit(base, network, bare) < COVERED - 0.1 and misfit(base, network, hidden) > COVERED


def test_doubtful_faces_are_refused_and_forced(tmp_path, portrait):
    tiny = Image.open(portrait).convert("RGB").resize((84, 103), Image.Resampling.LANCZOS)
    tiny.save(tmp_path / "tiny.png")
    drawn = [tmp_path / "tiny.png", "--draw", "--style", "ink", "--resolution", 64, "--quiet", "--out", tmp_path / "a"]
    line = shell.run(main, *drawn).stderr.splitlines()[-1]
    assert line.startswith("error: The face in tiny.png is tiny") and line.endswith("or add --force.")
    assert not (tmp_path / "a").exists()
    assert shell.run(main, *drawn, "--force").exit_code == 0
    with pytest.raises(ToonError, match="is tiny"):
        draw_faces(tiny, "ink", resolution=64)
    assert len(draw_faces(tiny, "ink", resolution=64, force=True)) == 1


def test_the_function_refuses_them_too(tmp_path, checkpoint, toon_checkpoint, portrait):
    tiny = Image.open(portrait).convert("RGB").resize((84, 103), Image.Resampling.LANCZOS)
    with pytest.raises(ToonError, match="the photo is tiny"):
        toonify(tiny, base=checkpoint, toon=toon_checkpoint, swap="b16-")
    assert not list(Path(tmp_path).glob("out"))
