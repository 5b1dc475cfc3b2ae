"""The demo model's shape, and its files."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from .scenes import PATCHES

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_SIZE = 8 * PATCHES
SOFT_TOKENS = 49


def make_config(vocab: dict[str, int]) -> dict[str, Any]:
    """config.json: Gemma 3's architecture, small."""
    end_of_turn = vocab["<end_of_turn>"]
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": vocab["<start_of_image>"],
        "eoi_token_index": vocab["<end_of_image>"],
        "image_token_index": vocab["<image_soft_token>"],
        "eos_token_id": [1, end_of_turn],
        "mm_tokens_per_image": SOFT_TOKENS,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "gemma3_text",
            "vocab_size": len(vocab),
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": None,
            "sliding_window": 256,
            "sliding_window_pattern": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 2,
            "eos_token_id": [1, end_of_turn],
            "pad_token_id": 0,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_channels": 3,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
            "vision_use_head": False,
        },
    }


def make_model(vocab: dict[str, int]) -> Gemma3ForConditionalGeneration:
    """A freshly initialised model in float32."""
    values = make_config(vocab)
    values.pop("torch_dtype")
    model = Gemma3ForConditionalGeneration._from_config(Gemma3Config(**values), attn_implementation="sdpa")
    with torch.no_grad():
        _look_around(model.model.vision_tower)
        # The library leaves the projection at zero: nothing would flow back through it.
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=192**-0.5)
    return model.float()


OFFSETS = (
    ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (1, 1)),
    ((-1, 1), (1, -1), (0, -2), (0, 2), (-2, 0), (2, 0)),
    ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0), (0, 0)),
)
"""Where the heads of the first layers look at the beginning, in patches (down, right)."""
FREQUENCIES = 8
SHARPNESS = 2.5


def _look_around(tower: torch.nn.Module) -> None:
    """Begin with heads that look at neighbours, as the filters of a convolution do.

    From random heads it takes a transformer tens of thousands of pictures to find out which patches touch.
    The first columns of the residual stream carry sinusoidal positions and nothing else; keys are turned by
    an offset. Source of the idea: structured initialisation of small vision transformers (ConViT, arXiv
    2103.10697).
    """
    f = torch.logspace(math.log10(0.2), math.log10(2.8), FREQUENCIES)
    angles = torch.arange(PATCHES)[:, None] * f
    axis = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    rows, columns = axis[:, None].expand(-1, PATCHES, -1), axis[None].expand(PATCHES, -1, -1)
    places = torch.cat([rows, columns], 2).reshape(PATCHES * PATCHES, -1)
    width = places.shape[1]
    embeddings = tower.get_submodule("embeddings")
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[:, :width] = places
    embeddings.patch_embedding.weight[:width] = 0
    for layer, offsets in zip(tower.get_submodule("encoder.layers"), (*OFFSETS, ()), strict=True):
        attention = layer.self_attn
        attention.out_proj.weight[:width] = 0
        layer.mlp.fc2.weight[:width] = 0
        for head, (down, right) in enumerate(offsets):
            own = slice(head * width, (head + 1) * width)
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight[own] *= 0.1
            attention.q_proj.weight[own, :width] = SHARPNESS * torch.eye(width)
            turns = torch.block_diag(*(_turn(float(-a * shift)) for shift in (down, right) for a in f))
            attention.k_proj.weight[own, :width] = SHARPNESS * turns


def _turn(angle: float) -> torch.Tensor:
    """Takes (sin x, cos x) to (sin(x + angle), cos(x + angle))."""
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def export(model: Gemma3ForConditionalGeneration, vocab: dict[str, int], folder: Path) -> None:
    """Write configuration and bfloat16 weights under the official files' names."""
    tensors = {}
    for name, value in model.state_dict().items():
        own = _official_name(name)
        if own is not None:
            tensors[own] = value.detach().to(torch.bfloat16).contiguous()
    weights = folder / "model.safetensors"
    save_file(tensors, weights, {"format": "pt"})
    weights.chmod(0o644)  # safetensors writes a file that only its owner may read
    write = {
        "config.json": make_config(vocab),
        "generation_config.json": {
            "bos_token_id": 2,
            "eos_token_id": [1, vocab["<end_of_turn>"]],
            "pad_token_id": 0,
            "do_sample": False,
        },
        "preprocessor_config.json": {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_pan_and_scan": None,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": SOFT_TOKENS,
            "image_std": [0.5, 0.5, 0.5],
            "pan_and_scan_max_num_crops": None,
            "pan_and_scan_min_crop_size": None,
            "pan_and_scan_min_ratio_to_activate": None,
            "processor_class": "Gemma3Processor",
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        },
        "processor_config.json": {"image_seq_length": SOFT_TOKENS, "processor_class": "Gemma3Processor"},
    }
    for name, values in write.items():
        (folder / name).write_text(json.dumps(values, indent=1) + "\n")


def _official_name(name: str) -> str | None:
    if name == "lm_head.weight":
        return None
    for own, official in (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ):
        if name.startswith(own):
            return official + name.removeprefix(own)
    raise ValueError(f"no official name for {name}")
