"""What kind of model a folder or repository holds, judged by its file names alone."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ostro.errors import BadConfig, ModelNotFound, UnsupportedModel
from ostro.loading.gguf_checkpoint import PART
from ostro.loading.uqff import RESIDUAL
from ostro.loading.uqff_files import UqffLayout, find_uqff, is_uqff

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ostro.loading.uqff_files import Sets

logger = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER = "tokenizer.json"
SIDE_FILES = (
    "generation_config.json", TOKENIZER, "tokenizer_config.json", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json",
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


Layout = GgufLayout | HuggingFaceLayout | UqffLayout


def find_layout(
    names: Collection[str],
    gguf_file: str | None,
    where: str,
    uqff_files: Sequence[str] = (),
    uqff_sets: Sets | None = None,
) -> Layout:
    """Decide by file names (relative, with forward slashes).

    gguf_file picks among GGUF files, uqff_files and uqff_sets among UQFF files (see `find_uqff`).
    ModelNotFound when one is not there, BadConfig when the choice is not clear, UnsupportedModel when there
    is nothing that ostro reads.
    """
    if uqff_files and gguf_file is not None:
        raise BadConfig(f"{where}: a GGUF file and UQFF files at once; leave one of them out")
    if uqff_files or (RESIDUAL in names and SINGLE not in names and INDEX not in names and gguf_file is None):
        uqff = find_uqff(names, uqff_files, where, uqff_sets)
        if uqff is not None:
            _check_uqff(names, where)
            return uqff
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
    models = {name: layout for name, layout in candidates.items() if not _is_mmproj(name)}
    if len(models) > 1:
        raise BadConfig(f"{where} holds several GGUF models; choose one as gguf_file{_listing(models)}")
    for layout in (models or candidates).values():
        return layout
    raise UnsupportedModel(f"{where}: {_explain(names)}")


def _check_uqff(names: Collection[str], where: str) -> None:
    for needed, holds in ((RESIDUAL, "all weights that are not quantized"), ("config.json", "its sizes")):
        if needed not in names:
            raise UnsupportedModel(f"{where}: a UQFF model needs {needed} beside it, with {holds}")


def find_mmproj(
    names: Collection[str],
    model: Layout,
    mmproj_file: str | Path | None,
    where: str,
) -> str | None:
    """The file with the image half of a GGUF model, by file names alone; None if there is none in here.

    mmproj_file: its name, or the path of a file that lies elsewhere. Without it, the only mmproj file in the
    model's folder, or at the top if that folder has none; several give none, and a log line.
    ModelNotFound when the name is not there, BadConfig for models that are not GGUF files.
    """
    if not isinstance(model, GgufLayout):
        if mmproj_file is not None:
            raise BadConfig(f"{where} is no GGUF model, so mmproj_file ({mmproj_file}) has to be left out")
        return None
    if isinstance(mmproj_file, Path):
        return None
    found = sorted(name for name in names if name.lower().endswith(".gguf") and _is_mmproj(name))
    if mmproj_file is not None:
        if mmproj_file in names:
            return mmproj_file
        raise ModelNotFound(
            f"{where} has no file {mmproj_file!r}: {', '.join(found[:40]) or 'there is no mmproj file in it'}"
        )
    if model.first in found:
        return None
    folder = model.first.rpartition("/")[0]
    beside = [name for name in found if name.rpartition("/")[0] == folder] or [
        name for name in found if "/" not in name
    ]
    if len(beside) > 1:
        logger.warning(
            "%s: text only, since it is not clear which file reads images; choose one as mmproj_file: %s",
            where,
            ", ".join(beside[:40]),
        )
    return beside[0] if len(beside) == 1 else None


def _is_mmproj(name: str) -> bool:
    """llama.cpp's convention; a file that breaks it is refused later, by its architecture."""
    return "mmproj" in name.rpartition("/")[2].lower()


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
    if any(is_uqff(name) for name in names):
        return f"UQFF files without {RESIDUAL}, which holds the weights that are not quantized"
    if "config.json" in names:
        return "config.json is there, but no safetensors, GGUF or UQFF weights"
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
