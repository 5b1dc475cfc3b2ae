from __future__ import annotations

import codecs
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.engine.text_stream import StreamDelta, TextStream

if TYPE_CHECKING:
    from collections.abc import Sequence


class Pieces:
    """A vocabulary in which token i is the i-th of the given byte strings."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def encode(self, text: str, *, control: bool) -> list[int]:
        raise NotImplementedError

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def deltas(pieces: Sequence[bytes | str], stop: Sequence[str] = ()) -> list[StreamDelta]:
    """One delta per token, and the one of finish."""
    data = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    stream = TextStream(Pieces(data), stop)
    return [*map(stream.push, range(len(data))), stream.finish()]


def texts(pieces: Sequence[bytes | str], stop: Sequence[str] = ()) -> list[str]:
    return [delta.text for delta in deltas(pieces, stop)]


def test_whole_tokens_come_out_at_once() -> None:
    assert deltas(["Hel", "lo", " 😀"]) == [
        StreamDelta("Hel", released=1),
        StreamDelta("lo", released=1),
        StreamDelta(" 😀", released=1),
        StreamDelta(),
    ]


def test_a_character_waits_for_its_last_byte() -> None:
    assert deltas([b"a\xe2", b"\x82", b"\xac", "b"]) == [
        StreamDelta("a"),
        StreamDelta(),
        StreamDelta("€", released=3),
        StreamDelta("b", released=1),
        StreamDelta(),
    ]


def test_an_incomplete_character_is_replaced_when_something_else_follows_or_at_the_end() -> None:
    assert texts([b"\xe2", b"\x82", "x"]) == ["", "", "\ufffdx", ""]
    assert deltas([b"\xf0\x9f"]) == [StreamDelta(), StreamDelta("\ufffd", released=1)]


def test_control_tokens_are_released_in_their_turn() -> None:
    assert [delta.released for delta in deltas(["", "a", b"\xe2", "", "b"])] == [1, 1, 0, 0, 3, 0]


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    assert deltas(["one E", "N", "Dless"], ["END!"]) == [
        StreamDelta("one "),
        StreamDelta(),
        StreamDelta("ENDless", released=3),
        StreamDelta(),
    ]


def test_a_stop_string_over_several_tokens() -> None:
    assert deltas(["a", "b E", "N", "D", " c"], ["END"]) == [
        StreamDelta("a", released=1),
        StreamDelta("b "),
        StreamDelta(),
        StreamDelta(stopped=True),
        StreamDelta(stopped=True),
        StreamDelta(stopped=True),
    ]


def test_a_stop_string_inside_a_token() -> None:
    assert deltas(["x", "text<end>rest"], ["<end>"])[1] == StreamDelta("text", stopped=True)


def test_only_tokens_before_the_stop_string_are_released() -> None:
    found = deltas(["\n", "", "\n", "Us", "er:"], ["\n\nUser:"])
    assert [delta.released for delta in found] == [0] * 6
    found = deltas(["a", "", "\n", "", "\n", "Us", "er:"], ["\n\nUser:"])
    assert [delta.released for delta in found] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert [delta.text for delta in found] == ["a"] + [""] * 7


def test_the_stop_string_that_is_complete_first_ends_the_answer() -> None:
    assert texts(["abcd", "ef"], ["abcdef", "cd"]) == ["ab", "", ""]
    assert texts(["abcdef"], ["abcdef", "cd"]) == ["ab", ""]


def test_of_those_complete_together_the_longest_counts() -> None:
    assert texts(["xabc"], ["c", "abc", "bc"]) == ["x", ""]


def test_overlapping_beginnings() -> None:
    assert texts(["aa", "ab", "aa", "b"], ["aab"]) == ["", "a", "", "", ""]
    assert texts(list("ababac!"), ["ababc"]) == ["", "", "", "", "ab", "abac", "!", ""]


def test_a_held_back_beginning_is_given_out_at_the_end() -> None:
    assert deltas(["a\n", "\n"], ["\n\nUser:"])[-1] == StreamDelta("\n\n", released=2)


def test_a_hole_before_a_stop_string() -> None:
    assert texts([b"a\xe2\x82", "STOP"], ["STOP"]) == ["a", "\ufffd", ""]


def test_stop_strings_of_several_bytes_a_character() -> None:
    assert texts([b"a\xe2", b"\x82", b"\xacb"], ["€"]) == ["a", "", "", ""]
    assert texts([b"a\xe2", b"\x82", b"\xad"], ["€"]) == ["a", "", "₭", ""]


def test_surrogates_in_a_stop_string_match_nothing() -> None:
    assert "".join(texts(["a?\ufffd"], ["\ud800"])) == "a?\ufffd"


@pytest.mark.timeout(10)
def test_long_stop_strings_stay_cheap() -> None:
    stop = "a" * 50_000 + "b"
    text = ("a" * 999 + "c") * 100
    assert "".join(texts([text[i : i + 7] for i in range(0, len(text), 7)], [stop])) == text


def expected(data: bytes, stop: Sequence[str]) -> str:
    """The text before the stop string that ends first (of those the longest), by brute force."""
    stops = [text.encode() for text in stop]
    matches = [
        (end, start) for end in range(len(data) + 1) for start in range(end) if data[start:end] in stops
    ]
    return data[: min(matches)[1] if matches else None].decode(errors="replace")


_BYTES = st.lists(
    st.sampled_from([b"a", b"b", b"c", "é".encode(), "€".encode(), b"\xe2", b"\x82", b"\xac"]), max_size=24
)
_STOPS = st.lists(st.text("abcé€", min_size=1, max_size=5), max_size=4)


@settings(deadline=None)
@given(_BYTES.map(b"".join), _STOPS, st.lists(st.integers(0, 24), max_size=12))
def test_text_and_tokens_for_any_segmentation(data: bytes, stop: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    found = deltas(pieces, stop)
    text = expected(data, stop)
    assert "".join(delta.text for delta in found) == text

    # No text comes after the stop, and the stop is told of exactly when it is complete.
    stopped = [delta.stopped for delta in found]
    assert stopped == sorted(stopped)
    assert any(stopped) == any(each.encode() in data for each in stop)

    # The text given out always contains that of the released tokens, and at the end every token is released.
    said, released = "", 0
    for delta in found:
        said += delta.text
        released += delta.released
        whole_characters = codecs.getincrementaldecoder("utf-8")("replace")
        assert said.startswith(whole_characters.decode(b"".join(pieces[:released])))
    if not any(stopped):
        assert released == len(pieces)
