"""`ostro quantize`: a model as GGUF files that llama.cpp loads, too."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.cli.model import GgufFile, ModelArgument, ModelSource, Threads, TokenizerSource
from ostro.cli.quantization import Calibration, Imatrix, IsqVision, Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ostro.cli.options import GlobalOptions
    from ostro.config import IsqConfig
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.loading.gguf_writer import Part

ModelOption = Annotated[str | None, typer.Option("--model-id", "--model", "-m", help="The same as MODEL.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The .gguf file to write.", show_default=False)
]
WithMmproj = Annotated[
    bool, typer.Option("--mmproj", help="Also write the image half: mmproj-FILE beside FILE.")
]
MmprojOutput = Annotated[
    Path | None,
    typer.Option("--mmproj-output", metavar="FILE", help="Also write the image half, to this file."),
]
MmprojInput = Annotated[
    str | None,
    typer.Option("--mmproj-input", metavar="FILE", help="The .gguf file with the image half of MODEL."),
]
TokenizerJson = Annotated[
    str | None, typer.Option("--tokenizer-json", metavar="FILE", help="Another tokenizer.json.")
]
Isq = Annotated[
    str | None, typer.Option(help="The number format, e.g. Q4K or 4; without it, that of the model's files.")
]


def quantize(
    ctx: typer.Context,
    output: Output,
    argument: ModelArgument = None,
    model: ModelOption = None,
    file: GgufFile = None,
    isq: Isq = None,
    isq_vision: IsqVision = True,
    topology: Topology = None,
    imatrix: Imatrix = None,
    calibration_file: Calibration = None,
    mmproj: WithMmproj = False,
    mmproj_output: MmprojOutput = None,
    mmproj_input: MmprojInput = None,
    tok_model_id: TokenizerSource = None,
    tokenizer_json: TokenizerJson = None,
    threads: Threads = 0,
) -> None:
    """Write a model down as a GGUF file, quantized or as it is, for ostro and llama.cpp."""
    options: GlobalOptions = ctx.obj
    options.refuse_page_form("quantize")
    if argument is None and model is None:
        raise typer.BadParameter("which model? Give a .gguf file, a folder or a hub id", param_hint="MODEL")
    for name, target in (("-o", output), ("--mmproj-output", mmproj_output)):
        if target is not None and target.suffix.lower() != ".gguf":
            raise typer.BadParameter(f"{target} does not end in .gguf", param_hint=name)
    source = ModelSource.of(argument, model, file=file, mmproj=mmproj_input, tok_model_id=tok_model_id)
    if mmproj and mmproj_output is None:
        mmproj_output = output.with_name(f"mmproj-{output.name}")
    from ostro.config import IsqConfig
    from ostro.isq_names import isq_name

    wanted = IsqConfig(
        name=None if isq is None else isq_name(isq),
        topology=topology,
        vision=isq_vision,
        imatrix=imatrix,
        calibration=calibration_file,
    )
    if not wanted.wanted and (imatrix or calibration_file) is not None:
        raise typer.BadParameter("it says how to quantize: give --isq, too", param_hint="--imatrix")

    from ostro.cli.progress import bars
    from ostro.loading.gguf_export import export_text
    from ostro.loading.mmproj_export import export_mmproj, image_half

    with bars() as progress:
        checkpoint = _open(source, tokenizer_json, options, progress)
        if mmproj_output is not None:
            image_half(checkpoint, mmproj_output)  # to say soon that there is none
        checkpoint, parts = _quantized(checkpoint, wanted, threads, progress)
        _told(partial(export_text, checkpoint, output, quantized=parts, progress=progress), output)
        if mmproj_output is not None:
            write = partial(export_mmproj, checkpoint, mmproj_output, quantized=parts, progress=progress)
            _told(write, mmproj_output)
    if checkpoint.config.vision is not None and mmproj_output is None:
        typer.echo("the model also reads images; --mmproj writes that half, too", err=True)


def _open(
    source: ModelSource, tokenizer_json: str | None, options: GlobalOptions, progress: Progress | None
) -> Checkpoint:
    from ostro.loading.open import open_checkpoint

    found = source.which().source()
    return open_checkpoint(
        found.model,
        gguf_file=found.gguf_file,
        mmproj_file=found.mmproj_file,
        tokenizer_json=found.tokenizer_json if tokenizer_json is None else Path(tokenizer_json),
        tok_model_id=found.tok_model_id,
        token_source=options.token_source,
        progress=progress,
    )


def _quantized(
    checkpoint: Checkpoint, isq: IsqConfig, threads: int, progress: Progress | None
) -> tuple[Checkpoint, Mapping[str, Part]]:
    """The tensors that change their format, each made when it is written, and the checkpoint for the rest."""
    if not isq.wanted:
        return checkpoint, {}
    from ostro.asked_importance import importance_of
    from ostro.loading.mmproj_export import UNQUANTIZED
    from ostro.ops.cpu import CpuOps
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
    ops = CpuOps(threads)
    return streamed(checkpoint, formats, ops, importance=importance_of(checkpoint, isq, ops, progress))


def _told(write: Callable[[], None], path: Path) -> None:
    """Write a file, then say how large it is and how long it took."""
    started = time.perf_counter()
    write()
    seconds = time.perf_counter() - started
    typer.echo(f"{path}: {path.stat().st_size / 1e6:,.1f} MB in {seconds:.1f} s")
