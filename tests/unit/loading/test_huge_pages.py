"""Weights that are copied out of their file."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ostro.loading import huge_pages
from ostro.loading.demo import demo_folder
from ostro.loading.huge_pages import in_huge_pages
from ostro.loading.open import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.loading.checkpoint import Checkpoint


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Checkpoint:
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_SETTING", setting)
    return open_checkpoint(demo_folder())


def test_the_copy_is_the_same_model(checkpoint: Checkpoint) -> None:
    copied = in_huge_pages(checkpoint)
    assert copied.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        copy = copied.tensors[name]
        assert (copy.format, copy.shape) == (tensor.format, tensor.shape)
        np.testing.assert_array_equal(copy.data, tensor.data)
        assert not np.shares_memory(copy.data, tensor.data)
        assert not copy.data.flags.writeable
    assert copied.vision_tensors is checkpoint.vision_tensors


def test_tensors_lie_apart_in_one_place(checkpoint: Checkpoint) -> None:
    places = sorted(
        (tensor.data.__array_interface__["data"][0], tensor.data.nbytes)
        for tensor in in_huge_pages(checkpoint).tensors.values()
    )
    assert places[0][0] % (2 << 20) == 0
    for (start, size), (following, _) in itertools.pairwise(places):
        assert start % 64 == 0
        assert start + size <= following < start + size + 64


def test_large_models_stay_in_their_file(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "LARGEST", 3 << 20)
    assert in_huge_pages(checkpoint) is checkpoint


@pytest.mark.parametrize("setting", ["always madvise [never]\n", None])
def test_nothing_is_copied_where_the_system_has_no_huge_pages(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str | None
) -> None:
    file = tmp_path / "other"
    if setting is not None:
        file.write_text(setting)
    monkeypatch.setattr(huge_pages, "_SETTING", file)
    assert in_huge_pages(checkpoint) is checkpoint


def test_without_memory_for_it_the_model_is_read_from_its_file(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(size: int) -> None:
        raise OSError(12, f"no {size} bytes")

    monkeypatch.setattr(huge_pages, "_room", refused)
    assert in_huge_pages(checkpoint) is checkpoint
