"""Topology files: formats for chosen layers or weights, over whatever else was asked for.

Source: mistral.rs's topology files. A YAML mapping whose keys are a layer ("7"), a range without its end
("0-8"), or a regular expression between slashes ("/down_proj/"), and whose values say `isq: NAME`. `device`
entries are accepted if they say "cpu".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ostro.errors import BadConfig, InvalidParameter, ModelNotFound
from ostro.isq_names import isq_name

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1 << 20
_LAYER = re.compile(r"layers\.(\d+)\.")
_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True, slots=True)
class Topology:
    """ranges: (start, end, name) over layers of the text model; patterns: (expression, name); later ones win.

    A pattern wins over a range.
    """

    ranges: tuple[tuple[int, int, str], ...] = ()
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()

    def name(self, canonical: str, own: str) -> str | None:
        """The name of the format for a tensor (`IsqType`); None where the file says nothing of it.

        canonical: its name in `Checkpoint`. own: its name in the model's files; a pattern may fit either.
        """
        for pattern, name in reversed(self.patterns):
            if pattern.search(canonical) or pattern.search(own):
                return name
        match = _LAYER.match(canonical)
        if match is not None:
            layer = int(match[1])
            for start, end, name in reversed(self.ranges):
                if start <= layer < end:
                    return name
        return None


def read_topology(path: Path) -> Topology:
    """The file at `path`; ModelNotFound without it, BadConfig naming the entry that is wrong."""
    import yaml

    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path}: there is no such topology file") from error
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise BadConfig(f"{path}: {len(raw):,} bytes are no topology file; the limit is {MAX_BYTES:,}")
    try:
        entries = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadConfig(f"{path}: not a YAML file: {str(error)[:200]}") from error
    if not isinstance(entries, dict) or not entries:
        raise BadConfig(f'{path}: expected entries such as "0-8: {{isq: Q3K}}"')
    ranges: list[tuple[int, int, str]] = []
    patterns: list[tuple[re.Pattern[str], str]] = []
    for key, value in entries.items():
        name = _isq(path, key, value)
        if name is None:
            continue
        text = str(key)
        if len(text) > 2 and text.startswith("/") and text.endswith("/"):
            try:
                patterns.append((re.compile(text[1:-1]), name))
            except (re.error, RecursionError, OverflowError) as error:
                raise BadConfig(f"{path}: {text[:80]!r} is no regular expression: {error}") from error
        else:
            ranges.append((*_range(path, text), name))
    return Topology(tuple(ranges), tuple(patterns))


def _isq(path: Path, key: Any, value: Any) -> str | None:
    if not isinstance(value, dict) or not set(value) <= {"isq", "device"}:
        raise BadConfig(
            f'{path}: the entry {str(key)[:80]!r} must say "isq: NAME", and may say "device: cpu"'
        )
    if str(value.get("device", "cpu")).lower() != "cpu":
        raise BadConfig(
            f"{path}: {str(key)[:80]!r}: device {value['device']!r} is not here; ostro runs on cpu"
        )
    asked = value.get("isq")
    if asked is None:
        return None
    try:
        return isq_name(asked if isinstance(asked, int) else str(asked))
    except InvalidParameter as error:
        raise BadConfig(f"{path}: {str(key)[:80]!r}: {error.message}") from error


def _range(path: Path, text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    start = int(match[1]) if match and len(match[1]) < 7 else -1
    end = start + 1 if match is None or match[2] is None else int(match[2][:7])
    if start < 0 or end <= start:
        raise BadConfig(
            f"{path}: {text[:80]!r} is neither a layer (7), nor a range of layers (0-8, without 8), nor a "
            "/regular expression/"
        )
    return start, end
