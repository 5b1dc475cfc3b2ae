"""Files that a request names, read under the rules of ImageAccess.

A path that the rules forbid is answered alike whether or not something is there, and nothing is opened to
find out. Only regular files are read: a pipe or a device might never end, or do something when opened.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ostro.errors import BadImage, ImageRefused, ImageTooLarge

if TYPE_CHECKING:
    from ostro.prompt.fetch import ImageAccess

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def is_there(path: str, access: ImageAccess) -> bool:
    """Whether the path may be read and exists."""
    try:
        if access.any_path:
            return os.path.lexists(_at_home(path))
        found = _inside(path, access)
        return found is not None and found[0].joinpath(*found[1]).exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def read_file(path: str, access: ImageAccess, max_bytes: int, where: str) -> bytes:
    """All bytes of a regular file; ImageRefused, ImageTooLarge, BadImage."""
    try:
        file = _open(path, access, where)
    except BadImage:  # a ValueError, too
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadImage(f"{where}: cannot read {path!r:.200}: {reason}", param=where) from error
    try:
        size = os.fstat(file).st_size
        # A file may grow, and some (those of /proc) say that they are empty.
        data = bytearray()
        while size <= max_bytes and len(data) <= max_bytes:
            block = os.read(file, min(1 << 20, max_bytes + 1 - len(data)))
            if not block:
                return bytes(data)
            data += block
    except OSError as error:
        raise BadImage(f"{where}: cannot read {path!r:.200}: {error.strerror}", param=where) from error
    finally:
        os.close(file)
    raise ImageTooLarge(f"{where}: {path!r:.200} has more than {max_bytes:,} bytes", param=where)


def _open(path: str, access: ImageAccess, where: str) -> int:
    if access.any_path:
        return _open_regular(_at_home(path), None)
    found = _inside(path, access)
    if found is None:
        raise ImageRefused(
            f"{where}: this server does not read files from there; send the image as base64 or a data: URL",
            param=where,
        )
    # The way was checked, but it may change under us: go down it again, through no link.
    root, steps = found
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps[:-1]:
            inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        return _open_regular(steps[-1] if steps else ".", folder)
    finally:
        os.close(folder)


def _open_regular(path: str, folder: int | None) -> int:
    """Open a regular file; within a folder, no link. ValueError for other kinds."""
    # Looked at before it is opened, since opening a device may have effects; and after, since it may change.
    _check_regular(os.stat(path, dir_fd=folder, follow_symlinks=folder is None))
    file = os.open(path, _FLAGS if folder is None else _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    try:
        _check_regular(os.fstat(file))
    except ValueError:
        os.close(file)
        raise
    return file


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")


def _inside(path: str, access: ImageAccess) -> tuple[Path, tuple[str, ...]] | None:
    """The root that holds the path once links are resolved, and the steps down from it."""
    if not access.roots:
        return None
    real = Path(os.path.realpath(path))
    for folder in access.roots:
        root = Path(os.path.realpath(folder))
        if real.is_relative_to(root):
            return root, real.relative_to(root).parts
    return None


def _at_home(path: str) -> str:
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:  # nobody of that name
        return path
