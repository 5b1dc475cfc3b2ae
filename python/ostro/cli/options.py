"""Global options: what stands before the command's name.

The page's form `ostro --port 1234 --isq Q4K vision-plain -m ID` keeps there everything but the model's files;
everyday commands take only `--seed`, `--token-source`, `--log` and `--debug` from it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import typer

Flag = Annotated[bool, typer.Option(hidden=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalOptions:
    """The options of the page's form; None and False mean "not given".

    ignored: names of the given options that have no meaning here.
    """

    port: int | None = None
    serve_ip: str | None = None
    interactive: bool = False
    seed: int | None = None
    log: Path | None = None
    max_seqs: int | None = None
    chat_template: Path | None = None
    jinja_explicit: Path | None = None
    token_source: str = "cache"
    isq: str | None = None
    debug: bool = False
    ignored: tuple[str, ...] = field(default=())

    @staticmethod
    def debug_wanted(argv: list[str]) -> bool:
        """Whether errors should come with their traceback."""
        return "--debug" in argv

    def refuse_page_form(self, command: str) -> None:
        """Usage error if options were given that an everyday command takes after its name."""
        taken = {"seed", "log", "token_source", "debug"}
        given = [
            f"--{f.name.replace('_', '-')}"
            for f in fields(self)
            if f.name not in {*taken, "ignored"} and _is_given(getattr(self, f.name))
        ]
        given += self.ignored
        if given:
            raise typer.BadParameter(
                f"options before the command belong to the form `ostro {given[0]} ... plain -m MODEL`; "
                f"write `ostro {command} MODEL` with the options of `ostro {command} --help` after it",
                param_hint=" ".join(given),
            )


def _is_given(value: object) -> bool:
    return value is not None and value is not False  # 0 is a value


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from ostro.version import ostro_version

        typer.echo(f"ostro {ostro_version()}")
        raise typer.Exit


def global_options(
    ctx: typer.Context,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=0, max=65535, help="Serve HTTP here.")
    ] = None,
    serve_ip: Annotated[str | None, typer.Option(help="Address to serve on [default: 127.0.0.1].")] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive-mode", "-i", help="Chat instead of serving.")
    ] = False,
    isq: Annotated[str | None, typer.Option(help="Quantize while loading, e.g. Q4K.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", "-s", min=0, max=2**64 - 1, help="Makes sampling repeatable.")
    ] = None,
    max_seqs: Annotated[int | None, typer.Option(min=1, help="Sequences in one step.")] = None,
    truncate_sequence: Annotated[bool, typer.Option("--truncate-sequence", "-t", hidden=True)] = False,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", "-c", exists=True, dir_okay=False, help="Jinja or JSON file."),
    ] = None,
    jinja_explicit: Annotated[
        Path | None, typer.Option("--jinja-explicit", "-j", exists=True, dir_okay=False, help="Jinja file.")
    ] = None,
    token_source: Annotated[
        str, typer.Option(help="The hub token: literal:V, env:NAME, path:FILE, cache or none.")
    ] = "cache",
    log: Annotated[
        Path | None, typer.Option("--log", "-l", dir_okay=False, help="Also write the log here.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
    cpu: Flag = False,
    no_kv_cache: Flag = False,
    prefix_cache_n: Annotated[str | None, typer.Option(hidden=True)] = None,
    num_device_layers: Annotated[str | None, typer.Option("--num-device-layers", "-n", hidden=True)] = None,
    pa_gpu_mem: Annotated[str | None, typer.Option(hidden=True)] = None,
    pa_gpu_mem_usage: Annotated[str | None, typer.Option(hidden=True)] = None,
    pa_ctxt_len: Annotated[str | None, typer.Option(hidden=True)] = None,
    pa_blk_size: Annotated[str | None, typer.Option(hidden=True)] = None,
    no_paged_attn: Annotated[bool, typer.Option("--no-paged-attn", hidden=True)] = False,
    paged_attn: Annotated[bool, typer.Option("--paged-attn", hidden=True)] = False,
    prompt_batchsize: Annotated[str | None, typer.Option(hidden=True)] = None,
    enable_thinking: Annotated[bool, typer.Option("--enable-thinking", hidden=True)] = False,
) -> None:
    """Gemma 3 on the machine in front of you."""
    del version
    without_meaning = {
        "--truncate-sequence (requests say truncate_sequence themselves)": truncate_sequence,
        "--no-kv-cache": no_kv_cache,
        "--prefix-cache-n": prefix_cache_n,
        "--num-device-layers": num_device_layers,
        "--pa-gpu-mem": pa_gpu_mem,
        "--pa-gpu-mem-usage": pa_gpu_mem_usage,
        "--pa-ctxt-len": pa_ctxt_len,
        "--pa-blk-size": pa_blk_size,
        "--no-paged-attn": no_paged_attn,
        "--paged-attn": paged_attn,
        "--prompt-batchsize": prompt_batchsize,
        "--enable-thinking": enable_thinking,
    }
    del cpu  # it is what happens anyway
    ctx.obj = GlobalOptions(
        port=port,
        serve_ip=serve_ip,
        interactive=interactive,
        seed=seed,
        log=log,
        max_seqs=max_seqs,
        chat_template=chat_template,
        jinja_explicit=jinja_explicit,
        token_source=token_source,
        isq=isq,
        debug=debug,
        ignored=tuple(name for name, value in without_meaning.items() if _is_given(value)),
    )
    start_logging(ctx.obj)


def start_logging(options: GlobalOptions) -> None:
    """Warnings (everything with --debug) to stderr, and from INFO on to the log file if one is wanted."""
    logger = logging.getLogger("ostro")
    logger.setLevel(logging.DEBUG if options.debug else logging.INFO)
    screen = logging.StreamHandler()
    screen.setLevel(logging.DEBUG if options.debug else logging.WARNING)
    screen.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers = [screen]
    if options.log is not None:
        file = logging.FileHandler(options.log, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(file)
