"""A quick way through long arrays of short strings, such as a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.loading.packed_texts import PackedTexts

if TYPE_CHECKING:
    import mmap

_WINDOW = 24
"""Bytes looked at per string, with its length; vocabularies need 17 on average."""
_PART = 1 << 16


def short_strings(data: mmap.mmap, start: int, count: int) -> tuple[PackedTexts, int] | None:
    """Read `count` strings (u64 length, then UTF-8) that begin at `start`: the strings and where they end.

    None when a string is empty, longer than 255 bytes, holds a NUL or is not UTF-8, or the data ends early;
    a plain reader then has to find out which. It takes a fifth of the time of reading one string after the
    other, and no memory per string.
    """
    if count == 0:
        return PackedTexts.pack([]), start
    raw = np.frombuffer(data, np.uint8, min(len(data) - start, count * _WINDOW), start)
    # A length of 1..255 is one byte and seven zeros; without other zeros, these tell where the lengths are.
    zeros = np.flatnonzero(raw == 0)[: 7 * count + 1]
    if len(zeros) < 7 * count or zeros[0] == 0:
        return None
    lengths_at = zeros[0 : 7 * count : 7] - 1
    lengths = raw[lengths_at].astype(np.int64)
    end = int(lengths_at[-1] + 8 + lengths[-1])
    chained = (
        lengths_at[0] == 0
        and bool((zeros[6 : 7 * count : 7] - lengths_at == 7).all())
        and bool((np.diff(lengths_at) == 8 + lengths[:-1]).all())
    )
    if not chained or end > len(raw) or (len(zeros) > 7 * count and zeros[-1] < end):
        return None
    marks = np.empty(count + 1, np.int32)
    marks[:-1] = lengths_at - 7 * np.arange(count)
    marks[-1] = end - 7 * count
    # Without its zeros, a length is the one byte in front of its text.
    kept = np.append(raw[:end][raw[:end] != 0], np.uint8(0))
    kept[marks[:-1]] = 0
    joined = kept.tobytes()
    return (PackedTexts(joined, marks), start + end) if _is_unicode(joined) else None


def _is_unicode(joined: bytes) -> bool:
    # In parts, since one character outside ASCII makes the whole decoded text wider.
    position = 0
    while position < len(joined):
        stop = joined.find(b"\0", position + _PART)
        stop = len(joined) if stop < 0 else stop
        try:
            joined[position:stop].decode()
        except UnicodeDecodeError:
            return False
        position = stop
    return True
