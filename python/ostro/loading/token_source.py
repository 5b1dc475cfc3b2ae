"""Where the hub's access token comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ostro.errors import HubError

GRAMMAR = "literal:TOKEN, env:VARIABLE, path:FILE, cache or none"


def resolve_token(source: str) -> str | Literal[False] | None:
    """The token for `literal:TOKEN | env:VARIABLE | path:FILE | cache | none`.

    None stands for "cache": what `hf auth login` or HF_TOKEN left; False for no token at all. HubError, which
    never shows the token, for anything else and for empty tokens.
    """
    if source == "cache":
        return None
    if source == "none":
        return False
    kind, separator, value = source.partition(":")
    if not separator or kind not in ("literal", "env", "path"):
        # What follows may be a token that someone forgot to prefix.
        raise HubError(f"token_source must be {GRAMMAR}")
    if kind == "env":
        token = os.environ.get(value, "")
        origin = f"the environment variable {value!r}"
    elif kind == "path":
        origin = f"the file {value!r}"
        try:
            token = Path(value).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            raise HubError(f"token_source: {origin} cannot be read: {type(error).__name__}") from error
    else:
        token, origin = value, "literal:"
    token = token.strip()
    if not token:
        raise HubError(f"token_source: {origin} holds no token")
    return token
