"""Where chat templates are found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ostro.errors import BadConfig, CorruptFile
from ostro.loading.chat_template import read_chat_template

if TYPE_CHECKING:
    from pathlib import Path


def config(folder: Path, template: object, name: str = "tokenizer_config.json") -> None:
    (folder / name).write_text(json.dumps({"chat_template": template}), "utf-8")


def test_nowhere(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    config(tmp_path, None)
    assert read_chat_template(tmp_path) is None


def test_precedence(tmp_path: Path) -> None:
    config(tmp_path, "third")
    assert read_chat_template(tmp_path) == "third"
    config(tmp_path, "second", "chat_template.json")
    assert read_chat_template(tmp_path) == "second"
    (tmp_path / "chat_template.jinja").write_text("first ▁\n", "utf-8")
    assert read_chat_template(tmp_path) == "first ▁\n"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["default", "rag"], "default"),
        (["rag", "default"], "default"),
        (["rag"], "rag"),
        (["a", "b"], None),
        ([], None),
    ],
)
def test_lists_of_named_templates(tmp_path: Path, names: list[str], expected: str | None) -> None:
    config(tmp_path, [{"name": name, "template": name} for name in names])
    assert read_chat_template(tmp_path) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (5, "chat_template must be a text, not 5"),
        ([5], r"chat_template\[0\] must be an object"),
        ([{"name": "x"}], r"chat_template\[0\]\.template is missing"),
    ],
)
def test_malformed(tmp_path: Path, template: object, message: str) -> None:
    config(tmp_path, template)
    with pytest.raises(BadConfig, match=rf"tokenizer_config\.json: {message}"):
        read_chat_template(tmp_path)


def test_jinja_files_must_be_text_of_sane_size(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"ok\xff")
    with pytest.raises(CorruptFile, match=r"chat_template\.jinja: not valid UTF-8 at byte 2"):
        read_chat_template(tmp_path)
    with path.open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(CorruptFile, match=r"chat_template\.jinja: larger than 4 MiB"):
        read_chat_template(tmp_path)
