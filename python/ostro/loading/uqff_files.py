"""Which files of a folder or repository make up a UQFF model.

Source: mistral.rs, pipeline/isq.rs (names of shards, shorthands) and uqff/report.rs (uqff_report.json).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostro.errors import BadConfig, CorruptFile, InvalidParameter, ModelNotFound
from ostro.isq_names import isq_name
from ostro.loading.fields import Fields, read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    Sets = Mapping[str, tuple[str, ...]]

REPORT = "uqff_report.json"
SUFFIX = ".uqff"
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>0|[1-9]\d{0,3})\.uqff", re.DOTALL | re.ASCII | re.IGNORECASE)
_MAX_OUTPUTS = 256


@dataclass(frozen=True, slots=True)
class UqffLayout:
    """A UQFF model: the files of its layers, in order. Beside them lies residual.safetensors."""

    files: tuple[str, ...]


def is_uqff(name: str) -> bool:
    """By its name."""
    return name.lower().endswith(SUFFIX)


def find_uqff(
    names: Collection[str], asked: Sequence[str], where: str, reported: Sets | None = None
) -> UqffLayout | None:
    """The model's files by file names alone; None if there are none.

    asked: files, one of a model's or all; also the name of a number format ("q4k", "4") whose files are
        called so. Nothing: the only model there is.
    reported: what uqff_report.json says: a number format's name -> its files.
    ModelNotFound for what is not there, BadConfig when the choice is not clear.
    """
    claimed = {file for files in (reported or {}).values() for file in files}
    sets = {**_by_name(name for name in names if is_uqff(name) and name not in claimed), **(reported or {})}
    if not asked:
        if len(sets) > 1:
            raise BadConfig(f"{where} holds several UQFF models; choose one as from_uqff{_listing(sets)}")
        return next((UqffLayout(_complete(files, where)) for files in sets.values()), None)
    chosen: dict[str, None] = {}
    for choice in asked:
        chosen |= dict.fromkeys(_chosen(choice, sets, where))
    return UqffLayout(tuple(chosen))


def read_report(folder: Path) -> Sets:
    """What the folder's uqff_report.json says of files that are there; empty if there is no such file.

    CorruptFile or BadConfig if it is malformed or names files that are not in the folder.
    """
    path = folder / REPORT
    if not path.is_file():
        return {}
    top = Fields(str(path), read_json(path))
    result: dict[str, tuple[str, ...]] = {}
    for entry in top.list("outputs")[:_MAX_OUTPUTS]:
        output = Fields(str(path), entry if isinstance(entry, dict) else {}, "outputs.")
        files = tuple(output.list("shards"))
        for file in files:
            if not isinstance(file, str) or "/" in file or "\\" in file or not is_uqff(file):
                output.fail("shards", f"names {str(file)[:80]!r}, which is no .uqff file of this folder")
            if not (folder / file).is_file():
                raise CorruptFile(f"{path}: {file!r} is missing")
        if files:
            result[output.text("quant")] = files
    return result


def _by_name(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Stem -> files in the order of their numbers."""
    numbered: dict[str, dict[int, str]] = {}
    for name in sorted(names):
        stem, number = _stem(name)
        numbered.setdefault(stem, {})[number] = name
    return {stem: tuple(files[number] for number in sorted(files)) for stem, files in numbered.items()}


def _stem(name: str) -> tuple[str, int]:
    """What is common to a model's files, and the number of this one; 0 without one."""
    match = _SHARD.fullmatch(name)
    return (match["stem"], int(match["number"])) if match else (name[: -len(SUFFIX)], 0)


def _chosen(choice: str, sets: Sets, where: str) -> tuple[str, ...]:
    """The files of the set that the choice means."""
    for files in sets.values():
        if choice in files:
            return _complete(files, where)
    wanted = _meanings(choice[: -len(SUFFIX)] if is_uqff(choice) else choice)
    for key, files in sets.items():
        if {_plain(name.rpartition("/")[2]) for name in (key, _stem(files[0])[0])} & wanted:
            return _complete(files, where)
    raise ModelNotFound(f"{where} has no UQFF file {choice!r}{_listing(sets)}")


def _meanings(choice: str) -> set[str]:
    """What files may be called that are asked for in this way."""
    try:
        name = isq_name(choice)
    except InvalidParameter:
        return {_plain(choice)}
    # Of a number of bits, mistral.rs has the affine format for Metal and ggml's for all else.
    return {_plain(name), *((f"afq{choice}",) if choice.isdecimal() else ())}


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _complete(files: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The same, if no number is missing."""
    numbers = [int(match["number"]) for match in map(_SHARD.fullmatch, files) if match]
    if len(numbers) == len(files) and numbers != list(range(len(files))):
        missing = next(number for number in range(len(files)) if number not in numbers)
        raise CorruptFile(f"{where}: of the UQFF files {', '.join(files[:5])}, number {missing} is missing")
    return files


def _listing(sets: Sets) -> str:
    files = sorted(files[0] for files in sets.values())
    more = f" and {len(files) - 40} more" if len(files) > 40 else ""
    return f": {', '.join(files[:40])}{more}" if files else " nor any other"
