"""`ostro quantize --imatrix`, `--calibrate` and `--report`: what they read, compute and show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.evaluation import Model
    from ostro.quant.importance import Importance
    from ostro.quant.report import QuantizationReport


def calibrate(model: Model, path: Path, *, chunk: int, max_chunks: int | None = None) -> Importance:
    """The importance of a source model's columns for the text in a file, with a bar on a terminal."""
    from ostro.cli.progress import counter
    from ostro.quant.calibration_text import read_text

    text = read_text(path)
    with counter(f"calibrating on {path.name}, tokens") as progress:
        return model.calibrate(text, chunk=chunk, max_chunks=max_chunks, name=path.name, progress=progress)


def load_importance(path: Path, model: Model) -> Importance:
    """The importance matrix in a file of llama.cpp's or mistral.rs's; BadTensor unless it fits the model."""
    from ostro.quant.imatrix import read_imatrix

    importance = read_imatrix(path)
    importance.check_widths({name: matrix.cols for name, matrix in model.matrices()}, str(path))
    return importance


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
