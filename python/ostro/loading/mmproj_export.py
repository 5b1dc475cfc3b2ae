"""The image half of a checkpoint as the mmproj file that llama.cpp reads beside a text model.

Source: llama.cpp's converter (Gemma3VisionModel) and the keys and formats that its clip.cpp expects.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import BadTensor, UnsupportedExport
from ostro.loading.floats import as_f16, as_f32, float32, from_float32
from ostro.loading.gguf_export import general
from ostro.loading.gguf_writer import Part, write_gguf
from ostro.loading.names import canonical_to_gguf
from ostro.loading.shapes import expected_vision_shapes
from ostro.loading.vision_names import PROJECTION, PROJECTOR_NORM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.loading.config import VisionConfig
    from ostro.loading.gguf_values import Value
    from ostro.ops.tensor import Tensor

UNQUANTIZED = (PROJECTION, "vision.embeddings.patch_embedding.weight")
"""Matrices that llama.cpp wants in full: it turns one around, and the other is a convolution."""
_DEFAULT_POOLING = 4


def export_mmproj(
    checkpoint: Checkpoint,
    path: Path,
    *,
    quantized: Mapping[str, Part] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the image half of `checkpoint` to `path`, matrices in the formats that they have.

    quantized: what takes the place of tensors, by canonical name; made one at a time as the file grows. None
        of `UNQUANTIZED` may be in it.
    Norms, biases and both embeddings become float32, an unquantized projection float16, and the projector's
    norm gets Hugging Face's 1 + added. The feed-forward width is that of the tensors, which quantization may
    have widened by neurons that are zero.
    Errors: UnsupportedExport for a model that reads text only, BadTensor for layers of different widths, and
    those of `write_gguf`.
    """
    vision = image_half(checkpoint, path)
    parts = mmproj_parts(checkpoint, vision, quantized or {})
    metadata = general(checkpoint, "clip", "mmproj", parts) | _keys(checkpoint, vision)
    metadata["clip.vision.feed_forward_length"] = _feed_forward_length(parts, checkpoint.name)
    write_gguf(path, metadata, parts, progress)


def image_half(checkpoint: Checkpoint, path: Path) -> VisionConfig:
    """What the model reads images with; UnsupportedExport if it does not."""
    if checkpoint.config.vision is None:
        raise UnsupportedExport(
            f"{path}: {checkpoint.name} reads text only, so there is no image half to write"
        )
    return checkpoint.config.vision


def mmproj_parts(checkpoint: Checkpoint, vision: VisionConfig, quantized: Mapping[str, Part]) -> list[Part]:
    """What is written of the image half, in the order of the model."""
    parts: list[Part] = []
    for name in expected_vision_shapes(vision, checkpoint.config.hidden_size):
        part = quantized.get(name)
        if part is None:
            tensor = checkpoint.vision_tensors.get(name)
            if tensor is None:
                raise UnsupportedExport(
                    f"{name} of {checkpoint.name} is not stored as llama.cpp wants it; quantize without it"
                )
            part = Part.of(name, _as_clip_wants(name, tensor, checkpoint.projector_norm_offset))
        parts.append(replace(part, name=canonical_to_gguf(name)))
    return parts


def _as_clip_wants(name: str, tensor: Tensor, norm_offset: float) -> Tensor:
    if name == PROJECTOR_NORM:
        return from_float32(tensor, float32(tensor) + np.float32(norm_offset))
    if name == PROJECTION:
        # As the converter does: not every backend can transpose BF16.
        return tensor if tensor.format.name == "F32" else as_f16(tensor)
    if len(tensor.shape) == 1 or ".embeddings." in name:
        return as_f32(tensor)
    return tensor


def _keys(checkpoint: Checkpoint, vision: VisionConfig) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "embedding_length": vision.hidden_size,
        "block_count": vision.num_hidden_layers,
        "attention.head_count": vision.num_attention_heads,
        "attention.layer_norm_epsilon": vision.layer_norm_eps,
        "projection_dim": checkpoint.config.hidden_size,
        "image_mean": np.array(vision.image_mean, np.float32),
        "image_std": np.array(vision.image_std, np.float32),
    }
    pooling = vision.grid // math.isqrt(vision.tokens_per_image)
    if pooling != _DEFAULT_POOLING:
        keys["projector.scale_factor"] = pooling
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "gemma3",
        "clip.use_gelu": True,
        **{f"clip.vision.{key}": value for key, value in keys.items()},
    }


def _feed_forward_length(parts: list[Part], model: str) -> int:
    inner = {"ffn_up.weight": 0, "ffn_up.bias": 0, "ffn_down.weight": 1}
    widths = {
        part.shape[axis] for part in parts for ending, axis in inner.items() if part.name.endswith(ending)
    }
    if len(widths) != 1:
        raise BadTensor(f"{model}: feed-forward layers of the vision tower differ in width: {sorted(widths)}")
    return widths.pop()
