"""Hyperparameters from Hugging Face's `config.json`, in every layout that Gemma 3 files have.

Published files leave out what equals the class defaults, so the defaults here are part of the format
(source: Gemma3TextConfig in transformers).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ostro.errors import UnsupportedModel
from ostro.loading.config import Gemma3Config, check_heads
from ostro.loading.fields import Fields
from ostro.loading.hf_vision import parse_vision
from ostro.loading.layer_kinds import DEFAULT_PERIOD, MAX_LAYERS, listed, periodic
from ostro.types import GenerationDefaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ostro.ops.batch import LayerKind

logger = logging.getLogger(__name__)

_TYPES = {"gemma3": "Gemma3ForConditionalGeneration", "gemma3_text": "Gemma3ForCausalLM"}


def parse_config(values: Mapping[str, Any], source: str) -> Gemma3Config:
    """Read the parsed JSON of `source`.

    BadConfig names a missing, mistyped or contradictory field; UnsupportedModel tells what is not Gemma 3, or
    is Gemma 3 in a form that ostro does not run.
    """
    top = Fields(source, values)
    text = top.section("text_config") if "text_config" in top else top
    _check_supported(top, text)
    layers = text.integer("num_hidden_layers", high=MAX_LAYERS)
    kinds = _layer_kinds(text, layers)
    rope_theta, rope_local_theta, rope_factor = _rope(text)
    softcap = text.positive("final_logit_softcapping") if "final_logit_softcapping" in text else None
    config = Gemma3Config(
        vocab_size=text.integer("vocab_size", 262208),
        hidden_size=text.integer("hidden_size"),
        intermediate_size=text.integer("intermediate_size"),
        num_attention_heads=text.integer("num_attention_heads", 8),
        num_key_value_heads=text.integer("num_key_value_heads", 4),
        head_dim=text.integer("head_dim", 256),
        layer_kinds=kinds,
        sliding_window=text.integer("sliding_window") if "local" in kinds else None,
        rms_norm_eps=text.positive("rms_norm_eps", 1e-6),
        rope_theta=rope_theta,
        rope_local_theta=rope_local_theta,
        rope_factor=rope_factor,
        attention_scale=text.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        context_length=text.integer("max_position_embeddings", 131072),
        final_logit_softcap=softcap,
        tie_word_embeddings=_inherited(top, text, "tie_word_embeddings").boolean("tie_word_embeddings", True),
        bos_token_id=_inherited(text, top, "bos_token_id").integer("bos_token_id", 2, low=0),
        pad_token_id=_inherited(text, top, "pad_token_id").integer("pad_token_id", 0, low=0),
        eos_token_ids=_inherited(top, text, "eos_token_id").token_ids("eos_token_id") or (1,),
        image_token_id=_image_token_id(top),
        vision=parse_vision(top),
    )
    check_heads(text, config)
    return config


def parse_generation(values: Mapping[str, Any], source: str) -> GenerationDefaults:
    """Read the parsed JSON of a `generation_config.json`; BadConfig names a mistyped field."""
    fields = Fields(source, values)
    return GenerationDefaults(
        temperature=fields.number("temperature") if "temperature" in fields else None,
        top_k=fields.integer("top_k", low=0) if "top_k" in fields else None,
        top_p=fields.number("top_p") if "top_p" in fields else None,
        do_sample=fields.boolean("do_sample") if "do_sample" in fields else None,
        eos_token_ids=fields.token_ids("eos_token_id"),
    )


def _inherited(first: Fields, second: Fields, name: str) -> Fields:
    return first if name in first else second


def _check_supported(top: Fields, text: Fields) -> None:
    kind = top.text("model_type", "")
    architectures = [str(name)[:80] for name in top.list("architectures")]
    known = kind in _TYPES if kind else any(name in _TYPES.values() for name in architectures)
    if not kind and not architectures:
        top.fail("model_type", "is missing")
    if not known:
        raise UnsupportedModel(
            f"{top.source}: the model is {(kind or architectures[0])[:80]!r}; "
            "ostro runs Gemma 3 (gemma3, gemma3_text)"
        )
    if "quantization_config" in top or "quantization_config" in text:
        method = (
            _inherited(top, text, "quantization_config")
            .section("quantization_config")
            .text("quant_method", "unknown")
        )
        raise UnsupportedModel(
            f"{top.source}: the weights are quantized with {method[:40]!r}, which ostro does not read; take "
            "the original repository and quantize while loading, or a GGUF file"
        )
    # Newer files call it bidirectional in general; "all" or true both mean an embedding model.
    if text.values.get("use_bidirectional_attention") not in (None, False):
        raise UnsupportedModel(
            f"{top.source}: {text.prefix}use_bidirectional_attention is set: this is an embedding model "
            "(EmbeddingGemma), and ostro generates text"
        )
    activation = text.text("hidden_activation", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise UnsupportedModel(
            f"{top.source}: {text.prefix}hidden_activation is {activation[:40]!r}, not 'gelu_pytorch_tanh'"
        )
    if text.boolean("attention_bias", False):
        raise UnsupportedModel(f"{top.source}: {text.prefix}attention_bias is true; Gemma 3 has no biases")
    if "attn_logit_softcapping" in text:
        logger.warning("%s: attn_logit_softcapping is ignored, as transformers does", top.source)


def _layer_kinds(text: Fields, layers: int) -> tuple[LayerKind, ...]:
    if "layer_types" in text:
        return listed(
            text, "layer_types", layers, text.list("layer_types"), "sliding_attention", "full_attention"
        )
    for name in ("sliding_window_pattern", "_sliding_window_pattern"):
        if name in text:
            return periodic(layers, text.integer(name))
    return periodic(layers, DEFAULT_PERIOD)


def _rope(text: Fields) -> tuple[float, float, float]:
    """Theta of global layers, theta of local layers, factor of global layers."""
    theta = text.positive("rope_theta", 1e6)
    local_theta = text.positive("rope_local_base_freq", 1e4)
    parameters = text.section("rope_parameters")
    nested = "full_attention" in parameters or "sliding_attention" in parameters
    full = parameters.section("full_attention") if nested else parameters
    local = parameters.section("sliding_attention")
    scaling = text.section("rope_scaling")
    if "full_attention" in scaling:
        scaling = scaling.section("full_attention")
    theta = full.positive("rope_theta", theta)
    if _factor(local) != 1.0:
        raise UnsupportedModel(
            f"{text.source}: {local.prefix}rope_type is 'linear'; local layers of Gemma 3 are not scaled"
        )
    # As in transformers, rope_scaling lies over rope_parameters.full_attention.
    legacy = {"rope_type": scaling.text("type")} if "type" in scaling else {}
    over = Fields(text.source, {**full.values, **legacy, **scaling.values}, scaling.prefix)
    return theta, local.positive("rope_theta", local_theta), _factor(over)


def _factor(fields: Fields) -> float:
    kind = fields.text("rope_type", "default")
    if kind == "default":
        return 1.0
    if kind == "linear":
        return fields.positive("factor")
    raise UnsupportedModel(
        f"{fields.source}: {fields.prefix}rope_type is {kind[:40]!r}; ostro knows 'default' and 'linear'"
    )


def _image_token_id(top: Fields) -> int | None:
    if "vision_config" not in top:
        return None
    for name in ("image_token_index", "image_token_id"):
        if name in top:
            return top.integer(name, low=0)
    return 262144
