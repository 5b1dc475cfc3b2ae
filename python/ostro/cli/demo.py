"""`ostro demo`: a real model at work, in some seconds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import typer

from ostro.cli.model import DEMO, ModelSource, open_host, runtime_config

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions

TEXT = "Once upon a time, in a small village at the edge of the sea, there lived"
TOKENS = 46


def demo(ctx: typer.Context) -> None:
    """Complete a text with the real Gemma 3 270m, and tell the speed."""
    from ostro.cli.bench import Start, measure
    from ostro.cli.settings import Settings
    from ostro.cli.talk import Talk

    options: GlobalOptions = ctx.obj
    options.refuse_page_form("demo")
    runtime = runtime_config(options, max_seqs=1, context=1024)
    started = time.perf_counter()
    with open_host(ModelSource(model=DEMO), runtime, options) as host:
        start = Start.since(started)
        sys.stdout.write(TEXT)
        Talk(host, Settings(temperature=0.0, max_tokens=TOKENS)).complete(TEXT)
        report = measure(host, start, prompt_len=512, gen_len=64)
    typer.echo("\n\n" + "\n".join(report.lines()))
