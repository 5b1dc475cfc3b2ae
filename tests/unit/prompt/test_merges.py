"""The library that Gemma was trained with is the judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from ostro.errors import CorruptFile
from ostro.loading.packed_texts import PackedTexts
from ostro.prompt.merges import BYTE, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Merges
from ostro.prompt.piece_index import PieceIndex
from tests.unit.prompt.sentencepiece_proto import model_proto
from tests.unit.prompt.small import small_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import GgufVocabulary

    Encode = Callable[[str], list[int]]
    Pair = tuple[Encode, Encode]


def pair(texts: Sequence[str], scores: NDArray[np.float32], types: NDArray[np.int32]) -> Pair:
    """Ours and the library's, for pieces with byte tokens at places that `types` tells."""
    pieces = PackedTexts.pack(texts).replace(" ", "▁")
    kinds = types.astype(np.uint8)
    kinds[3] = UNKNOWN
    merges = Merges(pieces, scores, kinds, np.flatnonzero(kinds == BYTE).tolist())
    library = SentencePieceProcessor(
        model_proto=model_proto(
            pieces.joined.replace(b"\0", b""),
            pieces.lengths(),
            scores,
            kinds,
            unknown_id=3,
            dummy_prefix=False,
        )
    )

    def judge(text: str) -> list[int]:
        ids: list[int] = library.encode(text, out_type=int)
        return ids

    return lambda text: merges.encode(text.replace(" ", "▁")), judge


@pytest.fixture(scope="module")
def real(vocabulary: GgufVocabulary) -> Pair:
    return pair(vocabulary.pieces, vocabulary.scores, vocabulary.token_types)


@pytest.fixture(scope="module")
def small() -> Pair:
    vocabulary = small_vocabulary()
    return pair(vocabulary.pieces, vocabulary.scores, vocabulary.token_types)


@pytest.fixture(scope="module")
def real_pieces(vocabulary: GgufVocabulary) -> list[str]:
    return list(vocabulary.pieces)


TEXTS = st.text(max_size=40) | st.text("ab ▁<>/bs\n\tthe é日本語", max_size=60)


@settings(deadline=None, max_examples=300)
@given(text=TEXTS)
def test_any_text(real: Pair, small: Pair, text: str) -> None:
    for ours, judge in (real, small):
        assert ours(text) == judge(text)


@settings(deadline=None, max_examples=300)
@given(places=st.lists(st.integers(0, 262143), min_size=1, max_size=12), between=st.sampled_from(["", " "]))
def test_texts_made_of_pieces(real: Pair, real_pieces: list[str], places: list[int], between: str) -> None:
    ours, judge = real
    text = between.join(real_pieces[place] for place in places)
    assert ours(text) == judge(text)


@pytest.mark.parametrize(
    "text", ["x> </y> </", "a> <b", "> ", ">  </", "\n" * 70 + " " * 70 + "\t" * 70, "▁" * 40]
)
def test_pieces_with_a_space_inside(real: Pair, text: str) -> None:
    # "> </" is one of Gemma's pieces, so a space does not always begin a new word.
    ours, judge = real
    assert ours(text) == judge(text)


def test_long_text_and_again_from_what_is_kept(real: Pair, real_pieces: list[str]) -> None:
    ours, judge = real
    text = " ".join(real_pieces[1000:9000])
    expected = judge(text)
    assert ours(text) == expected
    assert ours(text) == expected


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=20).map("".join),
    st.sets(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=20),
    st.data(),
)
def test_any_vocabulary(text: str, words: set[str], data: st.DataObject) -> None:
    vocabulary = small_vocabulary()
    kept = [i for i, piece in enumerate(vocabulary.pieces) if not set(piece) <= {*"abc"}]
    texts = [*(vocabulary.pieces[i] for i in kept), *sorted(words)]
    n = len(words)
    # Equal scores are settled by place; unused pieces serve for merging alone.
    scores = data.draw(st.lists(st.integers(-4, 0), min_size=n, max_size=n))
    types = data.draw(
        st.lists(st.sampled_from([NORMAL, NORMAL, NORMAL, USER_DEFINED, UNUSED]), min_size=n, max_size=n)
    )
    ours, judge = pair(
        texts,
        np.array([*vocabulary.scores[kept], *scores], np.float32),
        np.array([*vocabulary.token_types[kept], *types], np.int32),
    )
    assert ours(text) == judge(text)


def test_index_finds_what_is_wanted_and_only_that() -> None:
    texts = [f"piece {i} é" for i in range(3000)]
    wanted = np.arange(3000) % 3 != 0
    index = PieceIndex(PackedTexts.pack(texts), wanted)
    for _ in range(2):
        assert [index[text] for text in texts] == [i if i % 3 else -1 for i in range(3000)]
    assert [index[text] for text in ("", "piece 1", "piece 1 é ", "x" * 1000)] == [-1] * 4


def test_index_tells_texts_apart_that_have_the_same_hash() -> None:
    # Equal lengths, and equal eight bytes at either end.
    texts = [f"12345678{middle}87654321" for middle in ("a", "b", "c", "d")]
    index = PieceIndex(PackedTexts.pack(texts), np.array([True, True, False, True]))
    assert [index[text] for text in texts] == [0, 1, -1, 3]
    assert index["12345678e87654321"] == -1
    with pytest.raises(CorruptFile, match="tokens 1 and 4"):
        PieceIndex(PackedTexts.pack([*texts, texts[1]]), np.array([True] * 5))


def test_index_has_no_unpaired_surrogates() -> None:
    assert PieceIndex(PackedTexts.pack(["a"]), np.array([True]))["a\ud800"] == -1


def test_index_keeps_a_bounded_number_of_answers() -> None:
    index = PieceIndex(PackedTexts.pack(["a"]), np.array([True]))
    for number in range(20_000):
        assert index[f"no such piece {number}"] == -1
    assert index["a" * 50] == -1
    assert len(index) <= 8192
    assert index["a"] == 0


def test_equal_pieces_are_refused() -> None:
    with pytest.raises(CorruptFile, match="tokens: 'b' is already defined: tokens 1 and 3"):
        PieceIndex(PackedTexts.pack(["a", "b", "c", "b"]), np.array([True, True, True, False]))
