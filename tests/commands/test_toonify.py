"""Photo to cartoon: which picture is shown by which network, and which files are written for which face."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import shell
import torch
from PIL import Image, ImageOps
from tiny import tiny_generator

from stylegan_toon import InversionConfig, cli, load_network, project, toonify
from stylegan_toon.data.images import read_image, to_pil
from stylegan_toon.drawing import draw
from stylegan_toon.drawing.keep_colour import keep_colour
from stylegan_toon.drawing.sharpen import sharpen
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import Aligned
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.pipelines.toonify import Toon, ToonFace, Toonifier, carry_over, draw_faces
from stylegan_toon.toonify import main
from stylegan_toon.weights import save_networks
from stylegan_toon.weights.latent import Latent

LIMIT_MB = 2000


@pytest.fixture
def short(checkpoint) -> dict:
    """Settings of a short run of `toonify`, offline."""
    return dict(base=checkpoint, swap="b16-", config=config(checkpoint), preserve_colour=False, sharpen=0, soften=0)


def config(checkpoint, **changes) -> InversionConfig:
    return InversionConfig(**{"steps": 5, "tune_steps": 0, "features": str(checkpoint), **changes})


@pytest.fixture
def options(checkpoint, toon_checkpoint, tmp_path) -> list[object]:
    """The same for the command, into ``out``."""
    return ["--base", checkpoint, "--toon", toon_checkpoint, "--swap", "b16-", "--features", checkpoint,
            "--steps", 5, "--tune", 0, "--device", "cpu", "--out", tmp_path / "out"]  # fmt: skip


run, refused = partial(shell.run, main), partial(shell.refused, main)


def made(*args: object) -> None:
    result = run(*args)
    assert result.exit_code == 0, result.output


def pixels(picture) -> np.ndarray:
    return np.asarray(picture if isinstance(picture, Image.Image) else Image.open(picture)).astype(int)


def equal(a, b) -> bool:
    return np.array_equal(pixels(a), pixels(b))


# Networks


def test_nothing_swapped_shows_the_inverted_picture(checkpoint, crop, tiny_toon):
    for tune_steps in (0, 3):
        options = dict(base=checkpoint, toon=tiny_toon, swap="", config=config(checkpoint, tune_steps=tune_steps))
        (face,) = toonify(crop, aligned=True, preserve_colour=False, sharpen=0, soften=0, **options)
        assert equal(face.image, face.inverted)
        assert equal(face.inverted, to_pil(face.projection.image))


def test_all_swapped_shows_the_toon_of_the_same_latent(short, crop, tiny_toon):
    (face,) = toonify(crop, aligned=True, toon=tiny_toon, **{**short, "swap": "all"}).faces
    with torch.no_grad():
        truth = tiny_toon.synthesis(face.projection.ws, noise_mode="const")
    assert equal(face.image, to_pil(truth)) and not equal(face.image, face.inverted)


def test_the_cartoon_is_sharpened_and_less_at_half_strength(short, crop, tiny_toon, checkpoint, monkeypatch):
    large = Image.open(crop).resize((512, 512))
    for strength in (1.0, 0.5):
        toonifier = Toonifier.load(checkpoint, tiny_toon, strength=strength, config=config(checkpoint), sharpen=0.8)
        assert equal(toonifier.finished(large), sharpen(large, 0.8 * strength))
    assert not equal(toonifier.finished(large), large)
    monkeypatch.setattr(Toonifier, "finished", lambda self, cartoon: ImageOps.invert(cartoon))
    (inverted,) = toonify(crop, aligned=True, toon=tiny_toon, **short)
    monkeypatch.undo()
    (plain,) = toonify(crop, aligned=True, toon=tiny_toon, **short)
    assert equal(ImageOps.invert(inverted.image), plain.image) and equal(inverted.inverted, plain.inverted)


def test_lines_are_softened_by_the_photo_and_less_at_half_strength(short, crop, tiny_toon, checkpoint, monkeypatch):
    """The last thing that happens to a cartoon, with the aligned crop; not where there is no photo."""
    asked = []

    def invert(photo: Image.Image, cartoon: Image.Image, amount: float) -> Image.Image:
        asked.append((photo, amount))
        return ImageOps.invert(cartoon)

    (plain,) = toonify(crop, aligned=True, toon=tiny_toon, **short)
    monkeypatch.setattr("stylegan_toon.pipelines.toonify.soften_lines", invert)
    (softened,) = toonify(crop, aligned=True, toon=tiny_toon, strength=0.5, **{**short, "soften": 0.8})
    assert asked == [(softened.aligned.image, 0.4)]
    (softened,) = toonify(crop, aligned=True, toon=tiny_toon, **short)
    assert equal(ImageOps.invert(softened.image), plain.image) and equal(softened.inverted, plain.inverted)
    asked.clear()
    toonifier = Toonifier.load(checkpoint, tiny_toon, config=config(checkpoint))
    toonifier.show(Latent(plain.projection.ws))
    assert not asked


def test_the_face_is_projected_into_the_base(short, checkpoint, crop, tiny_G, tiny_toon):
    options = config(checkpoint, space="w", seed=4)
    result = toonify(crop, aligned=True, toon=tiny_toon, **{**short, "config": options})
    small = Image.open(crop).resize((32, 32), Image.Resampling.LANCZOS)
    found = project(tiny_G, small, options, noise=False)
    assert torch.equal(result.faces[0].projection.ws, found.ws)
    assert equal(result.faces[0].inverted, to_pil(found.image)) and equal(result.image, result.faces[0].image)


def test_the_toon_gets_the_tuning_of_the_base(tiny_G, tiny_toon):
    tuned = tiny_generator(0)
    with torch.no_grad():
        for i, p in enumerate(tuned.synthesis.parameters()):
            p += 0.01 * (i + 1)
    before = {name: tensor.clone() for name, tensor in tiny_toon.state_dict().items()}
    moved = carry_over(tiny_G, tuned, tiny_toon).state_dict()
    names = [f"synthesis.{name}" for name, _ in tiny_G.synthesis.named_parameters()]
    for name, tensor in before.items():
        shift = 0.01 * (names.index(name) + 1) if name in names and "noise_strength" not in name else 0.0
        torch.testing.assert_close(moved[name], tensor + shift, atol=1e-6, rtol=1e-6)
        assert torch.equal(tiny_toon.state_dict()[name], tensor)  # itself it stays


def test_tuning_reaches_the_toons_layers(checkpoint, crop, tiny_G, tiny_toon):
    """With everything swapped the cartoon is the toon's, its synthesis weights shifted by the tuning."""
    options = dict(base=checkpoint, toon=tiny_toon, swap="all", config=config(checkpoint, tune_steps=4))
    result = toonify(crop, aligned=True, preserve_colour=False, sharpen=0, soften=0, **options)
    found, truth = result.faces[0].projection, tiny_generator(1)
    assert found.tuned == 4
    state, before, after = truth.state_dict(), tiny_G.state_dict(), found.generator.state_dict()
    for name, _ in truth.synthesis.named_parameters():
        if "noise_strength" in name:
            continue
        state[f"synthesis.{name}"] += after[f"synthesis.{name}"] - before[f"synthesis.{name}"]
    with torch.no_grad():
        untuned, truth = (to_pil(G.synthesis(found.ws, noise_mode="const")) for G in (tiny_toon, truth))
    assert equal(result.image, truth) and not equal(result.image, untuned)


def test_drawn_without_a_network(crop, portrait, tmp_path):
    """The renderer's drawing of the aligned face, on the command line and as a function."""
    truth = draw(read_image(crop).resize((256, 256), Image.Resampling.LANCZOS), "ink")
    drawn = draw_faces(crop, "ink", resolution=256, aligned=True)
    assert equal(drawn.image, truth) and drawn.faces[0].projection is None
    made(portrait, "--draw", "--style", "ink", "--resolution", 256, "--paste-back", "--out", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["portrait-drawing.png", "portrait-pasted.png", "portrait-sheet.png"]
    assert Image.open(tmp_path / "out" / "portrait-drawing.png").size == (256, 256)
    assert "comic" in refused(portrait, "--draw", "--style", "water", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_strength_goes_from_the_inverted_photo_to_the_cartoon(short, crop, tiny_toon):
    faces = {
        share: toonify(crop, aligned=True, toon=tiny_toon, strength=share, **short).faces[0] for share in (0, 0.4, 1)
    }
    assert equal(faces[0].image, faces[0].inverted)
    (usual,) = toonify(crop, aligned=True, toon=tiny_toon, **short)
    (half,) = toonify(crop, aligned=True, toon=tiny_toon, **{**short, "swap": "b16-=0.4"})
    assert equal(faces[1].image, usual.image) and equal(faces[0.4].image, half.image)
    assert not equal(half.image, usual.image)


def test_preserved_colours_are_those_of_the_crop(short, crop, tiny_toon):
    (plain,) = toonify(crop, aligned=True, toon=tiny_toon, **short)
    (kept,) = toonify(crop, aligned=True, toon=tiny_toon, **{**short, "preserve_colour": True})
    assert equal(kept.image, keep_colour(kept.aligned.image, plain.image)) and not equal(kept.image, plain.image)


def test_the_background_is_drawn(portrait, tmp_path):
    face = draw_faces(portrait, "ink", resolution=128)
    pasted = face.pasted("ink")
    assert np.ptp(pixels(pasted), axis=2).max() <= 2 and np.ptp(pixels(face.pasted()), axis=2).max() > 50
    made(portrait, "--draw", "--style", "ink", "--resolution", 128, "--paste-back", "--background", "toon", "--out",
         tmp_path / "out")  # fmt: skip
    assert equal(tmp_path / "out" / "portrait-pasted.png", pasted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--draw", "--strength", 0.5], "leave out --draw"),
        (["--draw", "--sharpen", 0.5], "leave out --draw"),
        (["--draw", "--soften", 0.5], "leave out --draw"),
        (["--draw", "--preserve-colour"], "leave out --draw"),
        (["--draw", "--background", "toon"], "add --paste-back"),
        (["--draw", "--paste-back", "--background", "oil"], "pop"),
        (["--strength", "nan"], "nan"),
        (["--strength", 2], "2"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words, crop, tmp_path):
    assert words in refused(crop, "--aligned", *options, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_size_the_networks_do_not_make(options, crop):
    assert "32 px" in refused(crop, *options, "--aligned", "--resolution", 48)


# Faces


def test_every_face_becomes_a_cartoon(options, tmp_path, two_people):
    photo, out = tmp_path / "party.png", tmp_path / "out"
    two_people.save(photo)
    made(photo, *options, "--paste-back")
    assert sorted(os.listdir(out)) == ["party-1-toon.png", "party-2-toon.png", "party-pasted.png", "party-sheet.png"]
    assert not equal(out / "party-1-toon.png", out / "party-2-toon.png")

    # Pasted: the faces, found some 60 pixels below the top, are drawn; far from both nothing has changed.
    changed = np.abs(pixels(out / "party-pasted.png") - pixels(photo)).max(axis=2)
    assert changed.shape == (410, 800)
    for x in (20 + 170, 440 + 170):
        assert (changed[120:220, x - 50 : x + 50] > 0).mean() > 0.9
    assert not changed[:35].any() and not changed[300:].any() and not changed[:, 330:480].any()

    # --face counts from the left, and finds the same.
    for number, folder in ((1, "left"), (2, "right")):
        made(photo, *options, "--face", number, "--out", tmp_path / folder)
        assert sorted(os.listdir(tmp_path / folder)) == ["party-sheet.png", "party-toon.png"]
        assert equal(tmp_path / folder / "party-toon.png", out / f"party-{number}-toon.png")
    sheets = [pixels(tmp_path / folder / "party-sheet.png").mean(axis=(0, 1)) for folder in ("left", "right")]
    assert sheets[0][0] - sheets[0][2] > sheets[1][0] - sheets[1][2]  # red light on the left, blue on the right

    sentence = "error: party.png shows 2 face(s): choose --face from 1 to 2."
    assert refused(photo, *options, "--face", 3, "--out", tmp_path / "none") == sentence
    assert not (tmp_path / "none").exists()


def test_the_largest_face_is_the_picture():
    """A small face tilted by 45 degrees has the wider box, not the longer side."""

    def face(quad: list, grey: int) -> ToonFace:
        return ToonFace(Aligned(None, np.array(quad, float)), None, None, Image.new("RGB", (8, 8), (grey,) * 3))

    upright = face([(0, 0), (0, 100), (100, 100), (100, 0)], 1)
    tilted = face([(200, 60), (260, 120), (320, 60), (260, 0)], 2)  # 85 to a side, 120 wide
    for faces in ([upright, tilted], [tilted, upright]):
        assert Toon(None, faces).image is upright.image


def test_the_sheet_shows_photo_crop_inverted_and_toon(options, tmp_path, crop):
    made(crop, *options, "--aligned")
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["face-sheet.png", "face-toon.png"]
    toon, sheet = Image.open(out / "face-toon.png"), pixels(out / "face-sheet.png")
    assert toon.size == (32, 32) and sheet.shape[1] > 4 * 256
    large = pixels(ImageOps.contain(toon, (256, 256), Image.Resampling.LANCZOS))
    rows, columns = sheet.shape[0] - 256, sheet.shape[1] - 256
    right = [(y, x) for y in range(rows + 1) for x in range(columns - 40, columns + 1)
             if np.array_equal(sheet[y : y + 256, x : x + 256], large)]  # fmt: skip
    assert len(right) == 1  # the cartoon is the last cell


def test_an_aligned_crop_is_pasted_over_the_whole_photo(options, tmp_path, crop):
    made(crop, *options, "--aligned", "--paste-back")
    pasted, toon = (Image.open(tmp_path / "out" / f"face-{name}.png") for name in ("pasted", "toon"))
    assert pasted.size == (64, 64)
    middle = pixels(pasted)[16:48, 16:48] - pixels(toon.resize((64, 64), Image.Resampling.BICUBIC))[16:48, 16:48]
    assert np.abs(middle).mean() < 3
    # The crop is the whole photo: nothing goes on beyond it, so the neck has no soft edge below.
    below = pixels(pasted)[-1, 26:38] - pixels(toon.resize((64, 64), Image.Resampling.BICUBIC))[-1, 26:38]
    assert np.abs(below).mean() < 12
    assert np.abs(pixels(pasted)[:6, :3] - pixels(crop)[:6, :3]).max() <= 2  # background, outside the mask


def test_several_photos(options, tmp_path, crop):
    other = tmp_path / "other.png"
    ImageOps.mirror(Image.open(crop)).save(other)
    made(crop, other, *options, "--aligned", "--quiet")
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["face-sheet.png", "face-toon.png", "other-sheet.png", "other-toon.png"]
    assert not equal(out / "face-toon.png", out / "other-toon.png")
    (tmp_path / "twin").mkdir()
    other.rename(tmp_path / "twin" / "face.jpg")
    assert "the same name" in refused(crop, tmp_path / "twin" / "face.jpg", *options, "--aligned", "--overwrite")


# Kinds of photo


def test_grey_transparent_and_turned_photos_come_out_alike(options, tmp_path, portrait):
    """Stored in any way, the same picture becomes the same cartoon to the last bit."""
    grey = Image.open(portrait).convert("L")
    plain = grey.convert("RGB")
    opaque = plain.copy()
    opaque.putalpha(255)
    turned, exif = plain.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    paths = [tmp_path / f"{name}.png" for name in ("plain", "grey", "opaque", "turned")]
    for path, picture in zip(paths, (plain, grey, opaque, turned)):
        picture.save(path, exif=exif if picture is turned else None)
    assert [Image.open(path).mode for path in paths] == ["RGB", "L", "RGBA", "RGB"]
    assert Image.open(paths[3]).size == (410, 335)

    made(*paths, *options, "--paste-back", "--quiet")
    for name in ("toon", "sheet", "pasted"):
        first, *others = (tmp_path / "out" / f"{path.stem}-{name}.png" for path in paths)
        assert all(equal(first, other) for other in others), name
    assert Image.open(tmp_path / "out" / "turned-pasted.png").size == (335, 410)


def test_a_picture_is_taken_as_its_file_is(tmp_path, crop):
    """EXIF turns and transparency count for pictures handed in as for files, and the picture is left as it was."""
    picture, exif = Image.open(crop).copy(), Image.Exif()
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif[0x0112] = 8
    picture.save(tmp_path / "half.png", exif=exif)
    given = Image.open(tmp_path / "half.png")
    photo = open_photo(given, 32, aligned=True)
    assert equal(photo.image, read_image(tmp_path / "half.png"))
    assert equal(photo.faces[0].image, open_photo(tmp_path / "half.png", 32, aligned=True).faces[0].image)
    assert given.mode == "RGBA" and given.getexif()[0x0112] == 8


HUGE = r"""
import re, sys
from stylegan_toon.toonify import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())  # ru_maxrss would count the parent's
    print(end.code, int(peak[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
def test_a_huge_photo_within_two_gigabytes(options, tmp_path, portrait):
    huge = Image.new("RGB", (12_000, 9_000), (108, 128, 150))
    huge.paste(Image.open(portrait).resize((2_680, 3_280), Image.Resampling.BICUBIC), (7_000, 4_000))
    huge.save(tmp_path / "huge.jpg")
    del huge
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HUGE, tmp_path / "huge.jpg", *options, "--paste-back", "--quiet"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    code, peak = map(int, done.stdout.splitlines()[-1].split())
    assert code == 0 and peak < LIMIT_MB, f"exit code {code}, {peak} MB, {done.stderr}"
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["huge-pasted.png", "huge-sheet.png", "huge-toon.png"]
    region = (6_900, 3_900, 9_800, 7_400)
    pasted, photo = (read_image(path).reduce(10, region) for path in (out / "huge-pasted.png", tmp_path / "huge.jpg"))
    changed = np.abs(pixels(pasted) - pixels(photo)).max(axis=2)
    assert (changed[110:190, 110:200] > 0).mean() > 0.9 and not changed[290:].any() and not changed[:, 275:].any()


# Ctrl-C


def test_ctrl_c_keeps_drafts(options, tmp_path, two_people, monkeypatch):
    """SIGINT in the third step of the first of two faces: its draft is there, the other face is not begun."""
    photo, out, steps = tmp_path / "party.png", tmp_path / "out", []
    two_people.save(photo)
    shown = cli.search_progress

    @contextlib.contextmanager
    def with_ctrl_c(*args):
        with shown(*args) as move:

            def step(at) -> None:
                move(at)
                steps.append(at)
                if len(steps) == 3:
                    signal.raise_signal(signal.SIGINT)

            yield step

    monkeypatch.setattr(cli, "search_progress", with_ctrl_c)
    result = run(photo, *options, "--paste-back")
    assert result.exit_code == 130 and f"Stopped early; drafts are in {out}." in result.stderr
    assert len(steps) == 3
    assert sorted(os.listdir(out)) == ["party-1-toon.png", "party-pasted.png", "party-sheet.png"]
    changed = np.abs(pixels(out / "party-pasted.png") - pixels(photo)).max(axis=2)
    assert changed[:, :400].any() and not changed[:, 400:].any()


@pytest.mark.parametrize("stage", ["w", "w+", "tune"])
def test_interrupted_as_a_function(short, checkpoint, crop, tiny_toon, stage):
    def stop(at) -> None:
        if at.stage == stage:
            raise KeyboardInterrupt

    result = toonify(
        crop, aligned=True, toon=tiny_toon, callback=stop, **{**short, "config": config(checkpoint, tune_steps=2)}
    )
    assert result.interrupted and len(result.faces) == 1 and result.image.size == (32, 32)
    scores = result.faces[0].projection.scores()
    assert (scores["steps"], scores["tuned"]) == {"w": (1, 0), "w+": (2, 0), "tune": (5, 1)}[stage]


# Errors of this command alone; those it shares with project are in test_photos.py


@pytest.mark.parametrize("swap", ["b7", "b16=2", "b64"])
def test_no_such_block(options, tmp_path, crop, swap):
    assert refused(crop, *options, "--aligned", "--swap", swap).startswith(f"error: '{swap}' in the swap")
    assert not (tmp_path / "out").exists()


def test_a_toon_of_another_size(options, tmp_path, crop):
    save_networks(tmp_path / "big.safetensors", {"G_ema": tiny_generator(1, resolution=64)})
    sentence = "tiny.safetensors and big.safetensors cannot be blended, they differ in resolution (32 and 64)"
    assert sentence in refused(crop, *options, "--aligned", "--toon", tmp_path / "big.safetensors")
    assert not (tmp_path / "out").exists()


def test_functions_raise_the_errors_of_the_command(short, tmp_path, crop, toon_checkpoint):
    with pytest.raises(ToonError, match="'b7' in the swap"):
        toonify(crop, toon=toon_checkpoint, aligned=True, **{**short, "swap": "b7"})
    with pytest.raises(ToonError, match="cannot be blended"):
        toonify(crop, toon=tiny_generator(1, resolution=64), aligned=True, **short)
    with pytest.raises(ToonError, match="does not exist"):
        toonify(tmp_path / "nobody.jpg", toon=load_network(toon_checkpoint), **short)


def test_a_drawing_style_needs_draw(crop, tmp_path):
    assert "--draw" in refused(crop, "--aligned", "--style", "pop", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
