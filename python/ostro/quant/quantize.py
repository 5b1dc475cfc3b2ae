"""A checkpoint becomes a quantized one, tensor by tensor, and its files' memory is given back on the way."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from ostro.errors import BadTensor
from ostro.loading.mapped_file import release, will_need
from ostro.loading.vision_names import PROJECTION, PROJECTION_TURNED
from ostro.quant.plan import PADDED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.ops.cpu import CpuOps
    from ostro.ops.tensor import Tensor
    from ostro.quant.plan import Plan

    Importance = Mapping[str, NDArray[np.float32]]

WHAT = "Quantizing"
"""What progress is called."""
_INNER = re.compile(r"(vision\.encoder\.layers\.\d+\.mlp)\.fc([12])\.weight", re.ASCII)


def place(name: str, tensor: Tensor, text: dict[str, Tensor], vision: dict[str, Tensor]) -> None:
    """Put a tensor of `quantized_tensors` where the one that it replaces is."""
    if name == PROJECTION_TURNED:
        vision.pop(PROJECTION, None)
    (vision if name in vision or name == PROJECTION_TURNED else text)[name] = tensor


def quantized_tensors(
    checkpoint: Checkpoint,
    plan: Plan,
    ops: CpuOps,
    *,
    importance: Importance | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of `plan` in their formats, in new memory, by canonical name, in the order of the files.

    Biases and rows of the image half whose inner width was filled up come, too.
    importance: canonical name -> float32 [cols], how much a squared error of a column counts.
    progress: told about the bytes of the source.
    BadTensor names a weight that is not finite, or importance that does not fit.
    """
    sources = {name: tensor for name, tensor in _all(checkpoint).items() if name in plan}
    # In the order of the files they are read from end to end.
    order = sorted(sources, key=lambda name: sources[name].data.__array_interface__["data"][0])
    total, done = sum(tensor.data.nbytes for tensor in sources.values()), 0
    # Of new memory for every copy the system would clear each page.
    room = np.empty(max((_copied(name, tensor) for name, tensor in sources.items()), default=0), np.uint8)
    for number, name in enumerate(order):
        source = sources[name]
        if number + 1 < len(order):
            will_need(sources[order[number + 1]].data)
        tensor = _prepared(name, source, room)

        def consumed(
            start: int, stop: int, data: NDArray[np.uint8] = source.data, before: int = done
        ) -> None:
            # What was copied first is not the file's memory, and may be longer than that.
            release(data[start:stop])
            if progress is not None:
                progress(WHAT, before + min(stop, data.nbytes), total)

        weights = None if importance is None else _importance(importance, name, tensor)
        quantized = ops.quantize(tensor, plan[name], weights, consumed)
        release(source.data)
        done += source.data.nbytes
        yield (PROJECTION_TURNED if name == PROJECTION else name), quantized
    yield from filled_up(checkpoint, plan)


def _all(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {**checkpoint.tensors, **checkpoint.vision_tensors}


def _prepared(name: str, tensor: Tensor, room: NDArray[np.uint8] | None = None) -> Tensor:
    """The matrix that is multiplied: turned around or filled up with zeros if need be (in `room`)."""
    return (
        tensor.transposed() if name == PROJECTION else _padded(tensor, *quantized_shape(name, tensor), room)
    )


def _copied(name: str, tensor: Tensor) -> int:
    """Bytes of the copy that is filled up."""
    rows, cols = quantized_shape(name, tensor)
    filled = name != PROJECTION and (rows, cols) != tensor.as_matrix().shape
    return rows * cols * tensor.format.bytes if filled else 0


def quantized_shape(name: str, tensor: Tensor) -> tuple[int, int]:
    """Rows and columns of the matrix that is multiplied."""
    rows, cols = tensor.as_matrix().shape
    if name == PROJECTION:
        return cols, rows
    match = _INNER.fullmatch(name)
    if match is None or tensor.format.block != 1:
        return rows, cols
    return (_multiple(rows), cols) if match[2] == "1" else (rows, _multiple(cols))


def filled_up(checkpoint: Checkpoint, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """What has to follow where the inner width of an image layer was filled up."""
    tensors = checkpoint.vision_tensors
    for name, tensor in tensors.items():
        match = _INNER.fullmatch(name)
        if match is None:
            continue
        fc1, fc2 = f"{match[1]}.fc1", f"{match[1]}.fc2"
        inner = tensors[f"{fc1}.weight"].shape[0]
        if inner % PADDED == 0 or not {f"{fc1}.weight", f"{fc2}.weight"} & set(plan):
            continue
        if name not in plan:
            yield name, _prepared(name, tensor)
        if match[2] == "1":
            bias = tensors[f"{fc1}.bias"]
            column = dataclasses.replace(bias, shape=(inner, 1))
            yield (
                f"{fc1}.bias",
                dataclasses.replace(_padded(column, _multiple(inner), 1), shape=(_multiple(inner),)),
            )


def _multiple(width: int) -> int:
    return math.ceil(width / PADDED) * PADDED


def _padded(tensor: Tensor, rows: int, cols: int, room: NDArray[np.uint8] | None = None) -> Tensor:
    """A copy of a dense matrix with zeros below and to the right; itself if it is that large already.

    room: where the copy goes (its first bytes); None: new memory.
    """
    tensor = tensor.as_matrix()
    if (rows, cols) == tensor.shape:
        return tensor
    size = tensor.format.bytes
    have, width = tensor.shape[0], tensor.shape[1] * size
    room = np.empty(rows * cols * size, np.uint8) if room is None else room[: rows * cols * size]
    data = room.reshape(rows, cols * size)
    data[:have, :width] = tensor.data.reshape(have, -1)
    data[have:] = 0
    data[:, width:] = 0
    data.flags.writeable = False
    return dataclasses.replace(tensor, shape=(rows, cols), data=data.reshape(-1))


def _importance(importance: Importance, name: str, tensor: Tensor) -> NDArray[np.float32] | None:
    known = importance.get(name)
    if known is None and name == "lm_head.weight":
        known = importance.get("embed_tokens.weight")
    if known is None:
        return None
    cols = tensor.shape[1]
    # Columns of zeros that were added have no importance.
    if known.ndim != 1 or len(known) > cols or (len(known) < cols and not _INNER.fullmatch(name)):
        raise BadTensor(
            f"the importance of {name!r} is for {len(known)} columns; the matrix has {cols}: "
            "it belongs to another model"
        )
    return np.ascontiguousarray(np.pad(known, (0, cols - len(known))), np.float32)
