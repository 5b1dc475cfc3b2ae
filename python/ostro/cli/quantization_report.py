"""`ostro quantize --report`: what quantization cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.evaluation import Model
    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.cpu import CpuOps
    from ostro.quant.importance import Importance
    from ostro.quant.report import QuantizationReport


def measure(
    source: Model,
    quantized: Model,
    *,
    text: Path | None = None,
    importance: Importance | None = None,
    chunk: int = 512,
    max_chunks: int | None = None,
) -> QuantizationReport:
    """Compare a quantized model with its source, on the text of a file too if one is named.

    For a report about weights alone both models should compute with compute="f32": otherwise differences
    include what rounding activations does to each of them.
    """
    from ostro.cli.progress import counter
    from ostro.quant.calibration_text import read_text
    from ostro.quant.report import QuantizationReport, compare_logits, compare_weights
    from ostro.quant.windows import windows

    pieces = None
    if text is not None:
        pieces = windows(source.encode(read_text(text)), source.config.bos_token_id, chunk, max_chunks)
    with counter("comparing weights") as progress:
        kinds = compare_weights(source.matrices(), quantized.matrices(), importance, progress)
    if pieces is None:
        return QuantizationReport(kinds=kinds)
    with counter("comparing answers, tokens") as progress:
        return QuantizationReport(kinds=kinds, divergence=compare_logits(source, quantized, pieces, progress))


def show_report(
    source: Checkpoint,
    written: Path,
    mmproj: Path | None,
    ops: CpuOps,
    *,
    text: Path | None,
    json: Path | None,
    importance: Importance | None,
) -> None:
    """Compare files that were written with what they were made of, and show it on stdout.

    text: file on which answers are compared, too. json: file to which the report is written as well.
    """
    from rich.console import Console

    from ostro.evaluation import Model
    from ostro.loading.open import open_checkpoint
    from ostro.quant.report_table import render

    if written.suffix.lower() == ".uqff":
        quantized = open_checkpoint(written.parent, uqff_files=(written.name,))
    else:
        quantized = open_checkpoint(written, mmproj_file=None if mmproj is None else str(mmproj))
    report = measure(Model(source, ops), Model(quantized, ops), text=text, importance=importance)
    Console().print(render(report))
    if json is not None:
        json.write_text(report.to_json() + "\n", encoding="utf-8")
