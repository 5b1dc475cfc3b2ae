"""Hyperparameters from GGUF metadata, with the fallbacks that older and foreign converters make necessary."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.errors import MissingTensor, UnsupportedModel
from ostro.loading.config import Gemma3Config, check_heads
from ostro.loading.fields import Fields
from ostro.loading.layer_kinds import DEFAULT_PERIOD, MAX_LAYERS, listed, periodic
from ostro.types import GenerationDefaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ostro.ops.batch import LayerKind
    from ostro.ops.tensor import Tensor

logger = logging.getLogger(__name__)

_SCALED_LAYERS = (34, 48, 62)
"""Layers of 4b, 12b and 27b, the sizes that were trained on with positions divided by 8."""
_LAYERS_27B = 62


def check_architecture(metadata: Mapping[str, Any], source: str) -> None:
    """UnsupportedModel unless the file holds a Gemma 3 text model."""
    name = metadata.get("general.architecture")
    if name == "gemma3":
        return
    hints = {
        "clip": "this is the vision half of a model (mmproj); give the GGUF file of the text model",
        "gemma-embedding": "this is an embedding model, and ostro generates text",
        None: "the file does not name one (general.architecture)",
    }
    hint = hints.get(name if isinstance(name, str) else None, "ostro runs Gemma 3 (gemma3)")
    raise UnsupportedModel(f"{source}: the architecture is {str(name)[:80]!r}: {hint}")


def parse_config(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Gemma3Config:
    """Read the configuration; `tensors` (canonical names) fill in what the metadata leaves out.

    BadConfig names a missing, mistyped or contradictory key; UnsupportedModel tells what ostro does not run.
    """
    fields = Fields(source, metadata)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    layers = fields.integer("gemma3.block_count", high=MAX_LAYERS)
    hidden = fields.integer("gemma3.embedding_length")
    heads, kv_heads, head_dim = _heads(fields, shapes)
    if fields.values.get("gemma3.attention.causal") is False:
        raise UnsupportedModel(f"{source}: gemma3.attention.causal is false: this is an embedding model")
    context_length = fields.integer("gemma3.context_length", 131072)
    window = (
        fields.integer("gemma3.attention.sliding_window", low=0)
        if "gemma3.attention.sliding_window" in fields
        else 0
    )
    kinds = _layer_kinds(fields, layers) if window else periodic(layers, 1)
    softcap_key = "gemma3.final_logit_softcapping"
    # The key does not exist: 27b alone has a score scale that differs from its head dimension.
    pre_attention = hidden / heads if layers == _LAYERS_27B else head_dim
    config = Gemma3Config(
        vocab_size=_vocab_size(fields, shapes),
        hidden_size=hidden,
        intermediate_size=_same(fields, "gemma3.feed_forward_length"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        layer_kinds=kinds,
        sliding_window=window if "local" in kinds else None,
        rms_norm_eps=fields.positive("gemma3.attention.layer_norm_rms_epsilon", 1e-6),
        rope_theta=fields.positive("gemma3.rope.freq_base", 1e6),
        rope_local_theta=_local_theta(fields),
        rope_factor=_rope_factor(fields, layers, context_length),
        attention_scale=pre_attention**-0.5,
        context_length=context_length,
        final_logit_softcap=(fields.number(softcap_key, 0.0) or None) and fields.positive(softcap_key),
        tie_word_embeddings="lm_head.weight" not in tensors,
        bos_token_id=fields.integer("tokenizer.ggml.bos_token_id", 2, low=0),
        pad_token_id=fields.integer("tokenizer.ggml.padding_token_id", 0, low=0),
        eos_token_ids=_eos_ids(fields),
    )
    check_heads(fields, config)
    return config


def parse_generation(metadata: Mapping[str, Any], source: str) -> GenerationDefaults:
    """What newer converters keep of `generation_config.json`, and the ids that end an answer."""
    fields = Fields(source, metadata)
    prefix = "general.sampling."
    return GenerationDefaults(
        temperature=fields.number(prefix + "temp") if prefix + "temp" in fields else None,
        top_k=fields.integer(prefix + "top_k", low=0) if prefix + "top_k" in fields else None,
        top_p=fields.number(prefix + "top_p") if prefix + "top_p" in fields else None,
        eos_token_ids=_eos_ids(fields),
    )


def _eos_ids(fields: Fields) -> tuple[int, ...]:
    ids = [fields.integer("tokenizer.ggml.eos_token_id", 1, low=0)]
    others = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    ids += [fields.integer(name, low=0) for name in others if name in fields]
    return tuple(dict.fromkeys(ids))


def _same(fields: Fields, name: str, default: int | None = None) -> int:
    """An integer, or one per layer that all agree."""
    value = fields.values.get(name)
    if (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "iu"
        and value.size
        and (value == value[0]).all()
    ):
        return Fields(fields.source, {name: int(value[0])}).integer(name)
    return fields.integer(name, default)


def _heads(fields: Fields, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Query heads, key/value heads and head dimension."""
    attention = "gemma3.attention."
    norm = shapes.get("layers.0.self_attn.q_norm.weight", (0,))[0]
    head_dim = fields.integer(attention + "key_length", norm or None)
    value_length = fields.integer(attention + "value_length", head_dim)
    if value_length != head_dim:
        raise UnsupportedModel(
            f"{fields.source}: values of length {value_length} with keys of length {head_dim}; "
            "Gemma 3 has one length for both"
        )
    queries = shapes.get("layers.0.self_attn.q_proj.weight", (0,))[0] // head_dim
    keys = shapes.get("layers.0.self_attn.k_proj.weight", (0,))[0] // head_dim
    heads = _same(fields, attention + "head_count", queries or None)
    return heads, _same(fields, attention + "head_count_kv", keys or None), head_dim


def _layer_kinds(fields: Fields, layers: int) -> tuple[LayerKind, ...]:
    name = "gemma3.attention.sliding_window_pattern"
    pattern = fields.values.get(name)
    if isinstance(pattern, (np.ndarray, list)):
        return listed(fields, name, layers, fields.list(name), True, False)
    return periodic(layers, fields.integer(name, DEFAULT_PERIOD))


def _local_theta(fields: Fields) -> float:
    for name in ("gemma3.rope.freq_base_swa", "gemma3.rope.local.freq_base"):
        if name in fields:
            return fields.positive(name)
    return 1e4


def _rope_factor(fields: Fields, layers: int, context_length: int) -> float:
    kind = fields.text("gemma3.rope.scaling.type", "linear")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise UnsupportedModel(
            f"{fields.source}: gemma3.rope.scaling.type is {kind[:40]!r}; ostro knows 'none' and 'linear'"
        )
    for name in ("gemma3.rope.scaling.factor", "gemma3.rope.scale_linear"):
        # Zero is how some converters write "no scaling".
        if name in fields and fields.number(name) != 0:
            return fields.positive(name)
    if layers in _SCALED_LAYERS and context_length > 32768:
        logger.warning(
            "%s: no rope scaling factor; assuming 8, which this size of Gemma 3 was trained with",
            fields.source,
        )
        return 8.0
    return 1.0


def _vocab_size(fields: Fields, shapes: Mapping[str, tuple[int, ...]]) -> int:
    table = shapes.get("embed_tokens.weight")
    if table is None:
        raise MissingTensor(f"{fields.source}: the checkpoint lacks tensor 'token_embd.weight'")
    return table[0]
