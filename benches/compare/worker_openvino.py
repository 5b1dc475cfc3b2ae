"""OpenVINO GenAI through its Python package: `python -m benches.compare.worker_openvino`.

The model is an int4 folder of the same shape (see `random_openvino`). Prompts are token ids, and the pipeline
is that of continuous batching, on which LLMPipeline runs, too. Settings are the defaults, but a whole prompt
is read in one step, as LLMPipeline has it. Tokens are the best ones, and our clock runs from step to step.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import openvino
import openvino_genai as genai
from benches.compare.protocol import SHORT, WorkerError, prompt_ids, serve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WHOLE_PROMPT = 1 << 20
"""Tokens of a step: more than any prompt has."""


class OpenVino:
    def about(self) -> dict[str, str]:
        can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return {
            "version": version("openvino-genai"),
            "build": f"OpenVINO {openvino.get_version()}; {' '.join(can)}",
        }

    def load(self, model: Path, threads: int) -> float:
        if not model.is_dir():
            raise WorkerError(f"there is no int4 model of {model.name}")
        start = time.perf_counter()
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = WHOLE_PROMPT
        self._pipeline = genai.ContinuousBatchingPipeline(
            str(model), scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
        self._requests = 0
        self._write([prompt_ids(0, SHORT)], 1)
        return time.perf_counter() - start

    def prefill(self, ids: Sequence[int]) -> float:
        return len(ids) / self._write([ids], 1)[0]

    def decode(self, ids: Sequence[int], tokens: int) -> float:
        return tokens / self._write([ids], tokens + 1)[1]

    def streams(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        return len(prompts) * tokens / self._write(prompts, tokens + 1)[1]

    def _write(self, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        """Write `tokens` tokens behind each prompt: seconds up to the first ones, and for the others."""
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos = True
        config.set_eos_token_id(1)
        start = time.perf_counter()
        answers = []
        for ids in prompts:
            batch = openvino.Tensor(np.array([ids], np.int64))
            answers.append(self._pipeline.add_request(self._requests, batch, config))
            self._requests += 1
        # All prompts are read in one step, and every step writes a token of each sequence.
        self._pipeline.step()
        first = time.perf_counter()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        end = time.perf_counter()
        counts = {len(output.generated_ids) for answer in answers for output in answer.read_all()}
        if counts != {tokens}:
            raise WorkerError(f"wrote {sorted(counts)} tokens instead of {tokens}")
        return first - start, end - first


if __name__ == "__main__":
    serve(OpenVino())
