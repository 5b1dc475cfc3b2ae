"""Whole GGUF checkpoints: names, shapes, fused projections and splits."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from ostro.errors import BadConfig, BadTensor, CorruptFile, MissingTensor, UnknownTensor, UnsupportedModel
from ostro.loading.checkpoint import Checkpoint, GgufVocabulary
from ostro.loading.gguf_checkpoint import open_gguf

from . import tiny

if TYPE_CHECKING:
    from pathlib import Path


def opened(path: Path) -> Checkpoint:
    return open_gguf(path, name="tiny")


def own_weights() -> dict[str, Any]:
    return {tiny.gguf_name(name): weight for name, weight in tiny.weights().items()}


def test_all_weights_arrive_under_canonical_names(tmp_path: Path) -> None:
    checkpoint = opened(tiny.write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.chat_template": "{{ x }}"}))
    expected = tiny.weights()
    assert checkpoint.tensors.keys() == expected.keys()
    for name, weight in expected.items():
        tensor = checkpoint.tensors[name]
        assert tensor.shape == weight.shape
        assert tensor.format.name == "F16"
        np.testing.assert_array_equal(tensor.data.view("<f2").reshape(weight.shape), weight)
    assert checkpoint.norm_offset == 0.0
    assert checkpoint.chat_template == "{{ x }}"
    assert checkpoint.generation.eos_token_ids == (1, 6)
    assert isinstance(checkpoint.tokenizer, GgufVocabulary)
    assert checkpoint.tokenizer.pieces[3] == "piece3"
    assert checkpoint.vision_tensors == {}
    assert checkpoint.config.vocab_size == tiny.VOCAB


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F32"])
def test_number_formats(tmp_path: Path, name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    path = tiny.write_gguf(
        tmp_path / "m.gguf", quantize=lambda own: kind if own == "blk.1.ffn_up.weight" else None
    )
    tensor = opened(path).tensors["layers.1.mlp.up_proj.weight"]
    assert tensor.format.name == name
    assert tensor.shape == (tiny.INNER, tiny.HIDDEN)
    assert tensor.data.size == tiny.INNER * tensor.format.row_bytes(tiny.HIDDEN)


def test_fused_projections_are_split_into_views(tmp_path: Path) -> None:
    weights = own_weights()
    parts = [weights.pop(f"blk.0.attn_{part}.weight") for part in "qkv"]
    weights["blk.0.attn_qkv.weight"] = np.concatenate(parts)
    checkpoint = opened(tiny.write_gguf(tmp_path / "m.gguf", tensors=weights))
    for part, weight in zip("qkv", parts, strict=True):
        tensor = checkpoint.tensors[f"layers.0.self_attn.{part}_proj.weight"]
        assert tensor.shape == weight.shape
        np.testing.assert_array_equal(tensor.data.view("<f2").reshape(weight.shape), weight)


def test_fused_projections_of_the_wrong_shape(tmp_path: Path) -> None:
    weights = own_weights()
    for part in "qkv":
        del weights[f"blk.0.attn_{part}.weight"]
    weights["blk.0.attn_qkv.weight"] = np.zeros((255, tiny.HIDDEN), np.float16)
    path = tiny.write_gguf(tmp_path / "m.gguf", tensors=weights)
    with pytest.raises(
        BadTensor, match=r"'blk\.0\.attn_qkv\.weight' has shape \[255, 64\].* asks for \[256, 64\]"
    ):
        opened(path)


def test_fused_and_separate_projections_together(tmp_path: Path) -> None:
    weights = own_weights()
    weights["blk.0.attn_qkv.weight"] = np.concatenate(
        [weights[f"blk.0.attn_{part}.weight"] for part in "qkv"]
    )
    path = tiny.write_gguf(tmp_path / "m.gguf", tensors=weights)
    with pytest.raises(UnknownTensor, match=r"both 'blk\.0\.attn_qkv\.weight' and 'blk\.0\.attn_q\.weight'"):
        opened(path)


def test_untied_head(tmp_path: Path) -> None:
    weights = own_weights()
    weights["output.weight"] = weights["token_embd.weight"] + 1
    checkpoint = opened(tiny.write_gguf(tmp_path / "m.gguf", tensors=weights))
    assert not checkpoint.config.tie_word_embeddings
    assert checkpoint.tensors["lm_head.weight"].shape == (tiny.VOCAB, tiny.HIDDEN)


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.1.post_ffw_norm.weight", "blk.0.attn_k.weight"])
def test_missing_tensors_have_their_own_names(tmp_path: Path, name: str) -> None:
    weights = own_weights()
    del weights[name]
    with pytest.raises(MissingTensor, match=f"lacks tensor '{name}'"):
        opened(tiny.write_gguf(tmp_path / "m.gguf", tensors=weights))


@pytest.mark.parametrize(
    "name",
    ["blk.2.attn_q.weight", "blk.0.attn_q.bias", "blk.00.attn_q.weight", "blk.0.ssm.weight", "extra", "v.x"],
)
def test_leftovers_are_refused(tmp_path: Path, name: str) -> None:
    weights = own_weights() | {name: np.zeros((tiny.HEADS * tiny.HEAD_DIM, tiny.HIDDEN), np.float16)}
    with pytest.raises(UnknownTensor, match=f"no place for '{name}'"):
        opened(tiny.write_gguf(tmp_path / "m.gguf", tensors=weights))


def test_wrong_shapes_are_shown(tmp_path: Path) -> None:
    weights = own_weights() | {"blk.0.ffn_up.weight": np.zeros((tiny.INNER, 32), np.float16)}
    with pytest.raises(
        BadTensor, match=r"'blk\.0\.ffn_up\.weight' has shape \[96, 32\].* asks for \[96, 64\]"
    ):
        opened(tiny.write_gguf(tmp_path / "m.gguf", tensors=weights))


def test_other_architectures_are_refused_before_their_tensors(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", architecture="clip", tensors={"v.x": np.zeros(4, np.float32)})
    with pytest.raises(UnsupportedModel, match="vision half"):
        opened(path)


def test_another_tokenizer_replaces_the_own_one(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.model": "gpt2"})
    with pytest.raises(UnsupportedModel, match="gpt2"):
        opened(path)
    other = tmp_path / "tokenizer.json"
    assert open_gguf(path, name="tiny", tokenizer=other).tokenizer == other


def write_split(folder: Path, parts: int = 3) -> list[Path]:
    """Metadata in the first part; tensors dealt out in turn."""
    weights = own_weights()
    paths = []
    for number in range(parts):
        path = folder / f"m-{number + 1:05d}-of-{parts:05d}.gguf"
        part = dict(list(weights.items())[number::parts])
        writer = gguf.GGUFWriter(path, "gemma3")
        if number == 0:
            tiny.write_gguf(path, tensors=part, metadata={"split.no": 0, "split.count": parts})
        else:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", parts)
            for name, weight in part.items():
                writer.add_tensor(name, weight)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        paths.append(path)
    return paths


def test_split_files_are_joined_from_any_part(tmp_path: Path) -> None:
    for path in write_split(tmp_path):
        checkpoint = opened(path)
        assert checkpoint.tensors.keys() == tiny.weights().keys()
        assert checkpoint.config.hidden_size == tiny.HIDDEN


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first, second, _ = write_split(tmp_path)
    second.unlink()
    with pytest.raises(CorruptFile, match=r"1 of 3 parts are missing: m-00002-of-00003\.gguf"):
        opened(first)


def test_swapped_parts_are_noticed(tmp_path: Path) -> None:
    first, second, third = write_split(tmp_path)
    shutil.copy(third, second)
    with pytest.raises(CorruptFile, match="says it is part 3 of 3, but its name says 2 of 3"):
        opened(first)


def test_a_renamed_part_is_not_a_whole(tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    shutil.copy(write_split(tmp_path)[0], whole)
    with pytest.raises(CorruptFile, match="says it is part 1 of 3, but its name says 1 of 1"):
        opened(whole)


@pytest.mark.parametrize("name", ["m-00002-of-00001.gguf", "m-00000-of-00002.gguf", "m-00001-of-99999.gguf"])
def test_impossible_parts(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorruptFile, match="cannot be"):
        opened(tmp_path / name)


def test_wrong_template_type(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.chat_template": 7})
    with pytest.raises(BadConfig, match=r"tokenizer\.chat_template must be a text, not 7"):
        opened(path)
