"""llama.cpp through the ctypes interface of llama-cpp-python: `python -m benches.compare.worker_llama 0|1`.

The argument is `use_extra_bufts`: whether weights are repacked while loading. All else is as llama-server has
it: f16 KV, flash attention where it can, 512 tokens per step, window-sized KV for local layers. Tokens are
drawn at random instead of sampled, as in llama-bench, which costs llama.cpp nothing.
"""

from __future__ import annotations

import random
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import llama_cpp as lib
from benches.compare.protocol import ORDINARY, SHORT, VOCABULARY, prompt_ids, serve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONTEXT = 4096
"""Of the context that most tasks share."""
BATCH = 2048


SILENT = lib.llama_log_callback(lambda *_: None)


class Context:
    """A llama_context for `streams` sequences of up to `length` tokens each."""

    def __init__(self, model: Any, *, threads: int, length: int, streams: int = 1) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = length * streams, streams
        params.n_batch, params.n_ubatch = BATCH, 512
        params.n_threads = params.n_threads_batch = threads
        params.swa_full = False
        self._context = lib.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError(f"llama_init_from_model failed for {streams} x {length} tokens")
        self._batch = lib.llama_batch_init(BATCH, 0, 1)

    def clear(self) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)

    def read(self, ids: Sequence[int]) -> None:
        """Append `ids` to the first sequence, in as few calls as can be; waits for the last one's logits."""
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            array = (lib.llama_token * len(part))(*part)
            self._check(lib.llama_decode(self._context, lib.llama_batch_get_one(array, len(part))))
        lib.llama_synchronize(self._context)

    def step(self, ids: Sequence[int], position: int) -> None:
        """Append ids[s], at `position`, to sequence s; waits for the logits of all."""
        batch = self._batch
        batch.n_tokens = len(ids)
        for stream, token in enumerate(ids):
            batch.token[stream], batch.pos[stream] = token, position
            batch.n_seq_id[stream], batch.seq_id[stream][0] = 1, stream
            batch.logits[stream] = True
        self._check(lib.llama_decode(self._context, batch))
        lib.llama_synchronize(self._context)

    def close(self) -> None:
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise RuntimeError(f"llama_decode returned {status}")


class LlamaCpp:
    def __init__(self, *, repack: bool) -> None:
        lib.llama_log_set(SILENT, None)
        lib.llama_backend_init()
        self._repack = repack
        self._random = random.Random(0)

    def about(self) -> dict[str, str]:
        return {
            "version": version("llama-cpp-python"),
            "build": lib.llama_print_system_info().decode().strip(),
        }

    def load(self, model: Path, threads: int) -> float:
        start = time.perf_counter()
        params = lib.llama_model_default_params()
        params.use_extra_bufts, params.n_gpu_layers = self._repack, 0
        self._model = lib.llama_model_load_from_file(str(model).encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self._threads = threads
        self._context = Context(self._model, threads=threads, length=CONTEXT)
        self._context.read(prompt_ids(0, SHORT))
        return time.perf_counter() - start

    def prefill(self, ids: Sequence[int]) -> float:
        self._context.clear()
        start = time.perf_counter()
        self._context.read(ids)
        return len(ids) / (time.perf_counter() - start)

    def decode(self, ids: Sequence[int], tokens: int) -> float:
        if len(ids) + tokens <= CONTEXT:
            return self._decode(self._context, ids, tokens)
        context = Context(self._model, threads=self._threads, length=len(ids) + tokens)
        try:
            return self._decode(context, ids, tokens)
        finally:
            context.close()

    def _decode(self, context: Context, ids: Sequence[int], tokens: int) -> float:
        context.clear()
        context.read(ids)
        start = time.perf_counter()
        for _ in range(tokens):
            context.read(self._draw(1))
        return tokens / (time.perf_counter() - start)

    def streams(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        count, begin = len(prompts), len(prompts[0])
        context = Context(self._model, threads=self._threads, length=512, streams=count)
        try:
            for position in range(begin):
                context.step([ids[position] for ids in prompts], position)
            start = time.perf_counter()
            for position in range(begin, begin + tokens):
                context.step(self._draw(count), position)
            return count * tokens / (time.perf_counter() - start)
        finally:
            context.close()

    def _draw(self, count: int) -> list[int]:
        return self._random.choices(range(ORDINARY, VOCABULARY), k=count)


if __name__ == "__main__":
    serve(LlamaCpp(repack=sys.argv[1] == "1"))
