"""An OpenVINO model of a shape of Gemma 3 with random weights, as `optimum-cli export openvino` stores them:

    python -m benches.compare.random_openvino 4b FOLDER

Runs in OpenVINO's environment. Matrices are 4-bit codes in groups of 128, each with a scale in float16 and a
zero point; the embedding, which is the head too, is 8-bit codes with a scale and a zero point per row. These
are the defaults of `--weight-format int4`. Every tensor is different from all others.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benches.compare.openvino_graph import build
from benches.compare.shapes import SHAPES
from openvino import Shape as Dimensions
from openvino import Tensor, Type, save_model
from openvino import opset13 as ops

if TYPE_CHECKING:
    from benches.compare.shapes import Shape
    from numpy.typing import NDArray
    from openvino import Node

EOS = 1
GROUP = 128
STD = 0.02
SPREAD = {4: 4.61, 8: 73.9}
"""Standard deviation of uniform codes of so many bits."""
KINDS = {4: Type.u4, 8: Type.u8}
ZEROS = {4: (0x77, 0x78, 0x87, 0x88), 8: (127, 128)}
"""Bytes of zero points; with 4 bits there are two in each."""


class RandomWeights:
    """Values about STD in size, which depend on `seed` and their names only."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def matrix(self, name: str, rows: int, width: int) -> Node:
        if name == "embed_tokens":
            return ops.convert(self._compressed(name, 8, (rows, width)), "f32")
        values = self._compressed(name, 4, (rows, width // GROUP, GROUP))
        return ops.convert(ops.reshape(values, [rows, width], False), "f32")

    def norm(self, name: str, width: int) -> Node:
        return ops.constant(1 + np.float32(0.05) * self._random(name).standard_normal(width, np.float32))

    def _compressed(self, name: str, bits: int, dims: tuple[int, ...]) -> Node:
        """float16 values of `dims` out of codes; a scale and a zero point for each row of the last axis."""
        random = self._random(name)
        groups = (*dims[:-1], 1)
        middle = STD / SPREAD[bits]
        scale = middle * (0.8 + 0.4 * random.random(groups, np.float32))
        # Both values next to the middle, as a quantizer has them: equal ones could be kept as a single one.
        codes = random.integers(0, 256, _bytes(bits, dims), np.uint8)
        zeros = random.choice(np.array(ZEROS[bits], np.uint8), _bytes(bits, groups))
        code, zero = _constant(bits, dims, codes), _constant(bits, groups, zeros)
        return (code - zero) * ops.constant(scale.astype(np.float16))

    def _random(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self._seed, zlib.crc32(name.encode())]))


def _constant(bits: int, dims: tuple[int, ...], data: NDArray[np.uint8]) -> Node:
    """Packed codes as float16 in the graph."""
    # In memory of OpenVINO's own: it would not keep ours alive.
    tensor = Tensor(KINDS[bits], Dimensions(dims))
    tensor.data.ravel()[:] = data
    return ops.convert(ops.constant(tensor), "f16")


def _bytes(bits: int, dims: tuple[int, ...]) -> int:
    return -(-math.prod(dims) * bits // 8)


def write(folder: Path, shape: Shape) -> None:
    """Make the folder; it appears under its name when it is complete."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        save_model(build(shape, RandomWeights()), part / "openvino_model.xml", compress_to_fp16=False)
        settings = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
        # Without it, GenAI asks the tokenizer, and there is none.
        (part / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}), encoding="utf-8")
        (part / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    write(Path(sys.argv[2]), SHAPES[sys.argv[1]])
