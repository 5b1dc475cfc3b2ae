"""The door: which names lead where, and that local names never lead to the network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from ostro.errors import BadConfig, ModelNotFound
from ostro.loading.checkpoint import GgufVocabulary
from ostro.loading.open import open_checkpoint

from . import tiny


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "My Model.GGUF")
    for name in (path, str(path)):
        checkpoint = open_checkpoint(name)
        assert checkpoint.name == "My Model"
        assert checkpoint.norm_offset == 0.0


def test_a_folder_of_gguf_files(tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "a.gguf")
    assert open_checkpoint(tmp_path).norm_offset == 0.0
    tiny.write_gguf(tmp_path / "b.gguf", metadata={"gemma3.context_length": 99})
    with pytest.raises(BadConfig, match=r"several GGUF models; choose one as gguf_file: a\.gguf, b\.gguf"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path, gguf_file="b.gguf").config.context_length == 99
    assert open_checkpoint(tmp_path, gguf_file="b.gguf").name == tmp_path.name
    with pytest.raises(ModelNotFound, match=r"no file 'c\.gguf': a\.gguf, b\.gguf"):
        open_checkpoint(tmp_path, gguf_file="c.gguf")


def test_gguf_files_one_level_down(tmp_path: Path) -> None:
    (tmp_path / "BF16").mkdir()
    tiny.write_gguf(tmp_path / "BF16" / "a.gguf")
    assert open_checkpoint(tmp_path).norm_offset == 0.0
    assert open_checkpoint(tmp_path, gguf_file="BF16/a.gguf").norm_offset == 0.0


def test_folders_look_like_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_hugging_face(tmp_path / "google" / "gemma")
    monkeypatch.chdir(tmp_path)
    checkpoint = open_checkpoint("google/gemma")
    assert checkpoint.norm_offset == 1.0
    monkeypatch.chdir(tmp_path / "google" / "gemma")
    assert open_checkpoint(".").name == "gemma"


@pytest.mark.parametrize(
    "model",
    [
        "nothing",
        "./a/b",
        "/no/such/folder",
        "a/b/c",
        "org/model.gguf",
        "org/model.uqff",
        "../x",
        "",
        "a" * 5000,
        "nul\0",
        "org/../x",
    ],
)
def test_what_is_neither_path_nor_id(model: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no such file or folder, and it is not a hub id"):
        open_checkpoint(model)


def test_paths_are_never_hub_ids() -> None:
    with pytest.raises(ModelNotFound, match="no such file or folder"):
        open_checkpoint(Path("google/gemma-3-270m"))


def test_another_tokenizer_file(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf")
    other = tmp_path / "tokenizer.json"
    with pytest.raises(ModelNotFound, match="there is no such tokenizer file"):
        open_checkpoint(path, tokenizer_json=other)
    other.write_text("{}")
    assert open_checkpoint(path, tokenizer_json=other).tokenizer == other


def test_the_tokenizer_of_another_folder(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.chat_template": "own"})
    side = tmp_path / "side"
    side.mkdir()
    with pytest.raises(ModelNotFound, match=r"side: there is no tokenizer\.json in it"):
        open_checkpoint(path, tok_model_id=str(side))
    (side / "tokenizer.json").write_text("{}")
    checkpoint = open_checkpoint(path, tok_model_id=str(side))
    assert checkpoint.tokenizer == side / "tokenizer.json"
    assert checkpoint.chat_template == "own"
    assert checkpoint.generation.eos_token_ids == (1, 6)
    (side / "tokenizer_config.json").write_text(json.dumps({"chat_template": "theirs"}))
    (side / "generation_config.json").write_text(json.dumps({"top_k": 64, "eos_token_id": [1, 106]}))
    checkpoint = open_checkpoint(path, tok_model_id=str(side))
    assert checkpoint.chat_template == "theirs"
    assert (checkpoint.generation.top_k, checkpoint.generation.eos_token_ids) == (64, (1, 6, 106))


def test_own_tokenizer_by_default(tmp_path: Path) -> None:
    assert isinstance(open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf")).tokenizer, GgufVocabulary)


def test_local_models_do_not_pay_for_the_hub_library(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf")
    code = (
        "import sys; from ostro.loading.open import open_checkpoint; open_checkpoint(sys.argv[1]);"
        "print([name for name in ('huggingface_hub', 'safetensors', 'httpx', 'gguf') if name in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout == "[]\n"
