from pathlib import Path

import pytest
from PIL import Image
from threads import one_thread  # noqa: F401 (a fixture)


@pytest.fixture(scope="session")
def portrait() -> Path:
    """A real photo of one person, 335 x 410 pixels."""
    return Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg"


@pytest.fixture(scope="session")
def two_people(portrait) -> Image.Image:
    """That person twice, 800 x 410: in red light on the left, in blue light on the right."""
    photo = Image.new("RGB", (800, 410), (108, 128, 150))
    person = Image.open(portrait).convert("RGB")
    for x, light in ((20, (1, 0.8, 0.7)), (440, (0.7, 0.8, 1))):
        bands = [band.point([round(share * v) for v in range(256)]) for band, share in zip(person.split(), light)]
        photo.paste(Image.merge("RGB", bands), (x, 0))
    return photo


@pytest.fixture
def crop(portrait, tmp_path) -> Path:
    """An aligned crop ``face.png`` of 64 pixels; nothing has to be detected in it."""
    path = tmp_path / "face.png"
    Image.open(portrait).convert("RGB").crop((58, 54, 282, 278)).resize((64, 64), Image.Resampling.LANCZOS).save(path)
    return path
