"""The command `generate`: the right z and files for each seed, and no incomplete file."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
import torch
from PIL import Image
from tiny import tiny_generator, tiny_mobile

from stylegan_toon import files, generate
from stylegan_toon.data.images import to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.generate import main
from stylegan_toon.pipelines.generate import latents
from stylegan_toon.weights import save_networks

run, refused = partial(shell.run, main), partial(shell.refused, main)


def test_latents_are_those_of_the_published_tools():
    z = latents([0, 7], 512)
    assert z.dtype == torch.float32 and z.shape == (2, 512)
    # The first numbers of the legacy Mersenne Twister at seed 0 are known everywhere.
    np.testing.assert_allclose(z[0, :3], [1.76405235, 0.40015721, 0.97873798], rtol=1e-6)
    np.testing.assert_array_equal(z[1], np.random.RandomState(7).randn(1, 512)[0].astype(np.float32))


def test_generate_is_the_network_seed_by_seed(tiny_G):
    pictures = generate(tiny_G, [3, 1, 2], psi=0.5, batch=2)
    assert pictures.shape == (3, 3, 32, 32)
    with torch.no_grad():
        for seed, picture in zip([3, 1, 2], pictures):
            z = torch.from_numpy(np.random.RandomState(seed).randn(1, 32)).float()
            w = tiny_G.mapping.w_avg + 0.5 * (tiny_G.mapping(z) - tiny_G.mapping.w_avg)
            torch.testing.assert_close(picture, tiny_G.synthesis(w)[0], atol=1e-4, rtol=1e-4)
    assert generate(tiny_G, []).shape == (0, 3, 32, 32)


def test_smaller_pictures_are_those_of_the_network(tmp_path):
    G = tiny_mobile()
    small, *_, large = G.config.head_resolutions
    shown = generate(G, [0, 1], resolution=small)
    ws = G.mapping(latents([0, 1], G.config.z_dim), psi=0.7)
    torch.testing.assert_close(shown, G.synthesis(ws, "const", resolution=small).detach())
    assert generate(G, []).shape[-1] == large and generate(G, [], resolution=small).shape[-1] == small
    save_networks(tmp_path / "G.safetensors", {"G_ema": G})
    files = [f"--network={tmp_path / 'G.safetensors'}", "--seeds=0", f"--out={tmp_path / 'out'}"]
    run(*files, f"--resolution={small}")
    assert Image.open(tmp_path / "out" / "seed0000.png").size == (small, small)
    assert f"{small}" in refused(*files, "--overwrite", "--resolution=48")


def test_devices_agree(tiny_G, device):
    pictures = generate(tiny_G.to(device), [0, 1])
    assert pictures.device.type == "cpu"
    torch.testing.assert_close(pictures, generate(tiny_G.cpu(), [0, 1]), atol=1e-3, rtol=1e-3)


def test_classes():
    G = tiny_generator(0, c_dim=3)
    a, b = generate(G, [0], label=0), generate(G, [0], label=2)
    with torch.no_grad():
        z = latents([0], 32)
        torch.testing.assert_close(b, G(z, torch.tensor([[0.0, 0.0, 1.0]]), psi=0.7))
    assert not torch.equal(a, b)
    for wrong in (None, 3, -1):
        with pytest.raises(ToonError, match="one of 3 classes"):
            generate(G, [0], label=wrong)
    with pytest.raises(ToonError, match="has no classes"):
        generate(tiny_generator(0), [0], label=0)


def test_files(tmp_path, checkpoint, tiny_G):
    out = tmp_path / "new" / "folder"
    result = run("--network", checkpoint, "--seeds", "0-2,33", "--batch", 3, "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out)
    assert sorted(os.listdir(out)) == ["grid.png", "seed0000.png", "seed0001.png", "seed0002.png", "seed0033.png"]
    written = np.asarray(Image.open(out / "seed0033.png"), dtype=int)
    expected = np.asarray(to_pil(generate(tiny_G, [33], psi=0.7)[0]), dtype=int)
    assert np.abs(written - expected).max() <= 1  # batches of other sizes may round the last bit otherwise


def test_the_grid_shows_at_most_64(tmp_path, checkpoint):
    assert run("--network", checkpoint, "--seeds", "0-69", "--out", tmp_path / "many", "--quiet").exit_code == 0
    assert run("--network", checkpoint, "--seeds", "0-63", "--out", tmp_path / "few", "--quiet").exit_code == 0
    assert len(os.listdir(tmp_path / "many")) == 71
    assert Image.open(tmp_path / "many" / "grid.png").size == Image.open(tmp_path / "few" / "grid.png").size


def test_random_noise_repeats_with_its_seed(tmp_path, checkpoint):
    def picture(name: str, *more: object) -> bytes:
        options = ["--network", checkpoint, "--seeds", 5, "--noise-mode", "random", "--out", tmp_path / name]
        assert run(*options, *more).exit_code == 0
        return (tmp_path / name / "seed0005.png").read_bytes()

    assert picture("a") == picture("b") != picture("c", "--seed", 1)


def test_nothing_is_overwritten_unasked(tmp_path, checkpoint, toon_checkpoint):
    options = ["--seeds", "0", "--out", tmp_path / "out", "--quiet"]
    assert run("--network", checkpoint, *options).exit_code == 0
    before = (tmp_path / "out" / "seed0000.png").read_bytes()
    assert "--overwrite" in refused("--network", toon_checkpoint, *options)
    assert (tmp_path / "out" / "seed0000.png").read_bytes() == before
    assert run("--network", toon_checkpoint, *options, "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "seed0000.png").read_bytes() != before


def test_a_truncated_network(tmp_path, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    assert "is damaged or cut short" in refused("--network", checkpoint, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_such_network(tmp_path):
    assert "does not exist" in refused("--network", tmp_path / "x.safetensors", "--out", tmp_path / "out")
    assert "There is no network named" in refused("--network", "nobody", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be(tmp_path, checkpoint):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "choose another --out" in refused("--network", checkpoint, "--out", out)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_without_permission(tmp_path, checkpoint, monkeypatch):
    def deny(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", deny)
    assert "no permission" in refused("--network", checkpoint, "--out", tmp_path / "out")


def test_a_full_disk(tmp_path, checkpoint, monkeypatch):
    """The third picture does not fit; the first two are whole, and no part of a third is left."""
    saved = []
    save = Image.Image.save

    def until_full(self, path, *args, **options):
        if len(saved) == 2:
            Path(path).write_bytes(b"\x89PNG")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(path)
        save(self, path, *args, **options)

    monkeypatch.setattr(Image.Image, "save", until_full)
    assert "The disk is full" in refused("--network", checkpoint, "--seeds", "0-5", "--out", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["seed0000.png", "seed0001.png"]
    for name in os.listdir(tmp_path / "out"):
        Image.open(tmp_path / "out" / name).load()


def test_a_class_for_a_network_without_classes(tmp_path, checkpoint):
    assert "leave out --class" in refused("--network", checkpoint, "--class", 1, "--out", tmp_path / "out")
    G = tiny_generator(0, c_dim=2)
    save_networks(tmp_path / "c.safetensors", {"G_ema": G})
    assert "choose --class 0 to 1" in refused("--network", tmp_path / "c.safetensors", "--out", tmp_path / "out2")
