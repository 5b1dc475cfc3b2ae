"""A checkpoint from a folder as Hugging Face's tools write it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ostro.errors import CorruptFile
from ostro.loading.chat_template import read_chat_template
from ostro.loading.checkpoint import Checkpoint
from ostro.loading.config import PanAndScan
from ostro.loading.fields import Fields, read_json
from ostro.loading.hf_config import parse_config, parse_generation
from ostro.loading.hf_vision import read_processor
from ostro.loading.layout import TOKENIZER
from ostro.loading.names import from_hugging_face
from ostro.loading.safetensors import read_safetensors
from ostro.loading.shapes import check_text_tensors, check_vision_tensors
from ostro.types import GenerationDefaults

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ostro.loading.layout import HuggingFaceLayout
    from ostro.loading.safetensors import Stored
    from ostro.loading.uqff import Weight
    from ostro.ops.tensor import Tensor

logger = logging.getLogger(__name__)


def open_hugging_face(
    folder: Path, layout: HuggingFaceLayout, *, name: str, tokenizer: Path | None = None
) -> Checkpoint:
    """Map the weights in `folder` and read everything else.

    tokenizer: a tokenizer.json to use in place of the folder's own.
    """
    return assemble(folder, _read_weights(folder, layout), name=name, tokenizer=tokenizer)


def assemble(
    folder: Path, stored: Mapping[str, Weight], *, name: str, tokenizer: Path | None = None
) -> Checkpoint:
    """A checkpoint of weights under Hugging Face's names, in any of its layouts, and the folder's JSON files.

    Errors as in `open_checkpoint`.
    """
    source = str(folder)
    config_path = folder / "config.json"
    config = parse_config(read_json(config_path), str(config_path))
    renaming = from_hugging_face(stored, source, tied=config.tie_word_embeddings)
    text = {canonical: stored[own].tensor() for canonical, own in renaming.text.items()}
    check_text_tensors(text, config, renaming, source)
    vision, pan_and_scan = config.vision, PanAndScan()
    vision_tensors: dict[str, Tensor] = {}
    if vision is not None and not renaming.vision:
        logger.warning("%s: text only, since the tensors of its vision_config are not there", source)
        vision = None
    if vision is not None:
        vision, pan_and_scan = read_processor(folder, vision)
        vision_tensors = {canonical: stored[own].tensor() for canonical, own in renaming.vision.items()}
        check_vision_tensors(vision_tensors, vision, config.hidden_size, renaming, source)
    elif renaming.vision:
        logger.warning("%s: text only: tensors that read images are there, but no vision_config", source)
    return Checkpoint(
        name=name,
        config=replace(config, vision=vision),
        tensors=text,
        norm_offset=1.0,
        tokenizer=tokenizer or own_tokenizer(folder),
        chat_template=read_chat_template(folder),
        generation=read_generation(folder),
        vision_tensors=vision_tensors,
        pan_and_scan=pan_and_scan,
        files=tuple(dict.fromkeys(tensor.path for tensor in stored.values())),
        folder=folder,
    )


def own_tokenizer(folder: Path) -> Path | None:
    """The folder's tokenizer.json, if there is one."""
    path = folder / TOKENIZER
    return path if path.is_file() else None


def read_generation(folder: Path) -> GenerationDefaults:
    """The folder's generation_config.json; nothing but None fields if there is none."""
    path = folder / "generation_config.json"
    return parse_generation(read_json(path), str(path)) if path.is_file() else GenerationDefaults()


def shard_names(index: Path) -> tuple[str, ...]:
    """The files that an index of sharded weights names, in the order of their names.

    CorruptFile if the index is malformed or names anything but a plain file beside itself.
    """
    weight_map = Fields(str(index), read_json(index)).section("weight_map").values
    shards: set[str] = set()
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or not _is_plain(shard):
            raise CorruptFile(
                f"{index}: {tensor[:80]!r} is said to be in {str(shard)[:80]!r}, not a file of this folder"
            )
        shards.add(shard)
    if not shards:
        raise CorruptFile(f"{index}: weight_map names no file")
    return tuple(sorted(shards))


def _is_plain(name: str) -> bool:
    return not any(character in name for character in "/\\:\0") and name not in ("..", ".")


def _read_weights(folder: Path, layout: HuggingFaceLayout) -> dict[str, Stored]:
    weights = layout.weights if layout.index is None else shard_names(folder / layout.index)
    stored: dict[str, Stored] = {}
    for shard in weights:
        path = folder / shard
        if not path.is_file():
            raise CorruptFile(f"{folder}: the shard {shard!r} is missing (named in {layout.index})")
        for name, tensor in read_safetensors(path).items():
            if name in stored:
                raise CorruptFile(f"{path}: tensor {name!r} is already in {stored[name].path.name}")
            stored[name] = tensor
    return stored
