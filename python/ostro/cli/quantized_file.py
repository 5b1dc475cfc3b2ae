"""From a model to a file of it in other number formats: what `ostro quantize` does."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ostro.cli.progress import bars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ostro.cli.model import ModelSource
    from ostro.config import IsqConfig
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.loading.gguf_writer import Part
    from ostro.ops.cpu import CpuOps
    from ostro.quant.importance import Importance


def open_source(source: ModelSource, tokenizer_json: str | None, token_source: str) -> Checkpoint:
    """The model that the command line names, its weights unread."""
    from ostro.loading.open import open_checkpoint

    found = source.which().source()
    with bars() as progress:
        return open_checkpoint(
            found.model,
            gguf_file=found.gguf_file,
            mmproj_file=found.mmproj_file,
            tokenizer_json=found.tokenizer_json if tokenizer_json is None else Path(tokenizer_json),
            tok_model_id=found.tok_model_id,
            token_source=token_source,
            progress=progress,
        )


def write(
    checkpoint: Checkpoint,
    output: Path,
    mmproj: Path | None,
    isq: IsqConfig,
    ops: CpuOps,
    *,
    save_imatrix: Path | None,
) -> Importance | None:
    """Write the model as `isq` says, and tell sizes and times; returns the importance that was used.

    output: a .gguf file, of the text half, or a .uqff file, of both. mmproj: a .gguf file for the image half.
    save_imatrix: where the importance is written to.
    """
    from ostro.asked_importance import importance_of
    from ostro.loading.mmproj_export import image_half

    if mmproj is not None:
        image_half(checkpoint, mmproj)  # to say soon that there is none
    with bars() as progress:
        importance = importance_of(checkpoint, isq, ops, progress) if isq.wanted else None
        if save_imatrix is not None and importance is not None:
            from ostro.quant.imatrix import write_imatrix

            write_imatrix(importance, save_imatrix)
        if output.suffix.lower() == ".uqff":
            _write_uqff(checkpoint, output, isq, ops, importance, progress)
        else:
            _write_gguf(checkpoint, output, mmproj, isq, ops, importance, progress)
    return importance


def _write_uqff(
    checkpoint: Checkpoint,
    output: Path,
    isq: IsqConfig,
    ops: CpuOps,
    importance: Importance | None,
    progress: Progress | None,
) -> None:
    from ostro.loading.uqff_writer import write_uqff
    from ostro.quant.in_situ import quantize_in_situ

    started = time.perf_counter()
    if isq.wanted:
        checkpoint = quantize_in_situ(checkpoint, isq, ops, importance=importance, progress=progress)
    for path in write_uqff(checkpoint, None, output, progress):
        _tell(path, time.perf_counter() - started)


def _write_gguf(
    checkpoint: Checkpoint,
    output: Path,
    mmproj: Path | None,
    isq: IsqConfig,
    ops: CpuOps,
    importance: Importance | None,
    progress: Progress | None,
) -> None:
    from ostro.loading.gguf_export import export_text
    from ostro.loading.mmproj_export import export_mmproj

    checkpoint, parts = _quantized(checkpoint, isq, ops, importance)
    _timed(partial(export_text, checkpoint, output, quantized=parts, progress=progress), output)
    if mmproj is not None:
        _timed(partial(export_mmproj, checkpoint, mmproj, quantized=parts, progress=progress), mmproj)


def _quantized(
    checkpoint: Checkpoint, isq: IsqConfig, ops: CpuOps, importance: Importance | None
) -> tuple[Checkpoint, Mapping[str, Part]]:
    """The tensors that change their format, each made when it is written, and the checkpoint for the rest."""
    if not isq.wanted:
        return checkpoint, {}
    from ostro.loading.mmproj_export import UNQUANTIZED
    from ostro.quant.plan import plan
    from ostro.quant.streamed import streamed
    from ostro.quant.topology import read_topology

    topology = None if isq.topology is None else read_topology(isq.topology)
    formats = {
        name: format
        for name, format in plan(checkpoint, isq.name, topology=topology, vision=isq.vision).items()
        if name not in UNQUANTIZED
    }
    if not formats:
        typer.echo(f"{checkpoint.name} is stored in as few bits already; it is written as it is", err=True)
        return checkpoint, {}
    return streamed(checkpoint, formats, ops, importance=importance)


def _timed(write: Callable[[], None], path: Path) -> None:
    started = time.perf_counter()
    write()
    _tell(path, time.perf_counter() - started)


def _tell(path: Path, seconds: float) -> None:
    typer.echo(f"{path}: {path.stat().st_size / 1e6:,.1f} MB in {seconds:.1f} s")
