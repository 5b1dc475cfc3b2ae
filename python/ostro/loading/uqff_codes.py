"""Codes of weights in UQFF's order and in that of ostro's blocks; no weight changes, but AFQ's f32 scales do.

Layouts of blocks: rust/kernels/src/formats. A block is 64 weights of a row (32 in MXFP4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_GROUP = 64
_SCALES = 4
"""Bytes of a block before its codes."""
_CHUNK = 1 << 14
"""Blocks that are taken apart at a time, which takes some bytes for each weight."""


def fp8_blocks(codes: Bytes, scale: NDArray[np.float32]) -> Bytes:
    """E4M3 numbers [rows, cols] and their one scale as blocks [rows, cols / 64, 68]."""
    rows, cols = codes.shape
    blocks = np.empty((rows, cols // _GROUP, _SCALES + _GROUP), np.uint8)
    blocks[..., :_SCALES] = scale.astype("<f4").reshape(1).view(np.uint8)
    blocks[..., _SCALES:] = codes.reshape(rows, -1, _GROUP)
    return blocks


def fp8_codes(data: Bytes, rows: int) -> tuple[Bytes, NDArray[np.float32]]:
    """The inverse: numbers [rows, cols], and the scales of all blocks [rows, cols / 64]."""
    blocks = data.reshape(rows, -1, _SCALES + _GROUP)
    scales = np.ascontiguousarray(blocks[..., :_SCALES]).view("<f4")[..., 0]
    return np.ascontiguousarray(blocks[..., _SCALES:]).reshape(rows, -1), scales


def mxfp4_blocks(codes: Bytes, scales: Bytes) -> Bytes:
    """Pairs of neighbours [rows, cols / 2], scales [rows, cols / 32]: ggml's blocks [rows, cols / 32, 17]."""
    rows, count = scales.shape
    pairs = codes.reshape(rows, count, 16)
    numbers = np.stack([_bits(pairs, at, 4) for at in (0, 4)], -1).reshape(rows, count, 32)
    return np.concatenate((scales[..., None], numbers[..., :16] | numbers[..., 16:] << np.uint8(4)), -1)


def mxfp4_codes(data: Bytes, rows: int) -> tuple[Bytes, Bytes]:
    """The inverse: pairs [rows, cols / 2] and scales [rows, cols / 32]."""
    blocks = data.reshape(rows, -1, 17)
    numbers = np.concatenate([_bits(blocks[..., 1:], at, 4) for at in (0, 4)], -1)
    pairs = numbers[..., ::2] | numbers[..., 1::2] << np.uint8(4)
    return pairs.reshape(rows, -1), np.ascontiguousarray(blocks[..., 0])


def afq_blocks(codes: Bytes, scales: NDArray[np.float32], biases: NDArray[np.float32], bits: int) -> Bytes:
    """A stream of bits [rows, cols * bits / 8], scales and biases [rows, cols / 64] as blocks of AFQ.

    OverflowError when a scale or a bias is beyond f16.
    """
    rows, count = scales.shape
    size = _GROUP * bits // 8
    blocks = np.empty((rows * count, _SCALES + size), np.uint8)
    with np.errstate(over="ignore"):
        halves = np.stack((scales, biases), -1).astype("<f2")
    if not np.isfinite(halves).all():
        raise OverflowError("beyond f16")
    blocks[:, :_SCALES] = halves.reshape(rows * count, 2).view(np.uint8)
    stream = codes.reshape(rows * count, size)
    for part in _parts(rows * count):
        blocks[part, _SCALES:] = _arranged(_unpacked(stream[part], bits), bits)
    return blocks.reshape(rows, count, -1)


def afq_codes(data: Bytes, rows: int, bits: int) -> tuple[Bytes, NDArray[np.float16], NDArray[np.float16]]:
    """The inverse: the stream of bits [rows, cols * bits / 8], scales and biases [rows, cols / 64]."""
    size = _GROUP * bits // 8
    blocks = data.reshape(-1, _SCALES + size)
    halves = np.ascontiguousarray(blocks[:, :_SCALES]).view("<f2").reshape(rows, -1, 2)
    stream = np.empty((len(blocks), size), np.uint8)
    for part in _parts(len(blocks)):
        stream[part] = _packed(_numbers(blocks[part, _SCALES:], bits), bits)
    scales, biases = (np.ascontiguousarray(halves[..., index]) for index in (0, 1))
    return stream.reshape(rows, -1), scales, biases


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def _arranged(numbers: Bytes, bits: int) -> Bytes:
    """The codes of blocks [n, 64] in the order of ostro's blocks."""
    if bits == 8:
        return numbers
    if bits in (2, 3):
        parts = [_pack_two_bits(_bits(numbers, 0, 2))]
    else:
        low = _bits(numbers, 0, 4)
        parts = [low[:, :32] | low[:, 32:] << np.uint8(4)]
    if bits == 3:
        parts.append(np.packbits(_bits(numbers, 2, 1), -1, bitorder="little"))
    if bits == 6:
        parts.append(_pack_two_bits(_bits(numbers, 4, 2)))
    return np.concatenate(parts, -1)


def _numbers(packed: Bytes, bits: int) -> Bytes:
    """The inverse of `_arranged`."""
    if bits == 8:
        return packed
    numbers: Bytes
    if bits in (2, 3):
        numbers = _two_bits(packed[:, :16])
    else:
        numbers = np.concatenate([_bits(packed[:, :32], at, 4) for at in (0, 4)], -1)
    if bits == 3:
        numbers |= np.unpackbits(packed[:, 16:], -1, bitorder="little") << np.uint8(2)
    if bits == 6:
        numbers |= _two_bits(packed[:, 32:]) << np.uint8(4)
    return numbers


def _bits(numbers: Bytes, at: int, count: int) -> Bytes:
    """So many bits of each, from that one."""
    bits: Bytes = numbers >> np.uint8(at) & np.uint8(2**count - 1)
    return bits


def _pack_two_bits(numbers: Bytes) -> Bytes:
    """Weight i + 16 k becomes bits 2k and 2k + 1 of byte i."""
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    packed: Bytes = np.bitwise_or.reduce(numbers.reshape(-1, 4, 16) << shifts, 1)
    return packed


def _two_bits(packed: Bytes) -> Bytes:
    """The inverse."""
    return np.concatenate([_bits(packed, at, 2) for at in (0, 2, 4, 6)], -1)


def _unpacked(stream: Bytes, bits: int) -> Bytes:
    """Numbers [n, 64] of little-endian streams of bits [n, 8 * bits]."""
    if bits == 8:
        return stream
    width, shifts = _words(bits)
    words = np.zeros((len(stream), stream.shape[1] // width), np.uint32)
    for index in range(width):
        words |= stream[:, index::width].astype(np.uint32) << np.uint32(8 * index)
    numbers: Bytes = (words[..., None] >> shifts & np.uint32(2**bits - 1)).astype(np.uint8)
    return numbers.reshape(len(stream), -1)


def _packed(numbers: Bytes, bits: int) -> Bytes:
    """The inverse."""
    if bits == 8:
        return numbers
    width, shifts = _words(bits)
    words = numbers.reshape(len(numbers), -1, len(shifts)).astype(np.uint32) << shifts
    joined = np.bitwise_or.reduce(words, -1)
    stream = [(joined >> np.uint32(8 * index)).astype(np.uint8) for index in range(width)]
    packed: Bytes = np.stack(stream, -1).reshape(len(numbers), -1)
    return packed


def _words(bits: int) -> tuple[int, NDArray[np.uint32]]:
    """Bytes that hold whole codes of `bits` bits, and the shifts of these."""
    width = 3 if bits in (3, 6) else 1
    return width, np.arange(0, 8 * width, bits, dtype=np.uint32)
