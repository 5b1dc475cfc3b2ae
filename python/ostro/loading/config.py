"""Gemma 3's hyperparameters, whichever file they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostro.loading.fields import Fields
    from ostro.ops.batch import LayerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma3Config:
    """The text model (Gemma 3 technical report, section 2). Field names as in Hugging Face's configuration.

    layer_kinds: one entry per layer. rope_factor: linear scaling of global layers only, 1.0 for none.
    attention_scale: query_pre_attn_scalar ** -0.5. context_length: positions that the model was trained for.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_kinds: tuple[LayerKind, ...]
    sliding_window: int | None
    rms_norm_eps: float
    rope_theta: float
    rope_local_theta: float
    rope_factor: float
    attention_scale: float
    context_length: int
    final_logit_softcap: float | None
    tie_word_embeddings: bool
    bos_token_id: int
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    image_token_id: int | None = None


def check_heads(fields: Fields, config: Gemma3Config) -> None:
    """BadConfig unless heads can be grouped and rotated."""
    if config.num_attention_heads % config.num_key_value_heads:
        fields.fail(
            "attention heads",
            f"({config.num_attention_heads}) cannot share {config.num_key_value_heads} key heads evenly",
        )
    if config.head_dim % 2:
        fields.fail("head dimension", f"({config.head_dim}) is odd, so rotary embedding has no pairs")
