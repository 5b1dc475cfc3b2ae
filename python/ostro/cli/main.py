"""The program `ostro`: commands, global options, and what errors look like.

Command modules import the engine, the server and terminal libraries inside their functions, so that
`ostro --help` pays for none of them, and each command only for its own.
"""

from __future__ import annotations

import os
import sys

import typer

from ostro.cli import bench, demo, doctor, page, quantize, run, serve
from ostro.cli.options import GlobalOptions, global_options
from ostro.errors import OstroError

app = typer.Typer(
    name="ostro",
    help="Gemma 3 on the machine in front of you.",
    epilog="MODEL is a .gguf file, a folder, a hub id such as google/gemma-3-4b-it, or `demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(global_options)

app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("bench")(bench.bench)
app.command("quantize")(quantize.quantize)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("plain")(page.plain)
app.command("vision-plain")(page.vision_plain)
app.command("multimodal-plain", hidden=True)(page.vision_plain)
app.command("gguf")(page.gguf)


def main() -> None:
    """Run the command of sys.argv. Exit status: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except OstroError as error:
        _fail(error.message, error)
    except BrokenPipeError:
        # The reader of our output has gone: nothing can be said to it, not even by the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(str(error), error)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str, error: Exception) -> None:
    if GlobalOptions.debug_wanted(sys.argv):
        raise error
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
