"""What is measured: the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Task = Literal["load", "memory", "prefill", "decode", "streams"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. tokens: to read, or None for as many as this model writes in a decode measurement.

    depth: tokens in the context before. once: one sample tells everything.
    """

    name: str
    title: str
    task: Task
    tokens: int | None = None
    depth: int = 0
    streams: int = 1
    once: bool = False

    @property
    def unit(self) -> str:
        return {"load": "s", "memory": "GB"}.get(self.task, "tok/s")

    @property
    def less_is_better(self) -> bool:
        return self.task in {"load", "memory"}

    @property
    def scale(self) -> float:
        """A worker's value times this is in `unit`."""
        return 1e-9 if self.task == "memory" else 1.0

    def request(self, *, decode_tokens: int, seed: int) -> dict[str, Any]:
        """What to ask a worker for, see `protocol`; not for loading."""
        tokens = decode_tokens if self.tokens is None else self.tokens
        return {
            "task": self.task,
            "tokens": tokens,
            "depth": self.depth,
            "streams": self.streams,
            "seed": seed,
        }

    def tokens_to_read(self) -> int:
        """Tokens that go in before the first one comes out."""
        return self.depth + ((self.tokens or 0) if self.task == "prefill" else 0)


ROWS = {
    row.name: row
    for row in (
        Row(name="load", title="load to first token", task="load"),
        Row(name="memory", title="peak memory, 4k context", task="memory", tokens=16, depth=4096, once=True),
        Row(name="prefill128", title="prefill 128", task="prefill", tokens=128),
        Row(name="prefill512", title="prefill 512", task="prefill", tokens=512),
        Row(name="prefill2048", title="prefill 2048", task="prefill", tokens=2048),
        Row(name="decode0", title="decode, empty context", task="decode"),
        Row(name="decode1k", title="decode after 1k", task="decode", depth=1024),
        Row(name="decode8k", title="decode after 8k", task="decode", depth=8192),
        Row(name="streams1", title="decode, 1 stream", task="streams", streams=1),
        Row(name="streams4", title="decode, 4 streams", task="streams", streams=4),
        Row(name="streams8", title="decode, 8 streams", task="streams", streams=8),
    )
}
"""In the order in which they are measured: memory comes right after loading, before the process has grown."""
