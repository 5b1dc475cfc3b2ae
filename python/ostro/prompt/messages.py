"""Chat messages as users write them, brought into the form that every chat template understands.

After `arrange` the turns are: at most one system turn, first; then user and assistant turns, never two of a
role in a row; at least one of them; images in user turns only. Nothing of what was said or shown is lost on
the way, and nothing changes its place.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ostro.errors import InvalidParameter, UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ostro.prompt.fetch import ImageSource

Role = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
# Kinds of parts with an image, and the fields that may hold it, of which one must.
_IMAGE_FIELDS = {
    "image_url": ("image_url",),
    "input_image": ("image_url",),
    "image": ("image", "url", "path", "base64", "source"),
}
_OTHER_PARTS = {
    "input_audio": "Gemma 3 does not hear",
    "audio_url": "Gemma 3 does not hear",
    "video_url": "Gemma 3 sees no videos",
    "file": "send its text instead",
}


@dataclass(frozen=True, slots=True)
class TextPart:
    """A stretch of text within a message."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class ImagePart:
    """An image within a message, not yet looked at. where: the field that names it, for errors."""

    source: ImageSource = field(repr=False)
    where: str


Part: TypeAlias = "TextPart | ImagePart"


@dataclass(frozen=True, slots=True)
class Turn:
    """One or more messages of a role; parts in the order in which they were given."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """Its images, in order."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))

    def message(self) -> dict[str, Any]:
        """As chat templates read it: role and content, a string if all parts are text.

        Otherwise content is a list of {"type": "text", "text"} and {"type": "image"}.
        """
        if self.images:
            return {"role": self.role, "content": [_shown(part) for part in self.parts]}
        texts = (part.text for part in self.parts if isinstance(part, TextPart))
        return {"role": self.role, "content": "".join(texts)}


def read_messages(messages: str | Sequence[Mapping[str, Any]]) -> list[Turn]:
    """One turn per message; a plain string is one user turn. No image is fetched.

    Roles: `developer` is system, `tool` and `function` are user turns with the result. Calls of an
    assistant message follow its text as one JSON object {"name", "parameters"} per line. Text parts of a
    message are joined as Gemma's template does it, trimmed and without separator; those of a system message
    with an empty line. Images: {"type": "image_url", "image_url": url | {"url", "detail"}}, whose detail has
    no effect; "input_image" likewise; {"type": "image"} with one of image, url, path, base64 and source.
    InvalidParameter naming the place, UnsupportedField for kinds of content that are not offered.
    """
    if isinstance(messages, str):
        return [Turn("user", (TextPart(messages),))]
    if not isinstance(messages, Sequence) or isinstance(messages, (bytes, bytearray)):
        raise InvalidParameter(
            f"messages must be a list of messages or a string, not {_kind(messages)}", param="messages"
        )
    if not messages:
        raise InvalidParameter("messages is empty; there must be at least one message", param="messages")
    return [_read_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def arrange(turns: Sequence[Turn]) -> list[Turn]:
    """Merge and fold turns until they alternate.

    Texts that meet are trimmed and joined with an empty line; images bring their own line breaks. System
    messages at the start become one system turn; later ones, and all if one at the start has an image, are
    said by the user: in front of the next user turn, or as a user turn of their own.
    """
    leading = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if any(turn.images for turn in turns[:leading]):
        leading = 0
    said = [Turn("user", turn.parts) if turn.role == "system" else turn for turn in turns[leading:]]
    if not said:  # templates drop a system message that nothing follows
        return [_merge("user", turns)]
    system = [_merge("system", turns[:leading])] if leading else []
    return system + [_merge(role, list(group)) for role, group in groupby(said, lambda turn: turn.role)]


def without_system(turns: Sequence[Turn]) -> list[Turn]:
    """Arranged turns, the system turn in front of the first user turn: for templates that refuse it."""
    return arrange([Turn("user", turn.parts) if turn.role == "system" else turn for turn in turns])


def _merge(role: Role, turns: Sequence[Turn]) -> Turn:
    if len(turns) == 1:
        return Turn(role, turns[0].parts)
    return Turn(role, _join((part for turn in turns for part in turn.parts), "\n\n"))


def _join(parts: Iterable[Part], separator: str) -> tuple[Part, ...]:
    """Neighbouring texts as one, trimmed; empty ones add no separator. One empty text if nothing is left."""
    joined: list[Part] = []
    for is_image, run in groupby(parts, lambda part: isinstance(part, ImagePart)):
        if is_image:
            joined += run
        elif text := separator.join(
            filter(None, (part.text.strip() for part in run if isinstance(part, TextPart)))
        ):
            joined.append(TextPart(text))
    return tuple(joined) or (TextPart(""),)


def _shown(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


def _read_message(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise InvalidParameter(f"{where} must be an object, not {_kind(message)}", param=where)
    if "role" not in message:
        raise InvalidParameter(f"{where}.role is missing", param=f"{where}.role")
    name = message["role"]
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise InvalidParameter(
            f"{where}.role is {name!r:.100}; it must be one of {', '.join(_ROLES)}", param=f"{where}.role"
        )
    calls = message.get("tool_calls") or []
    if calls and role != "assistant":
        raise InvalidParameter(
            f"{where}.tool_calls: only the assistant calls tools", param=f"{where}.tool_calls"
        )
    parts = _read_content(message, role, where, optional=bool(calls))
    if calls:
        parts = _join((*parts, *_read_calls(calls, f"{where}.tool_calls")), "\n")
    return Turn(role, parts)


def _read_content(message: Mapping[str, Any], role: Role, where: str, *, optional: bool) -> tuple[Part, ...]:
    where += ".content"
    content = message.get("content")
    if isinstance(content, str):
        return (TextPart(content),)
    if content is None:
        if optional:
            return ()
        state = "null" if "content" in message else "missing"
        raise InvalidParameter(
            f"{where} is {state}; only an assistant message with tool_calls needs none", param=where
        )
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise InvalidParameter(
            f"{where} must be a string or a list of parts, not {_kind(content)}", param=where
        )
    if not content:
        raise InvalidParameter(f"{where} is an empty list", param=where)
    parts = tuple(_read_part(part, f"{where}[{i}]") for i, part in enumerate(content))
    for part in parts:
        if role == "assistant" and isinstance(part, ImagePart):
            raise InvalidParameter(
                f"{part.where}: the assistant shows no images; put this one into a user message",
                param=part.where,
            )
    return parts if len(parts) == 1 else _join(parts, "\n\n" if role == "system" else "")


def _read_part(part: Any, where: str) -> Part:
    if not isinstance(part, Mapping):
        raise InvalidParameter(f"{where} must be an object, not {_kind(part)}", param=where)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _IMAGE_FIELDS:
        return _read_image(part, _IMAGE_FIELDS[kind], where)
    if isinstance(kind, str) and kind in _OTHER_PARTS:
        raise UnsupportedField(f"{where}: no {kind} parts here: {_OTHER_PARTS[kind]}", param=where)
    if kind != "text":
        raise InvalidParameter(
            f"{where}.type is {kind!r:.100}; it must be 'text', 'image_url' or 'image'", param=f"{where}.type"
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidParameter(f"{where}.text must be a string, not {_kind(text)}", param=f"{where}.text")
    return TextPart(text)


def _read_image(part: Mapping[str, Any], fields: tuple[str, ...], where: str) -> ImagePart:
    given = [name for name in fields if part.get(name) is not None]
    if len(fields) == 1:
        where += f".{fields[0]}"
    if not given:
        state = "is missing" if len(fields) == 1 else f"has no image; give one of {', '.join(fields)}"
        raise InvalidParameter(f"{where} {state}", param=where)
    if len(given) > 1:
        raise InvalidParameter(f"{where} has {' and '.join(given)}; give one of them", param=where)
    value = part[given[0]]
    if len(fields) > 1:
        where += f".{given[0]}"
    if given[0] == "base64":
        if not isinstance(value, str):
            raise InvalidParameter(f"{where} must be a string, not {_kind(value)}", param=where)
        # Short base64 could also be a path; said like this it cannot.
        return ImagePart(value if value.startswith("data:") else f"data:;base64,{value}", where)
    if given[0] == "path":
        if not isinstance(value, (str, os.PathLike)):
            raise InvalidParameter(f"{where} must be a path, not {_kind(value)}", param=where)
        return ImagePart(Path(value), where)
    if isinstance(value, Mapping):
        where += ".url"
        if (value := value.get("url")) is None:
            raise InvalidParameter(f"{where} is missing", param=where)
    return ImagePart(_read_source(value, where), where)


def _read_source(value: Any, where: str) -> ImageSource:
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    # Only who has imported Pillow can have one of its images.
    pillow = sys.modules.get("PIL.Image")
    if isinstance(value, (str, bytes, os.PathLike, np.ndarray)) or (
        pillow is not None and isinstance(value, pillow.Image)
    ):
        return value
    raise InvalidParameter(
        f"{where} must be a URL, a path, base64, bytes, a Pillow image or a numpy array, not {_kind(value)}",
        param=where,
    )


def _read_calls(calls: Any, where: str) -> list[TextPart]:
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes, bytearray)):
        raise InvalidParameter(f"{where} must be a list, not {_kind(calls)}", param=where)
    return [_read_call(call, f"{where}[{i}].function") for i, call in enumerate(calls)]


def _read_call(call: Any, where: str) -> TextPart:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidParameter(f"{where} must be an object with a name", param=where)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # What a model wrote need not be JSON; then it stays the text that it was.
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    try:
        text = json.dumps({"name": function["name"], "parameters": arguments}, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParameter(
            f"{where}.arguments cannot be written as JSON: {error}", param=f"{where}.arguments"
        ) from error
    return TextPart(text)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
