"""`ostro quantize`: a model as GGUF files that llama.cpp loads, too, or as UQFF files of mistral.rs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.cli.model import GgufFile, ModelArgument, ModelSource, Threads, TokenizerSource
from ostro.cli.quantization import Imatrix, IsqVision, Topology

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions

ModelOption = Annotated[str | None, typer.Option("--model-id", "--model", "-m", help="The same as MODEL.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The .gguf or .uqff file to write.", show_default=False
    ),
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
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        "--calibration-file",
        exists=True,
        dir_okay=False,
        help="A text to find out which columns matter.",
    ),
]
SaveImatrix = Annotated[
    Path | None,
    typer.Option("--save-imatrix", metavar="FILE", help="Keep what --calibrate found, as llama.cpp does."),
]
Report = Annotated[
    bool, typer.Option("--report", help="Afterwards, compare the weights with those of the source.")
]
ReportText = Annotated[
    Path | None,
    typer.Option(
        "--report-text", exists=True, dir_okay=False, help="Also compare the answers, on this text."
    ),
]
ReportJson = Annotated[
    Path | None, typer.Option("--report-json", metavar="FILE", help="Also write the report to this file.")
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
    calibrate: Calibrate = None,
    save_imatrix: SaveImatrix = None,
    mmproj: WithMmproj = False,
    mmproj_output: MmprojOutput = None,
    mmproj_input: MmprojInput = None,
    tok_model_id: TokenizerSource = None,
    tokenizer_json: TokenizerJson = None,
    threads: Threads = 0,
    report: Report = False,
    report_text: ReportText = None,
    report_json: ReportJson = None,
) -> None:
    """Write a model down, quantized or as it is: GGUF for ostro and llama.cpp, or UQFF for mistral.rs."""
    options: GlobalOptions = ctx.obj
    options.refuse_page_form("quantize")
    if argument is None and model is None:
        raise typer.BadParameter("which model? Give a .gguf file, a folder or a hub id", param_hint="MODEL")
    if save_imatrix is not None and calibrate is None:
        raise typer.BadParameter(
            "it keeps what --calibrate finds: give that, too", param_hint="--save-imatrix"
        )
    source = ModelSource.of(argument, model, file=file, mmproj=mmproj_input, tok_model_id=tok_model_id)
    if mmproj and mmproj_output is None:
        mmproj_output = output.with_name(f"mmproj-{output.name}")
    is_uqff = _check_names(output, mmproj_output)
    from ostro.config import IsqConfig
    from ostro.isq_names import isq_name

    wanted = IsqConfig(
        name=None if isq is None else isq_name(isq),
        topology=topology,
        vision=isq_vision,
        imatrix=imatrix,
        calibration=calibrate,
    )
    if not wanted.wanted and (imatrix or calibrate) is not None:
        raise typer.BadParameter(
            "it says how to quantize: give --isq, too", param_hint="--imatrix or --calibrate"
        )

    from ostro.cli.quantized_file import open_source, write
    from ostro.ops.cpu import CpuOps

    ops = CpuOps(threads)
    checkpoint = open_source(source, tokenizer_json, options.token_source)
    importance = write(checkpoint, output, mmproj_output, wanted, ops, save_imatrix=save_imatrix)
    if checkpoint.config.vision is not None and mmproj_output is None and not is_uqff:
        typer.echo("the model also reads images; --mmproj writes that half, too", err=True)
    if report or report_text is not None or report_json is not None:
        from ostro.cli.quantization_report import show_report

        show_report(
            checkpoint,
            output,
            mmproj_output,
            ops,
            text=report_text,
            json=report_json,
            importance=importance,
        )


def _check_names(output: Path, mmproj: Path | None) -> bool:
    """Whether UQFF is wanted; usage error for names that are neither."""
    suffix = output.suffix.lower()
    if suffix not in (".gguf", ".uqff"):
        raise typer.BadParameter(f"{output} ends neither in .gguf nor in .uqff", param_hint="-o")
    if mmproj is not None and suffix == ".uqff":
        raise typer.BadParameter("UQFF files have both halves in them", param_hint="--mmproj")
    if mmproj is not None and mmproj.suffix.lower() != ".gguf":
        raise typer.BadParameter(f"{mmproj} does not end in .gguf", param_hint="--mmproj-output")
    return suffix == ".uqff"
