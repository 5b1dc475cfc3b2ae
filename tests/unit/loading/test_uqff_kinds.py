"""Layers of the kinds that are not ggml's blocks: what they mean when read, and written again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostro.errors import CorruptFile, ModelError, UnsupportedExport, UnsupportedModel
from ostro.loading.safetensors_writer import Entry, write_safetensors
from ostro.loading.uqff import read_uqff
from ostro.loading.uqff_entries import layer_entries
from ostro.ops.cpu import float32
from ostro.ops.tensor import FORMATS, Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


ROWS, COLS = 3, 128
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
Parts = dict[str, Entry]


def e4m3(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What E4M3 bits mean, by the definition of the format."""
    exponent, fraction = bits >> 3 & 15, (bits & 7).astype(np.float32)
    magnitude = np.where(
        exponent == 0, fraction / 512, (1 + fraction / 8) * np.exp2(exponent.astype(np.float32) - 7)
    )
    return (np.where(bits & 128, -1, 1) * magnitude).astype(np.float32)


def small(*shape: int) -> NDArray[np.uint8]:
    """Bytes that are no NaN in E4M3."""
    return np.random.default_rng(3).integers(0, 127, shape, np.uint8)


def random(*shape: int) -> NDArray[np.float32]:
    """Numbers that f16 holds."""
    return np.random.default_rng(4).standard_normal(shape).astype(np.float16).astype(np.float32)


def entry(name: str, value: Any, dtype: str) -> Entry:
    return Entry.of(name, np.array(value, dtype))


def afq(bits: int, group: int = 64) -> tuple[Parts, NDArray[Any]]:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (ROWS, COLS))
    words = np.zeros((ROWS, COLS * bits // 32), np.uint32)
    for row in range(ROWS):
        whole = sum(int(code) << bits * i for i, code in enumerate(codes[row]))
        words[row] = np.frombuffer(whole.to_bytes(COLS * bits // 8, "little"), "<u4")
    scales, biases = random(ROWS, COLS // group), random(ROWS, COLS // group) * 4
    parts = {
        "": Entry.of("w", words),
        "format": entry("w", 4, "u1"),
        "bits": entry("w", bits, "u1"),
        "group_size": entry("w", group, "u1"),
        "scales": Entry.of("w", scales),
        "biases": Entry.of("w", biases),
    }
    return parts, codes * np.repeat(scales, group, 1) + np.repeat(biases, group, 1)


def fp8() -> tuple[Parts, NDArray[Any]]:
    codes = small(ROWS, COLS)
    parts = {
        "": Entry("w", "F8_E4M3", (ROWS, COLS), codes.reshape(-1)),
        "format": entry("w", 3, "u1"),
        "dequant_w_scale": entry("w", 0.25, "<f4"),
        "dequant_x_scale": entry("w", 0.25, "<f4"),
        "quant_scale": entry("w", 4, "<f4"),
        "dtype": entry("w", 9, "<u4"),
    }
    return parts, e4m3(codes) / 4


def f8q8() -> tuple[Parts, NDArray[Any]]:
    scales, codes = small(ROWS, COLS // 32, 1), small(ROWS, COLS // 32, 32)
    blocks = np.concatenate((scales, codes), -1).reshape(-1)
    parts = {
        "": Entry.of("w", blocks),
        "format": entry("w", 5, "u1"),
        "num_blocks": entry("w", ROWS * COLS // 32, "<u4"),
        "shape": entry("w", (ROWS, COLS), "<u4"),
    }
    weights = e4m3(scales) / 448 * codes.view(np.int8).astype(np.float32)
    return parts, weights.reshape(ROWS, COLS)


def mxfp4() -> tuple[Parts, NDArray[Any]]:
    pairs = np.random.default_rng(6).integers(0, 256, (ROWS, COLS // 2), np.uint8)
    scales = np.random.default_rng(7).integers(120, 134, (ROWS, COLS // 32), np.uint8)
    parts = {"": Entry.of("w", pairs), "format": entry("w", 6, "u1"), "scales": Entry.of("w", scales)}
    table = np.array([*E2M1, *(-x for x in E2M1)], np.float32)
    numbers = table[np.stack((pairs & 15, pairs >> 4), -1).reshape(ROWS, COLS)]
    return parts, numbers * np.repeat(np.exp2(scales.astype(np.float32) - 127), 32, 1)


def blocks_of(kind: int, fmt: str) -> tuple[Parts, None]:
    data = small(ROWS, 256 // FORMATS[fmt].block * FORMATS[fmt].bytes).reshape(-1)
    parts = {
        "": Entry.of("w", data),
        "format": entry("w", 0, "u1"),
        "dtype": entry("w", kind, "<u4"),
        "shape": entry("w", (ROWS, 256), "<u4"),
    }
    return parts, None


KINDS: dict[str, Any] = {
    **{f"AFQ{bits}": lambda bits=bits: afq(bits) for bits in (2, 3, 4, 6, 8)},
    "FP8": fp8,
    "F8Q8": f8q8,
    "MXFP4": mxfp4,
    "Q8_1": lambda: blocks_of(9, "Q8_1"),
    "Q8_K": lambda: blocks_of(15, "Q8_K"),
}


def read(folder: Path, parts: Parts) -> Tensor:
    version = [
        entry(f"uqff.version.{name}", number, "<u4")
        for name, number in (("major", 1), ("minor", 2), ("patch", 0))
    ]
    layer = [
        Entry(".".join(filter(None, ("x.weight", name))), part.dtype, part.shape, part.data)
        for name, part in parts.items()
    ]
    write_safetensors(folder / "x.uqff", [*version, *layer], {})
    return read_uqff([folder / "x.uqff"])["x.weight"].tensor()


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    parts, weights = KINDS[kind]()
    tensor = read(tmp_path, parts)
    assert tensor.format is FORMATS[kind]
    if weights is not None:
        np.testing.assert_allclose(float32(tensor), weights, rtol=1e-6, atol=1e-6)
    written = {found.name: found for found in layer_entries("x", tensor)}
    assert written.keys() == {".".join(filter(None, ("x.weight", name))) for name in parts}
    for name, part in parts.items():
        again = written[".".join(filter(None, ("x.weight", name)))]
        assert (again.dtype, again.shape) == (part.dtype, part.shape)
        np.testing.assert_array_equal(again.data, part.data, err_msg=name)


def test_afq_in_groups_of_128(tmp_path: Path) -> None:
    parts, weights = afq(4, group=128)
    np.testing.assert_allclose(float32(read(tmp_path, parts)), weights, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "changes", "error", "message"),
    [
        ("AFQ4", {"group_size": entry("w", 32, "u1")}, UnsupportedModel, "groups of 32 weights, not of 64"),
        ("AFQ4", {"group_size": entry("w", 0, "u1")}, UnsupportedModel, "groups of 0 weights"),
        ("AFQ4", {"bits": entry("w", 5, "u1")}, CorruptFile, "codes of 5 bits"),
        ("AFQ4", {"bits": entry("w", 3, "u1")}, CorruptFile, "rows of 16 words"),
        ("AFQ4", {"bits": entry("w", 8, "u1")}, CorruptFile, r"scales \[3, 2\] for \[3, 64\] weights"),
        ("AFQ4", {"scales": entry("w", [[1, 2]], "<f4")}, CorruptFile, r"has scales \[1, 2\]"),
        ("AFQ4", {"scales": entry("w", [[1, 2]] * 3, "<u4")}, CorruptFile, "has scales of dtype U32"),
        ("AFQ4", {"biases": entry("w", [[1e6, 2]] * 3, "<f4")}, UnsupportedModel, "beyond the range of f16"),
        ("AFQ4", {"": entry("w", [1, 2], "<u4")}, CorruptFile, r"weights stored as U32 \[2\]"),
        ("FP8", {"dequant_w_scale": entry("w", [1, 2], "<f4")}, CorruptFile, "has 2 scales, not one"),
        ("FP8", {"": entry("w", [[1] * 64], "u1")}, CorruptFile, r"weights stored as U8 \[1, 64\]"),
        ("F8Q8", {"shape": entry("w", (3, 96), "<u4")}, CorruptFile, r"\[3, 96\] weights of F8Q8 take 297"),
        ("MXFP4", {"scales": entry("w", [[1] * 5] * 3, "u1")}, CorruptFile, r"scales \[3, 5\] for"),
        ("MXFP4", {"": entry("w", [[1] * 9] * 3, "u1")}, CorruptFile, "rows of 18 weights, not a multiple"),
    ],
)  # fmt: skip
def test_refuses(tmp_path: Path, kind: str, changes: Parts, error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, {**KINDS[kind]()[0], **changes})


def test_what_uqff_has_no_place_for() -> None:
    fmt = FORMATS["HQQ4"]
    tensor = Tensor("w", fmt, (1, 64), np.zeros(fmt.bytes, np.uint8))
    with pytest.raises(UnsupportedExport, match="no place for HQQ4"):
        layer_entries("w", tensor)
    blocks = np.zeros((2, 68), np.uint8)
    blocks[1, 2] = 1
    with pytest.raises(UnsupportedExport, match="one scale for all FP8 weights"):
        layer_entries("w", Tensor("w", FORMATS["FP8"], (2, 64), blocks.reshape(-1)))
