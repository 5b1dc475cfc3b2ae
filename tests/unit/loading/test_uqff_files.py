"""Which UQFF files belong together, and which are meant."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ostro.errors import BadConfig, CorruptFile, ModelNotFound, OstroError
from ostro.loading.layout import HuggingFaceLayout, find_layout
from ostro.loading.uqff_files import UqffLayout, find_uqff, read_report

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ["config.json", "residual.safetensors"]
TWO = ["q4k-0.uqff", "q4k-1.uqff"]
MANY = [*TWO, "Q8_0-0.uqff", "afq4-0.uqff", "own.uqff"]


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        (["a.uqff"], (), ["a.uqff"]),
        (["a-1.uqff", "a-0.uqff", "README.md"], (), ["a-0.uqff", "a-1.uqff"]),
        ([f"a-{n}.uqff" for n in range(12)], (), [f"a-{n}.uqff" for n in range(12)]),
        (MANY, ["q4k-0.uqff"], TWO),
        (MANY, ["q4k-1.uqff"], TWO),
        (MANY, TWO, TWO),
        (MANY, ["q4k"], TWO),
        (MANY, ["Q4_K"], TWO),
        (MANY, ["q4k.uqff"], TWO),
        (MANY, ["own"], ["own.uqff"]),
        (MANY, ["8"], ["Q8_0-0.uqff"]),
        (MANY, ["AFQ4"], ["afq4-0.uqff"]),
        (["afq4-0.uqff"], ["4"], ["afq4-0.uqff"]),
        (["a.uqff", "b.uqff"], ["a.uqff", "b.uqff"], ["a.uqff", "b.uqff"]),
    ],
)
def test_finds(names: list[str], asked: list[str], expected: list[str]) -> None:
    assert find_uqff(names, asked, "here") == UqffLayout(tuple(expected))


@pytest.mark.parametrize(
    ("names", "asked", "error", "message"),
    [
        (MANY, (), BadConfig, "several UQFF models; choose one as from_uqff: Q8_0-0.uqff, afq4-0.uqff, own"),
        (MANY, ["q6k"], ModelNotFound, "here has no UQFF file 'q6k': Q8_0-0.uqff, afq4-0.uqff, own.uqff"),
        (MANY, ["../own.uqff"], ModelNotFound, "no UQFF file '../own.uqff'"),
        ([], ["x.uqff"], ModelNotFound, "here has no UQFF file 'x.uqff' nor any other"),
        (["a-0.uqff", "a-2.uqff"], (), CorruptFile, "number 1 is missing"),
        (["a-1.uqff"], ["a-1.uqff"], CorruptFile, "number 0 is missing"),
    ],
)
def test_refuses(names: list[str], asked: list[str], error: type[OstroError], message: str) -> None:
    with pytest.raises(error) as caught:
        find_uqff(names, asked, "here")
    assert message in caught.value.message


def test_no_files() -> None:
    assert find_uqff(["config.json"], (), "here") is None


def test_folders() -> None:
    assert find_layout([*FOLDER, "a-0.uqff"], None, "here") == UqffLayout(("a-0.uqff",))
    whole = [*FOLDER, "a-0.uqff", "model.safetensors"]
    assert find_layout(whole, None, "here") == HuggingFaceLayout(("model.safetensors",), None)
    assert find_layout(whole, None, "here", ["a-0.uqff"]) == UqffLayout(("a-0.uqff",))
    assert find_layout(FOLDER, None, "here") == HuggingFaceLayout(("residual.safetensors",), None)
    with pytest.raises(BadConfig, match="a GGUF file and UQFF files at once"):
        find_layout([*whole, "a.gguf"], "a.gguf", "here", ["a-0.uqff"])


def write_report(folder: Path, *outputs: Any) -> None:
    (folder / "uqff_report.json").write_text(json.dumps({"schema": 1, "outputs": outputs}), "utf-8")


def test_a_report_names_files_that_are_called_otherwise(tmp_path: Path) -> None:
    for name in ("part-a.uqff", "part-b.uqff"):
        (tmp_path / name).touch()
    write_report(tmp_path, {"quant": "q4k", "shards": ["part-a.uqff", "part-b.uqff"]})
    report = read_report(tmp_path)
    assert report == {"q4k": ("part-a.uqff", "part-b.uqff")}
    names = [path.name for path in tmp_path.iterdir()]
    for asked in ([], ["4"], ["part-b.uqff"]):
        found = find_uqff(names, asked, "here", report)
        assert found == UqffLayout(("part-a.uqff", "part-b.uqff"))


def test_no_report(tmp_path: Path) -> None:
    assert read_report(tmp_path) == {}


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ({"quant": "q4k", "shards": ["../x.uqff"]}, BadConfig),
        ({"quant": "q4k", "shards": ["/etc/passwd"]}, BadConfig),
        ({"quant": "q4k", "shards": [5]}, BadConfig),
        ({"quant": "q4k", "shards": "x.uqff"}, BadConfig),
        ({"quant": 5, "shards": ["there.uqff"]}, BadConfig),
        ({"shards": ["there.uqff"]}, BadConfig),
        ({"quant": "q4k", "shards": ["gone.uqff"]}, CorruptFile),
    ],
)
def test_bad_reports(tmp_path: Path, output: Any, error: type[OstroError]) -> None:
    (tmp_path / "there.uqff").touch()
    write_report(tmp_path, output)
    with pytest.raises(error, match=r"uqff_report\.json"):
        read_report(tmp_path)
