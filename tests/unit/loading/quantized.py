"""Checkpoints whose projections are quantized by the gguf package."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from ostro.loading.open import open_checkpoint
from ostro.loading.uqff_entries import is_layer
from ostro.ops.cpu import float32
from ostro.ops.tensor import FORMATS, Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint


def quantized(tensor: Tensor, kind: str) -> Tensor:
    raw = gguf.quants.quantize(float32(tensor), gguf.GGMLQuantizationType[kind])
    data = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
    data.flags.writeable = False
    return replace(tensor, format=FORMATS[kind], data=data)


def quantized_model(folder: Path | str, text: str = "Q8_0", vision: str | None = "Q8_0") -> Checkpoint:
    checkpoint = open_checkpoint(folder)

    def half(tensors: Any, kind: str | None) -> dict[str, Tensor]:
        return {
            name: quantized(tensor, kind) if kind and is_layer(name) else tensor
            for name, tensor in tensors.items()
        }

    return replace(
        checkpoint,
        tensors=half(checkpoint.tensors, text),
        vision_tensors=half(checkpoint.vision_tensors, vision),
    )
