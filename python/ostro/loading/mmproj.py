"""llama.cpp's file of the image half (mmproj), which is read beside a GGUF file of the text model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ostro.errors import BadConfig, UnsupportedModel
from ostro.loading.config import VisionConfig, check_deviations, check_vision
from ostro.loading.fields import Fields
from ostro.loading.gguf import GgufFile
from ostro.loading.layer_kinds import MAX_LAYERS
from ostro.loading.names import from_mmproj
from ostro.loading.shapes import check_vision_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.tensor import Tensor

_VISION = "clip.vision."
_POOLING = 4
"""Patches along the side of a square that becomes one token, where the file does not say."""
_LINEAR = ("weight", "bias")


def add_mmproj(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The text model with the image half that lies in `path`.

    UnsupportedModel if that is no image half of Gemma 3, BadConfig if it belongs to another size of it.
    """
    source = str(path)
    if checkpoint.config.vision is not None:
        raise BadConfig(f"{checkpoint.name} has its own image half; leave the mmproj file {source} out")
    file = GgufFile(path)
    fields = Fields(source, file.metadata)
    _check_kind(fields)
    vision = _parse(fields)
    width = checkpoint.config.hidden_size
    projected = fields.integer(_VISION + "projection_dim", width)
    if projected != width:
        raise BadConfig(
            f"{source}: belongs to a text model of width {projected}, but {checkpoint.name} has {width};"
            " take the mmproj file of the same size of Gemma 3"
        )
    stored = file.tensors()
    renaming = from_mmproj(stored, source)
    tensors = {canonical: stored[own] for canonical, own in renaming.vision.items()}
    tensors = _unswap(tensors, vision)
    check_vision_tensors(tensors, vision, width, renaming, source)
    file.unload_metadata()
    return replace(
        checkpoint,
        config=replace(checkpoint.config, vision=vision),
        vision_tensors=tensors,
        # The converter has added 1 to everything that ends in "norm.weight".
        projector_norm_offset=0.0,
        files=(*checkpoint.files, path),
    )


def _check_kind(fields: Fields) -> None:
    architecture = fields.text("general.architecture", "nothing")
    if architecture != "clip":
        raise UnsupportedModel(
            f"{fields.source}: the architecture is {architecture[:80]!r}, so this is no mmproj file ('clip')"
        )
    kind = fields.text("clip.projector_type", fields.text(_VISION + "projector_type", "not given"))
    if kind != "gemma3":
        raise UnsupportedModel(
            f"{fields.source}: the projector is {kind[:80]!r}; Gemma 3's mmproj files have 'gemma3'"
        )
    if not fields.boolean("clip.has_vision_encoder", True):
        raise UnsupportedModel(
            f"{fields.source}: clip.has_vision_encoder is false: there is no image half in it"
        )
    if not fields.boolean("clip.use_gelu", True) or fields.boolean("clip.use_silu", False):
        raise UnsupportedModel(f"{fields.source}: the activation is not GELU (clip.use_gelu)")


def _parse(fields: Fields) -> VisionConfig:
    image_size, patch_size = fields.integer(_VISION + "image_size"), fields.integer(_VISION + "patch_size")
    pooling = fields.integer(_VISION + "projector.scale_factor", _POOLING)
    side = image_size // patch_size
    if side % pooling:
        fields.fail(
            _VISION + "projector.scale_factor", f"({pooling}) does not divide the {side} patches of a side"
        )
    vision = VisionConfig(
        hidden_size=fields.integer(_VISION + "embedding_length"),
        intermediate_size=fields.integer(_VISION + "feed_forward_length"),
        num_hidden_layers=fields.integer(_VISION + "block_count", high=MAX_LAYERS),
        num_attention_heads=fields.integer(_VISION + "attention.head_count"),
        image_size=image_size,
        patch_size=patch_size,
        layer_norm_eps=fields.positive(_VISION + "attention.layer_norm_epsilon", 1e-6),
        tokens_per_image=(side // pooling) ** 2,
        image_mean=fields.channels(_VISION + "image_mean", 0.5),
        image_std=fields.channels(_VISION + "image_std", 0.5),
    )
    check_vision(fields, vision)
    check_deviations(fields, _VISION + "image_std", vision.image_std)
    return vision


def _unswap(tensors: Mapping[str, Tensor], vision: VisionConfig) -> dict[str, Tensor]:
    """The tensors with fc1 and fc2 exchanged where an early converter took one for the other."""
    result = dict(tensors)
    for index in range(vision.num_hidden_layers):
        first, second = (f"vision.encoder.layers.{index}.mlp.{name}." for name in ("fc1", "fc2"))
        weight = tensors.get(second + "weight")
        expected = (vision.intermediate_size, vision.hidden_size)
        # As wide as high they cannot be told apart; such a model would have the newer names.
        if weight is None or weight.shape != expected or expected[0] == expected[1]:
            continue
        for kind in _LINEAR:
            for to, source in ((first + kind, second + kind), (second + kind, first + kind)):
                result.pop(to, None)
                if source in tensors:
                    result[to] = tensors[source]
    return result
