"""ostro itself: `python -m benches.compare.worker_ostro`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from benches.compare.protocol import SHORT, WorkerError, prompt_ids, serve

# What `load` imports: rows of loading begin with libraries imported.
import ostro.host_loading
import ostro.prompt.gguf_tokenizer  # noqa: F401
from ostro.config import RuntimeConfig
from ostro.host import ModelHost
from ostro.types import Event, Prompt, Sampling
from ostro.version import ostro_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ostro.types import Timing


@dataclass(frozen=True)
class Arrival:
    """An event and when it came, on the clock of perf_counter."""

    stream: int
    time: float
    event: Event


class Ostro:
    _host: ModelHost | None = None

    def about(self) -> dict[str, str]:
        hardware = {} if self._host is None else self._host.describe()
        return {"version": ostro_version(), "build": ", ".join(f"{k} {v}" for k, v in hardware.items())}

    def load(self, model: Path, threads: int) -> float:
        start = time.perf_counter()
        self._host = ModelHost.load(model, RuntimeConfig(threads=threads))
        self._run([prompt_ids(0, SHORT)], 1)
        seconds = time.perf_counter() - start
        # Weights are moved meanwhile, which others do before the first token.
        self._host.loop.await_chore()
        return seconds

    def prefill(self, ids: Sequence[int]) -> float:
        return len(ids) / self._timing(ids, 1).prompt_seconds

    def decode(self, ids: Sequence[int], tokens: int) -> float:
        return tokens / self._timing(ids, tokens + 1).completion_seconds

    def streams(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        # The clock of the stream that began last, until the first one ends: all of them write in that time.
        arrivals = self._run(prompts, tokens + 1)
        times: dict[int, list[float]] = {}
        for arrival in arrivals:
            times.setdefault(arrival.stream, []).append(arrival.time)
        last = max(times.values(), key=lambda own: own[0])
        end = min(own[-1] for own in times.values())
        steps = [time for time in last if time < end or len(prompts) == 1]
        if len(steps) < 2:
            raise WorkerError(f"the {len(prompts)} sequences did not write at the same time")
        return len(prompts) * (len(steps) - 1) / (steps[-1] - steps[0])

    def _timing(self, ids: Sequence[int], tokens: int) -> Timing:
        timing = self._run([ids], tokens)[-1].event.timing
        if timing is None:
            raise WorkerError("the last event has no timing")
        return timing

    def _run(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Arrival]:
        """All events of sequences that begin together and write `tokens` tokens each, in order of arrival."""
        if self._host is None:
            raise WorkerError("no model is loaded")
        sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        queue: SimpleQueue[Arrival] = SimpleQueue()

        def arrive(stream: int, event: Event) -> None:
            queue.put(Arrival(stream, time.perf_counter(), event))

        for stream, ids in enumerate(prompts):
            self._host.loop.submit(Prompt(tuple(ids)), sampling, partial(arrive, stream))
        arrivals: list[Arrival] = []
        ended = 0
        while ended < len(prompts):
            arrival = queue.get()
            arrivals.append(arrival)
            if arrival.event.error is not None:
                raise arrival.event.error
            if arrival.event.finish_reason is not None:
                ended += 1
        written = sum(len(arrival.event.token_ids) for arrival in arrivals)
        if written != tokens * len(prompts):
            raise WorkerError(f"wrote {written} tokens instead of {tokens * len(prompts)}")
        return arrivals


if __name__ == "__main__":
    serve(Ostro())
