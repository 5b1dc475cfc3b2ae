"""Checkpoints written as GGUF files: what comes back is what went in, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from ostro.errors import UnsupportedExport
from ostro.loading.floats import float32
from ostro.loading.gguf import GgufFile
from ostro.loading.gguf_export import export_text
from ostro.loading.gguf_file_type import file_type
from ostro.loading.gguf_writer import Part
from ostro.loading.names import canonical_to_gguf
from ostro.loading.open import open_checkpoint
from ostro.ops.tensor import FORMATS, Tensor
from ostro.types import GenerationDefaults
from tests.unit.prompt.small import small_vocabulary, write_tokenizer_json

from . import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint

PIECES = len(small_vocabulary().pieces)
ROWS = PIECES + 8
"""Of the embedding table: some have no piece, as in Gemma's larger models."""


def hugging_face(folder: Path, **config: Any) -> Checkpoint:
    weights = tiny.weights()
    table = np.random.default_rng(2).standard_normal((ROWS, tiny.HIDDEN)).astype(np.float16)
    weights["embed_tokens.weight"] = table
    if config.get("tie_word_embeddings") is False:
        weights["lm_head.weight"] = table[::-1].copy()
    named = {name if name == "lm_head.weight" else "model." + name: w for name, w in weights.items()}
    fixed = {**tiny.CONFIG, "vocab_size": ROWS, "query_pre_attn_scalar": tiny.HEAD_DIM}
    tiny.write_hugging_face(folder, config={**fixed, **config}, tensors=named)
    write_tokenizer_json(folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return open_checkpoint(folder)


def exported(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    export_text(checkpoint, path)
    return open_checkpoint(path)


def test_a_folder_comes_back(tmp_path: Path) -> None:
    source = hugging_face(tmp_path / "hf", eos_token_id=[1, 19], rope_scaling={"type": "linear", "factor": 8})
    source = replace(source, generation=GenerationDefaults(0.7, 64, 0.95))
    found = exported(source, tmp_path / "m.gguf")
    assert found.config == replace(source.config, vocab_size=PIECES, rms_norm_eps=found.config.rms_norm_eps)
    assert found.config.rms_norm_eps == pytest.approx(source.config.rms_norm_eps)
    assert found.chat_template == "{{ messages }}"
    temperature, top_p = (float(np.float32(number)) for number in (0.7, 0.95))
    assert found.generation == GenerationDefaults(temperature, 64, top_p, eos_token_ids=(1, 19))
    assert found.tensors.keys() == source.tensors.keys()
    for name, tensor in source.tensors.items():
        other = found.tensors[name]
        if name.endswith("norm.weight"):
            assert other.format.name == "F32"
            np.testing.assert_array_equal(float32(other), float32(tensor) + np.float32(1))
            continue
        assert other.format == tensor.format
        assert other.shape[1:] == tensor.shape[1:]
        np.testing.assert_array_equal(other.data, tensor.data[: other.data.size])
    assert found.tensors["embed_tokens.weight"].shape == (PIECES, tiny.HIDDEN)
    assert not isinstance(found.tokenizer, type(None))


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_gguf_file_comes_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    """Both readers: ostro's and that of the format's own package."""

    def quantize(name: str) -> gguf.GGMLQuantizationType:
        return gguf.GGMLQuantizationType["F32" if name.endswith("norm.weight") else kind]

    path = tiny.write_gguf(tmp_path / "source.gguf", quantize=quantize)
    source, found = open_checkpoint(path), exported(open_checkpoint(path), tmp_path / "m.gguf")
    assert found.config == source.config
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert len(theirs) == len(source.tensors)
    for name, tensor in source.tensors.items():
        other = found.tensors[name]
        assert (other.format, other.shape) == (tensor.format, tensor.shape)
        np.testing.assert_array_equal(other.data, tensor.data)
        independent = theirs[canonical_to_gguf(name)]
        assert independent.tensor_type.name == tensor.format.name
        np.testing.assert_array_equal(independent.data.reshape(-1).view(np.uint8), tensor.data)


def test_all_that_llama_cpp_asks_for_is_there(tmp_path: Path) -> None:
    export_text(hugging_face(tmp_path / "hf"), tmp_path / "m.gguf")
    metadata = GgufFile(tmp_path / "m.gguf").metadata
    general = "architecture type name size_label quantization_version file_type"
    sizes = "context_length embedding_length block_count feed_forward_length rope.freq_base rope.scaling.type"
    attention = "head_count head_count_kv key_length value_length layer_norm_rms_epsilon sliding_window"
    tokenizer = (
        "model pre tokens scores token_type add_bos_token add_eos_token add_sep_token add_space_prefix"
    )
    ids = "bos eos unknown padding"
    wanted = {
        *(f"general.{name}" for name in general.split()),
        *(f"gemma3.{name}" for name in sizes.split()),
        *(f"gemma3.attention.{name}" for name in attention.split()),
        *(f"tokenizer.ggml.{name}" for name in tokenizer.split()),
        *(f"tokenizer.ggml.{name}_token_id" for name in ids.split()),
        "tokenizer.chat_template",
    }
    assert metadata.keys() == wanted
    assert metadata["general.quantization_version"] == 2
    assert metadata["general.file_type"] == 1  # F16
    assert metadata["gemma3.rope.scaling.type"] == "none"  # or a context of 131072 would be taken for scaled


def test_the_vocabulary_of_a_gguf_file_is_copied(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "source.gguf")
    export_text(open_checkpoint(path), tmp_path / "m.gguf")
    before, after = GgufFile(path).metadata, GgufFile(tmp_path / "m.gguf").metadata
    for name, value in before.items():
        if name.startswith("tokenizer."):
            np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize(
    "kinds",
    [
        "sliding sliding",
        "full full",
        "sliding full",
        "full sliding",
        "full sliding full",
        "sliding full full",
    ],
)
def test_kinds_of_layers(tmp_path: Path, kinds: str) -> None:
    names = [f"{kind}_attention" for kind in kinds.split()]
    layers = len(names)
    weights = {"model." + name: weight for name, weight in tiny.weights(layers=layers).items()}
    config = {**tiny.CONFIG, "num_hidden_layers": layers, "layer_types": names}
    folder = tiny.write_hugging_face(tmp_path / "hf", config=config, tensors=weights)
    vocabulary = open_checkpoint(tiny.write_gguf(tmp_path / "v.gguf")).tokenizer
    source = replace(open_checkpoint(folder), tokenizer=vocabulary)
    found = exported(source, tmp_path / "m.gguf").config
    assert found.layer_kinds == source.config.layer_kinds
    assert found.sliding_window == source.config.sliding_window


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": False},
        {"final_logit_softcapping": 30.0},
        {"rope_local_base_freq": 5e4, "rope_theta": 2e6},
        {"max_position_embeddings": 32768},
        {"eos_token_id": [1, 5, 19]},
    ],
    ids=lambda config: next(iter(config)),
)
def test_settings_beside_the_defaults(tmp_path: Path, config: dict[str, Any]) -> None:
    source = hugging_face(tmp_path / "hf", **config)
    found = exported(source, tmp_path / "m.gguf")
    expected = replace(source.config, vocab_size=PIECES, rms_norm_eps=found.config.rms_norm_eps)
    assert found.config == expected
    assert found.tensors.keys() == source.tensors.keys()


def test_more_ends_than_gguf_has_names_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = exported(hugging_face(tmp_path / "hf", eos_token_id=[1, 5, 19, 20]), tmp_path / "m.gguf")
    assert found.config.eos_token_ids == (1, 5, 19)
    assert "no place for more ids that end an answer" in caplog.text


def test_greedy_sampling_is_a_temperature_of_zero(tmp_path: Path) -> None:
    source = hugging_face(tmp_path / "hf")
    source = replace(source, generation=GenerationDefaults(temperature=0.7, do_sample=False))
    assert exported(source, tmp_path / "m.gguf").generation.temperature == 0.0


def test_another_score_scale_moves_into_the_queries_norm(tmp_path: Path) -> None:
    """GGUF files have no key for it: readers take the head dimension's."""
    source = hugging_face(tmp_path / "hf", query_pre_attn_scalar=128)
    assert source.config.attention_scale == 128**-0.5
    found = exported(source, tmp_path / "m.gguf")
    assert found.config.attention_scale == tiny.HEAD_DIM**-0.5
    for layer in range(tiny.LAYERS):
        for part, factor in (("q_norm", (tiny.HEAD_DIM / 128) ** 0.5), ("k_norm", 1.0)):
            name = f"layers.{layer}.self_attn.{part}.weight"
            expected = (float32(source.tensors[name]) + 1) * np.float32(factor)
            np.testing.assert_array_equal(float32(found.tensors[name]), expected)


def test_quantized_parts_take_the_place_of_tensors(tmp_path: Path) -> None:
    source = hugging_face(tmp_path / "hf")
    size = FORMATS["Q8_0"].row_bytes(tiny.HIDDEN)
    quantized = {}
    for name, rows in (("embed_tokens.weight", ROWS), ("layers.1.mlp.up_proj.weight", tiny.INNER)):
        data = np.random.default_rng(rows).integers(0, 256, rows * size, np.uint8)
        quantized[name] = Part.of(name, Tensor(name, FORMATS["Q8_0"], (rows, tiny.HIDDEN), data))
    export_text(source, tmp_path / "m.gguf", quantized=quantized)
    found = open_checkpoint(tmp_path / "m.gguf").tensors
    for name, part in quantized.items():
        assert found[name].format.name == "Q8_0"
        np.testing.assert_array_equal(found[name].data, part.read()[: found[name].data.size])
    assert found["embed_tokens.weight"].shape == (PIECES, tiny.HIDDEN)
    assert found["layers.0.mlp.up_proj.weight"].format.name == "F16"


def test_no_tokenizer_no_file(tmp_path: Path) -> None:
    source = replace(hugging_face(tmp_path / "hf"), tokenizer=None)
    with pytest.raises(UnsupportedExport, match="hf has no tokenizer, which a GGUF file needs"):
        export_text(source, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("formats", "number"),
    [
        ("F32", 0), ("BF16", 32), ("Q8_0 Q8_0 F16", 7), ("Q4_K Q4_K", 14), ("Q6_K", 18),
        ("Q4_K Q6_K Q4_K Q5_0 Q5_0 Q5_0", 15), ("Q5_0 Q5_0 Q4_K", 14), ("Q5_K Q6_K Q5_K", 17),
        ("Q3_K Q3_K", 11), ("Q2_K Q4_0 Q4_0", 10),
    ],
)  # fmt: skip
def test_the_file_type_is_what_most_weights_have(formats: str, number: int) -> None:
    def part(name: str, kind: str) -> Part:
        return Part(name, FORMATS[kind], (4, 256), lambda: np.zeros(0, np.uint8))

    parts = [part(f"blk.{index}.x", kind) for index, kind in enumerate(formats.split())]
    assert file_type([part("token_embd.weight", "F32"), *parts]) == number
