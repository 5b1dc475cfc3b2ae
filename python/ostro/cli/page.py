"""`plain`, `vision-plain` and `gguf`: the page's form, with global options before the command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.cli import image_rules
from ostro.cli.model import ModelSource, open_host, runtime_config
from ostro.cli.quantization import Quantization, Topology
from ostro.cli.serve import LOCAL, check_address, serve_host

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions

ModelId = Annotated[str, typer.Option("--model-id", "-m", help="Hub id or folder.")]
Arch = Annotated[str | None, typer.Option("--arch", "-a", help="gemma3; may be left out.")]
Tokenizer = Annotated[str | None, typer.Option("--tokenizer-json", help="Another tokenizer.json.")]
PlainTokenizer = Annotated[str | None, typer.Option("--tokenizer-json", "-t", help="Another tokenizer.json.")]
Dtype = Annotated[str, typer.Option("--dtype", "-d", help="auto: as the file has it.")]
Cache = Annotated[str | None, typer.Option("--hf-cache-path", help="Folder of downloaded models.")]
MaxSeqLen = Annotated[
    int | None, typer.Option("--max-seq-len", min=1, help="Longest prompt plus answer, in tokens.")
]
PageImatrix = Annotated[Path | None, typer.Option("--imatrix", "-i", exists=True, dir_okay=False)]
PageCalibration = Annotated[
    Path | None, typer.Option("--calibration-file", "-c", exists=True, dir_okay=False)
]
FromUqff = Annotated[
    str | None, typer.Option("--from-uqff", "-f", help="The .uqff file in it; several with ; between them.")
]
WriteUqff = Annotated[
    str | None, typer.Option("--write-uqff", "-w", help="Write the quantized model as FOLDER/NAME.uqff.")
]
Ignored = Annotated[str | None, typer.Option(hidden=True)]

ARCHITECTURES = {"gemma3", "gemma3text", "gemma3_text"}


def plain(
    ctx: typer.Context,
    model_id: ModelId,
    arch: Arch = None,
    tokenizer_json: PlainTokenizer = None,
    dtype: Dtype = "auto",
    from_uqff: FromUqff = None,
    write_uqff: WriteUqff = None,
    max_seq_len: MaxSeqLen = None,
    hf_cache_path: Cache = None,
    topology: Topology = None,
    imatrix: PageImatrix = None,
    calibration_file: PageCalibration = None,
) -> None:
    """Serve (--port) or chat with (-i) a text model of the hub or of a folder."""
    check(arch, dtype)
    source = ModelSource(
        model=model_id,
        tokenizer_json=tokenizer_json,
        cache=hf_cache_path,
        from_uqff=from_uqff,
        write_uqff=write_uqff,
    )
    go(
        ctx,
        source,
        "plain",
        max_seq_len,
        topology=topology,
        imatrix=imatrix,
        calibration=calibration_file,
    )


def vision_plain(
    ctx: typer.Context,
    model_id: ModelId,
    arch: Arch = None,
    tokenizer_json: PlainTokenizer = None,
    dtype: Dtype = "auto",
    from_uqff: FromUqff = None,
    write_uqff: WriteUqff = None,
    max_seq_len: MaxSeqLen = None,
    hf_cache_path: Cache = None,
    topology: Topology = None,
    imatrix: PageImatrix = None,
    calibration_file: PageCalibration = None,
    max_batch_size: Ignored = None,
    max_num_images: Ignored = None,
    max_image_length: Ignored = None,
    max_edge: Annotated[str | None, typer.Option("--max-edge", "-e", hidden=True)] = None,
) -> None:
    """Serve (--port) or chat with (-i) a model that reads images and text."""
    # They size buffers that grow by themselves here, and images that Gemma 3 wants in one size.
    del max_batch_size, max_num_images, max_image_length, max_edge
    check(arch, dtype)
    source = ModelSource(
        model=model_id,
        tokenizer_json=tokenizer_json,
        cache=hf_cache_path,
        from_uqff=from_uqff,
        write_uqff=write_uqff,
    )
    go(
        ctx,
        source,
        "vision-plain",
        max_seq_len,
        topology=topology,
        imatrix=imatrix,
        calibration=calibration_file,
    )


def gguf(
    ctx: typer.Context,
    quantized_model_id: Annotated[str, typer.Option("--quantized-model-id", "-m", help="Folder or hub id.")],
    quantized_filename: Annotated[
        str, typer.Option("--quantized-filename", "-f", help="The .gguf file in it.")
    ],
    tok_model_id: Annotated[
        str | None,
        typer.Option("--tok-model-id", "-t", help="Take the tokenizer from this folder or hub id."),
    ] = None,
    mmproj_filename: Annotated[
        str | None,
        typer.Option(
            "--mmproj-filename", help="The .gguf file with the image half: a name in it, or a path."
        ),
    ] = None,
    tokenizer_json: Tokenizer = None,
    max_seq_len: MaxSeqLen = None,
    hf_cache_path: Cache = None,
    topology: Topology = None,
    imatrix: PageImatrix = None,
    calibration_file: PageCalibration = None,
) -> None:
    """Serve (--port) or chat with (-i) a GGUF file."""
    source = ModelSource(
        model=quantized_model_id,
        file=quantized_filename,
        mmproj=mmproj_filename,
        tok_model_id=tok_model_id,
        tokenizer_json=tokenizer_json,
        cache=hf_cache_path,
    )
    go(
        ctx,
        source,
        "gguf",
        max_seq_len,
        topology=topology,
        imatrix=imatrix,
        calibration=calibration_file,
    )


def check(arch: str | None, dtype: str) -> None:
    """Usage error for another architecture or number format."""
    if arch is not None and arch.lower() not in ARCHITECTURES:
        raise typer.BadParameter(f"{arch} is not known; ostro runs gemma3", param_hint="-a")
    if dtype.lower() not in {"auto", "f32", "bf16", "f16"}:
        raise typer.BadParameter(f"{dtype} is not one of auto, f32, f16, bf16", param_hint="-d")


def go(
    ctx: typer.Context,
    source: ModelSource,
    command: str,
    context: int | None,
    *,
    topology: Path | None,
    imatrix: Path | None,
    calibration: Path | None,
) -> None:
    """Serve or chat, as the global options say; usage error if they say neither."""
    options: GlobalOptions = ctx.obj
    quantization = Quantization(isq=options.isq, topology=topology, imatrix=imatrix, calibration=calibration)
    if options.port is None and not options.interactive:
        raise typer.BadParameter(
            f"nothing to do: add --port 1234 before `{command}` to serve HTTP, or -i to chat",
            param_hint="--port",
        )
    runtime = runtime_config(options, context=context, max_seqs=options.max_seqs or 16)
    address = options.serve_ip or LOCAL
    if options.interactive:
        from ostro.cli.chat import Chat
        from ostro.cli.settings import Settings
        from ostro.cli.talk import Talk

        with open_host(source, runtime, options, quantization=quantization) as host:
            Chat(Talk(host, Settings(seed=options.seed)), host.name).loop()
    elif options.port is not None:
        images = image_rules.access(local=check_address(address, options.port))
        host = open_host(source, runtime, options, quantization=quantization, images=images)
        serve_host(host, address, options.port)
