"""Files of text for calibration and for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostro.errors import InvalidParameter

if TYPE_CHECKING:
    from pathlib import Path

MAX_TEXT_BYTES = 1 << 30


def read_text(path: Path) -> str:
    """A file of UTF-8 text; InvalidParameter when it is not one, is empty, or is larger than 1 GiB."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise InvalidParameter(f"{path}: cannot be read: {error.strerror}", param="text") from error
    if len(raw) > MAX_TEXT_BYTES:
        raise InvalidParameter(f"{path}: larger than 1 GiB; a few hundred kilobytes suffice", param="text")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{path}: not UTF-8 text at byte {error.start:,}", param="text") from error
    if not text.strip():
        raise InvalidParameter(f"{path}: the text is empty", param="text")
    return text
