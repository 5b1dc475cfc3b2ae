"""The tokenizer in GGUF metadata."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from ostro.errors import BadConfig, UnsupportedModel
from ostro.loading.gguf_vocabulary import parse_vocabulary

P = "tokenizer.ggml."


def metadata(**changes: object) -> dict[str, Any]:
    count = 8
    base: dict[str, Any] = {
        "model": "llama",
        "tokens": [f"p{index}" for index in range(count)],
        "scores": -np.arange(count, dtype=np.float32),
        "token_type": np.ones(count, np.int32),
        "bos_token_id": 2,
    }
    return {P + name: value for name, value in (base | changes).items() if value is not None}


def test_reads_and_fills_in() -> None:
    vocabulary = parse_vocabulary(metadata(), 8, "m.gguf")
    assert vocabulary is not None
    assert vocabulary.pieces == [f"p{index}" for index in range(8)]
    assert vocabulary.scores.dtype == np.float32
    assert vocabulary.scores.tolist() == [-float(index) for index in range(8)]
    assert vocabulary.token_types.tolist() == [1] * 8
    ids = (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unknown_id, vocabulary.padding_id)
    assert ids == (2, 1, 3, 0)
    assert vocabulary.add_bos
    assert not vocabulary.add_space_prefix


def test_flags_are_read() -> None:
    vocabulary = parse_vocabulary(metadata(add_bos_token=False, add_space_prefix=True), 8, "m.gguf")
    assert vocabulary is not None
    assert not vocabulary.add_bos
    assert vocabulary.add_space_prefix


def test_no_tokenizer_is_none() -> None:
    assert parse_vocabulary({}, 8, "m.gguf") is None


def test_other_tokenizers_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"of kind 'gpt2'.*Give a tokenizer\.json"):
        parse_vocabulary(metadata(model="gpt2"), 8, "m.gguf")


def test_a_shorter_vocabulary_is_left_alone() -> None:
    vocabulary = parse_vocabulary(metadata(), 64, "m.gguf")
    assert vocabulary is not None
    assert len(vocabulary.pieces) == 8


@pytest.mark.parametrize("kind", [3, 4, 5])
def test_superfluous_pieces_are_dropped(kind: int, caplog: pytest.LogCaptureFixture) -> None:
    types = np.array([1] * 6 + [kind] * 2, np.int32)
    with caplog.at_level(logging.WARNING, "ostro"):
        vocabulary = parse_vocabulary(metadata(token_type=types), 6, "m.gguf")
    assert vocabulary is not None
    assert (len(vocabulary.pieces), len(vocabulary.scores), len(vocabulary.token_types)) == (6, 6, 6)
    assert "dropping 2 pieces" in caplog.text


def test_superfluous_ordinary_pieces_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"8 pieces in tokenizer\.ggml\.tokens, but only 6 rows"):
        parse_vocabulary(metadata(), 6, "m.gguf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokens must be a list of texts"),
        ({"tokens": np.arange(8)}, "tokens must be a list of texts"),
        ({"tokens": [[], []]}, "tokens must be a list of texts"),
        ({"scores": None}, "scores must be a list of numbers"),
        ({"scores": ["1"] * 8}, "scores must be a list of numbers"),
        ({"scores": np.zeros(7, np.float32)}, "scores has 7 entries for 8 pieces"),
        ({"scores": np.full(8, np.nan, np.float32)}, "scores holds a value that is not finite"),
        ({"token_type": np.ones(9, np.int32)}, "token_type has 9 entries for 8 pieces"),
        ({"token_type": np.ones(8, np.float32)}, "token_type must be a list of integers"),
        ({"token_type": np.full(8, 7, np.int32)}, "token_type holds a value outside 1 to 6"),
        ({"bos_token_id": 8}, "bos_token_id must be an integer from 0 to 7, not 8"),
        ({"bos_token_id": "two"}, "bos_token_id must be an integer"),
        ({"add_bos_token": 1}, "add_bos_token must be true or false"),
        ({"model": 7}, "model must be a text"),
    ],
)
def test_malformed_metadata_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse_vocabulary(metadata(**changes), 8, "m.gguf")
    assert message in caught.value.message
    assert caught.value.message.startswith("m.gguf: tokenizer.ggml.")
