"""The small vision model that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ostro.errors import ModelNotFound

DEMO_MODEL = "ostro-demo-vision"
"""What the model is called wherever a model is named."""


def demo_folder() -> Path:
    """A Hugging Face folder; ModelNotFound if this copy of the package has none."""
    folder = resources.files("ostro") / "demo_model"
    if not isinstance(folder, Path) or not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"{DEMO_MODEL} is not part of this copy of ostro (no {folder}): install a released package, "
            "or name a model: a .gguf file, a folder or a hub id"
        )
    return folder
