from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ostro.errors import BadImage
from ostro.loading.config import PanAndScan
from ostro.prompt.decode import PixelBudget, decode, from_array, from_image, to_rgb
from ostro.prompt.image import content_hash, crops, to_pixels

_VECTORS = np.load(Path(__file__).parent / "data/preprocessing.npz")
_CASES = sorted({name.partition(".")[0] for name in _VECTORS.files})


def _budget() -> PixelBudget:
    return PixelBudget(10_000_000, 10_000_000)


def _bytes(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _decode(data: bytes) -> np.ndarray:
    image = decode(data, _budget(), "x")
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.fixture
def photo() -> Image.Image:
    x, y = np.meshgrid(np.arange(37), np.arange(23))
    return Image.fromarray(np.stack([x * 6, y * 11, 255 - x * 3 - y * 4], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("case", _CASES)
def test_equals_the_reference_processor(case: str) -> None:
    values, expected = _VECTORS[f"{case}.input"], _VECTORS[f"{case}.output"]
    source = Image.fromarray(values)
    assert source.mode == str(_VECTORS[f"{case}.mode"])
    image = from_image(source, _budget(), "x")
    boxes = crops(*image.size, PanAndScan(min_crop_size=20)) if case.startswith("panned") else []
    parts = [image, *(image.crop((x, y, x + w, y + h)) for x, y, w, h in boxes)]
    found = np.stack([to_pixels(part, expected.shape[1]) for part in parts])
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("row", "size", "expected"),
    [
        ([0, 85, 170, 255], 2, [61, 194]),
        ([0, 85, 170, 255], 8, [0, 21, 64, 106, 149, 191, 234, 255]),
        ([10, 200, 30, 250, 0, 128, 7], 3, [96, 129, 57]),
        ([0, 255] * 5, 4, [116, 133, 122, 139]),
    ],
)
def test_resizes_by_a_triangle_as_wide_as_the_reduction(
    row: list[int], size: int, expected: list[int]
) -> None:
    square = np.repeat(np.array(row, np.uint8)[None, :, None], len(row), axis=0).repeat(3, axis=2)
    pixels = to_pixels(Image.fromarray(square), size)
    assert pixels.shape == (size, size, 3)
    assert pixels[:, :, 0].tolist() == [expected] * size


def test_an_image_of_the_size_is_copied(photo: Image.Image) -> None:
    square = photo.crop((0, 0, 23, 23))
    pixels = to_pixels(square, 23)
    assert (pixels == np.asarray(square)).all()
    pixels[:] = 0
    assert np.asarray(square).any()


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1199, 1000, []),
        (1200, 1000, [(0, 0, 600, 1000), (600, 0, 600, 1000)]),
        (1000, 500, [(0, 0, 500, 500), (500, 0, 500, 500)]),
        (511, 300, [(0, 0, 256, 300), (256, 0, 255, 300)]),
        (1001, 400, [(0, 0, 334, 400), (334, 0, 334, 400), (668, 0, 333, 400)]),
        (3000, 600, [(i * 750, 0, 750, 600) for i in range(4)]),
        (600, 2500, [(0, i * 625, 600, 625) for i in range(4)]),
        (2000, 255, []),
        (2000, 256, [(i * 500, 0, 500, 256) for i in range(4)]),
        (1025, 257, [(0, 0, 257, 257), (257, 0, 257, 257), (514, 0, 257, 257), (771, 0, 254, 257)]),
    ],
)
def test_crops(width: int, height: int, expected: list[tuple[int, int, int, int]]) -> None:
    assert crops(width, height, PanAndScan()) == expected


def test_content_hash_tells_values_and_shapes_apart() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    other = pixels.copy()
    other[3, 3, 2] ^= 1
    hashes = {content_hash(array) for array in (pixels, other, pixels.reshape(2, 8, 3))}
    assert {len(digest) for digest in hashes} == {16}
    assert len(hashes) == 3
    assert content_hash(pixels.transpose(1, 0, 2)) == content_hash(pixels.transpose(1, 0, 2).copy())


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_come_back_exactly(photo: Image.Image, format: str) -> None:
    data = _bytes(photo, format, **({"lossless": True} if format == "WEBP" else {}))
    assert (_decode(data) == np.asarray(photo)).all()


@pytest.mark.parametrize("format", ["JPEG", "MPO", "GIF", "AVIF"])
def test_lossy_formats_come_back_nearly(photo: Image.Image, format: str) -> None:
    if format == "AVIF":
        pytest.importorskip("PIL._avif")
    data = _bytes(photo, format, **({"quality": 95} if format in ("JPEG", "AVIF") else {}))
    assert np.abs(_decode(data) - np.asarray(photo)).mean() < 8


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "lime")]
    data = _bytes(frames[0], format, save_all=True, append_images=frames[1:])
    assert np.abs(_decode(data) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(format: str, orientation: int) -> None:
    # A picture whose corners differ, stored as a camera stores it that was held in that way.
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("red", (0, 0, 16, 16))
    upright.paste("blue", (32, 0, 48, 16))
    upright.paste("lime", (0, 16, 16, 32))
    stored_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(stored_by[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if format == "WEBP" else {}
    if format == "JPEG":
        options = {"quality": 95, "subsampling": 0}
    data = _bytes(stored, format, exif=exif, **options)
    assert np.abs(_decode(data) - np.asarray(upright).astype(int)).max() <= 12
    with Image.open(io.BytesIO(data)) as image:
        given = from_image(image, _budget(), "x")
    assert np.abs(np.asarray(given).astype(int) - np.asarray(upright)).max() <= 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_do_not_spoil_a_photograph(photo: Image.Image) -> None:
    data = _bytes(photo, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert _decode(data).shape == (23, 37, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    grey = Image.new("L", (3, 1))
    grey.putdata([0, 0, 0])
    alpha = Image.new("L", (3, 1))
    alpha.putdata([0, 51, 255])
    image = Image.merge("LA", (grey, alpha)).convert("RGBA")
    if mode == "PA":
        image = image.convert("RGB").quantize(2).convert("PA")
        image.putalpha(alpha)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    assert np.asarray(to_rgb(image)).tolist() == [[[255] * 3, [204] * 3, [0] * 3]]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    image = Image.new("RGB", (4, 4), "black")
    image.paste("white", (0, 0, 4, 1))
    image = image.convert(mode)
    black = {"P": image.getpixel((0, 3)), "RGB": (0, 0, 0)}.get(mode, 0)
    found = _decode(_bytes(image, "PNG", transparency=black))
    assert (found == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_range(format: str) -> None:
    values = np.array([[0, 257, 32896, 65535], [128, 129, 65278, 40000]], np.uint16)
    found = _decode(_bytes(Image.fromarray(values), format))
    expected = np.floor(values / 257 + 0.5)[:, :, None].repeat(3, axis=2)
    assert (found == expected).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 25700.0, 65535.0]], np.float32), [0, 100, 255]),
        (np.array([[-100.0, 0.0, 100.0]], np.float32), [0, 128, 255]),
        (np.array([[7, 8, 200]], np.int32), [7, 8, 200]),
        (np.array([[0, 2570, 65535]], np.int32), [0, 10, 255]),
        (np.array([[-(1 << 30), 0, 1 << 30]], np.int32), [0, 128, 255]),
    ],
)
def test_wide_grey_is_scaled_to_the_range_that_holds_it(values: np.ndarray, expected: list[int]) -> None:
    found = _decode(_bytes(Image.fromarray(values), "TIFF"))
    assert found[0, :, 0].tolist() == expected


def test_grey_that_is_not_finite_is_refused() -> None:
    data = _bytes(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF")
    with pytest.raises(BadImage, match=r"x: .*finite"):
        decode(data, _budget(), "x")


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(_decode(_bytes(image, format)) - [255, 0, 0]).max() <= 3


def test_palette_one_bit_and_ycbcr(photo: Image.Image) -> None:
    palette = photo.quantize(16)
    assert (_decode(_bytes(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()
    bits = photo.convert("1")
    assert (_decode(_bytes(bits, "PNG")) == np.asarray(bits.convert("RGB"))).all()
    assert np.abs(np.asarray(to_rgb(photo.convert("YCbCr"))).astype(int) - np.asarray(photo)).max() <= 3


def test_lab(photo: Image.Image) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(photo, srgb, lab, outputMode="LAB")
    assert image is not None
    assert np.abs(_decode(_bytes(image, "TIFF")) - np.asarray(photo)).mean() <= 4


def test_the_callers_picture_is_left_alone(photo: Image.Image) -> None:
    before = photo.tobytes()
    found = from_image(photo, _budget(), "x")
    assert found is not photo
    found.paste("black", (0, 0, 37, 23))
    assert photo.tobytes() == before


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays(dtype: type, channels: int | None) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (5, 7) if channels is None else (5, 7, channels))
    if channels == 4:
        bits[:, :, 3] = 1
    array = (bits * 255).astype(np.uint8) if dtype == np.uint8 else bits.astype(dtype)
    colours = bits[:, :, None] if channels is None else bits[:, :, :3]
    found = np.asarray(from_array(array, _budget(), "x"))
    assert (found == np.broadcast_to(colours * 255, (5, 7, 3))).all()


def test_floats_are_rounded_to_the_nearest_level() -> None:
    array = np.arange(256, dtype=np.float64).reshape(16, 16) / 255
    assert (np.asarray(from_array(array, _budget(), "x"))[:, :, 0].ravel() == np.arange(256)).all()
