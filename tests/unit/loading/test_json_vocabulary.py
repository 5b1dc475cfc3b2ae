"""tokenizer.json as the vocabulary of a GGUF file: the same ids from both."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.errors import BadConfig
from ostro.loading.demo import demo_folder
from ostro.loading.json_vocabulary import json_vocabulary
from ostro.prompt.tokenizer import Tokenizer, load_tokenizer
from tests.unit.prompt.small import CONTROL, IMAGE_SOFT_TOKEN, NORMAL, small_vocabulary, tokenizer_json

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 1024
SMALL = small_vocabulary()


def write(folder: Path, file: dict[str, Any]) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    return path


def with_model(**changes: Any) -> dict[str, Any]:
    file = tokenizer_json()
    return {**file, "model": {**file["model"], **changes}}


def test_pieces_types_and_the_order_of_scores(tmp_path: Path) -> None:
    found = json_vocabulary(write(tmp_path, tokenizer_json()), ROWS)
    assert list(found.pieces) == list(SMALL.pieces)
    # Marked special in the file, which GGUF files of the same tokenizer do not say.
    expected = SMALL.token_types.copy()
    expected[list(SMALL.pieces).index("<start_of_image>")] = CONTROL
    np.testing.assert_array_equal(found.token_types, expected)
    np.testing.assert_array_equal(found.scores, SMALL.scores)
    assert (found.bos_id, found.eos_id, found.unknown_id, found.padding_id) == (2, 1, 3, 0)
    assert found.add_bos
    assert not found.add_space_prefix


def test_merges_as_older_files_have_them(tmp_path: Path) -> None:
    joined = [" ".join(pair) for pair in tokenizer_json()["model"]["merges"]]
    found = json_vocabulary(write(tmp_path, with_model(merges=joined)), ROWS)
    np.testing.assert_array_equal(found.scores, SMALL.scores)


@pytest.fixture(scope="module")
def demo_pair() -> tuple[Tokenizer, Tokenizer]:
    path = demo_folder() / "tokenizer.json"
    return load_tokenizer(path), load_tokenizer(json_vocabulary(path, ROWS))


@pytest.fixture(scope="module")
def small_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    path = write(tmp_path_factory.mktemp("small"), tokenizer_json())
    return load_tokenizer(path), load_tokenizer(json_vocabulary(path, ROWS))


_FRAGMENTS = st.sampled_from(
    (
        *("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<unused7>", "<mask>", "<0x41>"),
        *("<", ">", "of_turn>", "\n", "\n" * 40, " ", " " * 33, " " * 50, "\t" * 35, "\0"),
        *("<b>", "</td>", "[multimodal]", " the", "hello world", "café", "日本語", "𓀀", " starting motion"),
    )
)
_TEXTS = st.lists(_FRAGMENTS | st.text(st.characters(exclude_characters="▁"), max_size=6), max_size=12).map(
    "".join
)


@settings(deadline=None)
@given(_TEXTS, st.booleans())
def test_any_text_becomes_the_same_ids(
    small_pair: tuple[Tokenizer, Tokenizer], text: str, control: bool
) -> None:
    ours, written = small_pair
    assert written.encode(text, control=control) == ours.encode(text, control=control)


def test_the_words_of_the_demo_model_become_the_same_ids(demo_pair: tuple[Tokenizer, Tokenizer]) -> None:
    """Its merges are not SentencePiece's, yet none of its words shows that."""
    ours, written = demo_pair
    text = (
        "What is this? There are two large purple squares and a small yellow star on a beige background. "
        'The word "moon" is written in orange at the bottom right.\nDescribe both pictures in detail, please!'
    )
    assert written.encode(text, control=True) == ours.encode(text, control=True)
    assert len(written.encode(text, control=True)) < 70


def test_merges_that_are_missing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    json_vocabulary(write(tmp_path, tokenizer_json()), ROWS)
    assert not caplog.records
    merges = tokenizer_json()["model"]["merges"]
    dropped = [pair for pair in merges if pair not in (["▁th", "e"], ["▁t", "h"])]
    lost = len(merges) - len(dropped)
    assert lost == 2
    json_vocabulary(write(tmp_path, with_model(merges=dropped)), ROWS)
    assert f"its merges lack {lost} pairs" in caplog.text


def test_pieces_without_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tokenizer_json()
    rows = len(SMALL.pieces)
    assert len(json_vocabulary(write(tmp_path, file), rows).pieces) == rows
    assert not caplog.records
    added = {**file["added_tokens"][-1], "content": "<extra>", "id": rows + 1}
    file["added_tokens"].append(added)
    longer = json_vocabulary(write(tmp_path, file), ROWS)
    assert list(longer.pieces)[-2:] == [IMAGE_SOFT_TOKEN, "<extra>"]
    assert len(json_vocabulary(write(tmp_path, file), rows).pieces) == rows
    assert "dropping 2 pieces that have no embedding row" in caplog.text
    last_normal = int(np.flatnonzero(SMALL.token_types == NORMAL)[-1])
    with pytest.raises(BadConfig, match=f"pieces for a model with {last_normal} rows"):
        json_vocabulary(write(tmp_path, file), last_normal)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (with_model(type="Unigram"), "this is another kind"),
        (with_model(byte_fallback=False), "this is another kind"),
        (with_model(vocab={"<pad>": 0, "a": 7}), "are not 0, 1, 2"),
        (with_model(merges=["a b c"]), r"model\.merges holds .* which is not a pair"),
        (with_model(merges=[["a"]]), r"model\.merges holds .* which is not a pair"),
        (with_model(merges=[[1, 2]]), r"model\.merges holds .* which is not a pair"),
        (
            {**tokenizer_json(), "added_tokens": [{"id": "0", "content": "x", "special": True}]},
            "added_tokens",
        ),
        ({"model": {"byte_fallback": True, "vocab": {"<bos>": 0}}}, "no <eos> among the pieces"),
    ],
)
def test_files_that_are_not_of_gemmas_kind(tmp_path: Path, file: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        json_vocabulary(write(tmp_path, file), ROWS)
