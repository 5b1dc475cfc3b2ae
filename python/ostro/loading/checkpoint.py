"""What every loader delivers, whatever the files were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ostro.loading.config import PanAndScan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ostro.loading.config import Gemma3Config
    from ostro.ops.tensor import Tensor
    from ostro.types import GenerationDefaults


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """The tokenizer as GGUF metadata has it; index = token id. token_types: ggml's 1 normal .. 6 byte."""

    pieces: Sequence[str]
    scores: NDArray[np.float32]
    token_types: NDArray[np.int32]
    bos_id: int
    eos_id: int
    unknown_id: int
    padding_id: int
    add_bos: bool
    add_space_prefix: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as read from disk, under canonical names.

    tensors: "embed_tokens.weight", "norm.weight", "lm_head.weight" (untied heads only) and
        "layers.{i}." + "self_attn.q_proj.weight" | "self_attn.q_norm.weight" | "mlp.gate_proj.weight" |
        "input_layernorm.weight" ... : Hugging Face's names without prefix.
    vision_tensors: the image half, where the files have one: "vision." + the names of Hugging Face's SigLIP
        tower, "projector.mm_input_projection_weight" [vision, D] (not transposed),
        "projector.mm_soft_emb_norm.weight". Complete and of the right shapes if config.vision is set.
        Quantized ones (`quant/`) may have a wider `mlp`, filled up with zeros, and the projection as rows to
        multiply with, "projector.mm_input_projection.weight" [D, vision].
    norm_offset: what to add to every norm weight: 1.0 for Hugging Face files; 0.0 for GGUF, which has 1 + w.
    projector_norm_offset: the same for the projector's norm.
    pan_and_scan: what the files say about crops.
    files: where the tensors are.
    folder: where Hugging Face's JSON files are, if the model came with them.
    """

    name: str
    config: Gemma3Config
    tensors: Mapping[str, Tensor]
    norm_offset: float
    tokenizer: Path | GgufVocabulary | None
    chat_template: str | None
    generation: GenerationDefaults
    vision_tensors: Mapping[str, Tensor] = field(default_factory=dict)
    projector_norm_offset: float = 1.0
    pan_and_scan: PanAndScan = field(default_factory=PanAndScan)
    files: tuple[Path, ...] = ()
    folder: Path | None = None


class Progress(Protocol):
    """Told about every downloaded or loaded part."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` bytes of `what`."""
