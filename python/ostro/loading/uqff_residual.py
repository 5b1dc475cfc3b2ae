"""What of a model UQFF keeps beside its layers: dense tensors, as Hugging Face has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostro.loading.names import as_mistral_rs
from ostro.loading.safetensors_writer import Entry
from ostro.loading.shapes import expected_vision_shapes
from ostro.loading.vision_names import PROJECTION, PROJECTION_TURNED, PROJECTOR_NORM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.tensor import Tensor


def residual_entries(tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> Iterator[Entry]:
    """Entries of those of a checkpoint's tensors that are no layers, by canonical names.

    F32, F16 and BF16 stay so. Quantized ones become F32, and so do norms that have their 1, less it.
    """
    sees, vision = bool(checkpoint.vision_tensors), checkpoint.config.vision
    shapes = {} if vision is None else expected_vision_shapes(vision, checkpoint.config.hidden_size)
    for name, tensor in tensors.items():
        if name == PROJECTION_TURNED:
            yield as_float32(as_mistral_rs(PROJECTION, sees=sees), tensor, turned=True)
            continue
        own = as_mistral_rs(name, sees=sees)
        offset = _norm_offset(name, checkpoint)
        if offset == 1.0 and tensor.format.block == 1:
            yield Entry.dense(own, tensor)
        else:
            # A kernel of patches that was quantized is a matrix by now.
            shape = shapes.get(name, tensor.shape)
            yield as_float32(own, tensor, less=1 - offset, shape=shape)


def _norm_offset(name: str, checkpoint: Checkpoint) -> float:
    """What is to be added to a tensor's weights; 1.0 as well for tensors that are no such norms."""
    if name == PROJECTOR_NORM:
        return checkpoint.projector_norm_offset
    is_norm = name.endswith("norm.weight") and not name.startswith("vision.")
    return checkpoint.norm_offset if is_norm else 1.0


def as_float32(
    name: str,
    tensor: Tensor,
    *,
    less: float = 0.0,
    turned: bool = False,
    shape: tuple[int, ...] | None = None,
) -> Entry:
    """A tensor of any format as F32, less a number, turned around or in another shape."""
    from ostro.ops.cpu import float32

    values = float32(tensor)
    if less:
        values = values - np.float32(less)
    if turned:
        values = np.ascontiguousarray(values.T)
    return Entry.of(name, values if shape is None else values.reshape(shape))
