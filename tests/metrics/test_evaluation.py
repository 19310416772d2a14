"""Evaluation of networks and sets: against independent values, from the cache, and in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from projection import write_pictures
from tiny import TinyFaces, tiny_discriminator, tiny_generator

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import save_image, to_pil
from stylegan_toon.data.shards import write_shards
from stylegan_toon.errors import ToonError
from stylegan_toon.features.hub import Unavailable
from stylegan_toon.features.perceptual import DiscriminatorFeatures
from stylegan_toon.metrics import (
    Suite,
    evaluate,
    evaluate_pictures,
    frechet_distance,
    kernel_distance,
    parse_metric,
    precision_recall,
)
from stylegan_toon.metrics import suite as suite_module
from stylegan_toon.metrics.batches import collect, labels_of, latents
from stylegan_toon.metrics.feature_cache import content_digest

NAMES = ["fd-project", "kd-project", "pr-project"]


@pytest.fixture
def suite(project) -> Suite:
    return Suite(NAMES, networks={"project": project})


# A network, and pictures


def test_a_network_is_measured_as_its_pictures_are(tiny_G, pictures, suite, tmp_path):
    """Its pictures, made here one by one, saved as files and read again, give the same values."""
    (tmp_path / "made").mkdir()
    with torch.no_grad():
        for i, z in enumerate(latents(tiny_G, 20, seed=3)):
            save_image(to_pil(tiny_G(z[None], psi=0.8)), tmp_path / "made" / f"{i:03d}.png")
    truth = evaluate_pictures(ImageDataset(tmp_path / "made"), pictures, suite)
    result = evaluate(tiny_G, pictures, suite, samples=20, seed=3, psi=0.8, batch=7)
    assert result == pytest.approx(truth, rel=1e-3)
    assert list(result) == ["fd-project", "kd-project", "precision-project", "recall-project"]


def test_values_are_those_of_the_functions_on_the_features(tiny_G, pictures, suite, project):
    result = evaluate(tiny_G, pictures, suite, samples=20)
    real = project(torch.stack([pictures[i][0] for i in range(12)]))
    with torch.no_grad():
        img = tiny_G(latents(tiny_G, 20, seed=0))
    fake = project((img * 127.5 + 127.5).round().clamp(0, 255).byte())
    stats = [(x.double().mean(0), torch.from_numpy(np.cov(x.double().numpy(), rowvar=False))) for x in (fake, real)]
    assert result["fd-project"] == pytest.approx(frechet_distance(*stats[0], *stats[1]), rel=1e-4)
    assert result["kd-project"] == pytest.approx(kernel_distance(real, fake), rel=1e-4)
    assert (result["precision-project"], result["recall-project"]) == precision_recall(real, fake)


def test_a_set_against_itself(pictures, suite):
    result = evaluate_pictures(pictures, pictures, suite)
    assert result["fd-project"] == pytest.approx(0, abs=1e-9)
    assert result["precision-project"] == result["recall-project"] == 1


def test_batches_and_repetition_change_nothing(tiny_G, pictures, suite):
    a, b = (evaluate(tiny_G, pictures, suite, samples=11, batch=batch) for batch in (11, 3))
    assert a == pytest.approx(b, rel=1e-4)
    assert a == evaluate(tiny_G, pictures, suite, samples=11, batch=11)
    assert a != evaluate(tiny_G, pictures, suite, samples=11, batch=11, seed=1)


def test_devices_agree(tiny_G, pictures, project, device):
    """A random picture is right on an edge of 8 bits now and then, hence the tolerance."""
    truth = evaluate(tiny_G, pictures, Suite(NAMES, networks={"project": project}), samples=20)
    suite = Suite(NAMES, networks={"project": project}, device=device)
    assert evaluate(tiny_G.to(device), pictures, suite, samples=20) == pytest.approx(truth, rel=1e-2)


def test_evaluation_leaves_random_state_and_networks_unchanged(tiny_G, pictures, suite):
    torch.manual_seed(7)
    np.random.seed(7)
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
    weights = {name: tensor.clone() for name, tensor in tiny_G.state_dict().items()}
    evaluate(tiny_G, pictures, suite, samples=5)
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == state).all()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tiny_G.state_dict().items())
    assert all(p.requires_grad for p in tiny_G.parameters())


def test_reals_are_spread_over_the_set_and_mirror_images_count(pictures, suite, tiny_G):
    assert int(suite.reals(pictures, 5)["project"]["count"]) == 5
    rows = suite.reals(pictures, 4)["project"]["rows"]
    torch.testing.assert_close(rows, suite.reals(pictures)["project"]["rows"][[0, 3, 6, 9]])
    both = suite.reals(ImageDataset(pictures.path, xflip=True))["project"]
    assert int(both["count"]) == 24 and not torch.equal(both["rows"][:12], both["rows"][12:])


def test_labels_are_drawn_from_the_set(pictures, suite, tmp_path):
    folder = write_pictures(tmp_path / "labelled", 6)
    (folder / "dataset.json").write_text(json.dumps({"labels": [[f"{i:03d}.png", i % 2] for i in range(6)]}))
    labelled = ImageDataset(folder, labels=True)
    drawn = labels_of(labelled, 100, seed=0)
    assert drawn.shape == (100, 2) and (drawn.sum(1) == 1).all() and 20 < drawn[:, 0].sum() < 80
    G = tiny_generator(0, c_dim=2)
    result = evaluate(G, labelled, suite, samples=10)
    with torch.no_grad():
        img = G(latents(G, 10, seed=0), labels_of(labelled, 10, seed=0))
    rows = suite.features((img * 127.5 + 127.5).round().clamp(0, 255).byte())["project"]
    truth = kernel_distance(rows, suite.reals(labelled)["project"]["rows"])
    assert result["kd-project"] == pytest.approx(truth, rel=1e-4)
    with pytest.raises(ToonError, match="2 classes"):
        evaluate(G, pictures, suite, samples=10)


def test_a_grey_network_is_compared_with_grey_pictures(pictures, suite, project):
    G = tiny_generator(0, img_channels=1)
    evaluate(G, pictures, suite, samples=5)
    seen = project.seen
    grey = suite.reals(pictures, grey=True)["project"]["rows"]
    assert project.seen == seen  # these are what was cached
    pixels = torch.stack([pictures[i][0] for i in range(12)]).float().mean(1, keepdim=True).round()
    torch.testing.assert_close(grey, project(pixels.byte().expand(-1, 3, -1, -1)))


def test_path_length_and_identity(tiny_G, tiny_toon, monkeypatch):
    """With small replacements of the networks; each value against its definition, sample by sample."""
    measure, embed = DiscriminatorFeatures(tiny_discriminator(0)), TinyFaces()
    monkeypatch.setattr(suite_module, "perceptual", lambda name, device: measure)
    monkeypatch.setattr(suite_module, "embedder", lambda name, device: embed)
    names = ["ppl-wend-vgg", "ppl-wfull-vgg", "identity-dlib"]
    result = evaluate(tiny_G, None, names, samples=5, base=tiny_toon, batch=3)
    z, other = latents(tiny_G, 5, 0), latents(tiny_G, 5, 1)
    with torch.no_grad():
        alike = embed.similarity(tiny_G(z), tiny_toon(z)).mean()
        w, v = tiny_G.mapping(z), tiny_G.mapping(other)
        d = [float(measure.distance(tiny_G.synthesis(a), tiny_G.synthesis(a.lerp(b, 1e-4))) * 1e8)
             for a, b in zip(w.split(1), v.split(1))]  # fmt: skip
    assert result["identity-dlib"] == pytest.approx(float(alike), rel=1e-4)
    assert result["ppl-wend-vgg"] == pytest.approx(np.mean(d), rel=0.02)
    assert 0 < result["ppl-wfull-vgg"] != result["ppl-wend-vgg"]
    same = evaluate(tiny_G, None, names[2:], samples=3, base=tiny_G)
    assert same["identity-dlib"] == pytest.approx(1)


# The cache


def test_cached_equals_fresh_bit_for_bit(pictures, suite, project, home):
    fresh = suite.reals(pictures)["project"]
    assert project.seen == 12 and len(list((home / "features").iterdir())) == 2
    cached = Suite(NAMES, networks={"project": project}).reals(ImageDataset(pictures.path))["project"]
    assert project.seen == 12
    assert fresh.keys() == cached.keys() == {"count", "mean", "cov", "rows"}
    assert all(torch.equal(fresh[key], cached[key]) and fresh[key].dtype == cached[key].dtype for key in fresh)


def test_a_frechet_distance_keeps_no_rows(pictures, project, home):
    Suite(["fd-project"], networks={"project": project}).reals(pictures)
    (file,) = (home / "features").iterdir()
    assert file.name.startswith("project-") and file.name.endswith("-moments.safetensors")


def test_the_cache_key_covers_everything_that_changes_features(pictures, suite, project, tmp_path):
    suite.reals(pictures)

    def seen(data: ImageDataset, count: int | None = None, grey: bool = False) -> int:
        before = project.seen
        suite.reals(data, count, grey=grey)
        return project.seen - before

    assert seen(pictures, 6) == 6 and seen(pictures, grey=True) == 12
    project.digest = "2"
    assert seen(pictures) == 12 == seen(ImageDataset(pictures.path, 32, xflip=True), 12)
    (pictures.path / "003.png").write_bytes((pictures.path / "004.png").read_bytes())
    assert seen(ImageDataset(pictures.path)) == 12
    same = write_pictures(tmp_path / "again", 12)
    project.digest = "1"
    assert seen(ImageDataset(same)) == 0  # elsewhere, but the same pictures


def test_tar_shards_have_the_digest_of_their_pictures(pictures, tmp_path):
    """The same as a folder of the same files; another when one of them is."""
    files = [(file.name, file.read_bytes()) for file in sorted(pictures.path.iterdir())]
    others = [*files[:5], (files[5][0], files[6][1]), *files[6:]]
    for folder, content in [("same", files), ("other", others)]:
        (tmp_path / folder).mkdir()
        write_shards(tmp_path / folder, [(name, data, None) for name, data in content], per_shard=5)
    same, other = (content_digest(ImageDataset(tmp_path / folder), 12) for folder in ("same", "other"))
    assert same == content_digest(pictures, 12) != other


def test_resolution_is_part_of_the_key(pictures, home):
    suite = Suite(["fd-mean"], networks={"mean": Mean()})
    suite.reals(pictures)
    suite.reals(ImageDataset(pictures.path, 16, resize=True))
    assert len(list((home / "features").iterdir())) == 2


class Mean(torch.nn.Module):
    """An extractor for any size: the mean colour."""

    name, digest = "mean", "1"

    def forward(self, pictures):
        return pictures.float().mean(dim=(2, 3))


def test_a_damaged_cache_is_measured_again(pictures, suite, project, home):
    fresh = suite.reals(pictures)["project"]["mean"]
    for file in (home / "features").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(suite.reals(pictures)["project"]["mean"], fresh) and project.seen == 24


def test_an_unwritable_cache_is_only_a_warning(pictures, suite, home):
    home.write_text("in the way")
    with pytest.warns(UserWarning, match="not cached"):
        assert int(suite.reals(pictures)["project"]["count"]) == 12


# Several processes

TWO = """
import json, sys, torch, torch.distributed as dist
sys.path[:0] = sys.argv[3:]
from projection import Project
from tiny import tiny_generator
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.metrics import Suite, evaluate
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/store", rank=int(sys.argv[1]), world_size=2)
project = Project()
suite = Suite(["fd-project", "kd-project", "pr-project"], networks={"project": project})
pictures = ImageDataset(sys.argv[2] + "/set")
for _ in range(2):
    print(json.dumps([evaluate(tiny_generator(0), pictures, suite, samples=9, batch=2), project.seen]))
"""


def test_two_processes_equal_one(tiny_G, pictures, suite, tmp_path):
    """9 pictures are shared out as 5 and 4 (and one again), 12 reals as 6 and 6; then the reals are cached."""
    tests = Path(__file__).parents[1]
    paths = [str(tmp_path), str(tests), str(tests.parent)]
    command = [sys.executable, "-c", TWO]
    both = [subprocess.Popen([*command, rank, *paths], stdout=-1, stderr=-1, text=True) for rank in "01"]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    printed = [[json.loads(line) for line in stdout.splitlines()] for stdout, _ in outputs]
    (values, first), (again, second) = printed[0]
    assert printed[0] == printed[1] and values == again and (first, second) == (5 + 6, 5 + 6 + 5)
    assert values == pytest.approx(evaluate(tiny_G, pictures, suite, samples=9), rel=1e-3)


def test_collect_keeps_the_order():
    result = collect(10, lambda indices: {"a": indices[:, None] * 2, "b": indices}, batch=3, quiet=True)
    assert torch.equal(result["a"], torch.arange(10.0)[:, None] * 2) and torch.equal(result["b"], torch.arange(10.0))


# Names and errors


@pytest.mark.parametrize(
    ("name", "kind", "network", "results"),
    [
        ("fid", "fd", "inception", ("fid",)),
        ("kid", "kd", "inception", ("kid",)),
        ("fd-efficientnet-lite0", "fd", "efficientnet-lite0", ("fd-efficientnet-lite0",)),
        ("pr-vgg16", "pr", "vgg16", ("precision-vgg16", "recall-vgg16")),
        ("ppl-zfull", "ppl", "lpips", ("ppl-zfull",)),
        ("ppl-wend-vgg", "ppl", "vgg", ("ppl-wend-vgg",)),
        ("identity", "identity", "facenet", ("identity",)),
        ("identity-dlib", "identity", "dlib", ("identity-dlib",)),
        ("detection", "detection", "mtcnn", ("detection",)),
    ],
)
def test_names(name, kind, network, results):
    metric = parse_metric(name)
    assert (metric.kind, metric.network, metric.results) == (kind, network, results)


@pytest.mark.parametrize("name", ["", "FID", "fd-", "fd-nobody", "ppl", "ppl-z", "identity-lpips", "detection-mtcnn"])
def test_unknown_metrics(name):
    with pytest.raises(ToonError, match=r"no metric named.*efficientnet-lite0"):
        parse_metric(name)
    with pytest.raises(ToonError):
        Suite([name])


def test_too_few_pictures_give_a_warning(tiny_G, pictures, suite):
    with pytest.warns(UserWarning, match=r"fd-project compares 8 pictures by 8 features"):
        evaluate(tiny_G, pictures, suite, samples=8)
    with pytest.warns(UserWarning, match=r"compares 7 pictures"):
        evaluate(tiny_G, pictures, suite, samples=20, reals=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(tiny_G, pictures, suite, samples=20)


def test_inputs_that_do_not_fit_together(tiny_G, pictures, suite, monkeypatch):
    with pytest.raises(ToonError, match="real pictures"):
        evaluate(tiny_G, None, suite, samples=5)
    with pytest.raises(ToonError, match="32 px pictures, the set has 16 px"):
        evaluate(tiny_G, ImageDataset(pictures.path, 16, resize=True), suite, samples=5)
    with pytest.raises(ToonError, match="same resolution"):
        evaluate_pictures(pictures, ImageDataset(pictures.path, 16, resize=True), suite)
    with pytest.raises(ToonError, match="at least one"):
        Suite([])
    monkeypatch.setattr(suite_module, "embedder", lambda name, device: TinyFaces())
    identity = Suite(["identity"])
    with pytest.raises(ToonError, match="as the base"):
        evaluate(tiny_G, None, identity, samples=5)
    with pytest.raises(ToonError, match="fine-tuned from"):
        evaluate(tiny_G, None, identity, samples=5, base=tiny_generator(0, z_dim=16))
    with pytest.raises(ToonError, match="needs a network"):
        evaluate_pictures(pictures, None, identity)


def test_lpips_without_its_weights(monkeypatch):
    def fail():
        raise Unavailable("no download from there (no answer)")

    monkeypatch.setattr(suite_module, "load_lpips", fail)
    with pytest.raises(ToonError, match=r"no answer.*ppl-wend-vgg"):
        Suite(["ppl-wend"])
