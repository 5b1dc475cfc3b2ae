"""The image half inside a GGUF file that has both halves, as Ollama's converter writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.loading.config import VisionConfig, check_vision
from ostro.loading.layer_kinds import MAX_LAYERS

if TYPE_CHECKING:
    from ostro.loading.fields import Fields
    from ostro.ops.tensor import Tensor

_PREFIX = "gemma3.vision."


def parse_combined(fields: Fields) -> VisionConfig | None:
    """Read the keys gemma3.vision.*; None if there are none. BadConfig names what is missing or wrong."""
    if not any(key.startswith(_PREFIX) for key in fields.values):
        return None
    vision = VisionConfig(
        hidden_size=fields.integer(_PREFIX + "embedding_length"),
        intermediate_size=fields.integer(_PREFIX + "feed_forward_length"),
        num_hidden_layers=fields.integer(_PREFIX + "block_count", high=MAX_LAYERS),
        num_attention_heads=fields.integer(_PREFIX + "attention.head_count"),
        image_size=fields.integer(_PREFIX + "image_size"),
        patch_size=fields.integer(_PREFIX + "patch_size"),
        layer_norm_eps=fields.positive(_PREFIX + "attention.layer_norm_epsilon", 1e-6),
        tokens_per_image=fields.integer("gemma3.mm.tokens_per_image", 256),
        num_channels=fields.integer(_PREFIX + "num_channels", 3),
    )
    check_vision(fields, vision)
    return vision


def norm_offset(norm: Tensor) -> float:
    """What to add to the projector's norm weights: 0.0 if they are 1 + w, 1.0 if they are w.

    Ollama's converter stores 1 + w, yet files of other origin under its names need not. w scatters around
    zero, so a mean nearer to 0 than to 1 means w.
    """
    kind = norm.format.name
    if kind == "BF16":
        weights = (norm.data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        weights = norm.data.view({"F16": "<f2", "F32": "<f4"}[kind]).astype(np.float32)
    with np.errstate(all="ignore"):
        return 1.0 if weights.mean() < 0.5 else 0.0
