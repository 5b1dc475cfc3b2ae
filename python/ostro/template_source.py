"""Where a chat template given by the user comes from."""

from __future__ import annotations

import json
from pathlib import Path

from ostro.errors import BadConfig


def read_chat_template(given: str | Path) -> str:
    """Jinja text of `given`: itself, or the content of a .jinja file, or "chat_template" of a .json file.

    BadConfig names the file that is missing or holds no template.
    """
    text = str(given)
    if isinstance(given, str) and ("{{" in text or "{%" in text):
        return text
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"chat template {path}: {error}") from error
    if path.suffix != ".json":
        return content
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise BadConfig(f"chat template {path}: not valid JSON: {error}") from error
    template = parsed.get("chat_template") if isinstance(parsed, dict) else None
    if not isinstance(template, str):
        raise BadConfig(f'chat template {path}: no text under "chat_template"')
    return template
