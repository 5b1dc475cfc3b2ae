"""Gemma 3's hyperparameters, whichever file they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostro.loading.fields import Fields
    from ostro.ops.batch import LayerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The SigLIP tower and the projector to the text model (Gemma 3 technical report, section 2.1).

    Field names as in Hugging Face's vision_config. tokens_per_image: rows that one image becomes, a square
    number (mm_tokens_per_image). image_mean, image_std: per channel, of pixels in [0, 1].
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    tokens_per_image: int
    num_channels: int = 3
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def grid(self) -> int:
        """Patches along one side of an image."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PanAndScan:
    """How an oblong image is also shown in crops (Gemma 3 technical report, section 2.1).

    Names as in Hugging Face's processor. enabled: whether a request that says nothing gets crops.
    min_crop_size: pixels along a crop's shorter side. min_ratio: longer to shorter side, below which an image
    is not cropped.
    """

    enabled: bool = False
    min_crop_size: int = 256
    max_num_crops: int = 4
    min_ratio: float = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma3Config:
    """The text model (Gemma 3 technical report, section 2). Field names as in Hugging Face's configuration.

    layer_kinds: one entry per layer. rope_factor: linear scaling of global layers only, 1.0 for none.
    attention_scale: query_pre_attn_scalar ** -0.5. context_length: positions that the model was trained for.
    vision: None for a model that reads text only.
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
    vision: VisionConfig | None = None


def check_heads(fields: Fields, config: Gemma3Config) -> None:
    """BadConfig unless heads can be grouped and rotated."""
    if config.num_attention_heads % config.num_key_value_heads:
        fields.fail(
            "attention heads",
            f"({config.num_attention_heads}) cannot share {config.num_key_value_heads} key heads evenly",
        )
    if config.head_dim % 2:
        fields.fail("head dimension", f"({config.head_dim}) is odd, so rotary embedding has no pairs")


def check_vision(fields: Fields, vision: VisionConfig) -> None:
    """BadConfig unless the image can be cut into patches, these into heads and pooled into square tokens."""
    if vision.num_channels != 3:
        fields.fail("channels", f"({vision.num_channels}) of images must be 3: red, green and blue")
    if vision.image_size % vision.patch_size:
        fields.fail(
            "image size", f"({vision.image_size}) is not a multiple of the patch size ({vision.patch_size})"
        )
    if vision.hidden_size % vision.num_attention_heads:
        fields.fail(
            "hidden size",
            f"({vision.hidden_size}) cannot be divided among {vision.num_attention_heads} attention heads",
        )
    side = math.isqrt(vision.tokens_per_image)
    if side * side != vision.tokens_per_image or vision.grid % side:
        fields.fail(
            "tokens per image",
            f"({vision.tokens_per_image}) must be a square number whose root divides the {vision.grid} "
            "patches along one side of an image",
        )


def check_deviations(fields: Fields, name: str, std: tuple[float, float, float]) -> None:
    """BadConfig unless pixels can be divided by them."""
    if min(std) < 1e-6:
        fields.fail(name, f"must be above zero, not {list(std)}")
