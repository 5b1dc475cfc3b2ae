"""Whether a checkpoint's tensors are the ones that its configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostro.errors import BadTensor, MissingTensor, UnknownTensor
from ostro.loading.vision_names import PROJECTION, PROJECTOR_NORM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ostro.loading.config import Gemma3Config, VisionConfig
    from ostro.loading.names import Renaming
    from ostro.ops.tensor import Tensor


def expected_shapes(config: Gemma3Config) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape, outermost dimension first, of every tensor of the text model."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
    }
    table = (config.vocab_size, hidden)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": table, "norm.weight": (hidden,)}
    for index in range(len(config.layer_kinds)):
        shapes.update({f"layers.{index}.{name}.weight": shape for name, shape in layer.items()})
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = table
    return shapes


def expected_vision_shapes(vision: VisionConfig, text_width: int) -> dict[str, tuple[int, ...]]:
    """The same for the image half. text_width: hidden_size of the text model."""
    hidden, inner, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    linear: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, hidden),
        "self_attn.v_proj": (hidden, hidden),
        "self_attn.out_proj": (hidden, hidden),
        "mlp.fc1": (inner, hidden),
        "mlp.fc2": (hidden, inner),
        "layer_norm1": (hidden,),
        "layer_norm2": (hidden,),
    }
    biased: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding": (hidden, vision.num_channels, patch, patch),
        "post_layernorm": (hidden,),
    }
    for index in range(vision.num_hidden_layers):
        biased.update({f"encoder.layers.{index}.{name}": shape for name, shape in linear.items()})
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in biased.items():
        shapes[f"vision.{name}.weight"] = shape
        shapes[f"vision.{name}.bias"] = shape[:1]
    shapes["vision.embeddings.position_embedding.weight"] = (vision.grid**2, hidden)
    shapes[PROJECTOR_NORM] = (hidden,)
    shapes[PROJECTION] = (hidden, text_width)
    return shapes


def check_text_tensors(
    tensors: Mapping[str, Tensor], config: Gemma3Config, renaming: Renaming, source: str
) -> None:
    """Raise MissingTensor, UnknownTensor or BadTensor unless `tensors` is just what `config` needs.

    tensors: by canonical names. renaming: tells what the file would call a missing one.
    """
    whose = f"Gemma 3 with {len(config.layer_kinds)} layers"
    _check(tensors, expected_shapes(config), renaming, source, whose)


def check_vision_tensors(
    tensors: Mapping[str, Tensor], vision: VisionConfig, text_width: int, renaming: Renaming, source: str
) -> None:
    """The same for the image half."""
    whose = f"an image half with {vision.num_hidden_layers} layers"
    _check(tensors, expected_vision_shapes(vision, text_width), renaming, source, whose)
    for name in (PROJECTOR_NORM, PROJECTION):
        tensor = tensors[name]
        if tensor.format.block != 1:
            raise BadTensor(
                f"{source}: tensor {tensor.name!r} is stored as {tensor.format.name}; the projector must be "
                "F32, F16 or BF16"
            )


def _check(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    renaming: Renaming,
    source: str,
    whose: str,
) -> None:
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            own = renaming.own_name(name)
            raise MissingTensor(f"{source}: the checkpoint lacks tensor {own!r} of shape {list(shape)}")
        if tensor.shape != shape:
            raise BadTensor(
                f"{source}: tensor {tensor.name!r} has shape {list(tensor.shape)}; "
                f"the configuration asks for {list(shape)}"
            )
    for name, tensor in tensors.items():
        if name not in expected:
            raise UnknownTensor(f"{source}: {whose} has no place for {tensor.name!r}")
