"""SentencePiece's byte-pair encoding.

Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", and the behaviour of
the SentencePiece library, which the tests compare with. Knows nothing about control tokens.
"""

from __future__ import annotations

import re
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.prompt.piece_index import PieceIndex
from ostro.prompt.pieces import WORD_BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ostro.loading.packed_texts import PackedTexts

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces, as SentencePiece and GGUF files number them."""

_BOUNDARY_BYTES = WORD_BOUNDARY.encode()
_LONGEST_KEPT = 32
_MOST_KEPT = 1 << 12


class Merges:
    """Texts, with spaces escaped, to ids. Threads may share it.

    User-defined pieces are taken first, the longest at each place from left to right. Between them,
    neighbours that together are a piece are merged: the best score first, the leftmost of equals. What is no
    piece in the end becomes byte tokens.

    scores, types: [n]. byte_ids [256]: the id of each byte's token. CorruptFile if two pieces are the same.
    """

    def __init__(
        self,
        pieces: PackedTexts,
        scores: NDArray[np.float32],
        types: NDArray[np.uint8],
        byte_ids: list[int],
    ) -> None:
        self._index = PieceIndex(pieces, np.isin(types, (NORMAL, USER_DEFINED, UNUSED)))
        self._ranks = (-scores).data
        self._byte_ids = byte_ids
        self._unused = frozenset(np.flatnonzero(types == UNUSED).tolist())
        defined = [pieces[i] for i in np.flatnonzero(types == USER_DEFINED).tolist()]
        self._defined = re.compile(f"({_longest_of(defined)})")
        # A text can be cut before a space wherever no piece goes on across the cut.
        inner = re.escape("".join(sorted(_before_boundaries(pieces) | {WORD_BOUNDARY})))
        self._cut = re.compile(f"(?<![{inner}])(?={WORD_BOUNDARY})")
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of a text in which spaces are escaped."""
        ids: list[int] = []
        for number, part in enumerate(self._defined.split(text)):
            if number % 2:
                ids.append(self._index[part])
            elif part:
                for word in self._cut.split(part):
                    ids += self._known.get(word) or self._encode_word(word)
        return ids

    def find(self, piece: str) -> int:
        """The id of a piece that is neither a control token nor a byte, -1 if there is none."""
        return self._index[piece]

    def _encode_word(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._merge(word))
        if len(word) <= _LONGEST_KEPT:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[word] = ids
        return ids

    def _merge(self, word: str) -> list[int]:
        """Merge the characters of a word that has no user-defined piece in it.

        A symbol is known by where it starts: `ends` says where it ends (0: it is part of another one),
        `before` where its left neighbour starts.
        """
        n = len(word)
        find, ranks, unused = self._index.__getitem__, self._ranks, self._unused
        ends = list(range(1, n + 1))
        before = list(range(-1, n - 1))
        ids = list(map(find, word))
        cuts: dict[str, int] = {}
        heap: list[tuple[float, int, int, int, int]] = []

        def consider(start: int, cut: int, end: int) -> None:
            piece = word[start:end]
            token_id = find(piece)
            if token_id >= 0:
                heappush(heap, (ranks[token_id], start, cut, end, token_id))
                if token_id in unused:
                    cuts[piece] = cut - start

        for start in range(n - 1):
            consider(start, start + 1, start + 2)
        while heap:
            _, start, cut, end, token_id = heappop(heap)
            if ends[start] != cut or ends[cut] != end:
                continue  # one of the two has been merged otherwise
            ends[start], ends[cut], ids[start] = end, 0, token_id
            if end < n:
                before[end] = start
                consider(start, end, ends[end])
            if before[start] >= 0:
                consider(before[start], start, end)
        result: list[int] = []
        start = 0
        while start < n:
            end = ends[start]
            if ids[start] in unused:
                result += self._split_again(word[start:end], cuts)
            else:
                result += self._known_or_bytes(ids[start], word[start:end])
            start = end
        return result

    def _known_or_bytes(self, token_id: int, text: str) -> Iterable[int]:
        return (token_id,) if token_id >= 0 else map(self._byte_ids.__getitem__, text.encode())

    def _split_again(self, text: str, cuts: dict[str, int]) -> list[int]:
        """Unused pieces serve for merging, but are never the outcome."""
        result: list[int] = []
        rest = [text]
        while rest:
            piece = rest.pop()
            token_id = self._index[piece]
            if token_id not in self._unused:
                result += self._known_or_bytes(token_id, piece)
            elif piece in cuts:
                rest += (piece[cuts[piece] :], piece[: cuts[piece]])
            else:
                result += self._known_or_bytes(-1, piece)
        return result


def _longest_of(texts: Iterable[str]) -> str:
    """A regular expression for the longest of the texts that begins at a place."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = None
    return _expression(tree) or "(?!)"


def _expression(tree: dict[str, Any]) -> str:
    branches = [re.escape(first) + _expression(rest) for first, rest in tree.items() if first]
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if '' in tree else ''}"


def _before_boundaries(pieces: PackedTexts) -> set[str]:
    """The characters that come before a word boundary inside a piece."""
    joined = np.frombuffer(pieces.joined, np.uint8)
    first, second, third = _BOUNDARY_BYTES
    here = (joined[:-2] == first) & (joined[1:-1] == second) & (joined[2:] == third)
    inner = np.flatnonzero(here)
    inner = inner[joined[inner - 1] != 0]
    starts = pieces.marks[np.searchsorted(pieces.marks, inner) - 1]
    return {pieces.joined[start + 1 : at].decode()[-1] for start, at in zip(starts, inner, strict=True)}
