"""What the clients of a server may name as images: `--allowed-image-root` and its like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostro.prompt.fetch import ImageAccess

Roots = Annotated[
    list[Path] | None,
    typer.Option(
        "--allowed-image-root",
        metavar="DIR",
        exists=True,
        file_okay=False,
        resolve_path=True,
        help="Clients may name image files below this folder only; repeatable.",
        show_default=False,
    ),
]
PrivateHosts = Annotated[
    bool,
    typer.Option(
        "--allow-private-image-hosts", help="Fetch image URLs of this machine and local networks, too."
    ),
]
NoUrls = Annotated[bool, typer.Option("--no-image-urls", help="Fetch no image URLs at all.")]


def check(*, private_hosts: bool, no_urls: bool) -> None:
    """Usage error for options that contradict each other."""
    if private_hosts and no_urls:
        raise typer.BadParameter(
            "without URLs there are no hosts: leave out one of them",
            param_hint="--allow-private-image-hosts --no-image-urls",
        )


def access(
    *, local: bool, roots: Sequence[Path] = (), private_hosts: bool = False, no_urls: bool = False
) -> ImageAccess:
    """The rules of a server. local: only this machine can reach it.

    Whoever is on this machine may name any file that the server can read, unless there are roots; others only
    what is below a root. Private hosts are never allowed unasked.
    """
    from ostro.prompt.fetch import ImageAccess

    return ImageAccess(
        urls=not no_urls, private_hosts=private_hosts, any_path=local and not roots, roots=tuple(roots)
    )


def describe(access: ImageAccess) -> str:
    """One line for the people who start a server."""
    urls = "no URLs"
    if access.urls:
        urls = "URLs, also of private hosts" if access.private_hosts else "URLs of public hosts"
    files = "any file" if access.any_path else "no files"
    if access.roots:
        files = "files below " + " and ".join(map(str, access.roots))
    return f"images: base64, {urls}, {files}"
