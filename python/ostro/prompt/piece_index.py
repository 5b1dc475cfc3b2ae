"""From the text of a piece to its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import CorruptFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro.loading.packed_texts import PackedTexts

_MOST_KEPT = 1 << 13
_LONGEST_KEPT = 32


class PieceIndex(dict[str, int]):
    """`index[text]` is the id of the piece, -1 if there is none. Threads may share it.

    A hash table in three arrays takes 10 bytes per piece, where a dict of `str` needs 110. The dict that this
    is holds what was asked for lately, found or not, which for texts is nearly always enough.

    wanted [n]: which pieces can be found. CorruptFile if any two pieces, wanted or not, are the same.
    """

    def __init__(self, pieces: PackedTexts, wanted: NDArray[np.bool_]) -> None:
        super().__init__()
        hashes = np.fromiter(map(hash, pieces), np.int64, len(pieces))
        ids = hashes.argsort()
        hashes = hashes[ids]
        for first in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
            _check_different(pieces, *sorted(ids[first : first + 2].tolist()))
        kept = wanted[ids]
        hashes = hashes[kept]
        bits = max(1, len(hashes).bit_length())
        self._shift = 64 - bits
        self._half = 1 << bits - 1
        # Bucket b holds the hashes whose first bits, as a signed number, are b - half.
        buckets = np.arange(-self._half, self._half + 1)
        starts = np.searchsorted(hashes >> self._shift, buckets).astype(np.int32)
        self._pieces = pieces
        # Elements of memoryviews are plain integers, and quicker to get at than those of arrays.
        self._tags = hashes.astype(np.uint16).data
        self._ids = ids[kept].astype(np.int32).data
        self._starts = starts.data

    def __missing__(self, text: str) -> int:
        token_id = self._search(text)
        if len(text) <= _LONGEST_KEPT:
            if len(self) >= _MOST_KEPT:
                self.clear()
            self[text] = token_id
        return token_id

    def _search(self, text: str) -> int:
        wanted = hash(text)
        bucket = (wanted >> self._shift) + self._half
        tag = wanted & 0xFFFF
        for i in range(self._starts[bucket], self._starts[bucket + 1]):
            if self._tags[i] == tag and self._pieces[self._ids[i]] == text:
                return self._ids[i]
        return -1


def _check_different(pieces: PackedTexts, one: int, other: int) -> None:
    if pieces[one] == pieces[other]:
        raise CorruptFile(
            f"tokenizer.ggml.tokens: {pieces[one]!r} is already defined: tokens {one} and {other}"
        )
