"""Hyperparameters from config.json: the published layouts, the variants in the wild, and mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from ostro.errors import BadConfig, UnsupportedModel
from ostro.loading.config import Gemma3Config, VisionConfig
from ostro.loading.hf_config import parse_config, parse_generation

MULTIMODAL: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "image_token_index": 262144,
    "mm_tokens_per_image": 256,
    "eos_token_id": [1, 106],
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
FLAT: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32768,
    "rope_scaling": None,
    "use_bidirectional_attention": False,
    "eos_token_id": 1,
}


def parse(values: dict[str, Any]) -> Gemma3Config:
    return parse_config(values, "config.json")


def flat(**changes: object) -> Gemma3Config:
    return parse(FLAT | changes)


def kinds(config: Gemma3Config) -> str:
    return "".join("G" if kind == "global" else "l" for kind in config.layer_kinds)


def test_sparse_multimodal_file_of_4b() -> None:
    config = parse(MULTIMODAL)
    assert config == Gemma3Config(
        vocab_size=262208,
        hidden_size=2560,
        intermediate_size=10240,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        layer_kinds=config.layer_kinds,
        sliding_window=1024,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        rope_local_theta=1e4,
        rope_factor=8.0,
        attention_scale=1 / 16,
        context_length=131072,
        final_logit_softcap=None,
        tie_word_embeddings=True,
        bos_token_id=2,
        pad_token_id=0,
        eos_token_ids=(1, 106),
        image_token_id=262144,
        vision=VisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=896,
            patch_size=14,
            layer_norm_eps=1e-6,
            tokens_per_image=256,
        ),
    )
    assert [index for index, kind in enumerate(config.layer_kinds) if kind == "global"] == [5, 11, 17, 23, 29]


def test_what_a_sparse_vision_config_leaves_out() -> None:
    config = parse(MULTIMODAL | {"vision_config": {"image_size": 256}})
    assert config.vision == VisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=256,
        patch_size=16,
        layer_norm_eps=1e-6,
        tokens_per_image=256,
    )


def test_27b_has_its_own_score_scale() -> None:
    text = {
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "query_pre_attn_scalar": 168,
    }
    config = parse(MULTIMODAL | {"text_config": MULTIMODAL["text_config"] | text})
    assert config.attention_scale == pytest.approx(0.0771517, abs=1e-7)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (32, 16, 128)


def test_flat_file() -> None:
    config = flat()
    assert kinds(config) == "lllllGl"
    assert (config.vocab_size, config.context_length, config.rope_factor) == (262144, 32768, 1.0)
    assert config.eos_token_ids == (1,)
    assert config.image_token_id is None
    assert config.vision is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sliding_window_pattern": 3}, "llGllGl"),
        ({"_sliding_window_pattern": 2}, "lGlGlGl"),
        ({"sliding_window_pattern": 3, "_sliding_window_pattern": 2}, "llGllGl"),
        ({"layer_types": ["full_attention", "sliding_attention"] * 3 + ["full_attention"]}, "GlGlGlG"),
        (
            {"layer_types": ["sliding_attention"] * 7, "sliding_window_pattern": 1},
            "lllllll",
        ),
    ],
)
def test_layer_kinds(changes: dict[str, object], expected: str) -> None:
    assert kinds(flat(**changes)) == expected


def test_all_global_needs_no_window() -> None:
    config = flat(sliding_window_pattern=1, sliding_window=None)
    assert kinds(config) == "GGGGGGG"
    assert config.sliding_window is None


@pytest.mark.parametrize(
    ("changes", "theta", "local", "factor"),
    [
        ({"rope_theta": 5e5, "rope_local_base_freq": 2e4}, 5e5, 2e4, 1),
        ({"rope_scaling": {"type": "linear", "factor": 8}}, 1e6, 1e4, 8),
        ({"rope_scaling": {"rope_type": "default"}}, 1e6, 1e4, 1),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 3e6, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 3e4},
                }
            },
            3e6,
            3e4,
            8,
        ),
        (
            {
                "rope_theta": 7e5,
                "rope_local_base_freq": 7e3,
                "rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {}},
            },
            7e5,
            7e3,
            1,
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9e5}}, 9e5, 1e4, 4),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 8.0},
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 2e6}},
            },
            2e6,
            1e4,
            8,
        ),
        ({"rope_scaling": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 1e6, 1e4, 8),
    ],
)
def test_rope_layouts(changes: dict[str, object], theta: float, local: float, factor: float) -> None:
    config = flat(**changes)
    assert (config.rope_theta, config.rope_local_theta, config.rope_factor) == (theta, local, factor)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "yarn", "factor": 8.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 8.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "llama3", "factor": 8.0}}},
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 8.0}}},
    ],
)
def test_other_rope_types_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"config\.json: rope_\w+\..*rope_type is|config\.json: rope_scaling\.rope"
    ):
        flat(**changes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(106, (106,)), ([1, 106, 1], (1, 106)), (None, (1,)), ([], (1,)), ([1, 50, 106], (1, 50, 106))],
)
def test_end_tokens(values: object, expected: tuple[int, ...]) -> None:
    assert flat(eos_token_id=values).eos_token_ids == expected


def test_fields_of_either_level() -> None:
    text = MULTIMODAL["text_config"] | {"bos_token_id": 5, "tie_word_embeddings": True}
    config = parse(MULTIMODAL | {"text_config": text, "pad_token_id": 7, "tie_word_embeddings": False})
    assert (config.bos_token_id, config.pad_token_id, config.tie_word_embeddings) == (5, 7, False)


def test_newer_image_token_name() -> None:
    values = {name: value for name, value in MULTIMODAL.items() if name != "image_token_index"}
    assert parse(values | {"image_token_id": 299}).image_token_id == 299
    assert parse(values).image_token_id == 262144


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "config.json: hidden_size is missing"),
        ({"intermediate_size": None}, "config.json: intermediate_size is missing"),
        ({"num_hidden_layers": None}, "config.json: num_hidden_layers is missing"),
        ({"sliding_window": None}, "config.json: sliding_window is missing"),
        (
            {"hidden_size": "640"},
            "config.json: hidden_size must be an integer from 1 to 2147483647, not '640'",
        ),
        ({"hidden_size": 640.5}, "hidden_size must be an integer"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"hidden_size": -1}, "hidden_size must be an integer"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be an integer from 1 to 1024"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a positive number, not 'small'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps must be a positive number"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"eos_token_id": "1"}, "eos_token_id must be a token id or a list of token ids"),
        ({"eos_token_id": [1, -5]}, "eos_token_id must be a token id or a list of token ids"),
        ({"layer_types": ["sliding_attention"] * 6}, "layer_types has 6 entries for 7 layers"),
        (
            {"layer_types": ["mamba"] * 7},
            "layer_types must hold 'sliding_attention' and 'full_attention' only",
        ),
        ({"layer_types": [[]] * 7}, "layer_types must hold"),
        ({"layer_types": "full"}, "layer_types must be a list"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern must be an integer"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_parameters": {"full_attention": 3}}, "rope_parameters.full_attention must be an object"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "attention heads (4) cannot share 3"),
        ({"head_dim": 255}, "head dimension (255) is odd"),
        ({"architectures": "Gemma"}, "architectures must be a list"),
        ({"model_type": 3}, "model_type must be a text"),
        ({"model_type": None, "architectures": None}, "model_type is missing"),
        ({"text_config": 5}, "text_config must be an object"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        flat(**changes)
    assert message in caught.value.message


def test_nested_fields_are_named_with_their_path() -> None:
    with pytest.raises(BadConfig, match=r"config\.json: text_config\.hidden_size must be"):
        parse(MULTIMODAL | {"text_config": MULTIMODAL["text_config"] | {"hidden_size": []}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "the model is 'llama'; ostro runs Gemma 3"),
        ({"model_type": "gemma2"}, "the model is 'gemma2'"),
        ({"model_type": "gemma3n"}, "the model is 'gemma3n'"),
        ({"model_type": None, "architectures": ["LlamaForCausalLM"]}, "the model is 'LlamaForCausalLM'"),
        ({"use_bidirectional_attention": True}, "embedding model (EmbeddingGemma)"),
        ({"use_bidirectional_attention": "all"}, "embedding model (EmbeddingGemma)"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized with 'gptq'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized with 'bitsandbytes'"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"attention_bias": True}, "attention_bias is true"),
    ],
)
def test_other_models_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        flat(**changes)
    assert message in caught.value.message


def test_architecture_stands_in_for_a_missing_type() -> None:
    assert flat(model_type=None).hidden_size == 640


def test_generation_config() -> None:
    values = {
        "do_sample": True,
        "top_k": 64,
        "top_p": 0.95,
        "eos_token_id": [1, 106],
        "cache_implementation": "hybrid",
    }
    result = parse_generation(values, "generation_config.json")
    assert (result.do_sample, result.top_k, result.top_p, result.temperature) == (True, 64, 0.95, None)
    assert result.eos_token_ids == (1, 106)
    with pytest.raises(BadConfig, match=r"generation_config\.json: top_k must be"):
        parse_generation({"top_k": "many"}, "generation_config.json")
