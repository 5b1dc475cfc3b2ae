"""From an upright RGB picture to what the model sees of it.

Values are left as uint8; the encoder normalizes them. See ostro.prompt.fetch for where pictures come from.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.loading.config import PanAndScan


def to_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The picture squashed to a square: uint8 [size, size, 3], its own memory.

    image: RGB. As in Hugging Face's Gemma 3 processor: bilinear with antialiasing (a triangle filter as wide
    as the reduction), sides scaled independently; a picture of that size stays as it is.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image, np.uint8)


def crops(width: int, height: int, pan: PanAndScan) -> list[tuple[int, int, int, int]]:
    """Where an oblong picture is cut, as (x, y, width, height) in its pixels; empty if it is not.

    The parts lie along the longer side and cover the picture; the last is smaller where it does not divide.
    As in Hugging Face's Gemma 3 processor. `pan.enabled` is the caller's to heed.
    """
    long, short = max(width, height), min(width, height)
    if long / short < pan.min_ratio:
        return []
    count = min(long // pan.min_crop_size, int(long / short + 0.5))
    count = min(max(count, 2), pan.max_num_crops)
    step = -(-long // count)
    if min(step, short) < pan.min_crop_size:
        return []
    starts = range(0, long, step)
    if width >= height:
        return [(start, 0, min(step, long - start), height) for start in starts]
    return [(0, start, width, min(step, long - start)) for start in starts]


def content_hash(pixels: NDArray[np.uint8]) -> bytes:
    """16 bytes that tell pictures apart: BLAKE2b over shape and values."""
    digest = blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.tobytes())
    return digest.digest()
