"""Writes tests/unit/prompt/data/preprocessing.npz: pictures, and what the reference processor makes of them.

Needs transformers 5 (Gemma3ImageProcessorPil) beside numpy and Pillow. Cases are named; for case c the file
has "c.input" (uint8, as numpy sees the PIL image), "c.mode", and "c.output" uint8 [n, size, size, 3]: the
picture, then its crops, pixel values before they are normalized.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

SIZE = 40
TARGET = Path(__file__).parents[1] / "tests/unit/prompt/data/preprocessing.npz"

# Name: mode, width, height, pan-and-scan. Crops of the vectors are at least 20 pixels, not 256.
CASES = {
    "odd": ("RGB", 53, 37, False),
    "square": ("RGB", 40, 40, False),
    "wide": ("RGB", 97, 31, False),
    "tall": ("RGB", 13, 71, False),
    "tiny": ("RGB", 3, 5, False),
    "large": ("RGB", 103, 79, False),
    "line": ("RGB", 60, 1, False),
    "grey": ("L", 41, 67, False),
    "alpha": ("RGBA", 45, 59, False),
    "grey_alpha": ("LA", 39, 33, False),
    "panned_wide": ("RGB", 83, 24, True),
    "panned_tall": ("RGB", 29, 61, True),
}


def picture(rng: np.random.Generator, mode: str, width: int, height: int) -> Image.Image:
    """Slopes with noise, so that errors of position and of rounding both show."""
    channels = len(mode)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    slopes = [a * x / width + b * y / height for a, b in rng.uniform(-255, 255, (channels, 2))]
    values = 128 + np.stack(slopes, axis=-1) + rng.normal(0, 40, (height, width, channels))
    array = np.clip(values, 0, 255).astype(np.uint8)
    return Image.fromarray(array[:, :, 0] if channels == 1 else array, mode)


def main() -> None:
    """Make the file anew."""
    rng = np.random.default_rng(20)
    processor = Gemma3ImageProcessorPil(size={"height": SIZE, "width": SIZE})
    arrays: dict[str, np.ndarray] = {}
    for name, (mode, width, height, pan) in CASES.items():
        image = picture(rng, mode, width, height)
        found = processor(
            image,
            do_pan_and_scan=pan,
            pan_and_scan_min_crop_size=20,
            pan_and_scan_max_num_crops=4,
            pan_and_scan_min_ratio_to_activate=1.2,
            return_tensors="np",
        )["pixel_values"]
        values = (np.asarray(found, np.float64) * 127.5 + 127.5).transpose(0, 2, 3, 1)
        if np.abs(values - values.round()).max() > 1e-3:
            raise SystemExit(f"{name}: the reference's values are not of 8 bits")
        arrays[f"{name}.input"] = np.asarray(image)
        arrays[f"{name}.mode"] = np.array(mode)
        arrays[f"{name}.output"] = values.round().astype(np.uint8)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes, {len(CASES)} cases")


if __name__ == "__main__":
    main()
