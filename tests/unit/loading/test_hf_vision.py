"""The image half of Hugging Face folders: vision_config and the processor's files."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ostro.errors import (
    BadConfig,
    BadTensor,
    CorruptFile,
    MissingTensor,
    OstroError,
    UnknownTensor,
    UnsupportedModel,
)
from ostro.loading.config import PanAndScan
from ostro.loading.open import open_checkpoint

from . import tiny_vision

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint

HUGE = 2**31 - 1


def parsed(folder: Path, *, top: dict[str, Any] | None = None, **vision: object) -> Checkpoint:
    config = tiny_vision.CONFIG | {"vision_config": tiny_vision.VISION_CONFIG | vision} | (top or {})
    return open_checkpoint(tiny_vision.write_hugging_face(folder, config=config))


@pytest.mark.parametrize(
    ("vision", "error", "message"),
    [
        ({"image_size": 25}, BadConfig, "image size (25) is not a multiple of the patch size (4)"),
        ({"image_size": 3}, BadConfig, "image size (3) is not a multiple"),
        (
            {"image_size": 20},
            BadConfig,
            "tokens per image (9) must be a square number whose root divides the 5",
        ),
        ({"image_size": 48}, BadTensor, "'vision_tower.vision_model.embeddings.position_embedding.weight'"),
        ({"image_size": HUGE, "patch_size": HUGE}, BadConfig, "root divides the 1 patches"),
        ({"image_size": HUGE, "patch_size": 1}, BadConfig, "tokens per image (9)"),
        ({"image_size": 0}, BadConfig, "vision_config.image_size must be an integer from 1"),
        ({"patch_size": "4"}, BadConfig, "vision_config.patch_size must be an integer"),
        ({"hidden_size": 0}, BadConfig, "vision_config.hidden_size must be an integer"),
        ({"hidden_size": HUGE}, BadConfig, "cannot be divided among 3 attention heads"),
        ({"hidden_size": 3 * 2**29}, BadTensor, "the configuration asks for"),
        ({"hidden_size": 10**30}, BadConfig, "vision_config.hidden_size must be an integer"),
        ({"num_attention_heads": 5}, BadConfig, "hidden size (12) cannot be divided among 5 attention heads"),
        ({"num_hidden_layers": 10**9}, BadConfig, "num_hidden_layers must be an integer from 1 to 1024"),
        ({"num_hidden_layers": 3}, MissingTensor, "encoder.layers.2.self_attn.q_proj.weight"),
        ({"num_hidden_layers": 1}, UnknownTensor, "encoder.layers.1."),
        ({"intermediate_size": HUGE}, BadTensor, "mlp.fc1.weight"),
        ({"num_channels": 1}, BadConfig, "channels (1) of images must be 3"),
        ({"layer_norm_eps": -1}, BadConfig, "layer_norm_eps must be a positive number"),
        (
            {"hidden_act": "quick_gelu"},
            UnsupportedModel,
            "hidden_act is 'quick_gelu', not 'gelu_pytorch_tanh'",
        ),
        ({"hidden_act": 5}, BadConfig, "hidden_act must be a text"),
        ({"model_type": "clip_vision_model"}, UnsupportedModel, "model_type is 'clip_vision_model'"),
    ],
)
def test_mistakes_in_vision_config(
    tmp_path: Path, vision: dict[str, Any], error: type[OstroError], message: str
) -> None:
    with pytest.raises(error) as caught:
        parsed(tmp_path, **vision)
    assert type(caught.value) is error
    assert message in caught.value.message


@pytest.mark.parametrize("tokens", [0, 8, 10, 16, 25, -1, HUGE, "9", [9]])
def test_mistakes_in_tokens_per_image(tmp_path: Path, tokens: object) -> None:
    with pytest.raises(BadConfig, match="tokens"):
        parsed(tmp_path, top={"mm_tokens_per_image": tokens})


@pytest.mark.parametrize("value", ["x", 5, [1]])
def test_vision_config_is_no_object(tmp_path: Path, value: object) -> None:
    with pytest.raises(BadConfig, match="vision_config must be an object"):
        parsed(tmp_path, top={"vision_config": value})


def test_other_spelling_of_the_image_token(tmp_path: Path) -> None:
    checkpoint = parsed(tmp_path, top={"image_token_index": None, "image_token_id": 38})
    assert checkpoint.config.image_token_id == 38


def processed(folder: Path, name: str = "preprocessor_config.json", **processor: object) -> Checkpoint:
    tiny_vision.write_hugging_face(folder)
    (folder / name).write_text(json.dumps(processor), "utf-8")
    return open_checkpoint(folder)


def test_published_processor_files_say_null(tmp_path: Path) -> None:
    checkpoint = processed(
        tmp_path,
        do_convert_rgb=None,
        do_normalize=True,
        do_pan_and_scan=None,
        do_rescale=True,
        do_resize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        pan_and_scan_max_num_crops=None,
        pan_and_scan_min_crop_size=None,
        pan_and_scan_min_ratio_to_activate=None,
        resample=2,
        rescale_factor=0.00392156862745098,
        size={"height": tiny_vision.IMAGE, "width": tiny_vision.IMAGE},
    )
    assert checkpoint.config.vision == tiny_vision.EXPECTED
    assert checkpoint.pan_and_scan == PanAndScan()


SETTINGS: dict[str, Any] = {
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [1, 2, 3],
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 7,
    "pan_and_scan_max_num_crops": 2,
    "pan_and_scan_min_ratio_to_activate": 1.5,
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("preprocessor_config.json", SETTINGS),
        ("processor_config.json", SETTINGS),
        ("processor_config.json", {"image_seq_length": 9, "image_processor": SETTINGS}),
    ],
)
def test_other_settings(tmp_path: Path, name: str, values: dict[str, Any]) -> None:
    checkpoint = processed(tmp_path, name, **values)
    expected = replace(tiny_vision.EXPECTED, image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 2.0, 3.0))
    assert checkpoint.config.vision == expected
    assert checkpoint.pan_and_scan == PanAndScan(
        enabled=True, min_crop_size=7, max_num_crops=2, min_ratio=1.5
    )


def test_the_preprocessors_file_goes_first(tmp_path: Path) -> None:
    tiny_vision.write_hugging_face(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"do_pan_and_scan": True}))
    assert processed(tmp_path, do_pan_and_scan=False).pan_and_scan.enabled is False


def test_no_normalization(tmp_path: Path) -> None:
    vision = processed(tmp_path, do_normalize=False).config.vision
    assert vision is not None
    assert (vision.image_mean, vision.image_std) == ((0, 0, 0), (1, 1, 1))


def test_another_filter_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    processed(tmp_path, resample=3)
    assert "resample is 3; images are resized bilinearly" in caplog.text


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"size": {"height": 24, "width": 896}}, BadConfig, "size.width is 896, but config.json says"),
        ({"size": 24}, BadConfig, "size must be an object"),
        ({"image_mean": [0.5]}, BadConfig, "image_mean must be three numbers, not [0.5]"),
        ({"image_mean": "half"}, BadConfig, "image_mean must be a list"),
        ({"image_mean": [0.5, None, 0.5]}, BadConfig, "image_mean must be three numbers"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, BadConfig, "image_mean must be three numbers"),
        ({"image_mean": [0.5, 10**400, 0.5]}, BadConfig, "image_mean must be three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, BadConfig, "image_std must be above zero"),
        ({"image_std": [0.5, -1, 0.5]}, BadConfig, "image_std must be above zero"),
        ({"do_pan_and_scan": 1}, BadConfig, "do_pan_and_scan must be true or false"),
        ({"pan_and_scan_max_num_crops": 10**6}, BadConfig, "max_num_crops must be an integer from 1 to 1024"),
        ({"pan_and_scan_min_crop_size": 0}, BadConfig, "min_crop_size must be an integer"),
        ({"pan_and_scan_min_ratio_to_activate": 0}, BadConfig, "activate must be a positive number"),
        ({"do_resize": False}, UnsupportedModel, "do_resize is false"),
        ({"do_rescale": False}, UnsupportedModel, "do_rescale is false"),
        ({"rescale_factor": 1}, UnsupportedModel, "rescale_factor is 1.0, not 1/255"),
    ],
)
def test_mistakes_in_the_processors_file(
    tmp_path: Path, values: dict[str, Any], error: type[OstroError], message: str
) -> None:
    with pytest.raises(error) as caught:
        processed(tmp_path, **values)
    assert "preprocessor_config.json: " in caught.value.message
    assert message in caught.value.message


def test_a_processors_file_that_is_no_json(tmp_path: Path) -> None:
    folder = tiny_vision.write_hugging_face(tmp_path)
    (folder / "preprocessor_config.json").write_bytes(b"{")
    with pytest.raises(CorruptFile, match=r"preprocessor_config\.json: not valid JSON"):
        open_checkpoint(folder)
