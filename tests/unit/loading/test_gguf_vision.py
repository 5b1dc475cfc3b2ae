"""Keys of the image half in mmproj and combined files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ostro.errors import (
    BadConfig,
    BadTensor,
    CorruptFile,
    OstroError,
    UnknownTensor,
    UnsupportedModel,
)
from ostro.loading.open import open_checkpoint

from . import tiny, tiny_vision
from .tiny_vision import check_all_weights
from .tiny_vision import open_with_mmproj as with_mmproj

if TYPE_CHECKING:
    from pathlib import Path


HUGE = 2**31 - 1


def test_sparse_mmproj_files(tmp_path: Path) -> None:
    absent = ["general.type", "clip.has_vision_encoder", "clip.use_gelu", "clip.vision.projection_dim"]
    absent += ["clip.vision.image_mean", "clip.vision.image_std"]
    newer = {"clip.projector_type": None, "clip.vision.projector_type": "gemma3"}
    check_all_weights(with_mmproj(tmp_path, metadata=dict.fromkeys(absent) | newer))


def test_four_patches_become_one_row_and_column_by_default(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"projector\.scale_factor \(4\) does not divide the 6 patches"):
        with_mmproj(tmp_path, metadata={"clip.vision.projector.scale_factor": None})


def test_colours_of_an_mmproj_file(tmp_path: Path) -> None:
    metadata = {"clip.vision.image_mean": [0.25, 0.5, 0.75], "clip.vision.image_std": [1.0, 2.0, 3.0]}
    vision = with_mmproj(tmp_path, metadata=metadata).config.vision
    assert vision is not None
    assert (vision.image_mean, vision.image_std) == ((0.25, 0.5, 0.75), (1, 2, 3))


def test_an_mmproj_file_of_another_size(tmp_path: Path) -> None:
    message = r"mmproj\.gguf: belongs to a text model of width 2560, but m has 64; take the mmproj file of"
    with pytest.raises(BadConfig, match=message):
        with_mmproj(tmp_path, metadata={"clip.vision.projection_dim": 2560})


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"clip.projector_type": "mlp"}, UnsupportedModel, "the projector is 'mlp'"),
        ({"clip.projector_type": "gemma3nv"}, UnsupportedModel, "the projector is 'gemma3nv'"),
        ({"clip.projector_type": None}, UnsupportedModel, "the projector is 'not given'"),
        ({"clip.projector_type": 3}, BadConfig, "clip.projector_type must be a text"),
        ({"clip.has_vision_encoder": False}, UnsupportedModel, "has_vision_encoder is false"),
        ({"clip.use_gelu": False}, UnsupportedModel, "not GELU"),
        ({"clip.use_silu": True}, UnsupportedModel, "not GELU"),
        ({"clip.vision.image_size": None}, BadConfig, "clip.vision.image_size is missing"),
        ({"clip.vision.image_size": 0}, BadConfig, "clip.vision.image_size must be an integer"),
        ({"clip.vision.image_size": 2**32 - 1}, BadConfig, "clip.vision.image_size must be an integer"),
        ({"clip.vision.image_size": "24"}, BadConfig, "clip.vision.image_size must be an integer"),
        ({"clip.vision.image_size": [24, 24]}, BadConfig, "clip.vision.image_size must be an integer"),
        ({"clip.vision.patch_size": 0}, BadConfig, "clip.vision.patch_size must be an integer"),
        ({"clip.vision.patch_size": 5}, BadConfig, "image size (24) is not a multiple of the patch size (5)"),
        ({"clip.vision.patch_size": 48}, BadConfig, "image size (24) is not a multiple"),
        ({"clip.vision.embedding_length": HUGE}, BadConfig, "cannot be divided among 3 attention heads"),
        ({"clip.vision.feed_forward_length": HUGE}, BadTensor, "'v.blk.0.ffn_up.weight' has shape"),
        ({"clip.vision.block_count": HUGE}, BadConfig, "clip.vision.block_count must be an integer from 1"),
        ({"clip.vision.block_count": 1}, UnknownTensor, "an image half with 1 layers has no place for"),
        ({"clip.vision.attention.head_count": 0}, BadConfig, "head_count must be an integer"),
        ({"clip.vision.projector.scale_factor": 0}, BadConfig, "scale_factor must be an integer"),
        ({"clip.vision.projector.scale_factor": 12}, BadConfig, "scale_factor (12) does not divide the 6"),
        ({"clip.vision.projection_dim": "64"}, BadConfig, "projection_dim must be an integer"),
        ({"clip.vision.image_std": [0.5, 0.0, 0.5]}, BadConfig, "image_std must be above zero"),
        ({"clip.vision.image_mean": [0.5]}, BadConfig, "image_mean must be three numbers"),
        ({"clip.vision.image_mean": ["a", "b", "c"]}, BadConfig, "image_mean must be three numbers"),
        ({"clip.vision.image_mean": 0.5}, BadConfig, "image_mean must be a list"),
    ],
)
def test_mistakes_in_mmproj_keys(
    tmp_path: Path, metadata: dict[str, Any], error: type[OstroError], message: str
) -> None:
    with pytest.raises(error) as caught:
        with_mmproj(tmp_path, metadata=metadata)
    assert type(caught.value) is error
    assert "mmproj.gguf: " in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"gemma3.vision.block_count": None}, BadConfig, "gemma3.vision.block_count is missing"),
        ({"gemma3.vision.image_size": "x"}, BadConfig, "gemma3.vision.image_size must be an integer"),
        ({"gemma3.vision.num_channels": 4}, BadConfig, "channels (4) of images must be 3"),
        ({"gemma3.mm.tokens_per_image": None}, BadConfig, "tokens per image (256)"),
        ({"gemma3.mm.tokens_per_image": 0}, BadConfig, "tokens_per_image must be an integer"),
        ({"gemma3.vision.embedding_length": 3}, BadTensor, "the configuration asks for"),
    ],
)
def test_mistakes_in_combined_keys(
    tmp_path: Path, metadata: dict[str, Any], error: type[OstroError], message: str
) -> None:
    with pytest.raises(error) as caught:
        open_checkpoint(tiny_vision.write_combined(tmp_path / "m.gguf", metadata=metadata))
    assert message in caught.value.message


def test_what_is_no_mmproj_file(tmp_path: Path) -> None:
    model = tiny.write_gguf(tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModel, match="'gemma3', so this is no mmproj file"):
        open_checkpoint(model, mmproj_file="m.gguf")
    (tmp_path / "mmproj.gguf").write_bytes(b"GGUF")
    with pytest.raises(CorruptFile, match=r"mmproj\.gguf"):
        open_checkpoint(model, mmproj_file="mmproj.gguf")


def test_epsilon_of_sparse_files(tmp_path: Path) -> None:
    vision = with_mmproj(tmp_path, metadata={"clip.vision.attention.layer_norm_epsilon": None}).config.vision
    assert vision is not None
    assert vision.layer_norm_eps == 1e-6
