"""What a string that stands for an image is: a URL, a path, or the image itself in base64."""

from __future__ import annotations

import base64
import binascii
import os
import re
from urllib.parse import unquote_to_bytes, urlsplit

from ostro.errors import BadImage, ImageRefused, ImageTooLarge
from ostro.prompt.decode import HEAD, sniff

# One letter is a drive of Windows.
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}\Z")
_LONGEST_PATH = 4096
_URL_SAFE = str.maketrans("-_", "+/")


def scheme_of(text: str) -> str | None:
    """The scheme of a URL, in small letters; None for other strings."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


def path_of(url: str, where: str) -> str:
    """The path of a file: URL; BadImage, or ImageRefused if it names another host."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or ""
    except ValueError as error:
        raise BadImage(f"{where}: {url!r:.200} is no URL: {error}", param=where) from error
    if host not in ("", "localhost"):
        raise ImageRefused(
            f"{where}: file: URLs name files of this machine only, not of {host!r:.200}", param=where
        )
    if not parts.path:
        raise BadImage(f"{where}: the file: URL has no path", param=where)
    return os.fsdecode(unquote_to_bytes(parts.path))


def from_data_url(url: str, max_bytes: int, where: str) -> bytes:
    """The bytes of a data: URL, in base64 or percent-encoded, whatever media type it claims."""
    head, comma, body = url.partition(",")
    if not comma:
        raise BadImage(
            f"{where}: the data: URL has no comma; it must read data:image/png;base64,... or the like",
            param=where,
        )
    _check_length(body, max_bytes, where)
    if head.strip().lower().endswith(";base64"):
        if "%" in body:
            body = unquote_to_bytes(body).decode("latin-1")
        data = _decode(_bare(body))
        if data is None:
            raise BadImage(f"{where}: the data: URL is not correct base64", param=where)
        return data
    return unquote_to_bytes(body)


def from_base64_image(text: str, max_bytes: int, where: str) -> bytes | None:
    """The bytes of a string that is an image in base64 by its content; None if it is not.

    Standard and URL-safe alphabets, with or without padding, with white space anywhere.
    """
    start = _decode(_bare(text[: 4 * HEAD])[: HEAD // 3 * 4])
    if start is None or sniff(start) is None:
        return None
    _check_length(text, max_bytes, where)
    data = _decode(_bare(text))
    if data is None:
        raise BadImage(f"{where}: the image is not correct base64", param=where)
    return data


def may_be_path(text: str) -> bool:
    """Whether a path may be as long as the string."""
    return 0 < len(text) <= _LONGEST_PATH


def looks_like_path(text: str) -> bool:
    """Whether the string, which is no image in base64, is best read as a path."""
    return (
        may_be_path(text)
        and text.strip() != ""
        and "\n" not in text
        and "\0" not in text
        and not _looks_like_base64(text)
    )


def describe(text: str) -> str:
    """Why a string that is neither is refused."""
    if not text.strip():
        return "the string is empty; give a URL, a path or base64"
    if _looks_like_base64(text[:_LONGEST_PATH]):
        return "the string is base64, but not of an image of a known format, and there is no such file"
    return f"{text!r:.100} is neither a URL, nor a path, nor an image in base64"


def _looks_like_base64(text: str) -> bool:
    """Whether letters and digits run on as they do in no name."""
    bare = _bare(text)
    return len(bare) >= 64 and _BASE64.match(bare) is not None


def _bare(text: str) -> str:
    return "".join(text.split())


def _decode(bare: str) -> bytes | None:
    bare = bare.rstrip("=").translate(_URL_SAFE)
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _check_length(text: str, max_bytes: int, where: str) -> None:
    # Three characters for a percent-encoded byte are the most that is sensible.
    if len(text) > 3 * max_bytes + 1024:
        raise ImageTooLarge(
            f"{where}: the image has {len(text):,} characters; at most {max_bytes:,} bytes are read",
            param=where,
        )
