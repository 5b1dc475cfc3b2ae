"""The image half's hyperparameters from a Hugging Face folder.

Published files leave out what equals the class defaults (source: SiglipVisionConfig and Gemma3Config in
transformers), and their processor files say null for what Gemma3Processor fills in.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ostro.errors import BadConfig, UnsupportedModel
from ostro.loading.config import PanAndScan, VisionConfig, check_deviations, check_vision
from ostro.loading.fields import Fields, read_json
from ostro.loading.layer_kinds import MAX_LAYERS

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

_BILINEAR = 2


def parse_vision(top: Fields) -> VisionConfig | None:
    """Read vision_config of a parsed config.json; None for a model that reads text only."""
    if "vision_config" not in top:
        return None
    fields = top.section("vision_config")
    for name, known in (("model_type", "siglip_vision_model"), ("hidden_act", "gelu_pytorch_tanh")):
        value = fields.text(name, known)
        if value != known:
            raise UnsupportedModel(f"{top.source}: {fields.prefix}{name} is {value[:40]!r}, not {known!r}")
    vision = VisionConfig(
        hidden_size=fields.integer("hidden_size", 768),
        intermediate_size=fields.integer("intermediate_size", 3072),
        num_hidden_layers=fields.integer("num_hidden_layers", 12, high=MAX_LAYERS),
        num_attention_heads=fields.integer("num_attention_heads", 12),
        image_size=fields.integer("image_size", 224),
        patch_size=fields.integer("patch_size", 16),
        layer_norm_eps=fields.positive("layer_norm_eps", 1e-6),
        tokens_per_image=top.integer("mm_tokens_per_image", 256),
        num_channels=fields.integer("num_channels", 3),
    )
    check_vision(fields, vision)
    return vision


def read_processor(folder: Path, vision: VisionConfig) -> tuple[VisionConfig, PanAndScan]:
    """`vision` with the folder's means and deviations, and what the folder says about crops.

    preprocessor_config.json goes before processor_config.json, which newer folders have instead.
    BadConfig names a mistyped field, or a size that contradicts `vision`; UnsupportedModel a way of preparing
    images that ostro does not have.
    """
    fields = _processor_fields(folder)
    _check_supported(fields, vision)
    mean, std = fields.channels("image_mean", 0.5), fields.channels("image_std", 0.5)
    check_deviations(fields, "image_std", std)
    if not fields.boolean("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    default = PanAndScan()
    pan = PanAndScan(
        enabled=fields.boolean("do_pan_and_scan", default.enabled),
        min_crop_size=fields.integer("pan_and_scan_min_crop_size", default.min_crop_size),
        max_num_crops=fields.integer("pan_and_scan_max_num_crops", default.max_num_crops, high=1024),
        min_ratio=fields.positive("pan_and_scan_min_ratio_to_activate", default.min_ratio),
    )
    return replace(vision, image_mean=mean, image_std=std), pan


def _processor_fields(folder: Path) -> Fields:
    old = folder / "preprocessor_config.json"
    if old.is_file():
        return Fields(str(old), read_json(old))
    new = folder / "processor_config.json"
    if new.is_file():
        fields = Fields(str(new), read_json(new))
        return fields.section("image_processor") if "image_processor" in fields else fields
    return Fields(str(folder), {})


def _check_supported(fields: Fields, vision: VisionConfig) -> None:
    for name in ("do_resize", "do_rescale"):
        if not fields.boolean(name, True):
            raise UnsupportedModel(f"{fields.source}: {fields.prefix}{name} is false; ostro always does")
    factor = fields.positive("rescale_factor", 1 / 255)
    if abs(factor * 255 - 1) > 1e-5:
        raise UnsupportedModel(f"{fields.source}: {fields.prefix}rescale_factor is {factor}, not 1/255")
    resample = fields.integer("resample", _BILINEAR, low=0)
    if resample != _BILINEAR:
        logger.warning(
            "%s: resample is %d; images are resized bilinearly (2) all the same", fields.source, resample
        )
    size = fields.section("size")
    for side in ("height", "width"):
        if side in size and size.integer(side) != vision.image_size:
            raise BadConfig(
                f"{size.source}: {size.prefix}{side} is {size.integer(side)}, but config.json says "
                f"vision_config.image_size {vision.image_size}"
            )
