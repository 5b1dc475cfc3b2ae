"""Where a Hugging Face folder keeps its chat template."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ostro.errors import CorruptFile
from ostro.loading.fields import Fields, read_json

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

MAX_TEMPLATE = 4 << 20


def read_chat_template(folder: Path) -> str | None:
    """The template in chat_template.jinja, else chat_template.json, else tokenizer_config.json.

    None when none has. BadConfig or CorruptFile names a malformed file.
    """
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        with jinja.open("rb") as file:
            raw = file.read(MAX_TEMPLATE + 1)
        if len(raw) > MAX_TEMPLATE:
            raise CorruptFile(f"{jinja}: larger than {MAX_TEMPLATE >> 20} MiB, which no template is")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptFile(f"{jinja}: not valid UTF-8 at byte {error.start}") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            template = _template(Fields(str(path), read_json(path)))
            if template is not None:
                return template
    return None


def _template(fields: Fields) -> str | None:
    name = "chat_template"
    if name not in fields:
        return None
    if not isinstance(fields.values[name], list):
        return fields.text(name)
    templates: dict[str, str] = {}
    for number, entry in enumerate(fields.list(name)):
        named = Fields(fields.source, {f"{name}[{number}]": entry}).section(f"{name}[{number}]")
        templates[named.text("name")] = named.text("template")
    if len(templates) == 1:
        return next(iter(templates.values()))
    if templates and "default" not in templates:
        logger.warning(
            "%s: none of the chat templates (%s) is the default one", fields.source, ", ".join(templates)
        )
    return templates.get("default")
