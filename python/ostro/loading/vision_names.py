"""What GGUF files call the tensors of the image half, in both spellings, and back.

Sources: llama.cpp's mmproj files (its tensor list for "clip"), and the files with both halves that Ollama's
converter writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECTION = "projector.mm_input_projection_weight"
PROJECTION_TURNED = "projector.mm_input_projection.weight"
"""The same [text D, vision D]: rows to multiply with, which is how it is quantized."""
PROJECTOR_NORM = "projector.mm_soft_emb_norm.weight"


@dataclass(frozen=True, slots=True)
class VisionSpelling:
    """One writer's names, as own name -> canonical name.

    layer: parts of a block, both without ".weight" or ".bias". top: the names of all else, in full.
    """

    layer: Mapping[str, str]
    top: Mapping[str, str]

    def canonical(self, own: str) -> str | None:
        """The canonical name; None for what has no place."""
        if match := re.fullmatch(r"v\.blk\.(0|[1-9]\d{0,5})\.([\w.]+)\.(weight|bias)", own, re.ASCII):
            part = self.layer.get(match[2])
            return None if part is None else f"vision.encoder.layers.{match[1]}.{part}.{match[3]}"
        return self.top.get(own)

    def own(self, canonical: str) -> str:
        """What the file would call a tensor, whether it has it or not."""
        if match := re.fullmatch(r"vision\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", canonical, re.ASCII):
            part = next(own for own, renamed in self.layer.items() if renamed == match[2])
            return f"v.blk.{match[1]}.{part}.{match[3]}"
        return next(own for own, renamed in self.top.items() if renamed == canonical)


def _top(patch: str, position: str, post_norm: str, soft_norm: str, projection: str) -> dict[str, str]:
    pairs = {
        patch: "vision.embeddings.patch_embedding",
        post_norm: "vision.post_layernorm",
    }
    names = {f"{own}.{kind}": f"{to}.{kind}" for own, to in pairs.items() for kind in ("weight", "bias")}
    return names | {
        f"{position}.weight": "vision.embeddings.position_embedding.weight",
        f"{soft_norm}.weight": PROJECTOR_NORM,
        f"{projection}.weight": PROJECTION,
    }


MMPROJ = VisionSpelling(
    layer={
        "ln1": "layer_norm1",
        "ln2": "layer_norm2",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_out": "self_attn.out_proj",
        "ffn_up": "mlp.fc1",
        "ffn_down": "mlp.fc2",
    },
    top=_top("v.patch_embd", "v.position_embd", "v.post_ln", "mm.soft_emb_norm", "mm.input_projection"),
)
COMBINED = VisionSpelling(
    layer={
        "layer_norm1": "layer_norm1",
        "layer_norm2": "layer_norm2",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.out_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
    top=_top(
        "v.patch_embedding",
        "v.position_embedding",
        "v.post_layernorm",
        "mm.mm_soft_emb_norm",
        "mm.mm_input_projection",
    ),
)
