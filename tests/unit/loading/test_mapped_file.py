from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ostro.errors import CorruptFile, ModelNotFound
from ostro.loading.mapped_file import map_file, unload

if TYPE_CHECKING:
    from pathlib import Path


def test_maps_the_whole_file_read_only(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    mapped = map_file(path)
    assert mapped[:] == b"abc"
    with pytest.raises(TypeError):
        mapped[0] = 1


def test_what_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"/absent: no such file$"):
        map_file(tmp_path / "absent")
    with pytest.raises(CorruptFile, match=r"cannot be read: Is a directory$"):
        map_file(tmp_path)
    path = tmp_path / "weights"
    path.touch()
    with pytest.raises(CorruptFile, match=r"/weights: the file is empty$"):
        map_file(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CorruptFile, match=r"Git LFS pointer, not the model itself; run `git lfs pull`$"):
        map_file(path)


def test_what_is_unloaded_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = bytes(range(256)) * 64
    path.write_bytes(content)
    mapped = map_file(path)
    view = memoryview(mapped)
    for size in (0, 1, len(content) - 1, len(content), 10 * len(content)):
        unload(mapped, size)
        assert view == content
