"""GGUF files of the real shapes of Gemma 3 with random weights, as llama.cpp's quantizer would lay them out.

Metadata and tensor formats are those of a Q4_K_M file, the tokenizer is copied from a real one. Blocks are
written as bytes: random quants under scales that make the weights about 0.02 in size, so that activations
stay finite. Every tensor is different from all others: engines that share identical ones would look twice as
fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter

from ostro.loading.gguf import GgufFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benches.compare.shapes import Shape
    from numpy.typing import NDArray

F32, Q4_K, Q5_0, Q6_K, Q8_0 = (GGMLQuantizationType[name] for name in ("F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"))
NARROW = {Q4_K: Q5_0, Q6_K: Q8_0}
"""What the quantizer takes instead where rows are not a multiple of 256."""
STD = 0.02
CHUNK = 16 << 20


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a file: `width` values in each of `rows` rows."""

    name: str
    format: GGMLQuantizationType
    width: int
    rows: int = 1

    @property
    def blocks(self) -> int:
        return self.width * self.rows // int(GGML_QUANT_SIZES[self.format][0])

    @property
    def bytes(self) -> int:
        return self.blocks * int(GGML_QUANT_SIZES[self.format][1])


def tensors(shape: Shape) -> Iterator[TensorSpec]:
    """What a Q4_K_M file of `shape` holds, in its order."""
    d, q, kv = shape.hidden, shape.heads * shape.head, shape.kv_heads * shape.head
    yield TensorSpec("output_norm.weight", F32, d)
    yield _matrix("token_embd", Q6_K, d, shape.vocabulary)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        finer = Q6_K if _gets_more_bits(layer, shape.layers) else Q4_K
        yield _matrix(block + "attn_k", Q4_K, d, kv)
        yield TensorSpec(block + "attn_k_norm.weight", F32, shape.head)
        yield TensorSpec(block + "attn_norm.weight", F32, d)
        yield _matrix(block + "attn_output", Q4_K, q, d)
        yield _matrix(block + "attn_q", Q4_K, d, q)
        yield TensorSpec(block + "attn_q_norm.weight", F32, shape.head)
        yield _matrix(block + "attn_v", finer, d, kv)
        yield _matrix(block + "ffn_down", finer, shape.ffn, d)
        yield _matrix(block + "ffn_gate", Q4_K, d, shape.ffn)
        yield TensorSpec(block + "ffn_norm.weight", F32, d)
        yield _matrix(block + "ffn_up", Q4_K, d, shape.ffn)
        yield TensorSpec(block + "post_attention_norm.weight", F32, d)
        yield TensorSpec(block + "post_ffw_norm.weight", F32, d)


def _matrix(name: str, wanted: GGMLQuantizationType, width: int, rows: int) -> TensorSpec:
    return TensorSpec(f"{name}.weight", wanted if width % 256 == 0 else NARROW[wanted], width, rows)


def _gets_more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's use_more_bits: the first and the last eighth, and every third layer between them."""
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


def write(path: Path, shape: Shape, tokenizer: Path, *, seed: int = 0) -> None:
    """Write a file with the tokenizer of the GGUF file `tokenizer`; `path` appears when it is complete."""
    specs = list(tensors(shape))
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _write_head(part, shape, tokenizer, specs)
        with part.open("ab") as file:
            for index, spec in enumerate(specs):
                # A generator of its own: the tensor is the same wherever it stands in the file.
                random = np.random.Generator(np.random.SFC64([seed, index]))
                file.write(bytes(-file.tell() % 32))
                for chunk in random_blocks(spec, random):
                    file.write(chunk.data)
            file.write(bytes(-file.tell() % 32))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_head(path: Path, shape: Shape, tokenizer: Path, specs: list[TensorSpec]) -> None:
    """Everything before the data of the tensors."""
    writer = GGUFWriter(path, "gemma3")
    writer.add_type("model")
    writer.add_name(f"Gemma 3 {shape.name} with random weights")
    writer.add_size_label(shape.name.upper())
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(shape.window)
    if shape.rope_factor is not None:
        writer.add_key_value("gemma3.rope.scaling.type", "linear", GGUFValueType.STRING)
        writer.add_rope_scaling_factor(shape.rope_factor)
    for name, value in GgufFile(tokenizer).metadata.items():
        if name.startswith("tokenizer."):
            writer.add_key_value(name, *_typed(value))
    writer.add_quantization_version(2)
    writer.add_file_type(15)  # mostly Q4_K_M
    for spec in specs:
        dims = (spec.width,) if spec.format is F32 else (spec.rows, spec.width)
        writer.add_tensor_info(spec.name, dims, np.dtype(np.float32), spec.bytes, spec.format)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _typed(value: Any) -> tuple[Any, GGUFValueType, GGUFValueType | None]:
    """A value of a tokenizer's metadata, its type, and that of its elements."""
    if isinstance(value, np.ndarray):
        kinds = {"f": GGUFValueType.FLOAT32, "i": GGUFValueType.INT32}
        return value.tolist(), GGUFValueType.ARRAY, kinds[value.dtype.kind]
    if isinstance(value, (bool, str)):
        return value, GGUFValueType.BOOL if isinstance(value, bool) else GGUFValueType.STRING, None
    if isinstance(value, int):
        return value, GGUFValueType.UINT32, None
    return value, GGUFValueType.ARRAY, GGUFValueType.STRING


def random_blocks(spec: TensorSpec, random: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a tensor, in arrays of whole blocks [blocks, bytes of a block]."""
    size = int(GGML_QUANT_SIZES[spec.format][1])
    for start in range(0, spec.blocks, CHUNK // size):
        count = min(CHUNK // size, spec.blocks - start)
        if spec.format is F32:
            norms = 1 + 0.05 * random.standard_normal(count, np.float32)
            yield norms.astype("<f4").view(np.uint8).reshape(count, size)
            continue
        words = random.integers(0, 2**64, -(-count * size // 8), np.uint64)
        blocks = words.view(np.uint8)[: count * size].reshape(count, size)
        FILL[spec.format](blocks, random)
        yield blocks


def _halves(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """float16 as bytes [n, 2]."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _spread(random: np.random.Generator, count: int, middle: float) -> NDArray[np.float32]:
    """Scales around `middle`."""
    return middle * (0.8 + 0.4 * random.random(count, np.float32))


def _either_sign(random: np.random.Generator, count: int, middle: float) -> NDArray[np.float32]:
    """Scales around `middle` or -`middle`: random quants are half a step below zero in the mean."""
    signs = np.array([-1, 1], np.float32)
    return _spread(random, count, middle) * signs[random.integers(0, 2, count)]


def _fill_q8_0(blocks: NDArray[np.uint8], random: np.random.Generator) -> None:
    """d [2], quants int8 [32]: the quantizer never writes -128."""
    quants = blocks[:, 2:].view(np.int8)
    np.maximum(quants, -127, out=quants)
    blocks[:, :2] = _halves(_spread(random, len(blocks), STD / 73.6))


def _fill_q5_0(blocks: NDArray[np.uint8], random: np.random.Generator) -> None:
    """d [2], fifth bits [4], nibbles [16]."""
    blocks[:, :2] = _halves(_either_sign(random, len(blocks), STD / 9.23))


def _fill_q6_k(blocks: NDArray[np.uint8], random: np.random.Generator) -> None:
    """Low nibbles [128], high bits [64], scales int8 [16], d [2]; scales of either sign in 64..127."""
    scales = blocks[:, 192:208]
    negative = scales >> 7 << 7
    scales[:] = scales & 63 | 64
    np.negative(scales, where=negative != 0, out=scales)
    blocks[:, 208:] = _halves(_spread(random, len(blocks), STD / (97.2 * 18.5)))


def _fill_q4_k(blocks: NDArray[np.uint8], random: np.random.Generator) -> None:
    """d, dmin [2 each], eight 6-bit scales and minima [12], nibbles [128].

    Each minimum is its scale, 32..63, and dmin is 7.5 d: that puts the 16 steps evenly around zero.
    """
    scales = blocks[:, 4:12] & 31 | 32
    low, high = scales[:, :4], scales[:, 4:]
    top = high >> 4 << 6
    blocks[:, 4:8] = low | top
    blocks[:, 8:12] = low | top
    blocks[:, 12:16] = high & 15 | high << 4
    d = _spread(random, len(blocks), STD / (48.4 * 4.61))
    blocks[:, :2], blocks[:, 2:4] = _halves(d), _halves(7.5 * d)


FILL = {Q4_K: _fill_q4_k, Q5_0: _fill_q5_0, Q6_K: _fill_q6_k, Q8_0: _fill_q8_0}
