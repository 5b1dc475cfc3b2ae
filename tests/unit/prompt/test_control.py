from __future__ import annotations

import re

import pytest

from ostro.prompt.control import ALWAYS_CONTROL, ControlTexts


def test_split_keeps_everything_in_order() -> None:
    control = ControlTexts({"<a>": 1, "<b>": 2})
    assert control.split("x<a><b> y <a>z") == ["x", 1, 2, " y ", 1, "z"]


def test_the_longest_text_at_a_position_wins() -> None:
    control = ControlTexts({"<a": 1, "<a>": 2, "<a><b>": 3})
    assert control.split("<a><b><a><a!") == [3, 2, 1, "!"]


def test_a_token_is_not_looked_for_inside_another() -> None:
    assert ControlTexts({"<<x>": 1, "<x>": 2}).split("<<x><x>") == [1, 2]


@pytest.mark.parametrize("text", ["", "<", "<a", "a>", "plain", "< a>"])
def test_text_without_control_tokens_stays_one_part(text: str) -> None:
    assert ControlTexts({"<a>": 1}).split(text) == ([text] if text else [])


def test_texts_of_one_character() -> None:
    assert ControlTexts({"|": 1, "|>": 2}).split("a||>b|") == ["a", 1, 2, "b", 1]


def test_characters_with_a_meaning_in_regular_expressions() -> None:
    assert ControlTexts({"[^]": 1, "[-]": 2, "(?": 3}).split("[^][-](?[]") == [1, 2, 3, "[]"]


def test_no_control_tokens_at_all() -> None:
    assert ControlTexts({}).split("<bos>") == ["<bos>"]


def test_below_keeps_smaller_ids() -> None:
    control = ControlTexts({"<a>": 1, "<b>": 9}).below(9)
    assert control.split("<a><b>") == [1, "<b>"]


@pytest.mark.parametrize(
    "text", ["<pad>", "<start_of_turn>", "<unused0>", "<unused6241>", "<image_soft_token>"]
)
def test_gemmas_own_control_texts(text: str) -> None:
    assert re.fullmatch(ALWAYS_CONTROL, text)


@pytest.mark.parametrize("text", ["</s>", "<b>", "<unused>", "<unused1", "<unused١>", "[multimodal]"])
def test_ordinary_texts_are_not_among_them(text: str) -> None:
    assert not re.fullmatch(ALWAYS_CONTROL, text)
