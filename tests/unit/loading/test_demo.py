"""The model inside the package, here a stand-in for it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from ostro.errors import BadConfig, ModelNotFound
from ostro.loading.demo import DEMO_MODEL, demo_folder
from ostro.loading.open import open_checkpoint

from . import tiny, tiny_vision


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's folder that has no model yet."""
    monkeypatch.setattr(resources, "files", lambda name: {"ostro": tmp_path / "ostro"}[name])
    return tmp_path / "ostro"


def test_the_demo_model_has_a_name(package: Path) -> None:
    tiny_vision.write_hugging_face(package / "demo_model")
    assert demo_folder() == package / "demo_model"
    checkpoint = open_checkpoint(DEMO_MODEL)
    assert checkpoint.name == "ostro-demo-vision"
    assert checkpoint.config.vision == tiny_vision.EXPECTED


def test_other_folders_of_that_name_need_a_path(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_vision.write_hugging_face(package / "demo_model")
    tiny.write_hugging_face(tmp_path / "work" / DEMO_MODEL)
    monkeypatch.chdir(tmp_path / "work")
    assert open_checkpoint(DEMO_MODEL).config.vision is not None
    assert open_checkpoint(f"./{DEMO_MODEL}").config.vision is None
    assert open_checkpoint(Path(DEMO_MODEL)).config.vision is None


def test_copies_without_the_model_say_what_to_do(package: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"not part of this copy .*name a model: a \.gguf file, a folder"):
        demo_folder()


def test_the_demo_model_takes_no_mmproj_file(package: Path) -> None:
    tiny_vision.write_hugging_face(package / "demo_model")
    with pytest.raises(BadConfig, match="is no GGUF model"):
        open_checkpoint(DEMO_MODEL, mmproj_file="x.gguf")
