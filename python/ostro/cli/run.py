"""`ostro run`: talk with a model, or ask it one thing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.cli.model import (
    CoarseHead,
    Compute,
    Context,
    GgufFile,
    KvDtype,
    Mmproj,
    ModelArgument,
    ModelOption,
    ModelSource,
    PanAndScan,
    Repack,
    Threads,
    TokenizerSource,
    open_host,
    runtime_config,
)
from ostro.cli.quantization import (
    Calibration,
    Imatrix,
    Isq,
    IsqCache,
    IsqVision,
    Quantization,
    Topology,
)
from ostro.cli.settings import Settings

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions


def run(
    ctx: typer.Context,
    model: ModelArgument = None,
    model_option: ModelOption = None,
    file: GgufFile = None,
    mmproj: Mmproj = None,
    tok_model_id: TokenizerSource = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Answer this and stop; `-` reads it from stdin.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE_OR_URL",
            help="An image before the prompt, or the chat's first message; repeatable.",
            show_default=False,
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt's text, without chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="What the model should keep to.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0: always the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Choose among this many tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Choose within this probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Drop tokens this much less likely.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Tell tok/s on stderr after each answer.")] = False,
    isq: Isq = None,
    isq_vision: IsqVision = True,
    isq_cache: IsqCache = None,
    topology: Topology = None,
    imatrix: Imatrix = None,
    calibration_file: Calibration = None,
    threads: Threads = 0,
    context: Context = None,
    compute: Compute = "auto",
    kv_dtype: KvDtype = None,
    repack: Repack = True,
    coarse_head: CoarseHead = False,
    pan_and_scan: PanAndScan = None,
) -> None:
    """Chat with a model, or with -p get one answer on stdout.

    Without MODEL it is the small vision model inside the package.
    """
    options: GlobalOptions = ctx.obj
    options.refuse_page_form("run")
    quantization = Quantization(
        isq=isq,
        vision=isq_vision,
        cache=isq_cache,
        topology=topology,
        imatrix=imatrix,
        calibration=calibration_file,
    )
    source = ModelSource.of(model, model_option, file=file, mmproj=mmproj, tok_model_id=tok_model_id)
    if prompt is None and not sys.stdin.isatty():
        prompt = "-"
    if raw and prompt is None:
        raise typer.BadParameter("there is no text to continue: give one with -p", param_hint="--raw")
    if raw and system is not None:
        raise typer.BadParameter("--raw sends the prompt alone; leave out --system", param_hint="--system")
    if raw and image:
        raise typer.BadParameter("--raw sends the prompt alone; leave out --image", param_hint="--image")
    if prompt == "-":
        prompt = sys.stdin.read()
    settings = Settings(
        system=system,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_tokens=max_tokens,
        seed=seed if seed is not None else options.seed,
    )
    runtime = runtime_config(
        options,
        threads=threads,
        context=context,
        compute=compute,
        kv_dtype=kv_dtype,
        max_seqs=1,
        repack=repack,
        coarse_head=coarse_head,
    )
    from ostro.cli.talk import Talk, read_images

    images = read_images(image or [])  # before the model, which takes longer
    with open_host(source, runtime, options, quantization=quantization, pan_and_scan=pan_and_scan) as host:
        talk = Talk(host, settings, stats=stats)
        if images:
            talk.show(images)
        if prompt is None:
            from ostro.cli.chat import Chat

            Chat(talk, host.name).loop()
        else:
            answer = talk.complete(prompt) if raw else talk.ask(prompt)
            if not answer.endswith("\n"):
                sys.stdout.write("\n")
