"""Hyperparameters from GGUF metadata, above all what happens when keys are missing or strange."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from ostro.errors import BadConfig, MissingTensor, UnsupportedModel
from ostro.loading.config import Gemma3Config
from ostro.loading.gguf_config import check_architecture, parse_config, parse_generation
from ostro.ops.tensor import FORMATS, Tensor

P = "gemma3."
BASE: dict[str, Any] = {
    P + "block_count": 7,
    P + "embedding_length": 640,
    P + "feed_forward_length": 2048,
    P + "attention.head_count": 4,
    P + "attention.head_count_kv": 1,
    P + "attention.key_length": 256,
    P + "attention.sliding_window": 512,
    P + "context_length": 32768,
}
SHAPES = {
    "embed_tokens.weight": (1000, 640),
    "layers.0.self_attn.q_norm.weight": (256,),
    "layers.0.self_attn.q_proj.weight": (1024, 640),
    "layers.0.self_attn.k_proj.weight": (256, 640),
}


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {n: Tensor(n, FORMATS["F32"], shape, np.zeros(0, np.uint8)) for n, shape in shapes.items()}


def config(shapes: Any = SHAPES, **changes: Any) -> Gemma3Config:
    """Dots in keys are written as two underscores; None removes a key."""
    metadata = {**BASE, **{P + name.replace("__", "."): value for name, value in changes.items()}}
    kept = {name: value for name, value in metadata.items() if value is not None}
    return parse_config(kept, tensors(shapes), "model.gguf")


def kinds(result: Gemma3Config) -> str:
    return "".join("G" if kind == "global" else "l" for kind in result.layer_kinds)


def test_fallbacks_for_everything_that_may_be_missing() -> None:
    result = config(context_length=None)
    assert result == Gemma3Config(
        vocab_size=1000,
        hidden_size=640,
        intermediate_size=2048,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        layer_kinds=("local", "local", "local", "local", "local", "global", "local"),
        sliding_window=512,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        rope_local_theta=1e4,
        rope_factor=1.0,
        attention_scale=1 / 16,
        context_length=131072,
        final_logit_softcap=None,
        tie_word_embeddings=True,
        bos_token_id=2,
        pad_token_id=0,
        eos_token_ids=(1,),
        image_token_id=None,
    )


def test_heads_come_from_shapes_when_keys_are_missing() -> None:
    result = config(attention__head_count=None, attention__head_count_kv=None, attention__key_length=None)
    assert (result.num_attention_heads, result.num_key_value_heads, result.head_dim) == (4, 1, 256)


def test_heads_may_be_listed_per_layer_if_they_agree() -> None:
    assert config(attention__head_count=np.full(7, 4, np.int32)).num_attention_heads == 4
    with pytest.raises(BadConfig, match=r"gemma3\.attention\.head_count must be an integer"):
        config(attention__head_count=np.array([4, 4, 8], np.int32))


@pytest.mark.parametrize("name", ["block_count", "embedding_length", "feed_forward_length"])
def test_required_keys_are_named(name: str) -> None:
    with pytest.raises(BadConfig, match=rf"model\.gguf: gemma3\.{name} is missing"):
        config(**{name: None})


def test_a_missing_table_is_named() -> None:
    with pytest.raises(MissingTensor, match=r"token_embd\.weight"):
        config(shapes={})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("block_count", "seven", "gemma3.block_count must be an integer from 1 to 1024, not 'seven'"),
        ("block_count", 10**9, "gemma3.block_count must be an integer from 1 to 1024"),
        ("block_count", True, "gemma3.block_count must be an integer"),
        ("rope__freq_base", 0.0, "gemma3.rope.freq_base must be a positive number"),
        ("rope__freq_base", float("nan"), "gemma3.rope.freq_base must be a positive number"),
        ("attention__layer_norm_rms_epsilon", -1.0, "layer_norm_rms_epsilon must be a positive number"),
        ("attention__head_count_kv", 3, "cannot share 3 key heads evenly"),
    ],
)
def test_wrong_values_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        config(**{name: value})
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, "lllllGl"),
        (3, "llGllGl"),
        (1, "GGGGGGG"),
        (np.array([1, 0, 1, 0, 1, 0, 1], bool), "lGlGlGl"),
        (np.array([1, 0, 1, 0, 1, 0, 1], np.uint32), "lGlGlGl"),
    ],
)
def test_layer_patterns(pattern: object, expected: str) -> None:
    assert kinds(config(attention__sliding_window_pattern=pattern)) == expected


@pytest.mark.parametrize("pattern", [0, "x", np.ones(6, bool), np.array([1, 0, 2, 0, 1, 0, 1], np.uint32)])
def test_bad_layer_patterns(pattern: object) -> None:
    with pytest.raises(BadConfig, match="sliding_window_pattern"):
        config(attention__sliding_window_pattern=pattern)


@pytest.mark.parametrize("window", [None, 0])
def test_without_a_window_all_layers_are_global(window: int | None) -> None:
    result = config(attention__sliding_window=window)
    assert kinds(result) == "GGGGGGG"
    assert result.sliding_window is None


def test_local_theta_has_two_names() -> None:
    assert config(rope__freq_base_swa=5e3).rope_local_theta == 5e3
    assert config(**{"rope__local__freq_base": 6e3}).rope_local_theta == 6e3


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 8.0}, 8.0),
        ({"rope__scaling__factor": 4.0}, 4.0),
        ({"rope__scale_linear": 2.0}, 2.0),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 8.0}, 1.0),
        ({"rope__scaling__factor": 0.0}, 1.0),
        ({}, 1.0),
    ],
)
def test_rope_factor(keys: dict[str, object], expected: float) -> None:
    assert config(**keys).rope_factor == expected


def test_other_rope_scalings_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="yarn"):
        config(rope__scaling__type="yarn", rope__scaling__factor=8.0)


@pytest.mark.parametrize(
    ("layers", "context", "factor"),
    [(34, 131072, 8), (48, 131072, 8), (62, 131072, 8), (34, 32768, 1), (26, 131072, 1)],
)
def test_lost_rope_factor(layers: int, context: int, factor: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ostro"):
        result = config(block_count=layers, context_length=context)
    assert result.rope_factor == factor
    assert ("no rope scaling factor; assuming 8" in caplog.text) == (factor == 8)


def test_27b_scales_scores_by_width_per_head() -> None:
    shapes = SHAPES | {"embed_tokens.weight": (1000, 5376)}
    result = config(
        block_count=62, embedding_length=5376, attention__head_count=32, attention__head_count_kv=16,
        attention__key_length=128, shapes=shapes,
    )  # fmt: skip
    assert result.attention_scale == pytest.approx(168**-0.5)


def test_odd_heads_cannot_be_rotated() -> None:
    with pytest.raises(BadConfig, match=r"head dimension \(33\) is odd"):
        config(attention__key_length=33, attention__value_length=33)


def test_unequal_head_lengths_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="values of length 128 with keys of length 256"):
        config(attention__value_length=128)


def test_a_stored_head_is_untied() -> None:
    assert not config(shapes=SHAPES | {"lm_head.weight": (1000, 640)}).tie_word_embeddings


def test_soft_cap() -> None:
    assert config(final_logit_softcapping=30.0).final_logit_softcap == 30.0
    assert config(final_logit_softcapping=0.0).final_logit_softcap is None


def test_generation() -> None:
    metadata = {
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": 106,
        "general.sampling.top_k": 64,
        "general.sampling.top_p": 0.95,
        "general.sampling.temp": 1.0,
    }
    result = parse_generation(metadata, "model.gguf")
    assert (result.top_k, result.top_p, result.temperature) == (64, 0.95, 1.0)
    assert result.eos_token_ids == (1, 106)
    assert parse_generation({}, "model.gguf").eos_token_ids == (1,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama", "'llama': ostro runs Gemma 3"),
        ("gemma2", "'gemma2': ostro runs Gemma 3"),
        ("gemma-embedding", "embedding model"),
        ("clip", r"vision half of a model \(mmproj\); give the GGUF file of the text model"),
        (None, "does not name one"),
        (7, "'7'"),
    ],
)
def test_other_architectures_are_named(name: object, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        check_architecture({"general.architecture": name}, "model.gguf")


def test_embedding_models_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="embedding model"):
        config(attention__causal=False)
