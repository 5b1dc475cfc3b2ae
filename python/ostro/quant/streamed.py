"""Quantization while a file is written: a tensor at a time is in memory, and gone when it is in the file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ostro.loading.gguf_writer import Part
from ostro.quant.quantize import filled_up, quantized_shape, quantized_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.cpu import CpuOps
    from ostro.quant.plan import Plan
    from ostro.quant.quantize import Importance


def streamed(
    source: Checkpoint, plan: Plan, ops: CpuOps, *, importance: Importance | None = None
) -> tuple[Checkpoint, dict[str, Part]]:
    """The tensors of `plan`, by canonical name, each quantized when it is read; and what else the file needs.

    That is `source`, with the biases and rows of the image half that have to follow where its inner width is
    filled up. importance: as for `quantized_tensors`.
    """

    def made(name: str) -> NDArray[np.uint8]:
        one = quantized_tensors(source, {name: plan[name]}, ops, importance=importance)
        return next(one)[1].data

    tensors = {**source.tensors, **source.vision_tensors}
    parts = {
        name: Part(name, format, quantized_shape(name, tensors[name]), partial(made, name))
        for name, format in plan.items()
    }
    others = {**source.vision_tensors, **dict(filled_up(source, plan))}
    return replace(source, vision_tensors=others), parts
