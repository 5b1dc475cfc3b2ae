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
_TAG_BITS = 16
# Odd numbers of 64 bits, as in xxHash: for the first bytes of a text, the last ones, and their number.
_FIRST, _LAST, _LENGTH = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_64_BITS = (1 << 64) - 1
_from_bytes = int.from_bytes


class PieceIndex(dict[str, int]):
    """`index[text]` is the id of the piece, -1 if there is none. Threads may share it.

    A hash table in three arrays takes 8 bytes per piece, where a dict of `str` needs 110. The dict that this
    is holds what was asked for lately, found or not, which for texts is nearly always enough.

    The hash is one that numpy forms of all pieces at once: of the length and of eight bytes at either end.
    Longer pieces that agree in these share it, 500 of Gemma's 262,144.

    wanted [n]: which pieces can be found. CorruptFile if any two pieces, wanted or not, are the same.
    """

    def __init__(self, pieces: PackedTexts, wanted: NDArray[np.bool_]) -> None:
        super().__init__()
        hashes = _hashes(pieces)
        ids = hashes.argsort()
        hashes = hashes[ids]
        _check_different(pieces, ids, hashes)
        kept = wanted[ids]
        hashes = hashes[kept]
        # One or two pieces to a bucket.
        bits = max(1, len(hashes).bit_length() - 1)
        self._shift = 64 - bits
        buckets = (hashes >> np.uint64(self._shift)).astype(np.int64)
        # Where the pieces of each bucket begin, and those of the last one end.
        starts = np.bincount(buckets + 1, minlength=(1 << bits) + 1).cumsum().astype(np.int32)
        self._pieces = pieces
        # Elements of memoryviews are plain integers, and quicker to get at than those of arrays.
        self._tags = (hashes >> np.uint64(self._shift - _TAG_BITS)).astype(np.uint16).data
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
        wanted = _hash(text)
        bucket = wanted >> self._shift
        tag = wanted >> (self._shift - _TAG_BITS) & 0xFFFF
        for i in range(self._starts[bucket], self._starts[bucket + 1]):
            if self._tags[i] == tag and self._pieces[self._ids[i]] == text:
                return self._ids[i]
        return -1


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    first, last = _from_bytes(data[:8], "little"), _from_bytes(data[-8:], "little")
    return (first * _FIRST + last * _LAST + len(data) * _LENGTH) & _64_BITS


def _hashes(pieces: PackedTexts) -> NDArray[np.uint64]:
    """`_hash` of every piece [n]."""
    lengths = pieces.lengths()
    starts = pieces.marks[:-1].astype(np.int64) + 1
    # Eight bytes from every byte on; what follows a shorter piece is cut off.
    joined = pieces.joined + bytes(8)
    eights = np.ndarray(len(pieces.joined), "<u8", joined, strides=(1,))
    unused_bits = (8 * (8 - np.minimum(lengths, 8))).astype(np.uint64)
    cut = np.uint64(_64_BITS) >> unused_bits
    first = eights[starts] & cut
    last = eights[starts + np.maximum(lengths - 8, 0)] & cut
    hashes: NDArray[np.uint64] = (
        first * np.uint64(_FIRST) + last * np.uint64(_LAST) + lengths.astype(np.uint64) * np.uint64(_LENGTH)
    )
    return hashes


def _check_different(pieces: PackedTexts, ids: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
    """Texts of equal hashes, which are neighbours, differ."""
    same = hashes[1:] == hashes[:-1]
    repeated = np.zeros(len(ids), np.bool_)
    repeated[1:] = same
    repeated[:-1] |= same
    seen: dict[str, int] = {}
    for token_id in np.sort(ids[repeated]).tolist():
        piece = pieces[token_id]
        if piece in seen:
            raise CorruptFile(
                f"tokenizer.ggml.tokens: {piece!r} is already defined: tokens {seen[piece]} and {token_id}"
            )
        seen[piece] = token_id
