"""Speed of a loaded model: how many tokens per second it reads and writes.

Knows nothing about text: prompts are random token ids, every answer runs to its full length.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from ostro.errors import EngineError
from ostro.types import Event, Prompt, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ostro.types import Timing

ORDINARY = 1000
"""Gemma's control tokens, byte pieces and whitespace runs have ids below this."""


class Loop(Protocol):
    """What is measured: takes prompts, calls back with events."""

    def submit(self, prompt: Prompt, sampling: Sampling, sink: Callable[[Event], None]) -> object:
        """Start a sequence; `sink` gets its events."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of the measured runs."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, rates: Sequence[float]) -> Rates:
        """Summary of at least one run."""
        return cls(statistics.median(rates), min(rates), max(rates))


class Bench:
    """Runs sequences one at a time on an idle loop.

    bos_id starts each prompt. The other ids are drawn from the ordinary ones below `vocab_size`: repeatably,
    yet anew in each run, so that nothing remembered of an earlier prompt can help.
    """

    def __init__(self, loop: Loop, *, bos_id: int, vocab_size: int, seed: int = 0) -> None:
        self._loop = loop
        self._bos_id = bos_id
        self._ids = range(min(ORDINARY, vocab_size // 2), vocab_size)
        self._random = random.Random(seed)

    def prefill(self, tokens: int, depth: int = 0) -> float:
        """Tokens per second while reading `tokens` tokens after `depth` others."""
        before = self._run(depth, 1).prompt_seconds if depth else 0.0
        return tokens / max(self._run(depth + tokens, 1).prompt_seconds - before, 1e-9)

    def decode(self, tokens: int, depth: int = 0) -> float:
        """Tokens per second while writing `tokens` tokens after `depth` others."""
        # The first token comes out of the prompt's own step; the clock of the others starts there.
        timing = self._run(max(depth, 1), tokens + 1)
        return tokens / max(timing.completion_seconds, 1e-9)

    def _run(self, prompt_tokens: int, answer_tokens: int) -> Timing:
        ids = (self._bos_id, *self._random.choices(self._ids, k=prompt_tokens - 1))
        sampling = Sampling(temperature=0.0, max_tokens=answer_tokens, ignore_eos=True)
        events: SimpleQueue[Event] = SimpleQueue()
        self._loop.submit(Prompt(ids), sampling, events.put)
        while (event := events.get()).finish_reason is None:
            pass
        if event.error is not None:
            raise event.error
        if event.timing is None or event.timing.completion_tokens != answer_tokens:
            got = event.timing.completion_tokens if event.timing else 0
            raise EngineError(
                f"the engine ended a run after {got} of {answer_tokens} tokens ({event.finish_reason})"
            )
        return event.timing
