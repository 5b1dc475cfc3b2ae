"""mistral.rs through its Python package: `python -m benches.compare.worker_mistralrs`.

Its completions take text only, so a prompt is letters that it reads as one token each, and its own clock and
its own count of the tokens tell the speed.
"""

from __future__ import annotations

import os
import random
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import mistralrs
from benches.compare.protocol import SHORT, WorkerError, serve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOLERANCE = 0.05
"""Share by which the number of tokens that it read may differ from what was asked for."""


class MistralRs:
    def about(self) -> dict[str, str]:
        return {"version": version("mistralrs"), "build": f"{os.environ.get('RAYON_NUM_THREADS')} threads"}

    def load(self, model: Path, threads: int) -> float:
        if os.environ.get("RAYON_NUM_THREADS") != str(threads):
            raise WorkerError(f"RAYON_NUM_THREADS must be {threads} when the process starts")
        start = time.perf_counter()
        self._runner = mistralrs.Runner(
            mistralrs.Which.GGUF(str(model.parent), model.name), prefix_cache_n=0, max_seqs=8
        )
        self._complete(self._text(SHORT, 0), 1)
        return time.perf_counter() - start

    def prefill(self, ids: Sequence[int]) -> float:
        usage = self._complete(self._text(len(ids), sum(ids)), 1)
        self._check(usage, len(ids))
        return float(usage.prompt_tokens / usage.total_prompt_time_sec)

    def decode(self, ids: Sequence[int], tokens: int) -> float:
        usage = self._complete(self._text(len(ids), sum(ids)), tokens + 1)
        if len(ids) > SHORT:
            self._check(usage, len(ids))
        return tokens / float(usage.total_completion_time_sec)

    def streams(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        # Calls at the same time fail ("Already borrowed"), and so do several answers to a prompt of more than
        # one token ("input tensor is not contiguous").
        usage = self._complete("\n", tokens + 1, answers=len(prompts))
        return len(prompts) * tokens / float(usage.total_completion_time_sec)

    def _complete(self, text: str, tokens: int, answers: int = 1) -> Any:
        request = mistralrs.CompletionRequest(
            prompt=text,
            model="default",
            max_tokens=tokens,
            n_choices=answers,
            temperature=0.0,
            ignore_eos=True,
        )
        usage = self._runner.send_completion_request(request).usage
        if usage.completion_tokens not in {tokens, tokens * answers}:
            raise WorkerError(f"wrote {usage.completion_tokens} tokens instead of {tokens}")
        return usage

    @staticmethod
    def _text(tokens: int, seed: int) -> str:
        return " ".join(random.Random(seed).choices(LETTERS, k=tokens))

    @staticmethod
    def _check(usage: Any, tokens: int) -> None:
        if abs(usage.prompt_tokens - tokens) > TOLERANCE * tokens:
            raise WorkerError(f"read {usage.prompt_tokens} tokens where {tokens} were meant")


if __name__ == "__main__":
    serve(MistralRs())
