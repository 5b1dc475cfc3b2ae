"""A checkpoint from a folder with UQFF files, which `uqff` describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostro.errors import CorruptFile
from ostro.loading.fields import read_json
from ostro.loading.hf_checkpoint import assemble
from ostro.loading.hf_config import parse_config
from ostro.loading.names import HEADS
from ostro.loading.safetensors import read_safetensors
from ostro.loading.uqff import RESIDUAL, read_uqff

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint
    from ostro.loading.uqff import Weight
    from ostro.loading.uqff_files import UqffLayout

_TABLE = "embed_tokens.weight"


def open_uqff(folder: Path, layout: UqffLayout, *, name: str, tokenizer: Path | None = None) -> Checkpoint:
    """Map the files in `folder` and read everything but the weights.

    tokenizer: a tokenizer.json to use in place of the folder's own.
    """
    layers = read_uqff([folder / file for file in layout.files])
    stored: dict[str, Weight] = dict(read_safetensors(folder / RESIDUAL))
    for key in layers.keys() & stored.keys():
        raise CorruptFile(f"{folder / RESIDUAL}: tensor {key[:80]!r} is already in {layout.files[0]}")
    config = read_json(folder / "config.json")
    if parse_config(config, str(folder / "config.json")).tie_word_embeddings:
        _use_head(stored, layers)
    return assemble(folder, stored | layers, name=name, tokenizer=tokenizer)


def _use_head(stored: dict[str, Weight], layers: dict[str, Weight]) -> None:
    """Up to UQFF 1.1 a tied table is there twice, quantized as the head only, which then serves for both."""
    head = next((name for name in HEADS if name in layers), None)
    table = next((name for name in stored if name.endswith(_TABLE)), None)
    if head is not None and table is not None:
        stored[table] = layers.pop(head)
