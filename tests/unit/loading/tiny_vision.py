"""The image half of `tiny`'s model: one set of random weights in every kind of file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.loading.config import VisionConfig
from ostro.loading.open import open_checkpoint

from . import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.tensor import Tensor

    from .tiny import Weights

EPS = 2.0**-20
"""A float32 without rounding, as GGUF files keep it."""
HIDDEN, INNER, LAYERS, HEADS, IMAGE, PATCH, TOKENS = 12, 20, 2, 3, 24, 4, 9
PATCHES = (IMAGE // PATCH) ** 2
EXPECTED = VisionConfig(
    hidden_size=HIDDEN,
    intermediate_size=INNER,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    image_size=IMAGE,
    patch_size=PATCH,
    layer_norm_eps=EPS,
    tokens_per_image=TOKENS,
)
VISION_CONFIG: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "layer_norm_eps": EPS,
    "vision_use_head": False,
}
CONFIG: dict[str, Any] = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": tiny.CONFIG,
    "vision_config": VISION_CONFIG,
    "mm_tokens_per_image": TOKENS,
    "image_token_index": 39,
}
LAYOUTS = {
    "official": ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector."),
    "newer": ("model.language_model.", "model.vision_tower.vision_model.", "model.multi_modal_projector."),
    "newest": ("model.language_model.", "model.vision_tower.", "model.multi_modal_projector."),
    "mixed": ("language_model.model.", "vision_tower.", "multi_modal_projector."),
}
NORM = "projector.mm_soft_emb_norm.weight"
PROJECTION = "projector.mm_input_projection_weight"

MMPROJ_NAMES = {
    "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding": "v.position_embd",
    "post_layernorm": "v.post_ln",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    NORM: "mm.soft_emb_norm.weight",
    PROJECTION: "mm.input_projection.weight",
}
COMBINED_NAMES = MMPROJ_NAMES | {
    "embeddings.patch_embedding": "v.patch_embedding",
    "embeddings.position_embedding": "v.position_embedding",
    "post_layernorm": "v.post_layernorm",
    "layer_norm1": "layer_norm1",
    "layer_norm2": "layer_norm2",
    "self_attn.out_proj": "attn_output",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    NORM: "mm.mm_soft_emb_norm.weight",
    PROJECTION: "mm.mm_input_projection.weight",
}


def weights(*, seed: int = 1) -> Weights:
    """Canonical names, float16; the projector's norm scatters around zero."""
    rng = np.random.default_rng(seed)
    linear = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "out")} | {
        "mlp.fc1": (INNER, HIDDEN),
        "mlp.fc2": (HIDDEN, INNER),
        "layer_norm1": (HIDDEN,),
        "layer_norm2": (HIDDEN,),
    }
    biased: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding": (HIDDEN, 3, PATCH, PATCH),
        "post_layernorm": (HIDDEN,),
    }
    for index in range(LAYERS):
        biased |= {f"encoder.layers.{index}.{name}": shape for name, shape in linear.items()}
    shapes: dict[str, tuple[int, ...]] = {
        "vision.embeddings.position_embedding.weight": (PATCHES, HIDDEN),
        PROJECTION: (HIDDEN, tiny.HIDDEN),
    }
    for name, shape in biased.items():
        shapes |= {f"vision.{name}.weight": shape, f"vision.{name}.bias": shape[:1]}
    result = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    return result | {NORM: (rng.standard_normal(HIDDEN) / 16).astype(np.float16)}


def hugging_face_weights(layout: str = "official") -> Weights:
    """Both halves under the names of one layout."""
    text, vision, projector = LAYOUTS[layout]
    own = {text + name: weight for name, weight in tiny.weights().items()}
    for name, weight in weights().items():
        half, _, rest = name.partition(".")
        own[(vision if half == "vision" else projector) + rest] = weight
    return own


def write_hugging_face(
    folder: Path,
    *,
    layout: str = "official",
    config: dict[str, Any] | None = None,
    tensors: Weights | None = None,
) -> Path:
    own = hugging_face_weights(layout) if tensors is None else tensors
    return tiny.write_hugging_face(folder, config=CONFIG if config is None else config, tensors=own)


def _renamed(names: dict[str, str], *, plus_one: bool) -> Weights:
    result: Weights = {}
    for name, weight in weights().items():
        if name in (NORM, PROJECTION):
            own = names[name]
        else:
            stem, _, kind = name.removeprefix("vision.").rpartition(".")
            if stem.startswith("encoder."):
                _, _, index, part = stem.split(".", 3)
                own = f"v.blk.{index}.{names[part]}.{kind}"
            else:
                own = f"{names[stem]}.{kind}"
        result[own] = weight.astype(np.float32) + 1 if name == NORM and plus_one else weight
    return result


def mmproj_weights(*, swapped: bool = False) -> Weights:
    """swapped: as early converters named the two matrices of the feed-forward part, and their biases."""
    own = _renamed(MMPROJ_NAMES, plus_one=True)
    if swapped:
        exchange = {".ffn_up.": ".ffn_down.", ".ffn_down.": ".ffn_up."}
        own = {
            next((name.replace(a, b) for a, b in exchange.items() if a in name), name): weight
            for name, weight in own.items()
        }
    return own


def mmproj_metadata() -> dict[str, Any]:
    return {
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "gemma3",
        "clip.use_gelu": True,
        "clip.vision.image_size": IMAGE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": HIDDEN,
        "clip.vision.feed_forward_length": INNER,
        "clip.vision.block_count": LAYERS,
        "clip.vision.attention.head_count": HEADS,
        "clip.vision.attention.layer_norm_epsilon": EPS,
        "clip.vision.projection_dim": tiny.HIDDEN,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
        "clip.vision.projector.scale_factor": 2,
    }


def write_mmproj(
    path: Path,
    *,
    metadata: dict[str, Any] | None = None,
    tensors: Weights | None = None,
    architecture: str = "clip",
    quantize: Any = lambda _: None,
) -> Path:
    """None in metadata leaves a key out."""
    own = mmproj_weights() if tensors is None else tensors
    return tiny.write_any_gguf(
        path, architecture, {**mmproj_metadata(), **(metadata or {})}, own, quantize=quantize
    )


def combined_metadata() -> dict[str, Any]:
    prefix = "gemma3.vision."
    return {
        prefix + "block_count": LAYERS,
        prefix + "embedding_length": HIDDEN,
        prefix + "feed_forward_length": INNER,
        prefix + "image_size": IMAGE,
        prefix + "patch_size": PATCH,
        prefix + "num_channels": 3,
        prefix + "attention.head_count": HEADS,
        prefix + "attention.layer_norm_epsilon": EPS,
        "gemma3.mm.tokens_per_image": TOKENS,
    }


def combined_weights(*, plus_one: bool = True) -> Weights:
    """Both halves."""
    text = {tiny.gguf_name(name): weight for name, weight in tiny.weights().items()}
    return text | _renamed(COMBINED_NAMES, plus_one=plus_one)


def write_combined(
    path: Path,
    *,
    metadata: dict[str, Any] | None = None,
    tensors: Weights | None = None,
    quantize: Any = lambda _: None,
) -> Path:
    own = combined_weights() if tensors is None else tensors
    return tiny.write_gguf(
        path, metadata=combined_metadata() | (metadata or {}), tensors=own, quantize=quantize
    )


def values(tensor: Tensor) -> NDArray[np.float32]:
    dtype = {"F16": "<f2", "F32": "<f4"}[tensor.format.name]
    return tensor.data.view(dtype).astype(np.float32).reshape(tensor.shape)


def check_all_weights(checkpoint: Checkpoint) -> None:
    expected = weights()
    assert checkpoint.vision_tensors.keys() == expected.keys()
    for name, weight in expected.items():
        tensor = checkpoint.vision_tensors[name]
        if name == NORM:
            scale = values(tensor) + checkpoint.projector_norm_offset
            np.testing.assert_allclose(scale, weight.astype(np.float32) + 1, rtol=1e-6)
        else:
            np.testing.assert_array_equal(values(tensor), weight.astype(np.float32))
    assert checkpoint.tensors.keys() == tiny.weights().keys()
    assert checkpoint.config.vision == EXPECTED


def open_with_mmproj(folder: Path, **arguments: Any) -> Checkpoint:
    model = tiny.write_gguf(folder / "m.gguf")
    write_mmproj(folder / "mmproj.gguf", **arguments)
    return open_checkpoint(model, mmproj_file="mmproj.gguf")
