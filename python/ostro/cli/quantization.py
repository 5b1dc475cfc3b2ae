"""Options that say how weights are quantized while they load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Isq = Annotated[str | None, typer.Option(help="Quantize while loading, e.g. Q4K or 4.")]
IsqVision = Annotated[
    bool,
    typer.Option("--isq-vision/--no-isq-vision", help="Quantize the image half, too.", show_default=False),
]
IsqCache = Annotated[
    Path | None,
    typer.Option("--isq-cache", file_okay=False, help="Keep quantized weights here for the next start."),
]
Topology = Annotated[
    Path | None,
    typer.Option("--topology", exists=True, dir_okay=False, help="YAML: formats for layers or names."),
]
Imatrix = Annotated[
    Path | None,
    typer.Option("--imatrix", exists=True, dir_okay=False, help="Which columns matter: llama.cpp's file."),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration-file", exists=True, dir_okay=False, help="A text to find out which columns matter."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What the options say; see `ostro.config.IsqConfig`."""

    isq: str | None = None
    vision: bool = True
    cache: Path | None = None
    topology: Path | None = None
    imatrix: Path | None = None
    calibration: Path | None = None
