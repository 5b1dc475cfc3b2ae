"""What kind of model a folder or repository holds, judged by its file names alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostro.errors import BadConfig, ModelNotFound, UnsupportedModel
from ostro.loading.gguf_checkpoint import PART

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER = "tokenizer.json"
SIDE_FILES = (
    "generation_config.json", TOKENIZER, "tokenizer_config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""What a Hugging Face checkpoint may have beside config and weights, and ostro reads."""


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """A GGUF model: its first file, and all its files in order (several if it was split)."""

    first: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HuggingFaceLayout:
    """A Hugging Face model. weights: the files themselves, or the index that names them."""

    weights: tuple[str, ...]
    index: str | None


def find_layout(names: Collection[str], gguf_file: str | None, where: str) -> GgufLayout | HuggingFaceLayout:
    """Decide by file names (relative, with forward slashes).

    gguf_file picks among GGUF files. ModelNotFound when it is not there, BadConfig when the choice is not
    clear, UnsupportedModel when there is nothing that ostro reads.
    """
    candidates = _gguf_models(names)
    if gguf_file is not None:
        for layout in candidates.values():
            if gguf_file in layout.files:
                return layout
        if gguf_file in names:
            return GgufLayout(gguf_file, (gguf_file,))
        raise ModelNotFound(f"{where} has no file {gguf_file!r}{_listing(candidates)}")
    if "config.json" in names:
        weights = _hugging_face(names)
        if weights is not None:
            return weights
    # llama.cpp's convention; a file that breaks it is refused later, by its architecture.
    models = {
        name: layout for name, layout in candidates.items() if "mmproj" not in name.rpartition("/")[2].lower()
    }
    if len(models) > 1:
        raise BadConfig(f"{where} holds several GGUF models; choose one as gguf_file{_listing(models)}")
    for layout in (models or candidates).values():
        return layout
    raise UnsupportedModel(f"{where}: {_explain(names)}")


def _listing(candidates: Collection[str]) -> str:
    shown = sorted(candidates)
    more = f" and {len(shown) - 40} more" if len(shown) > 40 else ""
    return f": {', '.join(shown[:40])}{more}" if shown else " nor any other GGUF file"


def _gguf_models(names: Collection[str]) -> dict[str, GgufLayout]:
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.lower().endswith(".gguf"):
            match = PART.fullmatch(name)
            models.setdefault(name if match is None else f"{match['stem']}-of-{match['count']}", []).append(
                name
            )
    return {files[0]: GgufLayout(files[0], tuple(files)) for files in models.values()}


def _hugging_face(names: Collection[str]) -> HuggingFaceLayout | None:
    if SINGLE in names:
        return HuggingFaceLayout((SINGLE,), None)
    if INDEX in names:
        return HuggingFaceLayout((), INDEX)
    numbered = sorted(
        name for name in names if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name, re.ASCII)
    )
    if numbered:
        return HuggingFaceLayout(tuple(numbered), None)
    others = [name for name in names if re.fullmatch(r"(?!adapter_)[^/]+\.safetensors", name)]
    return HuggingFaceLayout((others[0],), None) if len(others) == 1 else None


def _explain(names: Collection[str]) -> str:
    if "adapter_config.json" in names:
        return "this is an adapter (LoRA), not a model; merge it into its base model first"
    if any(re.fullmatch(r"pytorch_model.*\.bin|.*\.pth", name) for name in names):
        return "its weights are Python pickles; ostro reads safetensors and GGUF"
    if "config.json" in names:
        return "config.json is there, but no safetensors or GGUF weights"
    if any(name.endswith(".safetensors") for name in names):
        return "safetensors weights without a config.json"
    return "no model in there: neither a GGUF file nor config.json with safetensors weights"


def list_files(folder: Path) -> list[str]:
    """The names that `find_layout` looks at: files of the folder itself, and GGUF files one level down."""
    return sorted(
        path.relative_to(folder).as_posix()
        for pattern in ("*", "*/*.gguf")
        for path in folder.glob(pattern)
        if path.is_file()
    )
