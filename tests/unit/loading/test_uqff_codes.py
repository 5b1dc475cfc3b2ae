"""Codes between UQFF's order and blocks: each against its definition, and there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostro.loading import uqff_codes
from ostro.loading.uqff_codes import (
    afq_blocks,
    afq_codes,
    fp8_blocks,
    fp8_codes,
    mxfp4_blocks,
    mxfp4_codes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
"""Rows, blocks of a row, seed."""
BITS = (2, 3, 4, 6, 8)


def codes_in(block: NDArray[np.uint8], bits: int) -> list[int]:
    """The codes of an AFQ block as rust/kernels/src/formats/affine.rs tells their places."""
    codes = [int(byte) for byte in block[4:]]
    two = [codes[i % 16] >> 2 * (i // 16) & 3 for i in range(64)]
    four = [codes[i % 32] >> 4 * (i // 32) & 15 for i in range(64)] if bits > 3 else []
    if bits == 2:
        return two
    if bits == 3:
        return [two[i] | (codes[16 + i // 8] >> i % 8 & 1) << 2 for i in range(64)]
    if bits == 6:
        return [four[i] | (codes[32 + i % 16] >> 2 * (i // 16) & 3) << 4 for i in range(64)]
    return four if bits == 4 else codes


@pytest.mark.parametrize("bits", BITS)
@given(shape=SHAPES)
def test_afq(bits: int, shape: tuple[int, int, int]) -> None:
    rows, count, seed = shape
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 2**bits, (rows, 64 * count))
    stream = np.zeros((rows, 8 * bits * count), np.uint8)
    for row in range(rows):
        whole = sum(int(number) << bits * i for i, number in enumerate(numbers[row]))
        stream[row] = np.frombuffer(whole.to_bytes(8 * bits * count, "little"), np.uint8)
    scales, biases = (rng.standard_normal((2, rows, count)).astype(np.float16)).astype(np.float32)
    blocks = afq_blocks(stream, scales, biases, bits)
    assert blocks.shape == (rows, count, 4 + 8 * bits)
    for row in range(rows):
        read = [code for block in blocks[row] for code in codes_in(block, bits)]
        assert read == numbers[row].tolist()
    halves = np.ascontiguousarray(blocks[..., :4]).view("<f2")
    np.testing.assert_array_equal(halves[..., 0], scales)
    np.testing.assert_array_equal(halves[..., 1], biases)
    again, again_scales, again_biases = afq_codes(blocks.reshape(-1), rows, bits)
    np.testing.assert_array_equal(again, stream)
    np.testing.assert_array_equal(again_scales, scales)
    np.testing.assert_array_equal(again_biases, biases)


def test_afq_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.random.default_rng(0).integers(0, 256, (7, 24 * 3), np.uint8)
    scales = np.ones((7, 3), np.float32)
    whole = afq_blocks(stream, scales, scales, 3)
    monkeypatch.setattr(uqff_codes, "_CHUNK", 2)
    np.testing.assert_array_equal(afq_blocks(stream, scales, scales, 3), whole)
    np.testing.assert_array_equal(afq_codes(whole.reshape(-1), 7, 3)[0], stream)


@pytest.mark.parametrize("scale", [1e6, float("inf"), float("nan")])
def test_afq_scales_beyond_f16(scale: float) -> None:
    one = np.ones((1, 1), np.float32)
    with pytest.raises(OverflowError):
        afq_blocks(np.zeros((1, 32), np.uint8), one * np.float32(scale), one, 4)


@given(shape=SHAPES)
def test_mxfp4(shape: tuple[int, int, int]) -> None:
    rows, count, seed = shape
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 16, (rows, count, 32), np.uint8)
    scales = rng.integers(0, 256, (rows, count), np.uint8)
    pairs = (numbers[..., ::2] | numbers[..., 1::2] << np.uint8(4)).reshape(rows, -1)
    blocks = mxfp4_blocks(pairs, scales)
    np.testing.assert_array_equal(blocks[..., 0], scales)
    np.testing.assert_array_equal(blocks[..., 1:] & 15, numbers[..., :16])
    np.testing.assert_array_equal(blocks[..., 1:] >> 4, numbers[..., 16:])
    again, again_scales = mxfp4_codes(blocks.reshape(-1), rows)
    np.testing.assert_array_equal(again, pairs)
    np.testing.assert_array_equal(again_scales, scales)


@given(shape=SHAPES)
def test_fp8(shape: tuple[int, int, int]) -> None:
    rows, count, seed = shape
    codes = np.random.default_rng(seed).integers(0, 256, (rows, 64 * count), np.uint8)
    blocks = fp8_blocks(codes, np.array(0.375, np.float32))
    assert blocks.shape == (rows, count, 68)
    again, scales = fp8_codes(blocks.reshape(-1), rows)
    np.testing.assert_array_equal(again, codes)
    assert (scales == np.float32(0.375)).all()
