"""Likeness: pictures whose differences are known, the distance against numbers, the chart against places."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import TinyFaces, tiny_generator, tiny_mobile

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import to_pil, to_tensor
from stylegan_toon.errors import ToonError
from stylegan_toon.features.identity import Faceres
from stylegan_toon.features.vgg import vgg16
from stylegan_toon.metrics.distances import frechet_distance, moments
from stylegan_toon.metrics.likeness import as_json, measure_likeness, table, tone_thirds
from stylegan_toon.metrics.likeness_chart import DOT, FRAME, chart
from stylegan_toon.metrics.skin import to_cielab
from stylegan_toon.metrics.style_features import StyleFeatures, toon_distance
from stylegan_toon.weights.provenance import set_provenance

FACES = Path(__file__).parents[1] / "faces" / "faces.png"


class Shown(torch.nn.Module):
    """Stands for a generator: the picture of row i of ws is ``pictures[i % 3]``, after ``change``."""

    def __init__(self, change=lambda img: img) -> None:
        super().__init__()
        row = Image.open(FACES).convert("RGB")
        cells = (row.crop((192 * i, 0, 192 * (i + 1), 192)).resize((256, 256)) for i in range(3))
        self.pictures, self.change = torch.cat([to_tensor(cell) for cell in cells]), change
        self.config = SimpleNamespace(z_dim=4, w_dim=4, head_resolutions=[256])
        self.num_ws = 1

        def mapping(z, psi):
            return torch.arange(len(z)).float().view(-1, 1, 1)

        mapping.w_avg = torch.zeros(4)
        self.mapping = mapping

    def synthesis(self, ws, noise_mode="const", resolution=256):
        return self.change(self.pictures[[int(row) % 3 for row in ws.flatten()]])


def posterised(img):
    return (F.avg_pool2d(img, 5, 1, 2) * 2).round() / 2


def moved(img):
    """Five pixels to the right."""
    return F.pad(img, (5, 0, 0, 0), mode="replicate")[..., :-5]


@pytest.fixture(scope="module")
def results():
    base, toon = Shown(), Shown(posterised)
    networks = {
        "base": base, "toon": toon, "moved": Shown(moved), "brighter": Shown(lambda img: img + 0.1),
        "between": Shown(lambda img: (img + posterised(img)) / 2), "blank": Shown(lambda img: img * 0),
    }  # fmt: skip
    return measure_likeness(networks, base, toon, Faceres().eval(), count=3)


def test_the_base_is_like_itself(results):
    same = results["base"]
    assert same.identity == pytest.approx(1, abs=1e-5) and same.landmarks == 0 and same.detection == 1
    assert same.toon_share == 0 and same.skin["all"].distance == same.hair["all"].distance == 0


def test_the_toon_is_at_the_other_end(results):
    assert results["toon"].toon_share == 1
    assert 0 < results["between"].toon_share < 1
    assert results["toon"].identity < results["between"].identity < 1


def test_several_networks_of_features():
    """The first gives the distance and the share; here one that only sees the mean brightness."""
    base, toon = Shown(), Shown(lambda img: img * 0.5 + 0.4)
    style = {"light": lambda img: img.mean((2, 3)), "vgg16": StyleFeatures()}
    found = measure_likeness({"toon": toon, "base": base}, base, toon, TinyFaces(), count=3, style=style)
    assert found["toon"].toon_distances["light"] == found["toon"].toon_distance == 0  # the same three pictures
    assert found["toon"].toon_distances["vgg16"] == 0 < found["base"].toon_distances["vgg16"]
    light = base.pictures.mean((2, 3)).double()
    mean, spread = light.mean(0), light.std(0)
    drawn_mean, drawn_spread = mean * 0.5 + 0.4, spread * 0.5
    expected = ((mean - drawn_mean).square() + (spread - drawn_spread).square()).sum() / drawn_spread.square().sum()
    assert found["base"].toon_distance == pytest.approx(float(expected), rel=1e-3)


def test_the_distance_to_drawings(tmp_path):
    """Of the toon's own three pictures, given as files of twice the side, it is 0; of the base's it is the base's."""
    base, toon = Shown(), Shown(posterised)
    for number, img in enumerate(toon.change(toon.pictures)):
        to_pil(img).resize((512, 512), Image.Resampling.NEAREST).save(tmp_path / f"{number}.png")
    networks = {"base": base, "toon": toon}
    drawn = measure_likeness(networks, base, toon, TinyFaces(), count=3, drawings=ImageDataset(tmp_path))
    made = measure_likeness(networks, base, toon, TinyFaces(), count=3)
    assert drawn["toon"].toon_distance < 1e-6
    assert drawn["base"].toon_distance == pytest.approx(made["base"].toon_distance, rel=1e-3)
    assert (drawn["base"].toon_share, drawn["toon"].toon_share) == (0, 1)


def test_landmarks_move_with_the_picture(results):
    """By 5 pixels, in percent of the eyes' distance: about 85 pixels in a crop of 256."""
    assert results["moved"].landmarks == pytest.approx(100 * 5 / 85, rel=0.2)
    assert results["moved"].identity > 0.9


def test_brighter_skin(results):
    shift = results["brighter"].skin["all"]
    assert shift.lightness > 3 and shift.distance >= shift.lightness
    assert results["brighter"].hair["all"].lightness > 3


def test_no_face_is_found_in_a_blank_picture(results):
    assert results["blank"].detection == 0


def test_the_shift_is_that_of_grey_pictures():
    """Levels 100 and 140 everywhere: the difference of their CIELAB lightness, in every third."""
    base, other = (Shown(lambda img, level=level: img * 0 + level / 127.5 - 1) for level in (100, 140))
    toon = Shown(posterised)
    shift = measure_likeness({"other": other}, base, toon, TinyFaces(), count=3)["other"].hair
    expected = to_cielab(np.uint8([[140] * 3]))[0, 0] - to_cielab(np.uint8([[100] * 3]))[0, 0]
    assert shift["all"].lightness == pytest.approx(expected, abs=0.01) and abs(shift["all"].a) < 0.01
    assert shift["all"].distance == pytest.approx(expected, abs=0.01)


def test_numbers_for_people_and_for_files(results):
    lines = table(results).splitlines()
    assert len(lines) == 1 + len(results) and lines[1].split()[:2] == ["base", "1.000"]
    stored = as_json(results["moved"])
    assert stored["skin"].keys() == {"all", "dark", "middle", "light"}
    assert stored["identity"] == pytest.approx(results["moved"].identity, abs=1e-5)


def test_real_networks_of_both_families():
    for make in (tiny_generator, tiny_mobile):
        base, toon = make(0), make(1)
        found = measure_likeness({"base": base, "toon": toon}, base, toon, TinyFaces(), count=4, batch=3)
        assert found["base"].identity > 0.9999 and found["toon"].identity < 0.99
        assert (found["base"].toon_share, found["toon"].toon_share) == (0, 1)


def test_the_judge_is_not_the_teacher():
    base, toon, tuned = tiny_generator(0), tiny_generator(1), tiny_generator(2)
    set_provenance(tuned, {"identity": "tiny"})
    with pytest.raises(ToonError, match="mine was trained with tiny, which cannot judge it: choose another --judge"):
        measure_likeness({"mine": tuned}, base, toon, TinyFaces(), count=2)


def test_networks_of_other_latents():
    with pytest.raises(ToonError, match="big takes other latents"):
        measure_likeness(
            {"big": tiny_generator(0, resolution=64)}, tiny_generator(0), tiny_generator(1), TinyFaces(), count=2
        )


def test_one_picture_is_too_few():
    with pytest.raises(ToonError, match="at least 2"):
        measure_likeness({}, tiny_generator(0), tiny_generator(1), TinyFaces(), count=1)


# Distance


def test_the_distance_by_hand():
    """Two features of spread 2 and 1: means 1 and 2 apart, and spreads of 2 and 2."""
    toon = torch.tensor([[-2.0, -1.0], [2.0, 1.0]]) / 2**0.5  # unbiased deviations 2 and 1
    rows = torch.tensor([[-2.0, -2.0], [2.0, 2.0]]) / 2**0.5 + torch.tensor([1.0, 2.0])
    expected = (1 + 0 + 2**2 + (2 - 1) ** 2) / (2**2 + 1**2)
    assert toon_distance(rows, toon) == pytest.approx(expected)
    assert toon_distance(toon, toon) == 0
    assert toon_distance(100 * rows - 7, 100 * toon - 7) == pytest.approx(expected, rel=1e-4)  # units do not matter


def test_it_is_the_frechet_distance_of_independent_numbers():
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 6, generator=random) * 2 + 1, torch.randn(30, 6, generator=random)
    (mu1, cov1), (mu2, cov2) = moments(a), moments(b)
    whole = frechet_distance(mu1, cov1.diag().diag(), mu2, cov2.diag().diag())
    assert toon_distance(a, b) == pytest.approx(whole / float(cov2.diag().sum()))


def test_samples_of_one_distribution_are_near():
    """Independent of the number of features, and of rare large values: 2 / N and some for the spread."""
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 100, 500, generator=random).relu() * torch.rand(500, generator=random)
    assert 0.01 < toon_distance(a, b) < 0.06


def test_pictures_that_are_all_the_same():
    with pytest.raises(ToonError, match="network are the same"):
        toon_distance(torch.rand(3, 2), torch.ones(3, 2))


def test_style_is_the_statistics_of_the_stages():
    img = torch.randint(256, (2, 3, 128, 128), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    style = StyleFeatures()
    with torch.no_grad():
        rows, stages = style(img), vgg16()(img)
    assert rows.shape == (2, 896)
    torch.testing.assert_close(rows[:, :64].exp() - 1, stages[0].flatten(2).mean(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows[:, -256:].exp() - 1, stages[2].flatten(2).std(2), rtol=1e-4, atol=1e-4)


def test_thirds():
    thirds = tone_thirds(np.array([70.0, 40, 60, 50, 65, 45]))
    assert [np.flatnonzero(rows).tolist() for rows in thirds.values()] == [[1, 5], [2, 3], [0, 4]]


# Chart


def test_dots_lie_where_they_should():
    picture = chart({"left": (1.0, 0.9), "right": (3.0, 0.5)}, judge="faceres")
    x = [FRAME.left + share * (FRAME.width - FRAME.left - FRAME.right) for share in (0.06 / 1.12, 1.06 / 1.12)]
    y = [FRAME.top + share * (FRAME.height - FRAME.top - FRAME.bottom) for share in (0.06 / 1.12, 1.06 / 1.12)]
    pixels = np.asarray(picture).astype(int)
    for column, row in zip(x, y):
        patch = pixels[round(row) - DOT // 2 : round(row) + DOT // 2, round(column) - DOT // 2 : round(column) + 3]
        assert (patch.max(-1) - patch.min(-1) > 60).all()  # coloured, as no rule or text is here
    assert picture.size == (FRAME.width, FRAME.height)


def test_one_dot_and_none():
    assert chart({"only": (1.0, 1.0)}, judge="dlib").size == (FRAME.width, FRAME.height)
    with pytest.raises(ToonError, match="at least one network"):
        chart({}, judge="dlib")
