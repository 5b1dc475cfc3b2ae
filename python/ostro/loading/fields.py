"""Typed look-ups in metadata that strangers wrote; every complaint names the file and the field."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ostro.errors import BadConfig, CorruptFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_JSON_BYTES = 32 << 20
LARGEST = 2**31 - 1


class Fields:
    """A mapping and where it came from. A null counts as absent.

    Methods with a `default` raise BadConfig when the field is absent and the default is None.
    """

    def __init__(self, source: str, values: Mapping[str, Any], prefix: str = "") -> None:
        self.source = source
        self.values = values
        self.prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def fail(self, name: str, problem: str) -> NoReturn:
        """Raise BadConfig about one field."""
        raise BadConfig(f"{self.source}: {self.prefix}{name} {problem}")

    def _get(self, name: str, default: object) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            self.fail(name, "is missing")
        return default

    def _wrong(self, name: str, wanted: str, value: object) -> NoReturn:
        shown = repr(value)
        self.fail(name, f"must be {wanted}, not {shown if len(shown) <= 60 else shown[:60] + '...'}")

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = LARGEST) -> int:
        """An integer in [low, high]; 8.0 counts as 8."""
        value = self._get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._wrong(name, f"an integer from {low} to {high}", value)
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e30:
            self._wrong(name, "a positive number", value)
        return float(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self._wrong(name, "a finite number", value)
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            self._wrong(name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            self._wrong(name, "a text", value)
        return value

    def section(self, name: str) -> Fields:
        """A nested object; empty when absent."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            self._wrong(name, "an object", value)
        return Fields(self.source, value, f"{self.prefix}{name}.")

    def list(self, name: str) -> list[Any]:
        """A list of anything; empty when absent."""
        value = self._get(name, [])
        if isinstance(value, np.ndarray):
            return list(value.tolist())
        if not isinstance(value, list):
            self._wrong(name, "a list", value)
        return value

    def channels(self, name: str, default: float | None = None) -> tuple[float, float, float]:
        """Three numbers, one per colour channel, each at most 1e6 in size; `default` stands for all three."""
        value = self.list(name) if name in self or default is None else [default] * 3
        if len(value) != 3 or not all(
            isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= 1e6
            for number in value
        ):
            self._wrong(name, "three numbers", value)
        red, green, blue = map(float, value)
        return red, green, blue

    def token_ids(self, name: str) -> tuple[int, ...]:
        """A token id or a list of them; empty when absent."""
        value = self._get(name, [])
        ids = value if isinstance(value, list) else [value]
        for token_id in ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id <= LARGEST:
                self._wrong(name, "a token id or a list of token ids", value)
        return tuple(dict.fromkeys(ids))


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes; CorruptFile if it is anything else."""
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise CorruptFile(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > limit:
        raise CorruptFile(f"{path}: larger than {limit >> 20} MiB, which no such file is")
    return parse_json(raw, str(path))


def parse_json(raw: bytes, source: str) -> dict[str, Any]:
    """The object in UTF-8 JSON text; CorruptFile if it is not valid, repeats a key or holds no object."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{source}: not valid JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise CorruptFile(f"{source}: holds {type(value).__name__}, not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:80]!r} appears twice")
            seen.add(key)
    return result
