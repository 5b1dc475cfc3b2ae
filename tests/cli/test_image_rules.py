"""What clients of a server may name as images, by its address and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ostro.cli.image_rules import access, describe
from ostro.prompt.fetch import ImageAccess

FOLDER = Path("/srv/pictures")


@pytest.mark.parametrize(
    ("options", "rules", "line"),
    [
        ({"local": True}, {"any_path": True}, "images: base64, URLs of public hosts, any file"),
        ({"local": False}, {}, "images: base64, URLs of public hosts, no files"),
        (
            {"local": True, "roots": [FOLDER, Path("/tmp")]},
            {"roots": (FOLDER, Path("/tmp"))},
            "images: base64, URLs of public hosts, files below /srv/pictures and /tmp",
        ),
        (
            {"local": False, "roots": [FOLDER], "no_urls": True},
            {"roots": (FOLDER,), "urls": False},
            "images: base64, no URLs, files below /srv/pictures",
        ),
        (
            {"local": True, "private_hosts": True},
            {"any_path": True, "private_hosts": True},
            "images: base64, URLs, also of private hosts, any file",
        ),
    ],
)
def test_rules(options: dict[str, Any], rules: dict[str, Any], line: str) -> None:
    made = access(**options)
    assert made == ImageAccess(**rules)
    assert describe(made) == line
