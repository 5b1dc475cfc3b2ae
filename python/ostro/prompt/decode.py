"""Pictures from bytes and arrays: always RGB, upright, alpha over white.

Bytes may be hostile. Their format is told from the first of them, and only those of FORMATS reach a decoder:
those whose decoders are native, do not start other programs and work in proportion to the picture. What is
said of the size is checked before anything is decoded.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ostro.errors import BadImage, ImageTooLarge

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Of PPM the binary kinds. JPEG includes MPO; of several frames the first is taken."""

HEAD = 32
"""Bytes from which `sniff` tells a format."""

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P4": "PPM",
    b"P5": "PPM",
    b"P6": "PPM",
}
_OTHERS = {
    b"%PDF": "a PDF document",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "gzip data",
    b"\x7fELF": "a program",
    b"<svg": "SVG; send it rendered, as PNG",
    b"<?xml": "XML or SVG; send a drawing rendered, as PNG",
    b"<": "a web page or other markup",
    b"{": "JSON",
}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_MAX_SCANS = 100

# Loading a lazily opened picture reads its file; two requests may bring the same object.
_LOADING = threading.Lock()


class PixelBudget:
    """What the pictures of one request may hold, in pixels; used by several threads."""

    def __init__(self, per_image: int, per_request: int) -> None:
        self._per_image = per_image
        self._left = self._per_request = per_request
        self._lock = threading.Lock()

    def take(self, width: int, height: int, where: str) -> None:
        """Count a picture in; ImageTooLarge if it is too much, BadImage if it has no pixels."""
        pixels = width * height
        if pixels <= 0:
            raise BadImage(f"{where}: the image is {width} x {height} pixels: it is empty", param=where)
        if pixels > self._per_image:
            raise ImageTooLarge(
                f"{where}: the image is {width} x {height} pixels; at most {self._per_image:,} pixels are"
                " read: send it smaller",
                param=where,
            )
        with self._lock:
            self._left -= pixels
            if self._left < 0:
                raise ImageTooLarge(
                    f"{where}: the images of this request have more than {self._per_request:,} pixels"
                    " together: send fewer or smaller ones",
                    param=where,
                )


def sniff(head: bytes) -> str | None:
    """Which of FORMATS data with these first HEAD bytes are meant to be."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic) and (name != "PPM" or head[2:3].isspace()):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # A HEIC picture has the same container; its brands do not name AVIF.
    if head[4:8] == b"ftyp" and any(brand in head[8:] for brand in (b"avif", b"avis")):
        return "AVIF"
    return None


def decode(data: bytes, budget: PixelBudget, where: str) -> Image.Image:
    """The picture in the bytes of a file; BadImage, ImageTooLarge."""
    name = sniff(data[:HEAD])
    if name is None:
        raise BadImage(f"{where}: {_unknown(data)}; {', '.join(FORMATS)} are read", param=where)
    if name == "JPEG" and _has_too_many_scans(data):
        raise BadImage(f"{where}: the JPEG image has more than {_MAX_SCANS} scans", param=where)
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            budget.take(image.width, image.height, where)
            _check_decoder(image, where)
            image.load()
            return to_rgb(image)
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            f"{where}: the {name} image has too many pixels: send it smaller", param=where
        ) from error
    except Exception as error:  # decoders of broken files raise what they like
        raise BadImage(
            f"{where}: the {name} image is damaged, incomplete or of a kind that is not read: {error!s:.200}",
            param=where,
        ) from error


def from_image(image: Image.Image, budget: PixelBudget, where: str) -> Image.Image:
    """A copy of the caller's picture, RGB and upright; BadImage, ImageTooLarge."""
    budget.take(image.width, image.height, where)
    try:
        with _LOADING:
            image.load()
        return to_rgb(image)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(f"{where}: the image cannot be read ({error!s:.200})", param=where) from error


def from_array(array: NDArray[Any], budget: PixelBudget, where: str) -> Image.Image:
    """A picture of [H, W] or [H, W, 1 | 3 | 4] values: uint8, bool, or floats in [0, 1]."""
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and shape[0] in (1, 3, 4):
            hint = "; channels come last: array.transpose(1, 2, 0)"
        raise BadImage(
            f"{where}: an array of shape {list(shape)} is no image; [H, W] or [H, W, 1 | 3 | 4] is{hint}",
            param=where,
        )
    budget.take(shape[1], shape[0], where)
    if array.dtype == np.bool_:
        values = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f":
        # NaN is neither above nor below: ask for what is right, not for what is wrong.
        if not (array.min() >= 0 and array.max() <= 1):
            raise BadImage(
                f"{where}: an array of {array.dtype} must hold values from 0 to 1, without NaN;"
                " for 0 to 255 use uint8",
                param=where,
            )
        values = (array.astype(np.float32) * 255 + 0.5).astype(np.uint8)
    elif array.dtype == np.uint8:
        values = array
    else:
        raise BadImage(
            f"{where}: an array of {array.dtype} is no image; use uint8 (0 to 255), bool or floats (0 to 1)",
            param=where,
        )
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return to_rgb(Image.fromarray(np.ascontiguousarray(values)))


def to_rgb(image: Image.Image) -> Image.Image:
    """A new picture: RGB, turned as its EXIF data say, transparent parts over white, 16 bits reduced to 8.

    image: loaded, of any of Pillow's modes. ValueError where it holds numbers that are no brightness.
    """
    turn = _UPRIGHT.get(_orientation(image))
    flat = _flatten(image)
    if turn is not None:
        return flat.transpose(turn)
    return flat.copy() if flat is image else flat


def _flatten(image: Image.Image) -> Image.Image:
    """RGB without transparency; the image itself if it is that, since a copy may be large."""
    if image.mode.startswith("I") or image.mode == "F":
        return _brightness(image).convert("RGB")
    # "transparency" is the palette entry or the colour that stands for no colour (PNG's tRNS, GIF).
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if image.mode == "La":
            image = image.convert("LA")
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _brightness(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, of 32, or of floats, as 8 bits.

    16 bits are 0 to 65,535. Wider types do not say their range: the narrowest of 0 to 1 (floats), 255, 65,535
    that holds all values, else their own.
    """
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    low, high = float(values.min()), float(values.max())
    if values.dtype.itemsize == 2:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next(top for top in tops if high <= top)
    scale = 255 / (high - low)
    grey = Image.fromarray(((values.astype(np.float32) - low) * scale + 0.5).clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.paste(255, mask=Image.fromarray(values == transparent))
    return grey


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of a sound picture, damaged EXIF data are not worth an error
        return 1


def _check_decoder(image: Image.Image, where: str) -> None:
    """Refuse what would be decoded by Python code, slowly, or in tiles far larger than the picture."""
    if any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())):
        raise BadImage(f"{where}: this kind of {image.format} image is not read: send it as PNG", param=where)
    tags = getattr(image, "tag_v2", {})
    tile = tags.get(_TILE_WIDTH, 1) * tags.get(_TILE_LENGTH, 1)
    if tile > 4 * max(image.width * image.height, 1 << 20):
        raise BadImage(f"{where}: the tiles of the TIFF image are larger than the image", param=where)


def _has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG image has more scans than any encoder writes.

    Each scan goes over all of the picture, yet may be a few bytes: they are what makes a small file slow.
    """
    scans, at = 0, 2
    while scans <= _MAX_SCANS:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return False
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0 or 0xD0 <= marker <= 0xD8 or marker == 1:  # stuffing, or markers without a length
            at += 2
        elif marker == 0xD9:
            return False
        else:
            scans += marker == 0xDA
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def _unknown(data: bytes) -> str:
    if not data:
        return "there are no bytes"
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = start[:16].lower()
    for magic, kind in _OTHERS.items():
        if lower.startswith(magic.lower()):
            return f"this is no image but {kind}"
    return f"these {len(data):,} bytes are no image of a known format"
