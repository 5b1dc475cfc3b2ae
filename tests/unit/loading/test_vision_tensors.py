"""The image half: the same weights in every kind of file, and what may be wrong with tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from ostro.errors import (
    BadTensor,
    MissingTensor,
    UnknownTensor,
)
from ostro.loading.config import PanAndScan
from ostro.loading.open import open_checkpoint

from . import tiny, tiny_vision
from .tiny_vision import check_all_weights
from .tiny_vision import open_with_mmproj as with_mmproj

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("layout", list(tiny_vision.LAYOUTS))
def test_hugging_face_layouts(tmp_path: Path, layout: str) -> None:
    checkpoint = open_checkpoint(tiny_vision.write_hugging_face(tmp_path, layout=layout))
    check_all_weights(checkpoint)
    assert checkpoint.projector_norm_offset == 1.0
    assert checkpoint.config.image_token_id == 39
    assert checkpoint.pan_and_scan == PanAndScan()


@pytest.mark.parametrize("swapped", [False, True])
def test_mmproj_files(tmp_path: Path, swapped: bool) -> None:
    checkpoint = with_mmproj(tmp_path, tensors=tiny_vision.mmproj_weights(swapped=swapped))
    check_all_weights(checkpoint)
    assert checkpoint.projector_norm_offset == 0.0
    assert checkpoint.name == "m"


@pytest.mark.parametrize(("plus_one", "offset"), [(True, 0.0), (False, 1.0)])
@pytest.mark.parametrize("kind", [None, "F32", "BF16"])
def test_combined_files(tmp_path: Path, plus_one: bool, offset: float, kind: str | None) -> None:
    path = tiny_vision.write_combined(
        tmp_path / "m.gguf",
        tensors=tiny_vision.combined_weights(plus_one=plus_one),
        quantize=lambda name: gguf.GGMLQuantizationType[kind] if kind and "soft_emb" in name else None,
    )
    checkpoint = open_checkpoint(path)
    assert checkpoint.projector_norm_offset == offset
    if kind != "BF16":
        check_all_weights(checkpoint)


def test_text_models_have_no_image_half(tmp_path: Path) -> None:
    for checkpoint in (
        open_checkpoint(tiny.write_hugging_face(tmp_path / "folder")),
        open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf")),
    ):
        assert checkpoint.config.vision is None
        assert checkpoint.vision_tensors == {}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("embeddings.patch_embedding.weight", "vision_tower.vision_model.embeddings.patch_embedding.weight"),
        ("encoder.layers.1.mlp.fc2.bias", "vision_tower.vision_model.encoder.layers.1.mlp.fc2.bias"),
        ("mm_input_projection_weight", "multi_modal_projector.mm_input_projection_weight"),
        ("mm_soft_emb_norm.weight", "multi_modal_projector.mm_soft_emb_norm.weight"),
    ],
)
def test_missing_tensors_of_a_folder(tmp_path: Path, name: str, shown: str) -> None:
    tensors = {own: w for own, w in tiny_vision.hugging_face_weights().items() if not own.endswith(name)}
    with pytest.raises(MissingTensor, match=f"lacks tensor '{shown}' of shape"):
        open_checkpoint(tiny_vision.write_hugging_face(tmp_path, tensors=tensors))


@pytest.mark.parametrize(
    "name", ["v.patch_embd.bias", "v.blk.1.attn_out.weight", "v.post_ln.bias", "mm.soft_emb_norm.weight"]
)
def test_missing_tensors_of_an_mmproj_file(tmp_path: Path, name: str) -> None:
    tensors = tiny_vision.mmproj_weights()
    del tensors[name]
    with pytest.raises(MissingTensor, match=f"mmproj.gguf: the checkpoint lacks tensor '{name}'"):
        with_mmproj(tmp_path, tensors=tensors)


@pytest.mark.parametrize("name", ["v.position_embedding.weight", "v.blk.0.mlp.fc1.bias"])
def test_missing_tensors_of_a_combined_file(tmp_path: Path, name: str) -> None:
    tensors = tiny_vision.combined_weights()
    del tensors[name]
    with pytest.raises(MissingTensor, match=f"lacks tensor '{name}'"):
        open_checkpoint(tiny_vision.write_combined(tmp_path / "m.gguf", tensors=tensors))


def test_half_of_a_swapped_pair_is_missing(tmp_path: Path) -> None:
    tensors = tiny_vision.mmproj_weights(swapped=True)
    del tensors["v.blk.0.ffn_up.weight"]
    with pytest.raises(MissingTensor, match=r"lacks tensor 'v\.blk\.0\.ffn_down\.weight'"):
        with_mmproj(tmp_path, tensors=tensors)


def test_one_tensor_of_the_image_half_is_not_enough(tmp_path: Path) -> None:
    names = tiny_vision.hugging_face_weights("newest")
    kept = "model.vision_tower.post_layernorm.weight"
    tensors = {own: w for own, w in names.items() if "language_model" in own or own == kept}
    with pytest.raises(MissingTensor, match=r"'model\.vision_tower\.embeddings\.patch_embedding\.weight'"):
        open_checkpoint(tiny_vision.write_hugging_face(tmp_path, tensors=tensors))


def test_without_the_image_half_it_is_a_text_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {"model." + name: weight for name, weight in tiny.weights().items()}
    checkpoint = open_checkpoint(tiny_vision.write_hugging_face(tmp_path / "folder", tensors=tensors))
    assert checkpoint.config.vision is None
    assert "folder: text only, since the tensors of its vision_config are not there" in caplog.text
    caplog.clear()
    own = {tiny.gguf_name(name): weight for name, weight in tiny.weights().items()}
    path = tiny_vision.write_combined(tmp_path / "m.gguf", tensors=own)
    assert open_checkpoint(path).config.vision is None
    assert "text only, since the tensors of its gemma3.vision keys are not there" in caplog.text


def test_tensors_without_a_configuration_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {name: value for name, value in tiny_vision.CONFIG.items() if name != "vision_config"}
    folder = tiny_vision.write_hugging_face(tmp_path / "folder", config=config)
    path = tiny.write_gguf(tmp_path / "m.gguf", tensors=tiny_vision.combined_weights())
    for checkpoint in (open_checkpoint(folder), open_checkpoint(path)):
        assert checkpoint.config.vision is None
        assert checkpoint.vision_tensors == {}
    assert "but no vision_config" in caplog.text
    assert "but no gemma3.vision keys" in caplog.text


def test_the_unused_pooling_head_is_ignored(tmp_path: Path) -> None:
    head = {"vision_tower.vision_model.head.probe": np.zeros((1, 1, tiny_vision.HIDDEN), np.float16)}
    tensors = tiny_vision.hugging_face_weights() | head
    check_all_weights(open_checkpoint(tiny_vision.write_hugging_face(tmp_path, tensors=tensors)))


@pytest.mark.parametrize(
    "name",
    ["encoder.layers.2.layer_norm1.weight", "embeddings.class_embedding", "encoder.layers.0.mlp.fc3.bias"],
)
def test_extra_tensors_of_a_folder(tmp_path: Path, name: str) -> None:
    own = "vision_tower.vision_model." + name
    tensors = tiny_vision.hugging_face_weights() | {own: np.zeros(tiny_vision.HIDDEN, np.float16)}
    with pytest.raises(UnknownTensor, match=f"an image half with 2 layers has no place for '{own}'"):
        open_checkpoint(tiny_vision.write_hugging_face(tmp_path, tensors=tensors))


@pytest.mark.parametrize(
    "name", ["v.blk.2.ln1.weight", "v.class_embd", "mm.0.weight", "token_embd.weight", "v.blk.00.ln1.weight"]
)
def test_extra_tensors_of_an_mmproj_file(tmp_path: Path, name: str) -> None:
    tensors = tiny_vision.mmproj_weights() | {name: np.zeros(tiny_vision.HIDDEN, np.float16)}
    with pytest.raises(UnknownTensor, match=f"no place for '{name}'"):
        with_mmproj(tmp_path, tensors=tensors)


@pytest.mark.parametrize("name", list(tiny_vision.mmproj_weights()))
def test_badly_shaped_tensors_of_an_mmproj_file(tmp_path: Path, name: str) -> None:
    tensors = tiny_vision.mmproj_weights()
    tensors[name] = np.zeros((5, *tensors[name].shape[1:]), np.float16)
    with pytest.raises(BadTensor, match=f"tensor '{name}' has shape .* the configuration asks for"):
        with_mmproj(tmp_path, tensors=tensors)


def test_a_turned_projection_is_refused(tmp_path: Path) -> None:
    name = "multi_modal_projector.mm_input_projection_weight"
    tensors = tiny_vision.hugging_face_weights()
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    with pytest.raises(BadTensor, match=r"has shape \[64, 12\]; the configuration asks for \[12, 64\]"):
        open_checkpoint(tiny_vision.write_hugging_face(tmp_path, tensors=tensors))


def test_a_quantized_projector_is_refused(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    with pytest.raises(BadTensor, match=r"'mm\.input_projection\.weight' is stored as Q8_0; the projector"):
        with_mmproj(tmp_path, quantize=lambda name: kind if name == "mm.input_projection.weight" else None)


def test_the_weights_are_not_copied(tmp_path: Path) -> None:
    checkpoint = with_mmproj(tmp_path)
    for tensor in checkpoint.vision_tensors.values():
        assert not tensor.data.flags.owndata
        assert not tensor.data.flags.writeable
