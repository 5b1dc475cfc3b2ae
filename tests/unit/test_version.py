from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING

import ostro
from ostro.version import ostro_version

if TYPE_CHECKING:
    import pytest


def test_everybody_tells_the_version_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", ostro_version())
    assert ostro.__version__ == ostro_version() == importlib.metadata.version("ostro")


def test_sources_without_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert ostro_version() == "0+source"
