"""A quick way through long arrays of short strings, such as a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.loading.packed_texts import PackedTexts

if TYPE_CHECKING:
    import mmap

    from numpy.typing import NDArray

_WINDOW = 24
"""Bytes looked at per string, with its length; vocabularies need 17 on average."""
_PART = 1 << 14
"""Strings read at a time; all at a time would need ten times their size for a moment."""


def short_strings(data: mmap.mmap, start: int, count: int) -> tuple[PackedTexts, int] | None:
    """Read `count` strings (u64 length, then UTF-8) that begin at `start`: the strings and where they end.

    None when a string is empty, longer than 255 bytes, holds a NUL or is not UTF-8, or the data ends early;
    a plain reader then has to find out which. It takes a fifth of the time of reading one string after the
    other, and no memory per string.
    """
    parts: list[bytes] = []
    marks = np.zeros(count + 1, np.int32)
    position = start
    for done in range(0, count, _PART):
        part_count = min(_PART, count - done)
        size = min(len(data) - position, part_count * _WINDOW)
        raw = np.frombuffer(data, np.uint8, size, position)
        found = _part(raw, part_count)
        if found is None:
            return None
        joined, part_marks, end = found
        parts.append(joined)
        marks[done : done + part_count] = marks[done] + part_marks
        marks[done + part_count] = marks[done] + len(joined)
        position += end
    return PackedTexts(b"".join((*parts, b"\0")), marks), position


def _part(raw: NDArray[np.uint8], count: int) -> tuple[bytes, NDArray[np.int64], int] | None:
    """The strings, each with a NUL in front; where these NULs are; where the strings end in `raw`."""
    # A length of 1..255 is one byte and seven zeros; without other zeros, these tell where the lengths are.
    is_zero = raw == 0
    lengths_at = np.flatnonzero(is_zero[1:] & ~is_zero[:-1])[:count]
    if len(lengths_at) < count or lengths_at[0] != 0 or lengths_at[-1] + 8 > len(raw):
        return None
    eights = np.ndarray(len(raw) - 7, "<u8", raw, strides=(1,))
    lengths = eights[lengths_at].astype(np.int64)
    if lengths.min() < 1 or lengths.max() > 255:
        return None
    end = int(lengths_at[-1] + 8 + lengths[-1])
    if end > len(raw) or np.count_nonzero(is_zero[:end]) != 7 * count:
        return None
    if (np.diff(lengths_at) != 8 + lengths[:-1]).any():
        return None
    # Without its zeros, a length is the one byte in front of its text.
    marks = lengths_at - 7 * np.arange(count)
    kept = raw[:end][~is_zero[:end]]
    kept[marks] = 0
    joined = kept.tobytes()
    try:
        joined.decode()
    except UnicodeDecodeError:
        return None
    return joined, marks, end
