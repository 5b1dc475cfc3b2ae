"""The quick way through string arrays gives what the plain way gives, or declines."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostro.loading.gguf_strings import short_strings as packed_strings

from . import gguf_bytes as gb

if TYPE_CHECKING:
    from pathlib import Path


def mapped(content: bytes) -> mmap.mmap:
    result = mmap.mmap(-1, max(len(content), 1))
    result[: len(content)] = content
    return result


def short_strings(data: mmap.mmap, start: int, count: int) -> tuple[list[str], int] | None:
    found = packed_strings(data, start, count)
    return None if found is None else (list(found[0]), found[1])


short = st.text(min_size=1, max_size=12).filter(lambda text: "\0" not in text)


@given(st.lists(short, max_size=50), st.binary(max_size=40), st.binary(max_size=9))
def test_equals_what_was_written(strings: list[str], after: bytes, before: bytes) -> None:
    content = b"".join(gb.text(string) for string in strings)
    found = short_strings(mapped(before + content + after), len(before), len(strings))
    # Strings beyond the window it looks at make it decline; it never errs.
    assert found in (None, (strings, len(before) + len(content)))
    if len(content) <= 24 * len(strings) and len(before + content + after):
        assert found is not None


@given(
    st.lists(st.text(max_size=3) | st.text(min_size=250, max_size=300), max_size=8), st.binary(max_size=300)
)
def test_declines_rather_than_errs(strings: list[str], after: bytes) -> None:
    raw = [string.encode("utf-8", "replace") for string in strings]
    content = b"".join(gb.text(string) for string in raw)
    found = short_strings(mapped(content + after), 0, len(raw))
    assert found in (None, ([string.decode() for string in raw], len(content)))


@pytest.mark.parametrize(
    "content",
    [
        gb.text("a") + gb.text(""),
        gb.text("a") + gb.text(b"\xff"),
        gb.text("a") + gb.text("b\0c"),
        gb.text("a") + gb.text("bcd")[:-1],
        gb.text("a") + b"\x09" + bytes(7) + b"too long",
        gb.text("a") + b"\x01\0\1\0\0\0\0\0" + b"\0",
        gb.text("") + gb.text("a"),
        b"",
    ],
)
def test_declines(content: bytes) -> None:
    assert short_strings(mapped(content), 0, 2) is None


def test_long_arrays_are_cut_at_separators(tmp_path: Path) -> None:
    strings = [f"{index}日" for index in range(20000)]
    content = b"".join(gb.text(string) for string in strings)
    assert short_strings(mapped(content), 0, len(strings)) == (strings, len(content))
