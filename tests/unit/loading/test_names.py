"""Names of every layout become the canonical ones."""

from __future__ import annotations

import pytest

from ostro.errors import MissingTensor, UnknownTensor
from ostro.loading.names import Renaming, from_gguf, from_hugging_face, from_mmproj

from . import tiny, tiny_vision

TEXT = list(tiny.weights())
VISION = [
    "embeddings.patch_embedding.weight",
    "embeddings.patch_embedding.bias",
    "embeddings.position_embedding.weight",
    "encoder.layers.0.self_attn.out_proj.weight",
    "encoder.layers.26.mlp.fc1.bias",
    "post_layernorm.weight",
]
PROJECTOR = ["mm_input_projection_weight", "mm_soft_emb_norm.weight"]


def rename(names: list[str], *, tied: bool = True) -> Renaming:
    return from_hugging_face(names, "folder", tied=tied)


@pytest.mark.parametrize(
    "prefix", ["model.", "language_model.model.", "model.language_model.", "language_model.", ""]
)
def test_text_prefixes(prefix: str) -> None:
    result = rename([prefix + name for name in TEXT])
    assert result.text == {name: prefix + name for name in TEXT}
    assert result.vision == {}
    assert result.own_name("norm.weight") == prefix + "norm.weight"


@pytest.mark.parametrize(
    ("text", "vision", "projector"),
    [
        ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector."),
        ("model.language_model.", "model.vision_tower.vision_model.", "model.multi_modal_projector."),
        ("model.language_model.", "model.vision_tower.", "model.multi_modal_projector."),
        ("language_model.model.", "vision_tower.", "multi_modal_projector."),
        ("model.", "vision_tower.vision_model.", "model.multi_modal_projector."),
    ],
)
def test_multimodal_layouts(text: str, vision: str, projector: str) -> None:
    names = [text + n for n in TEXT] + [vision + n for n in VISION] + [projector + n for n in PROJECTOR]
    result = rename(names)
    assert result.text == {name: text + name for name in TEXT}
    assert {name: result.own_name(name) for name in result.vision} == result.vision
    assert result.vision == {f"vision.{n}": vision + n for n in VISION} | {
        f"projector.{n}": projector + n for n in PROJECTOR
    }


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
def test_heads(head: str) -> None:
    names = ["model." + name for name in TEXT] + [head]
    assert "lm_head.weight" not in rename(names, tied=True).text
    assert rename(names, tied=False).text["lm_head.weight"] == head


def test_two_heads_are_one_too_many() -> None:
    names = ["model." + name for name in TEXT] + ["lm_head.weight", "language_model.lm_head.weight"]
    with pytest.raises(UnknownTensor, match=r"'language_model\.lm_head\.weight'"):
        rename(names, tied=False)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
        "model.rotary_emb_local.inv_freq",
        "model.rotary_emb.full_attention_inv_freq",
        "model.rotary_emb.full_attention_original_inv_freq",
        "vision_tower.vision_model.embeddings.position_ids",
        "vision_tower.vision_model.head.probe",
    ],
)
def test_buffers_and_the_unused_vision_head_are_ignored(name: str) -> None:
    names = ["model." + n for n in TEXT] + ["vision_tower.vision_model." + n for n in VISION]
    result = rename([*names, name])
    assert name not in result.text.values()
    assert name not in result.vision.values()


@pytest.mark.parametrize("name", ["audio_tower.x", "model_extra.weight", "lm_head.bias", "vision.x"])
def test_leftovers_are_named(name: str) -> None:
    with pytest.raises(UnknownTensor, match=f"folder: Gemma 3 has no place for '{name}'"):
        rename(["model." + n for n in TEXT] + [name])


def test_many_leftovers_are_counted() -> None:
    with pytest.raises(UnknownTensor, match="'x4' and 3 more"):
        rename(["model." + n for n in TEXT] + [f"x{index}" for index in range(8)])


def test_no_embedding_table() -> None:
    with pytest.raises(MissingTensor, match=r"folder: no tensor 'embed_tokens\.weight' under any prefix"):
        rename(["transformer.wte.weight"])


def test_gguf_names_there_and_back() -> None:
    own = {name: tiny.gguf_name(name) for name in TEXT}
    result = from_gguf(own.values(), "file")
    assert result.text == own
    assert {name: result.own_name(name) for name in TEXT} == own
    assert result.own_name("lm_head.weight") == "output.weight"


def test_names_of_the_image_half_there_and_back() -> None:
    for result in (
        from_mmproj(tiny_vision.mmproj_weights(), "file"),
        from_gguf(tiny_vision.combined_weights(), "file"),
    ):
        assert result.vision.keys() == tiny_vision.weights().keys()
        assert {name: result.own_name(name) for name in result.vision} == result.vision


def test_one_name_tells_the_layout_of_the_image_half() -> None:
    result = rename(["model." + n for n in TEXT] + ["model.vision_tower.post_layernorm.bias"])
    assert result.own_name("vision.post_layernorm.weight") == "model.vision_tower.post_layernorm.weight"
    projector = result.own_name("projector.mm_soft_emb_norm.weight")
    assert projector == "model.multi_modal_projector.mm_soft_emb_norm.weight"


def test_heads_of_hugging_face_files_have_no_prefix() -> None:
    assert Renaming("model.").own_name("lm_head.weight") == "lm_head.weight"
