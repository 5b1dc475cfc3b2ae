"""Hugging Face folders: weights in one file or several, and what lies beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ostro.errors import BadTensor, CorruptFile, MissingTensor, UnknownTensor, UnsupportedModel
from ostro.loading.open import open_checkpoint

from . import tiny

if TYPE_CHECKING:
    from pathlib import Path


def own_weights() -> dict[str, Any]:
    return {"model." + name: weight for name, weight in tiny.weights().items()}


def test_all_weights_arrive_under_canonical_names(tmp_path: Path) -> None:
    folder = tiny.write_hugging_face(tmp_path / "tiny-model")
    checkpoint = open_checkpoint(folder)
    expected = tiny.weights()
    assert checkpoint.tensors.keys() == expected.keys()
    for name, weight in expected.items():
        tensor = checkpoint.tensors[name]
        assert tensor.shape == weight.shape
        np.testing.assert_array_equal(tensor.data.view("<f2").reshape(weight.shape), weight)
    assert checkpoint.name == "tiny-model"
    assert checkpoint.norm_offset == 1.0
    assert checkpoint.tokenizer is None
    assert checkpoint.chat_template is None
    assert checkpoint.generation.eos_token_ids == ()


def test_files_beside_the_weights(tmp_path: Path) -> None:
    folder = tiny.write_hugging_face(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ a }}"}))
    (folder / "generation_config.json").write_text(json.dumps({"top_k": 64, "eos_token_id": [1, 106]}))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tokenizer == folder / "tokenizer.json"
    assert checkpoint.chat_template == "{{ a }}"
    assert (checkpoint.generation.top_k, checkpoint.generation.eos_token_ids) == (64, (1, 106))


def test_tied_heads_are_ignored_and_untied_ones_kept(tmp_path: Path) -> None:
    weights = own_weights() | {"lm_head.weight": np.ones((tiny.VOCAB, tiny.HIDDEN), np.float16)}
    tied = tiny.write_hugging_face(tmp_path / "tied", tensors=weights)
    assert "lm_head.weight" not in open_checkpoint(tied).tensors
    config = tiny.CONFIG | {"tie_word_embeddings": False}
    untied = tiny.write_hugging_face(tmp_path / "untied", tensors=weights, config=config)
    assert open_checkpoint(untied).tensors["lm_head.weight"].shape == (tiny.VOCAB, tiny.HIDDEN)
    lacking = tiny.write_hugging_face(tmp_path / "lacking", config=config)
    with pytest.raises(MissingTensor, match=r"lacks tensor 'lm_head\.weight'"):
        open_checkpoint(lacking)


def test_missing_tensors_have_their_own_names(tmp_path: Path) -> None:
    weights = own_weights()
    del weights["model.layers.1.mlp.up_proj.weight"]
    folder = tiny.write_hugging_face(tmp_path, tensors=weights)
    with pytest.raises(
        MissingTensor, match=r"lacks tensor 'model\.layers\.1\.mlp\.up_proj\.weight' of shape \[96, 64\]"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias", "score.weight"]
)
def test_leftovers_are_refused(tmp_path: Path, name: str) -> None:
    folder = tiny.write_hugging_face(tmp_path, tensors=own_weights() | {name: np.ones((96, 64), np.float16)})
    with pytest.raises(UnknownTensor, match=f"no place for '{name}'"):
        open_checkpoint(folder)


def test_wrong_shapes_are_shown(tmp_path: Path) -> None:
    folder = tiny.write_hugging_face(tmp_path, config=tiny.CONFIG | {"vocab_size": 48})
    with pytest.raises(
        BadTensor, match=r"'model\.embed_tokens\.weight' has shape \[40, 64\].* asks for \[48, 64\]"
    ):
        open_checkpoint(folder)


def test_quantized_weights_are_named(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = tiny.write_hugging_face(tmp_path, tensors=own_weights() | {name: np.ones((96, 32), np.uint8)})
    with pytest.raises(UnsupportedModel, match=f"tensor '{name}' has dtype U8.*bitsandbytes"):
        open_checkpoint(folder)


def sharded(folder: Path) -> dict[str, str]:
    tiny.write_hugging_face(folder)
    (folder / "model.safetensors").unlink()
    return tiny.write_sharded(folder, own_weights())


def test_shards_are_joined(tmp_path: Path) -> None:
    sharded(tmp_path)
    assert open_checkpoint(tmp_path).tensors.keys() == tiny.weights().keys()


def test_shards_without_an_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert open_checkpoint(tmp_path).tensors.keys() == tiny.weights().keys()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptFile, match=r"the shard 'model-00002-of-00002\.safetensors' is missing"):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    weights = own_weights()
    sharded(tmp_path)
    save_file(weights, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(CorruptFile, match=r"is already in model-00001-of-00002\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/x.safetensors",
        "a\\b.safetensors",
        "C:x.safetensors",
        "model.bin",
        7,
        "",
    ],
)
def test_shards_outside_the_folder_are_refused(tmp_path: Path, shard: object) -> None:
    weight_map: dict[str, Any] = dict(sharded(tmp_path))
    weight_map["model.norm.weight"] = shard
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(
        CorruptFile, match=r"'model\.norm\.weight' is said to be in .*not a file of this folder"
    ):
        open_checkpoint(tmp_path)


def test_an_empty_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CorruptFile, match="weight_map names no file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1e', b"\x00"])
def test_malformed_config(tmp_path: Path, content: bytes) -> None:
    folder = tiny.write_hugging_face(tmp_path)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"config\.json: (not valid JSON|holds list)"):
        open_checkpoint(folder)


def test_endless_config(tmp_path: Path) -> None:
    folder = tiny.write_hugging_face(tmp_path)
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptFile, match=r"config\.json: larger than 32 MiB"):
        open_checkpoint(folder)
