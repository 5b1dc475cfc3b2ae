"""Which ostro this is."""

from __future__ import annotations


def ostro_version() -> str:
    """Version of the installed package; "0+source" when the sources run without one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ostro")
    except PackageNotFoundError:
        return "0+source"
