from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostro.loading.packed_texts import PackedTexts

TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=30)


@given(TEXTS, st.data())
def test_is_the_list_it_was_made_of(texts: list[str], data: st.DataObject) -> None:
    packed = PackedTexts.pack(texts)
    assert len(packed) == len(texts)
    assert list(packed) == texts
    assert [packed[i] for i in range(-len(texts), len(texts))] == texts + texts
    assert packed.lengths().tolist() == [len(text.encode()) for text in texts]
    some = data.draw(st.slices(len(texts)))
    assert list(packed[some]) == texts[some]
    assert PackedTexts.pack(packed) is packed


@given(TEXTS)
def test_replaces_in_every_text(texts: list[str]) -> None:
    packed = PackedTexts.pack(["a b", *texts]).replace(" ", "▁")
    assert list(packed) == ["a▁b", *(text.replace(" ", "▁") for text in texts)]
    assert packed.replace(" ", "▁") is packed


@pytest.mark.parametrize("index", [3, -4, 10**9])
def test_no_such_text(index: int) -> None:
    with pytest.raises(IndexError, match=f"text {index} of 3"):
        PackedTexts.pack(["a", "b", "c"])[index]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="a text contains a NUL character"):
        PackedTexts.pack(["a", "b\0c"])
    with pytest.raises(UnicodeEncodeError):
        PackedTexts.pack(["\ud800"])


def test_memory_of_a_vocabulary() -> None:
    packed = PackedTexts.pack([f"piece{i}" for i in range(10_000)])
    assert sys.getsizeof(packed.joined) + packed.marks.nbytes < 10_000 * 16
