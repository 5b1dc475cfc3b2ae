"""`ostro demo`: a real model at work, in some seconds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import typer

from ostro.cli.model import DEMO, ModelSource, open_host, runtime_config

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions

TEXT = "The three most important things to know about the ocean are"
TOKENS = 64


def demo(ctx: typer.Context) -> None:
    """Complete a text with the real Gemma 3 270m, and tell the speed."""
    from ostro.cli.bench import measure
    from ostro.cli.settings import Settings
    from ostro.cli.talk import Talk

    options: GlobalOptions = ctx.obj
    options.refuse_page_form("demo")
    started = time.perf_counter()
    runtime = runtime_config(options, max_seqs=1, context=1024)
    with open_host(ModelSource(model=DEMO), runtime, options) as host:
        load_seconds = time.perf_counter() - started
        sys.stdout.write(TEXT)
        Talk(host, Settings(temperature=0.0, max_tokens=TOKENS)).complete(TEXT)
        report = measure(host, 512, 64, 0, 1, 1, load_seconds)
    typer.echo("\n\n" + "\n".join(report.lines()))
