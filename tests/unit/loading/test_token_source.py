"""The grammar of token sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ostro.errors import HubError
from ostro.loading.token_source import resolve_token

if TYPE_CHECKING:
    from pathlib import Path


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "from-env\n")
    path = tmp_path / "token"
    path.write_text(" from-file\n")
    assert resolve_token("cache") is None
    assert resolve_token("none") is False
    assert resolve_token("literal:hf_a:b") == "hf_a:b"
    assert resolve_token("env:MY_TOKEN") == "from-env"
    assert resolve_token(f"path:{path}") == "from-file"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf_secret", "token_source must be literal:TOKEN, env:VARIABLE, path:FILE, cache or none"),
        ("file:hf_secret", "token_source must be"),
        ("", "token_source must be"),
        ("literal:", "literal: holds no token"),
        ("env:NO_SUCH_VARIABLE", "environment variable 'NO_SUCH_VARIABLE' holds no token"),
        ("path:no/such/file", "the file 'no/such/file' cannot be read: FileNotFoundError"),
    ],
)
def test_mistakes(source: str, message: str) -> None:
    with pytest.raises(HubError) as caught:
        resolve_token(source)
    assert message in caught.value.message
    assert "secret" not in caught.value.message


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(HubError, match="holds no token"):
        resolve_token(f"path:{tmp_path / 'token'}")
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(HubError, match="cannot be read: UnicodeDecodeError"):
        resolve_token(f"path:{tmp_path / 'token'}")
