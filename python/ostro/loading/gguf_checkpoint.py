"""A checkpoint from one GGUF file, or from the parts that one was split into."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ostro.errors import BadTensor, CorruptFile, UnknownTensor
from ostro.loading import gguf_config
from ostro.loading.checkpoint import Checkpoint
from ostro.loading.combined import norm_offset, parse_combined
from ostro.loading.fields import Fields
from ostro.loading.gguf import GgufFile
from ostro.loading.gguf_vocabulary import parse_vocabulary
from ostro.loading.names import from_gguf
from ostro.loading.shapes import check_text_tensors, check_vision_tensors
from ostro.loading.vision_names import PROJECTOR_NORM
from ostro.ops.tensor import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.config import Gemma3Config

logger = logging.getLogger(__name__)

PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL | re.ASCII)
MAX_PARTS = 1024
_FUSED = re.compile(r"blk\.(0|[1-9]\d{0,5})\.attn_qkv\.weight", re.ASCII)


def open_gguf(path: Path, *, name: str, tokenizer: Path | None = None) -> Checkpoint:
    """Map the file at `path` (any of its parts, if it was split) and read everything but the weights.

    tokenizer: a tokenizer.json to use in place of the file's own tokenizer.
    """
    first, *others = [GgufFile(part) for part in part_paths(path)]
    source = str(first.path)
    gguf_config.check_architecture(first.metadata, source)
    _check_parts([first, *others])
    stored: dict[str, Tensor] = {}
    for file in (first, *others):
        for tensor_name, tensor in file.tensors().items():
            if tensor_name in stored:
                raise CorruptFile(f"{file.path}: tensor {tensor_name!r} is already in another part")
            stored[tensor_name] = tensor
    fused = {int(match[1]): stored.pop(match[0]) for match in map(_FUSED.fullmatch, list(stored)) if match}
    renaming = from_gguf(stored, source)
    text = {canonical: stored[own] for canonical, own in renaming.text.items()}
    config = gguf_config.parse_config(first.metadata, text, source)
    for layer, tensor in fused.items():
        for canonical, part in _split_fused(layer, tensor, config, source).items():
            if canonical in text:
                raise UnknownTensor(f"{source}: both {tensor.name!r} and {text[canonical].name!r} are there")
            text[canonical] = part
    check_text_tensors(text, config, renaming, source)
    fields = Fields(source, first.metadata)
    vision = parse_combined(fields)
    vision_tensors: dict[str, Tensor] = {}
    if vision is not None and not renaming.vision:
        logger.warning("%s: text only, since the tensors of its gemma3.vision keys are not there", source)
        vision = None
    if vision is not None:
        vision_tensors = {canonical: stored[own] for canonical, own in renaming.vision.items()}
        check_vision_tensors(vision_tensors, vision, config.hidden_size, renaming, source)
    elif renaming.vision:
        logger.warning("%s: text only: tensors that read images are there, but no gemma3.vision keys", source)
    template = fields.text("tokenizer.chat_template", "")
    checkpoint = Checkpoint(
        name=name,
        config=replace(config, vision=vision),
        tensors=text,
        norm_offset=0.0,
        tokenizer=tokenizer or parse_vocabulary(first.metadata, config.vocab_size, source),
        chat_template=template or None,
        generation=gguf_config.parse_generation(first.metadata, source),
        vision_tensors=vision_tensors,
        projector_norm_offset=norm_offset(vision_tensors[PROJECTOR_NORM]) if vision_tensors else 1.0,
        files=tuple(file.path for file in (first, *others)),
    )
    for file in (first, *others):
        file.unload_metadata()
    return checkpoint


def part_paths(path: Path) -> list[Path]:
    """All parts of the split file that `path` belongs to, in order; the path alone if it was not split."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    count, number = int(match["count"]), int(match["number"])
    if not 0 < number <= count <= MAX_PARTS:
        raise CorruptFile(f"{path}: part {number} of {count} cannot be")
    parts = [
        path.with_name(f"{match['stem']}-{index:05d}-of-{count:05d}.gguf") for index in range(1, count + 1)
    ]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise CorruptFile(f"{path}: {len(missing)} of {count} parts are missing: {', '.join(missing[:5])}")
    return parts


def _check_parts(files: list[GgufFile]) -> None:
    for index, file in enumerate(files):
        fields = Fields(str(file.path), file.metadata)
        count = fields.integer("split.count", len(files), low=0) or 1
        number = fields.integer("split.no", index, low=0)
        if count != len(files) or number != index:
            raise CorruptFile(
                f"{file.path}: says it is part {number + 1} of {count}, but its name says {index + 1} of "
                f"{len(files)}; parts keep the names NAME-00001-of-0000N.gguf"
            )


def _split_fused(layer: int, tensor: Tensor, config: Gemma3Config, source: str) -> dict[str, Tensor]:
    """Queries, keys and values as views of one stored matrix [H hd + 2 Kv hd, D]."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    expected = (queries + 2 * keys, config.hidden_size)
    if tensor.shape != expected:
        raise BadTensor(
            f"{source}: tensor {tensor.name!r} has shape {list(tensor.shape)}; "
            f"the configuration asks for {list(expected)}"
        )
    row_bytes = tensor.format.row_bytes(config.hidden_size)
    result: dict[str, Tensor] = {}
    start = 0
    for part, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        data = tensor.data[start * row_bytes : (start + rows) * row_bytes]
        shape = (rows, config.hidden_size)
        result[f"layers.{layer}.self_attn.{part}.weight"] = Tensor(tensor.name, tensor.format, shape, data)
        start += rows
    return result
