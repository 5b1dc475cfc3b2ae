"""One request's way through the engine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ostro.types import Timing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ostro.engine.kv_pages import SequencePages
    from ostro.engine.sampler import SamplerState
    from ostro.engine.text_stream import TextStream
    from ostro.types import ImageSpan, Prompt, Sampling, TokenLogprob


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what has been generated after it.

    token_ids: prompt and answer. computed: how many of them have their keys and values in the cache; the
    others are what the model reads next, and a sequence that lost its pages simply starts again from 0.
    image_rows: of images that the model has still to read, by content hash, as soon as they are encoded.
    limit: length at which it ends. Times are seconds of time.perf_counter.
    """

    id: int
    prompt: Prompt
    sampling: Sampling
    limit: int
    sampler: SamplerState
    stream: TextStream
    pages: SequencePages
    token_ids: list[int] = field(init=False)
    computed: int = 0
    image_rows: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    undecided: deque[TokenLogprob] = field(default_factory=deque)
    admitted_at: float | None = None
    answered_at: float | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt.token_ids)

    @property
    def pending(self) -> int:
        """Tokens that the model has still to read."""
        return len(self.token_ids) - self.computed

    @property
    def generated(self) -> int:
        """Sampled tokens, the end token included."""
        return len(self.token_ids) - len(self.prompt.token_ids)

    def chunk_end(self, budget: int, *, may_exceed: bool) -> int:
        """Where a step that starts at `computed` with `budget` rows ends: at `computed` if it cannot begin.

        An image run is never cut; if the step starts with one, it is taken whole when may_exceed. It cannot
        begin before its rows are there.
        """
        start = self.computed
        end = min(len(self.token_ids), start + budget)
        for span in self.prompt.images:
            stop = span.start + span.length
            if start <= span.start < end and span.content_hash not in self.image_rows:
                return span.start
            if span.start < end < stop:
                if span.start > start:
                    return span.start
                return stop if may_exceed else start
        return end

    def missing_images(self) -> Iterator[ImageSpan]:
        """Images that the model has still to read and whose rows are not there, in order."""
        for span in self.prompt.images:
            if span.start >= self.computed and span.content_hash not in self.image_rows:
                yield span

    def advance(self, end: int) -> None:
        """The tokens before `end` are in the cache: their images are not needed any more."""
        self.computed = end
        if self.image_rows:
            needed = {span.content_hash for span in self.prompt.images if span.start >= end}
            self.image_rows = {key: rows for key, rows in self.image_rows.items() if key in needed}

    def append(self, token_id: int) -> None:
        """Add a sampled token."""
        self.token_ids.append(token_id)
        self.sampler.observe(token_id)

    def decide(self, count: int) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of the next `count` tokens whose text is decided."""
        return tuple(self.undecided.popleft() for _ in range(min(count, len(self.undecided))))

    def timing(self, now: float) -> Timing:
        """Counts and durations up to now."""
        admitted_at = now if self.admitted_at is None else self.admitted_at
        answered_at = now if self.answered_at is None else self.answered_at
        return Timing(
            len(self.prompt.token_ids), self.generated, answered_at - admitted_at, now - answered_at
        )
