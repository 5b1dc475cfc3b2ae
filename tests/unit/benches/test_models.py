"""Which model an engine reads, and its size."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from benches.compare import models, peers

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OPENVINO = peers.ENGINES["openvino"]


def test_openvino_reads_a_folder_that_its_own_environment_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command))
    folder = models.model_for(OPENVINO, "4b", tmp_path)
    assert folder == tmp_path / "models" / "gemma-3-4b-random-1-int4-openvino"
    python = str(peers.python_of(tmp_path, peers.OPENVINO))
    assert asked == [[python, "-m", "benches.compare.random_openvino", "4b", str(folder)]]
    folder.mkdir()
    assert models.model_for(OPENVINO, "4b", tmp_path) == folder
    assert len(asked) == 1


def test_the_real_model_is_the_same_file_for_all(tmp_path: Path) -> None:
    files = {models.model_for(engine, models.REAL, tmp_path) for engine in peers.ENGINES.values()}
    assert files == {models.model_file(models.REAL, tmp_path)}


def test_bytes_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    for name, count in (("model.xml", 5), ("model.bin", 70)):
        (tmp_path / name).write_bytes(bytes(count))
    assert models.bytes_of(tmp_path / "model.bin") == 70
    assert models.bytes_of(tmp_path) == 75
    models.into_page_cache(tmp_path)
