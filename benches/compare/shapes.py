"""Sizes of Gemma 3's text models, for files with random weights.

Read in the environments of peers too, therefore only the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Gemma 3 text model. rope_factor: linear scaling of the global layers' positions."""

    name: str
    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    window: int
    context: int
    rope_factor: float | None = None
    head: int = 256
    vocabulary: int = 262_144


SHAPES = {
    "1b": Shape(name="1b", hidden=1152, layers=26, ffn=6912, heads=4, kv_heads=1, window=512, context=32_768),
    "4b": Shape(
        name="4b",
        hidden=2560,
        layers=34,
        ffn=10_240,
        heads=8,
        kv_heads=4,
        window=1024,
        context=131_072,
        rope_factor=8.0,
    ),
}
