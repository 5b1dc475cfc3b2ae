"""Penalties: what a sequence has said changes what it may say next.

Each object belongs to one sequence, follows it token by token and subtracts from a row of logits in place.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from ostro.types import Dry, Sampling, Vocabulary

MAX_MATCH = 50
"""Longest repetition that DRY tells apart from longer ones."""

_MAX_PENALTY = 1e30  # stays finite in float32


class Penalty(Protocol):
    """Follows one sequence."""

    def observe(self, token_id: int) -> None:
        """The sequence has got a further token."""

    def apply(self, row: NDArray[np.float32]) -> None:
        """Change the logits [V] of the next token in place."""


class CountPenalties:
    """Repetition penalty over prompt and answer, frequency and presence penalties over the answer.

    Repetition divides positive logits and multiplies negative ones (CTRL, arXiv 1909.05858, as in Hugging
    Face); then frequency * count + presence is subtracted (OpenAI).
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self._repetition = sampling.repetition_penalty
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._seen = array("q")
        self._known: set[int] = set()
        self._said = array("q")
        self._counts = array("d")
        self._index: dict[int, int] = {}
        if self._repetition != 1.0:
            self._known.update(prompt_ids)
            self._seen.extend(self._known)

    def observe(self, token_id: int) -> None:
        """Count a token of the answer."""
        if self._repetition != 1.0 and token_id not in self._known:
            self._known.add(token_id)
            self._seen.append(token_id)
        index = self._index.setdefault(token_id, len(self._said))
        if index == len(self._said):
            self._said.append(token_id)
            self._counts.append(0.0)
        self._counts[index] += 1.0

    def apply(self, row: NDArray[np.float32]) -> None:
        """Change the logits [V] in place; ids that have no logit are passed over."""
        if self._seen:
            seen = np.array(self._seen)
            seen = seen[seen < len(row)]
            logits = row[seen]
            row[seen] = np.where(logits > 0, logits / self._repetition, logits * self._repetition)
        if self._said and (self._frequency or self._presence):
            said = np.array(self._said)
            row[said] -= self._frequency * np.array(self._counts) + self._presence


class DryPenalty:
    """Penalises each token that would prolong a repetition of at least `allowed_length` tokens.

    For every earlier place of the last token, the length of the match that ends there follows from the length
    of the match that ended one place before: one pass over those places per token, however long the context.
    """

    def __init__(self, dry: Dry, breakers: Collection[int], prompt_ids: Sequence[int]) -> None:
        self._dry = dry
        self._breakers = frozenset(breakers)
        replay = max(0, len(prompt_ids) - MAX_MATCH)
        self._ids = array("q", prompt_ids[:replay])
        self._places = _places(self._ids)
        self._lengths = np.zeros(max(64, replay + 1), np.int32)  # entry i + 1: match that ends at place i
        self._ends = np.empty(0, np.int64)
        # No match is followed further back than this, so the earlier tokens need no replay.
        for token_id in prompt_ids[replay:]:
            self.observe(token_id)

    def observe(self, token_id: int) -> None:
        """Append a token of prompt or answer."""
        place = len(self._ids)
        self._ids.append(token_id)
        if place + 2 > len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.zeros(place + 2, np.int32)])
        if token_id in self._breakers:
            self._lengths[self._ends + 1] = 0
            self._ends = np.empty(0, np.int64)
            return
        places = self._places.setdefault(token_id, array("q"))
        ends = np.array(places)
        lengths = np.minimum(self._lengths[ends] + 1, MAX_MATCH)
        self._lengths[self._ends + 1] = 0
        self._lengths[ends + 1] = lengths
        self._ends = ends
        places.append(place)

    def apply(self, row: NDArray[np.float32]) -> None:
        """Subtract multiplier * base ** (match length - allowed_length) from the logits [V] in place."""
        lengths = self._lengths[self._ends + 1]
        long = lengths >= self._dry.allowed_length
        if not long.any():
            return
        lengths = lengths[long]
        rising = np.argsort(lengths, kind="stable")
        next_ids = np.frombuffer(self._ids, np.int64)[self._ends[long][rising] + 1]
        # Of equal ids the dictionary keeps the last, which has the longest match.
        longest = dict(zip(next_ids.tolist(), lengths[rising].tolist(), strict=True))
        for token_id, length in longest.items():
            if token_id not in self._breakers and token_id < len(row):
                row[token_id] -= self._penalty(length)

    def _penalty(self, length: int) -> float:
        try:
            penalty = self._dry.multiplier * self._dry.base ** (length - self._dry.allowed_length)
        except OverflowError:
            return _MAX_PENALTY
        return min(penalty, _MAX_PENALTY)


def _places(ids: array[int]) -> dict[int, array[int]]:
    """For each id where it stands, in rising order."""
    if not ids:
        return {}
    values = np.array(ids)
    order = np.argsort(values, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    groups = np.split(order, starts[1:])
    return {ids[int(group[0])]: array("q", group.tobytes()) for group in groups}


class Breakers:
    """Which tokens stop DRY from following a repetition: those whose text contains a breaker.

    A breaker that no single token contains is represented by its last token. May be used from any thread.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._found: dict[str, frozenset[int]] = {}
        self._text: tuple[bytes, NDArray[np.int64]] | None = None

    def token_ids(self, breakers: Sequence[str]) -> frozenset[int]:
        """Ids for all of the breakers; empty strings break nothing."""
        for breaker in breakers:
            if breaker and breaker not in self._found:
                self._found[breaker] = self._find(breaker)
        return frozenset().union(*(self._found[breaker] for breaker in breakers if breaker))

    def _find(self, breaker: str) -> frozenset[int]:
        if self._text is None:
            pieces = [self._vocabulary.token_bytes(i) for i in range(self._vocabulary.vocab_size)]
            # 0xFF is in no UTF-8 text, so nothing is found across two tokens.
            self._text = b"\xff".join(pieces), np.cumsum([len(piece) + 1 for piece in pieces])
        text, ends = self._text
        needle = breaker.encode()
        offsets = []
        offset = text.find(needle)
        while offset >= 0:
            offsets.append(offset)
            offset = text.find(needle, offset + 1)
        if not offsets:
            return frozenset(self._vocabulary.encode(breaker, control=False)[-1:])
        return frozenset(np.searchsorted(ends, offsets, side="right").tolist())
