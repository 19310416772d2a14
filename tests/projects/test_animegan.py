"""AnimeGANv2: its formulas against second implementations, and a small training from start to finished pictures."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from scipy import ndimage

from projects.animegan import losses, train
from projects.animegan.edges import canny, smooth_edges
from projects.animegan.export import difference, export_onnx
from projects.animegan.features import LEVEL, features
from projects.animegan.infer import SHIPPED, load_generator, stylise
from projects.animegan.infer import main as infer
from projects.animegan.model import (
    AnimeDiscriminator,
    AnimeDiscriminatorConfig,
    AnimeGenerator,
    AnimeGeneratorConfig,
)
from projects.animegan.presets import STYLES
from projects.animegan.train import main as train_main
from projects.animegan.video import convert_video
from stylegan_toon.errors import ToonError
from stylegan_toon.features.vgg import vgg16

LONG = pytest.mark.skipif(not os.environ.get("STYLEGAN_TOON_LONG"), reason="set STYLEGAN_TOON_LONG=1 for a minute more")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_generator() -> AnimeGenerator:
    torch.manual_seed(0)
    return AnimeGenerator(AnimeGeneratorConfig(channels=8, blocks=2)).eval()


# ---------------------------------------------------------------- networks


def test_the_generator_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in AnimeGenerator().parameters()) == 2_143_552


def test_the_generator_equals_a_second_implementation():
    """Against a second implementation with plain functions, layer for layer, in float64."""
    G = small_generator().double()
    for p in G.parameters():
        torch.nn.init.normal_(p, std=0.3)
    weights = iter(G.state_dict().values())

    def layer(x, size=3, stride=1, groups=1, act=True):
        pad = (0, 1, 0, 1) if stride == 2 else (size // 2,) * 4
        weight = next(weights)
        x = F.conv2d(F.pad(x, pad, mode="reflect"), weight, next(weights) if groups > 1 else None, stride, 0, 1, groups)
        mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, correction=0)
        x = (x - mean) / (var + 1e-5).sqrt() * next(weights)[:, None, None] + next(weights)[:, None, None]
        return torch.where(x > 0, x, 0.2 * x) if act else x

    img = torch.rand(2, 3, 24, 32, dtype=torch.float64) * 2 - 1
    x = layer(layer(layer(img, 7), stride=2))
    x = layer(layer(layer(x, stride=2)))
    for shortcut in (False, True):
        y = layer(layer(x, 1), groups=2 * x.shape[1])
        y = layer(y, 1, act=False)
        x = x + y if shortcut else y
    x = layer(x)
    for size in (3, 7):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = layer(layer(x))
        x = layer(x, 7) if size == 7 else x
    wanted = torch.tanh(torch.einsum("oc,nchw->nohw", next(weights)[..., 0, 0], x))
    assert next(weights, None) is None
    torch.testing.assert_close(G(img), wanted, rtol=1e-9, atol=1e-9)


def test_a_fresh_generator_shows_the_photo():
    """Blurred, in its place and in its colours, up to contrast."""
    picture = Image.open(Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg").resize((128, 128))
    img = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        shown = AnimeGenerator().eval()(img)
    soft = F.interpolate(F.avg_pool2d(img, 4), scale_factor=4, mode="bilinear")

    def alike(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

    assert alike(shown, soft) > 0.85
    assert all(alike(shown, soft) > alike(shown, soft.roll(by, dims)) for by in (-4, 4) for dims in (2, 3))


def test_the_discriminator_scores_patches():
    D = AnimeDiscriminator(AnimeDiscriminatorConfig(channels=4))
    assert D(torch.zeros(2, 3, 32, 40)).shape == (2, 1, 8, 10)
    seen = torch.zeros(1, 3, 16, 16)
    first = D.layers[0]  # spectral norm: no convolution of the first layer stretches anything by more than 1
    for _ in range(30):
        D(seen)
    assert torch.linalg.matrix_norm(first.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


# ---------------------------------------------------------------- losses


def test_yuv_is_luma_and_scaled_colour_differences():
    img = torch.rand(2, 3, 5, 7, dtype=torch.float64) * 2 - 1
    red, green, blue = ((img + 1) / 2).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    wanted = torch.stack([luma, 0.492111 * (blue - luma), 0.877283 * (red - luma)], 1)
    torch.testing.assert_close(losses.to_yuv(img), wanted, rtol=0, atol=1e-6)
    grey = losses.to_grey(img)
    torch.testing.assert_close(grey, (2 * luma - 1)[:, None].expand_as(img))


def test_the_gram_matrix_is_a_sum_over_positions():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    wanted = torch.zeros(2, 3, 3, dtype=torch.float64)
    for n, i, j in np.ndindex(2, 3, 3):
        wanted[n, i, j] = sum(x[n, i, a, b] * x[n, j, a, b] for a, b in np.ndindex(4, 5)) / 60
    torch.testing.assert_close(losses.gram(x), wanted)
    moved = x.flip(2).roll(2, dims=3)  # style does not care where things are, content does
    assert losses.style_loss(x, moved) < 1e-12 < losses.content_loss(x, moved)


def test_colour_variation_and_scores_in_closed_form():
    grey, brighter = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    assert losses.colour_loss(grey, brighter).item() == pytest.approx(0.25, abs=1e-6)  # Y alone, range halved
    red = grey.clone()
    red[:, 0] = 1.0
    wanted = 0.299 / 2 + (0.14714119 / 2) ** 2 / 2 + (0.61497538 / 2) ** 2 / 2
    assert losses.colour_loss(grey, red).item() == pytest.approx(wanted, abs=1e-6)
    ramp = torch.arange(5.0).expand(1, 3, 4, 5)
    assert losses.variation_loss(ramp).item() == pytest.approx(0.5)
    scores = [torch.full((2, 1, 3, 3), v) for v in (0.5, 0.2, 0.3, 0.4)]
    assert losses.generator_loss(scores[0]).item() == pytest.approx(0.25)
    value = losses.discriminator_loss(*scores, weights=(1, 2, 3, 4)).item()
    assert value == pytest.approx(0.25 + 2 * 0.04 + 3 * 0.09 + 4 * 0.16)


@pytest.mark.parametrize(
    ("look", "content", "style", "colour", "variation"),
    [("hayao", 1.5, 2.5, 15, 1), ("paprika", 2.0, 0.6, 50, 0.1), ("shinkai", 1.2, 2.0, 10, 1)],
)
def test_presets_are_the_published_ones(look, content, style, colour, variation):
    actual = STYLES[look]
    assert (actual.content, actual.style, actual.colour, actual.variation) == (content, style, colour, variation)
    assert train.TrainingConfig(look=look, style=9.0).weights.style == 9.0
    assert train.TrainingConfig(look=look).weights == actual


# ---------------------------------------------------------------- edges


def test_only_edges_are_smoothed_and_as_a_gaussian_would():
    picture = np.zeros((40, 48, 3), np.uint8)
    picture[:, 20:] = (250, 200, 150)
    soft = smooth_edges(picture)
    changed = np.flatnonzero((soft != picture).any((0, 2)))
    assert changed.min() >= 17 and changed.max() <= 22 and 19 in changed and 20 in changed
    taps = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    taps /= taps.sum()
    for column in changed:
        wanted = sum(tap * picture[9, column + k - 2].astype(float) for k, tap in enumerate(taps))
        np.testing.assert_allclose(soft[9, column], wanted, atol=1)


def test_canny_edges():
    disc = Image.new("L", (96, 96), 40)
    ImageDraw.Draw(disc).ellipse((20, 20, 76, 76), fill=200)
    edges = canny(np.asarray(disc, np.float64))
    y, x = np.nonzero(edges)
    assert abs(np.hypot(y - 48, x - 48) - 28).max() < 2
    assert 0.8 * 2 * np.pi * 28 < edges.sum() < 1.3 * 2 * np.pi * 28
    faint = np.asarray(disc.point(lambda v: 100 if v < 100 else 118), np.float64)  # gradient below both thresholds
    assert not canny(faint).any()


def test_a_weak_edge_counts_if_connected_to_a_strong_one():
    ramp = np.linspace(36, 90, 60)[:, None]  # contrast grows downwards: 36 -> 144, 90 -> 360 in the Sobel norm
    picture = np.where(np.arange(40) < 20, 100.0, 100 + ramp)
    assert canny(picture)[2:-2].any(1).all()
    assert not canny(picture[:15]).any()


# ---------------------------------------------------------------- features


def tiny_vgg(path: Path) -> Path:
    """A VGG16 of few channels in the file format of the large one."""
    generator = np.random.default_rng(0)
    table, inputs = {}, 3
    for stage, depth in enumerate((2, 2, 3, 3), start=1):
        for layer in range(1, depth + 1):
            name = f"conv{stage}_{layer}"
            table[f"{name}.weight"] = generator.normal(0, 0.3, (4, inputs, 3, 3)).astype(np.float16)
            table[f"{name}.bias"] = generator.normal(0, 0.3, 4).astype(np.float16)
            inputs = 4
    np.savez(path, **table)
    return path


def test_vgg16_is_read_and_scaled(tmp_path):
    path = tiny_vgg(tmp_path / "vgg.npz")
    actual = features(str(path))
    img = torch.rand(2, 3, 32, 48) * 2 - 1
    with np.load(path) as table:
        x = (img.flip(1) + 1) * 127.5 - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
        for name in [n[:-7] for n in table.files if n.endswith("weight")]:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            before = F.conv2d(x, *(torch.from_numpy(table[f"{name}.{p}"]).float() for p in ("weight", "bias")), 1, 1)
            x = before.relu()
    torch.testing.assert_close(actual.raw(img), before, rtol=1e-3, atol=1e-3)
    actual.calibrate(img)
    assert actual(img).abs().mean().item() == pytest.approx(LEVEL, rel=1e-4)
    assert actual.name == "vgg conv4_3"


def test_vgg19_is_torchvisions_conv4_4(tmp_path):
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    trunk = make_layers(cfgs["E"])
    torch.save({f"features.{k}": v for k, v in trunk.state_dict().items()}, tmp_path / "vgg19.pth")
    img = torch.rand(1, 3, 32, 32)
    x = (img - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        wanted = trunk[:26](x)
    assert wanted.shape == (1, 512, 4, 4)
    torch.testing.assert_close(features(str(tmp_path / "vgg19.pth")).raw(img * 2 - 1), wanted, rtol=1e-3, atol=1e-5)


def test_unavailable_features_are_reported(tmp_path, monkeypatch):
    from projects.animegan import features as module

    def unavailable(*_, **__):
        raise module.Unavailable("no connection")

    monkeypatch.setattr(module, "hub_file", unavailable)
    lines = []
    actual = features("auto", say=lines.append)
    assert actual.name == "vgg16 conv3_3" and "VGG19 is not available" in lines[0]
    img = torch.rand(1, 3, 32, 48) * 2 - 1
    torch.testing.assert_close(F.relu(actual.raw(img)), vgg16()(img)[2], rtol=1e-3, atol=1e-2)
    with pytest.raises(ToonError, match="VGG19 is not available"):
        features("vgg19")
    (tmp_path / "bad.npz").write_bytes(b"no")
    for choice in (str(tmp_path / "bad.npz"), str(tmp_path / "none.pth"), "inception"):
        with pytest.raises(ToonError):
            features(choice)


# ---------------------------------------------------------------- training


@pytest.fixture
def sets(tmp_path) -> list[str]:
    """Photos: soft blobs. Drawings: hard bars."""
    rng = np.random.default_rng(0)
    for kind in ("photos", "drawings"):
        (tmp_path / kind).mkdir()
        for i in range(6):
            image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8))
            image = image.resize((40, 40), Image.Resampling.BICUBIC if kind == "photos" else Image.Resampling.NEAREST)
            image.save(tmp_path / kind / f"{i}.png")
    vgg = tiny_vgg(tmp_path / "vgg.npz")
    return ["--photos", str(tmp_path / "photos"), "--drawings", str(tmp_path / "drawings"), "--features", str(vgg)]


SMALL = (
    "--look=comic", "--batch=2", "--resolution=40", "--crop=32", "--channels=8", "--snapshot-kimg=0.02", "--device=cpu",
    "--quiet",
)  # fmt: skip

FAST = ("--start-lr=2e-3", "--start=pixels")


def go(sets: list[str], out: Path, *more: str, ok: bool = True) -> str:
    result = CliRunner().invoke(train_main, [*sets, *SMALL, "--out", str(out), *more])
    assert (result.exit_code == 0) == ok, result.output
    return result.output


def test_resuming_gives_the_same_result(sets, tmp_path, monkeypatch):
    """Over both phases and the fading: every tensor of the last snapshot, and the pictures."""
    plan = ["--kimg", "0.04", "--start-kimg", "0.012", "--fade-kimg", "0.012"]
    go(sets, tmp_path / "whole", *plan)
    step, stops = train.AnimeganTask.step, [3, 11]

    def stopping(self, phase, batch):
        if stops and self.counters["train"].steps == stops[0]:
            stops.pop(0)
            signal.raise_signal(signal.SIGINT)
        return step(self, phase, batch)

    monkeypatch.setattr(train.AnimeganTask, "step", stopping)
    for _ in range(2):
        go(sets, tmp_path / "parts", *plan, "--resume", "auto", ok=False)
    go(sets, tmp_path / "parts", "--resume", "auto")
    assert stops == []
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for name in ("networks", "optimizers"):
        a, b = (load_file(folder / "snapshot-000000040" / f"{name}.safetensors") for folder in (whole, parts))
        assert a.keys() == b.keys() and [k for k in a if not torch.equal(a[k], b[k])] == []
    assert (whole / "fakes-000000040.png").read_bytes() == (parts / "fakes-000000040.png").read_bytes()


def falls(log: Path, name: str, share: float = 0.9) -> bool:
    values = [row[name] for row in map(json.loads, log.read_text().splitlines()) if name in row]
    third = max(len(values) // 3, 1)
    return np.mean(values[-third:]) < share * np.mean(values[:third])


def test_the_first_phase_learns_to_reproduce_photos(sets, tmp_path, monkeypatch):
    """And `infer` makes the same pictures from the saved file as the training process."""
    monkeypatch.setattr("stylegan_toon.training.loop.TICK", 0)
    stylised = []
    sheet = train.sheet

    def keep(G, photos):
        stylised[:] = [stylise(G, photo) for photo in photos]
        return sheet(G, photos)

    monkeypatch.setattr(train, "sheet", keep)
    out = tmp_path / "run"
    go(sets, out, "--kimg=0.16", "--start-kimg=1", *FAST)
    assert falls(out / "log.jsonl", "pixels")
    assert (out / "curves.png").exists()
    result = CliRunner().invoke(
        infer, [sets[1], "--network", str(out / "network.safetensors"), "--out", str(tmp_path / "painted"), "--quiet"]
    )
    assert result.exit_code == 0, result.output
    for i in range(6):
        assert (np.asarray(Image.open(tmp_path / "painted" / f"{i}.png")) == np.asarray(stylised[i])).all()
    assert (tmp_path / "painted" / "sheet.png").exists()


def test_the_second_phase_has_its_own_optimiser(sets, tmp_path):
    """Adam's first step is no longer than the rate; with the moments of the first phase it would be far longer."""
    plan = ["--start-kimg=0.04", "--g-lr=1e-4", "--fade-kimg=0", *FAST]
    for kimg in ("0.04", "0.042"):
        go(sets, tmp_path, "--kimg", kimg, *plan, *["--resume=auto"] * (kimg == "0.042"))
    before, after = (load_file(tmp_path / f"snapshot-0000000{n}" / "networks.safetensors") for n in (40, 42))
    steps = [(after[name] - before[name]).abs().max().item() for name in before if name.startswith("G.")]
    assert 0.5e-4 < max(steps) < 1.01e-4


def test_shipped_weights_keep_the_colours_of_the_example():
    portrait = Image.open(Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg").convert("RGB")
    photo = portrait.crop((58, 54, 282, 278)).resize((160, 160), Image.Resampling.LANCZOS)
    stylised = stylise(load_generator(SHIPPED), photo)
    before, after = (np.asarray(image).astype(float) / 255 for image in (photo, stylised))
    assert 0.02 < np.abs(after - before).mean() < 0.12  # another picture, of the same
    assert np.abs(after.mean((0, 1)) - before.mean((0, 1))).max() < 0.08
    tones, lines = zip(*(np.quantile(ndimage.black_tophat(img.mean(2), 5), [0.5, 0.98]) for img in (before, after)))
    assert tones[1] < tones[0] and lines[1] > 1.05 * lines[0]  # flatter, with darker lines


@LONG
def test_a_minute_of_training_moves_towards_the_drawings(sets, tmp_path, monkeypatch):
    monkeypatch.setattr("stylegan_toon.training.loop.TICK", 0)
    go(sets, tmp_path, "--kimg=1.2", "--start-kimg=0.5", "--g-lr=1e-3", *FAST)
    for name in ("pixels", "style"):
        assert falls(tmp_path / "log.jsonl", name)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--look", "monet"], "monet"),
        (["--crop", "36"], "crop"),
        (["--channels", "4"], "--channels"),
        (["--channels", "9"], "even"),
        (["--start-lr", "nan"], "--start-lr"),
        (["--photos", "nowhere"], "nowhere"),
        (["--features", "nothing.npz"], "nothing.npz"),
    ],
)
def test_mistakes_end_in_a_sentence(sets, tmp_path, more, part):
    text = go(sets, tmp_path / "run", *more, ok=False)
    assert text.startswith("error: ") and part in text and "Traceback" not in text


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (61, 40)])
def test_the_size_of_pictures_is_kept(size):
    G = small_generator()
    picture = Image.effect_noise(size, 60).convert("RGB")
    stylised = stylise(G, picture)
    assert stylised.size == size
    if size == (32, 32):
        img = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            wanted = ((G(img)[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
        assert np.abs(np.asarray(stylised) - wanted).max() <= 1
    assert stylise(G, picture.resize((300, 200)), max_side=64).size == (64, 43)
    with pytest.raises(ToonError, match="too small"):
        stylise(G, picture.resize((31, 100)))


def test_a_foreign_file_is_refused(checkpoint):
    with pytest.raises(ToonError):
        load_generator(checkpoint)


def film(path: Path, *, sound: bool, frames: int = 8) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 50, 42, "yuv420p"
        track = container.add_stream("aac", rate=44100) if sound else None
        for i in range(frames):
            picture = np.full((42, 50, 3), 20 + 25 * i, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if track is not None:
            tone = np.sin(np.arange(44100) / 20).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            heard.sample_rate = 44100
            container.mux(track.encode(heard))
            container.mux(track.encode())
        container.mux(video.encode())
    return path


def packets(path: Path, kind: str) -> list[bytes]:
    import av

    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(**{kind: 0}) if p.size]


def test_a_video_is_converted_frame_by_frame_and_keeps_its_sound(tmp_path):
    source = film(tmp_path / "film.mp4", sound=True)
    import av

    path = convert_video(source, tmp_path / "out", lambda picture: picture.point(lambda v: 255 - v), quiet=True)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [round(float(frame.pts * frame.time_base), 3) for frame in frames]
    assert times == [i / 10 for i in range(8)]
    shades = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    np.testing.assert_allclose(shades, [235 - 25 * i for i in range(8)], atol=4)
    assert packets(path, "audio") == packets(source, "audio")
    with pytest.raises(ToonError, match="exists already"):
        convert_video(source, tmp_path / "out", lambda picture: picture, quiet=True)
    with pytest.raises(ToonError, match="overwritten"):
        convert_video(source, tmp_path, lambda picture: picture, quiet=True, overwrite=True)


def test_an_interrupted_video_keeps_the_finished_frames(tmp_path):
    source = film(tmp_path / "film.mp4", sound=False)
    import av

    seen = []

    def stop(picture):
        seen.append(picture)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return picture

    with pytest.raises(KeyboardInterrupt):
        convert_video(source, tmp_path / "out", stop, quiet=True)
    with av.open(str(tmp_path / "out" / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ToonError, match="damaged"):
        convert_video(tmp_path / "bad.mp4", tmp_path / "out", stop, quiet=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film.mp4"]


def test_onnx_gives_the_same_pictures(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    G = small_generator()
    export_onnx(G, tmp_path / "g.onnx")
    assert difference(G, tmp_path / "g.onnx") < 1e-4
    with torch.no_grad():
        next(G.parameters()).add_(1.0)  # what it compares with is not what was written
    assert difference(G, tmp_path / "g.onnx") > 1e-3
