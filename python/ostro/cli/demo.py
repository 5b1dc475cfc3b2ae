"""`ostro demo`: two models at work, in some seconds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import typer

from ostro.cli.model import DEMO, ModelSource, open_host, runtime_config
from ostro.errors import ModelNotFound
from ostro.which import DEMO_MODEL

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions

QUESTION = "What is this?"
TEXT = "Once upon a time, in a small village at the edge of the sea, there lived"
TOKENS = 46


def demo(ctx: typer.Context) -> None:
    """Describe a picture with the small model of the package, then complete a text with the real 270m."""
    options: GlobalOptions = ctx.obj
    options.refuse_page_form("demo")
    look(options)
    typer.echo()
    try:
        weights = ModelSource(model=DEMO)
        weights.which()
    except ModelNotFound as missing:
        typer.echo(f"There would be more to see: {missing.message}")
        return
    write(weights, options)


def look(options: GlobalOptions) -> None:
    """Ask the vision model of the package about a picture that it was not trained on."""
    from ostro.cli.settings import Settings
    from ostro.cli.talk import Talk, read_images
    from ostro.loading.demo import demo_folder

    picture = demo_folder() / "picture.png"
    with open_host(ModelSource(model=DEMO_MODEL), runtime_config(options, max_seqs=1), options) as host:
        typer.echo(f"{host.name}, a small model inside the package, looks at {picture}\n> {QUESTION}")
        talk = Talk(host, Settings(temperature=0.0))
        talk.show(read_images([str(picture)]))
        talk.ask(QUESTION)
    typer.echo()


def write(weights: ModelSource, options: GlobalOptions) -> None:
    """Complete a text with the real Gemma 3 270m, and tell the speed."""
    from ostro.cli.bench import Start, measure
    from ostro.cli.settings import Settings
    from ostro.cli.talk import Talk

    runtime = runtime_config(options, max_seqs=1, context=1024)
    started = time.perf_counter()
    with open_host(weights, runtime, options) as host:
        # The program has been busy with the picture: when it began says nothing about this model.
        start = Start(time.perf_counter() - started, None)
        sys.stdout.write(TEXT)
        Talk(host, Settings(temperature=0.0, max_tokens=TOKENS)).complete(TEXT)
        report = measure(host, start, prompt_len=512, gen_len=64)
    typer.echo("\n\n" + "\n".join(report.lines()))
