"""Any picture becomes upright 8-bit RGB, or one sentence says why not."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stylegan_toon.data.images import image_grid, read_image, save_image, shrink, to_pil, to_tensor
from stylegan_toon.errors import ToonError

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (40, 60)).astype(np.uint16)


def encoded(image: Image.Image, format: str, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    buffer.seek(0)
    return buffer


def pixels(source) -> np.ndarray:
    image = read_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header gives a size and that holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", ihdr), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_rgb_comes_back_exactly(format):
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(RGB), format)), RGB)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_are_read(format):
    smooth = np.broadcast_to(np.linspace(0, 255, 60).astype(np.uint8)[None, :, None], (40, 60, 3)).copy()
    assert np.abs(pixels(encoded(Image.fromarray(smooth), format)).astype(int) - smooth).max() <= 12


def test_grey_and_one_bit():
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(RGB[..., 0]), "PNG")), RGB[..., :1].repeat(3, 2))
    bits = RGB[..., 0] > 127
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(bits), "PNG"))[..., 0], 255 * bits)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format):
    result = pixels(encoded(Image.fromarray(GREY16), format))
    assert np.abs(result - GREY16[..., None] / 257).max() <= 0.5001


def test_thirty_two_bit_integers_are_taken_as_sixteen_bit():
    result = pixels(encoded(Image.fromarray(GREY16.astype(np.int32)), "TIFF"))
    assert np.abs(result - GREY16[..., None] / 257).max() <= 0.5001


def test_floating_point_is_refused():
    with pytest.raises(ToonError, match="floating-point"):
        read_image(encoded(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    alpha = RNG.integers(0, 256, (40, 60, 1)).astype(np.uint8)
    colour = RGB if mode == "RGBA" else RGB[..., :1]
    result = pixels(encoded(Image.fromarray(np.concatenate([colour, alpha], 2)), "PNG"))
    expected = 255 + (colour.astype(float) - 255) * alpha / 255
    assert np.abs(result - expected).max() <= 1


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    result = pixels(encoded(image, "PNG", transparency=0))
    np.testing.assert_array_equal(result[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(result[1, 3], [40, 50, 60])


def test_cmyk():
    inks = RNG.integers(0, 256, (40, 60, 4)).astype(np.uint8)
    result = pixels(encoded(Image.frombytes("CMYK", (60, 40), inks.tobytes()), "TIFF"))
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255
    assert np.abs(result - expected).max() <= 1.01


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [  # how an upright picture is stored under each EXIF orientation (CIPA DC-008, table 6)
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, 1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_exif_orientation_is_undone(orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = encoded(Image.fromarray(np.ascontiguousarray(stored(RGB))), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(source), RGB)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_max_side_shrinks_with_antialiasing(format):
    ramp = np.add.outer(np.arange(600), np.arange(1000))[..., None] * np.ones(3) * 255 / 1600
    image = Image.fromarray(ramp.astype(np.uint8))
    small = read_image(encoded(image, format), max_side=150)
    assert small.size == (150, 90)
    expected = (np.add.outer(np.arange(90), np.arange(150)) + 0.5) * 255 / 240
    assert np.abs(np.asarray(small)[4:-4, 4:-4, 0] - expected[4:-4, 4:-4]).max() < 4
    assert read_image(encoded(image, format), max_side=2000).size == (1000, 600)


def test_long_thin_pictures_keep_at_least_one_pixel():
    assert shrink(Image.new("RGB", (5000, 3)), 100).size == (100, 1)


def test_a_decompression_bomb_is_refused_before_decoding():
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ToonError, match=r"60000x60000 pixels.*300 megapixels"):
            read_image(io.BytesIO(png_header(60_000, 60_000)))
        # Pillow itself warns from 89 megapixels on and fails from 179; neither is ours.
        for width in (12_000, 30_000):
            with pytest.raises(ToonError, match="damaged"):
                read_image(io.BytesIO(png_header(width, 9_000)))
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_caller_can_set_the_limit():
    assert read_image(io.BytesIO(encoded(Image.fromarray(RGB), "PNG").getvalue()), max_pixels=2400).size == (60, 40)
    with pytest.raises(ToonError, match="60x40"):
        read_image(encoded(Image.fromarray(RGB), "PNG"), max_pixels=2399)


def one_sentence(error: ToonError) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and len(text) < 300


def test_bad_files_end_in_one_sentence(tmp_path):
    jpeg = encoded(Image.fromarray(RGB).resize((300, 200)), "JPEG").getvalue()
    png = encoded(Image.fromarray(RGB), "PNG").getvalue()
    bad = {
        "text.jpg": b"this is no picture",
        "empty.png": b"",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "figure.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }
    for name, data in bad.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ToonError, match=name) as caught:
            read_image(path)
        assert one_sentence(caught.value), caught.value
    for path, words in ((tmp_path / "none.jpg", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(ToonError, match=words) as caught:
            read_image(path)
        assert one_sentence(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path):
    path = tmp_path / "secret.png"
    Image.fromarray(RGB).save(path)
    path.chmod(0)
    with pytest.raises(ToonError, match="Permission"):
        read_image(path)


SEEDS = [encoded(Image.fromarray(RGB), format).getvalue() for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), st.floats(0, 1))
def test_damaged_files_raise_toon_error_only(data, changes, cut):
    damaged = bytearray(data[: max(1, int(len(data) * max(cut, 0.02)))])
    for where, value in changes:
        damaged[int(where * (len(damaged) - 1))] = value
    try:
        image = read_image(io.BytesIO(damaged), name="x", max_pixels=10_000_000)
    except ToonError as error:
        assert one_sentence(error), error
    else:
        assert image.mode == "RGB"


def test_tensor_round_trip_is_exact_and_spans_minus_one_to_one():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, 2)
    tensor = to_tensor(Image.fromarray(every))
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(np.asarray(to_pil(tensor)), every)
    np.testing.assert_array_equal(np.asarray(to_pil(tensor[0])), every)


def test_tensor_axes_are_channels_rows_columns():
    tensor = to_tensor(Image.fromarray(RGB))
    assert tensor[0, 2, 5, 9].item() == pytest.approx(RGB[5, 9, 2] / 127.5 - 1)


def test_to_pil_clamps_takes_grey_and_refuses_batches():
    assert np.asarray(to_pil(torch.tensor([[[-7.0, 7.0]]] * 3))).tolist() == [[[0] * 3, [255] * 3]]
    assert to_pil(torch.zeros(1, 4, 5)).size == (5, 4)
    with pytest.raises(ValueError, match="one picture"):
        to_pil(torch.zeros(2, 3, 4, 4))


def test_save_image_leaves_all_or_nothing(tmp_path):
    image = Image.fromarray(RGB)
    save_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), RGB)
    for path in (tmp_path / "a.docx", tmp_path / "a", tmp_path / "missing" / "a.png"):
        with pytest.raises(ToonError):
            save_image(image, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 7), st.integers(1, 4), st.sampled_from([24, 64, 130]), st.booleans(), st.booleans(), st.booleans()
)
def test_grid_shows_every_picture_whole_and_apart(count, columns, size, captions, above, left):
    colours = [(30 * i + 20, 90, 200 - 20 * i) for i in range(count)]
    sheet = image_grid(
        [Image.new("RGB", (size, size), colour) for colour in colours],
        columns,
        captions=[f"caption number {i}" for i in range(count)] if captions else None,
        column_labels=["a long column label, too long"] * columns if above else None,
        row_labels=["row"] * -(-count // columns) if left else None,
    )
    array = np.asarray(sheet)
    for colour in colours:
        rows, cols = np.nonzero((array == colour).all(-1))
        assert len(rows) == size * size
        assert np.ptp(rows) == np.ptp(cols) == size - 1
    assert (array[[0, -1]] == 255).all() and (array[:, [0, -1]] == 255).all()


def test_grid_labels_are_drawn_and_odd_shapes_are_fitted():
    tall = Image.new("RGB", (50, 100), "red")
    plain = image_grid([tall, tall], 2, size=100)
    labelled = image_grid([tall, tall], 2, size=100, column_labels=["photo", "drawing"])
    assert labelled.height > plain.height and labelled.width == plain.width
    assert np.asarray(labelled)[: labelled.height - plain.height].min() < 100
    assert (np.asarray(plain) == (255, 0, 0)).all(-1).sum() == 2 * 50 * 100
    with pytest.raises(ValueError):
        image_grid([], 3)
