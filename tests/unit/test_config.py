"""Choices that depend on the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ostro.config import compute_of

if TYPE_CHECKING:
    from ostro.config import Compute


@pytest.mark.parametrize(
    ("compute", "hidden_size", "expected"),
    [
        ("auto", 640, "int14"),
        ("auto", 1152, "int14"),
        ("auto", 2560, "mixed"),
        ("auto", 5376, "mixed"),
        ("int14", 2560, "int14"),
        ("int8", 640, "int8"),
        ("f32", 2560, "f32"),
    ],
)
def test_auto_takes_8_bits_for_k_quants_of_wide_models_only(
    compute: Compute, hidden_size: int, expected: Compute
) -> None:
    assert compute_of(compute, hidden_size) == expected
