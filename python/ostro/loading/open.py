"""The door of the loading package: a model's name becomes a checkpoint."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ostro.errors import CorruptFile, ModelNotFound
from ostro.loading.chat_template import read_chat_template
from ostro.loading.demo import DEMO_MODEL, demo_folder
from ostro.loading.gguf_checkpoint import open_gguf
from ostro.loading.hf_checkpoint import open_hugging_face, own_tokenizer, read_generation
from ostro.loading.layout import (
    TOKENIZER,
    GgufLayout,
    find_layout,
    find_mmproj,
    list_files,
)
from ostro.loading.mmproj import add_mmproj
from ostro.loading.uqff_checkpoint import open_uqff
from ostro.loading.uqff_files import UqffLayout, is_uqff, read_report
from ostro.types import GenerationDefaults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.loading.hub import HubRepository
    from ostro.loading.layout import Layout

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def open_checkpoint(
    model: str | Path,
    *,
    gguf_file: str | None = None,
    uqff_files: Sequence[str] = (),
    mmproj_file: str | None = None,
    tokenizer_json: Path | None = None,
    tok_model_id: str | None = None,
    revision: str | None = None,
    token_source: str = "cache",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Open a model without reading its weights, which stay mapped from their files.

    model: a GGUF or UQFF file, a folder with such files or a Hugging Face checkpoint, or a hub id
        "organisation/name". What exists locally is never looked up in the hub. "ostro-demo-vision" is the
        model inside the package.
    gguf_file: which of several GGUF files of a folder or repository.
    uqff_files: the same for UQFF: files, or what they are named for ("q4k", "4"); see `find_uqff`.
    mmproj_file: the GGUF file with the image half of a GGUF model: a name in the model's folder or
        repository, or a path. Without it, a folder or repository with just one mmproj file beside the model
        reads images through that; a model given as the path of a file reads text only, unless it has both
        halves.
    tokenizer_json: a tokenizer in place of the model's own. tok_model_id: a folder or hub id whose tokenizer
        and chat template replace the model's own (the template only if it has one).
    revision, token_source ("literal:TOKEN", "env:VARIABLE", "path:FILE", "cache", "none"), cache_dir and
        progress are for the hub.

    Errors: those under ModelError; each names the file and the key or tensor.
    """

    def repository(repo_id: str, at: str | None) -> HubRepository:
        from ostro.loading.hub import HubRepository

        return HubRepository(
            repo_id, revision=at, token_source=token_source, cache_dir=cache_dir, progress=progress
        )

    if tokenizer_json is not None and not tokenizer_json.is_file():
        raise ModelNotFound(f"{tokenizer_json}: there is no such tokenizer file")
    side: Path | None = None
    tokenizer = tokenizer_json
    if tok_model_id is not None:
        side = _local(tok_model_id) or repository(tok_model_id, None).tokenizer()
        side = side if side.is_dir() else side.parent
        tokenizer = tokenizer or own_tokenizer(side)
        if tokenizer is None:
            raise ModelNotFound(f"{tok_model_id}: there is no {TOKENIZER} in it")
    path = demo_folder() if model == DEMO_MODEL else _local(model)
    if path is not None and is_uqff(path.name) and path.is_file():
        path, uqff_files = path.parent, (path.name, *uqff_files)
    if path is None or model == DEMO_MODEL:
        name = str(model)
    else:
        name = path.resolve().name if path.is_dir() else path.name
    mmproj = None if mmproj_file is None else _named_mmproj(path, mmproj_file)
    if path is None:
        path, found = repository(str(model), revision).model(gguf_file, mmproj or mmproj_file, uqff_files)
    else:
        path, found = _local_files(path, gguf_file, mmproj or mmproj_file, uqff_files)
    name = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    checkpoint = _open_local(path, tokenizer, name, uqff_files)
    mmproj = mmproj or found
    # A file with both halves does not need what merely lies beside it.
    if mmproj is not None and (mmproj_file is not None or checkpoint.config.vision is None):
        checkpoint = add_mmproj(checkpoint, mmproj)
    return checkpoint if side is None else _with_side_files(checkpoint, side)


def _local(model: str | Path) -> Path | None:
    """The path, if there is one; None for what can only be a hub id. ModelNotFound for neither."""
    path = Path(model).expanduser()
    try:
        if str(model) and path.exists():
            return path
    except (OSError, ValueError):
        # Too long for a path, or with a NUL in it.
        pass
    if isinstance(model, str) and _HUB_ID.fullmatch(model) and not model.lower().endswith((".gguf", ".uqff")):
        return None
    raise ModelNotFound(
        f"{str(model)!r}: there is no such file or folder, and it is not a hub id (organisation/name)"
    )


def _existing(path: str | Path) -> Path | None:
    """The path, if there is a file."""
    try:
        return path if (path := Path(path).expanduser()).is_file() else None
    except (OSError, ValueError):
        return None


def _named_mmproj(model: Path | None, mmproj_file: str) -> Path | None:
    """The local file of that name, beside or in the model or by its path; None if there is none."""
    beside = None
    if model is not None:
        beside = _existing((model if model.is_dir() else model.parent) / mmproj_file)
    return beside or _existing(mmproj_file)


def _local_files(
    path: Path, gguf_file: str | None, mmproj: Path | str | None, uqff_files: Sequence[str]
) -> tuple[Path, Path | None]:
    """What to open, a GGUF file or a folder of Hugging Face's kind, and an mmproj file that lies with it.

    mmproj: the one that was asked for, or a name of which there is none.
    """
    if not path.is_dir():
        if isinstance(mmproj, str):
            raise ModelNotFound(f"{mmproj}: there is no such mmproj file, nor one beside {path}")
        return path, None
    names = [name for name in list_files(path) if path / name != mmproj]
    if gguf_file is not None and _existing(path / gguf_file):
        layout: Layout = GgufLayout(gguf_file, (gguf_file,))
    else:
        layout = find_layout(names, gguf_file, str(path), uqff_files, read_report(path))
    found = find_mmproj(names, layout, mmproj, str(path))
    model = path / layout.first if isinstance(layout, GgufLayout) else path
    return model, None if found is None else path / found


def _open_local(path: Path, tokenizer: Path | None, name: str, uqff_files: Sequence[str]) -> Checkpoint:
    if path.is_file():
        return open_gguf(path, name=name, tokenizer=tokenizer)
    if not path.is_dir():
        raise CorruptFile(f"{path}: neither a file nor a folder")
    layout = find_layout(list_files(path), None, str(path), uqff_files, read_report(path))
    if isinstance(layout, GgufLayout):
        return open_gguf(path / layout.first, name=name, tokenizer=tokenizer)
    if isinstance(layout, UqffLayout):
        return open_uqff(path, layout, name=name, tokenizer=tokenizer)
    return open_hugging_face(path, layout, name=name, tokenizer=tokenizer)


def _with_side_files(checkpoint: Checkpoint, side: Path) -> Checkpoint:
    """The checkpoint with the chat template and sampling defaults of another folder, where that has them."""
    generation = read_generation(side)
    own = checkpoint.generation
    ids = tuple(dict.fromkeys((*own.eos_token_ids, *generation.eos_token_ids)))
    return replace(
        checkpoint,
        folder=side if (side / "config.json").is_file() else checkpoint.folder,
        chat_template=read_chat_template(side) or checkpoint.chat_template,
        generation=replace(own if generation == GenerationDefaults() else generation, eos_token_ids=ids),
    )
