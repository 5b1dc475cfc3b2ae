"""Which file has the image half of a GGUF model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ostro.errors import (
    BadConfig,
    ModelNotFound,
    UnsupportedModel,
)
from ostro.loading.open import open_checkpoint

from . import tiny, tiny_vision
from .tiny_vision import check_all_weights

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lone_mmproj_file_of_a_folder_is_used(tmp_path: Path) -> None:
    model = tiny.write_gguf(tmp_path / "m.gguf")
    tiny_vision.write_mmproj(tmp_path / "mmproj-F16.gguf")
    check_all_weights(open_checkpoint(tmp_path))
    check_all_weights(open_checkpoint(tmp_path, gguf_file="m.gguf"))
    assert open_checkpoint(model).config.vision is None


def test_mmproj_files_and_folders_in_folders(tmp_path: Path) -> None:
    (tmp_path / "Q4").mkdir()
    tiny.write_gguf(tmp_path / "Q4" / "m.gguf")
    tiny_vision.write_mmproj(tmp_path / "mmproj.gguf", metadata={"clip.vision.image_mean": [0.0, 0.0, 0.0]})
    means = []
    for _ in range(2):
        vision = open_checkpoint(tmp_path).config.vision
        assert vision is not None
        means.append(vision.image_mean[0])
        tiny_vision.write_mmproj(tmp_path / "Q4" / "mmproj.gguf")
    assert means == [0.0, 0.5]


def test_several_mmproj_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.write_gguf(tmp_path / "m.gguf")
    for name in ("mmproj-a.gguf", "mmproj-b.gguf", "eye.gguf"):
        tiny_vision.write_mmproj(tmp_path / name)
    (tmp_path / "eye.gguf").rename(tmp_path / "eye.bin")
    assert open_checkpoint(tmp_path).config.vision is None
    assert "choose one as mmproj_file: mmproj-a.gguf, mmproj-b.gguf" in caplog.text
    caplog.clear()
    for name in ("mmproj-b.gguf", "eye.bin", str(tmp_path / "mmproj-a.gguf")):
        check_all_weights(open_checkpoint(tmp_path, mmproj_file=name))
    assert caplog.text == ""
    with pytest.raises(ModelNotFound, match=r"no file 'c\.gguf': mmproj-a\.gguf, mmproj-b\.gguf"):
        open_checkpoint(tmp_path, mmproj_file="c.gguf")


def test_an_mmproj_file_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.write_gguf(tmp_path / "m.gguf")
    tiny_vision.write_mmproj(tmp_path / "eye.gguf")
    check_all_weights(open_checkpoint(tmp_path, mmproj_file="eye.gguf"))
    check_all_weights(open_checkpoint(model, mmproj_file="eye.gguf"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "eye.gguf").rename(tmp_path / "elsewhere" / "it.gguf")
    monkeypatch.chdir(tmp_path / "elsewhere")
    check_all_weights(open_checkpoint(model, mmproj_file="it.gguf"))
    with pytest.raises(ModelNotFound, match=r"eye\.gguf: there is no such mmproj file, nor one beside"):
        open_checkpoint(model, mmproj_file="eye.gguf")


@pytest.mark.parametrize("name", ["", "a" * 5000, "nul\0", "."])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    model = tiny.write_gguf(tmp_path / "m.gguf")
    for place in (model, tmp_path):
        with pytest.raises(ModelNotFound):
            open_checkpoint(place, mmproj_file=name)


def test_an_mmproj_file_alone_is_no_model(tmp_path: Path) -> None:
    path = tiny_vision.write_mmproj(tmp_path / "mmproj.gguf")
    for model in (path, tmp_path):
        with pytest.raises(
            UnsupportedModel, match=r"vision half of a model \(mmproj\); give the GGUF file of"
        ):
            open_checkpoint(model)


def test_a_file_with_both_halves_needs_no_other(tmp_path: Path) -> None:
    tiny_vision.write_combined(tmp_path / "m.gguf")
    tiny_vision.write_mmproj(tmp_path / "mmproj.gguf", metadata={"clip.vision.image_mean": [0.0, 0.0, 0.0]})
    check_all_weights(open_checkpoint(tmp_path))
    with pytest.raises(BadConfig, match=r"has its own image half; leave the mmproj file .*mmproj\.gguf out"):
        open_checkpoint(tmp_path, mmproj_file="mmproj.gguf")


def test_hugging_face_folders_take_no_mmproj_file(tmp_path: Path) -> None:
    folder = tiny_vision.write_hugging_face(tmp_path / "folder")
    tiny_vision.write_mmproj(folder / "mmproj.gguf")
    check_all_weights(open_checkpoint(folder))
    for name in ("mmproj.gguf", "other.gguf"):
        with pytest.raises(BadConfig, match=r"folder is no GGUF model, so mmproj_file"):
            open_checkpoint(folder, mmproj_file=name)
