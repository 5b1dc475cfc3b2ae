"""Which layers are global and which local, from the ways in which files say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostro.loading.fields import Fields
    from ostro.ops.batch import LayerKind

DEFAULT_PERIOD = 6
MAX_LAYERS = 1024


def periodic(layers: int, period: int) -> tuple[LayerKind, ...]:
    """Every `period`-th layer is global; a period of 1 makes all of them global."""
    return tuple("global" if (index + 1) % period == 0 else "local" for index in range(layers))


def listed(
    fields: Fields, name: str, layers: int, entries: Sequence[object], local: object, other: object
) -> tuple[LayerKind, ...]:
    """One entry per layer, `local` or `other` (global); BadConfig for other entries or a wrong number."""
    if len(entries) != layers:
        fields.fail(name, f"has {len(entries)} entries for {layers} layers")
    for entry in entries:
        if entry not in (local, other):
            fields.fail(name, f"must hold {local!r} and {other!r} only, not {str(entry)[:40]!r}")
    return tuple("local" if entry == local else "global" for entry in entries)
