"""The door of the loading package: a model's name becomes a checkpoint."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ostro.errors import CorruptFile, ModelNotFound
from ostro.loading.chat_template import read_chat_template
from ostro.loading.gguf_checkpoint import open_gguf
from ostro.loading.hf_checkpoint import open_hugging_face, own_tokenizer, read_generation
from ostro.loading.layout import TOKENIZER, GgufLayout, find_layout, list_files
from ostro.types import GenerationDefaults

if TYPE_CHECKING:
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.loading.hub import HubRepository

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def open_checkpoint(
    model: str | Path,
    *,
    gguf_file: str | None = None,
    tokenizer_json: Path | None = None,
    tok_model_id: str | None = None,
    revision: str | None = None,
    token_source: str = "cache",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Open a model without reading its weights, which stay mapped from their files.

    model: a GGUF file, a folder with GGUF files or a Hugging Face checkpoint, or a hub id
        "organisation/name". What exists locally is never looked up in the hub.
    gguf_file: which of several GGUF files of a folder or repository.
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
    path = _local(model)
    name = str(model) if path is None else path.resolve().name if path.is_dir() else path.name
    if path is None:
        path = repository(str(model), revision).model(gguf_file)
    checkpoint = _open_local(path, gguf_file, tokenizer, re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE))
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
    if isinstance(model, str) and _HUB_ID.fullmatch(model) and not model.lower().endswith(".gguf"):
        return None
    raise ModelNotFound(
        f"{str(model)!r}: there is no such file or folder, and it is not a hub id (organisation/name)"
    )


def _open_local(path: Path, gguf_file: str | None, tokenizer: Path | None, name: str) -> Checkpoint:
    if path.is_file():
        return open_gguf(path, name=name, tokenizer=tokenizer)
    if not path.is_dir():
        raise CorruptFile(f"{path}: neither a file nor a folder")
    if gguf_file is not None and (path / gguf_file).is_file():
        return open_gguf(path / gguf_file, name=name, tokenizer=tokenizer)
    layout = find_layout(list_files(path), gguf_file, str(path))
    if isinstance(layout, GgufLayout):
        return open_gguf(path / layout.first, name=name, tokenizer=tokenizer)
    return open_hugging_face(path, layout, name=name, tokenizer=tokenizer)


def _with_side_files(checkpoint: Checkpoint, side: Path) -> Checkpoint:
    """The checkpoint with the chat template and sampling defaults of another folder, where that has them."""
    generation = read_generation(side)
    own = checkpoint.generation
    ids = tuple(dict.fromkeys((*own.eos_token_ids, *generation.eos_token_ids)))
    return replace(
        checkpoint,
        chat_template=read_chat_template(side) or checkpoint.chat_template,
        generation=replace(own if generation == GenerationDefaults() else generation, eos_token_ids=ids),
    )
