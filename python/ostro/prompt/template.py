"""Chat templates: turns in, segments of a prompt out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ostro.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ostro.prompt.control import ControlTexts


@dataclass(frozen=True, slots=True)
class ImageSlot:
    """The place of an image; index: its number in the conversation, from 0, in the order of the messages."""

    index: int


Segment: TypeAlias = "str | int | ImageSlot"
"""Ordinary text, the id of a control token, or an image. Neighbouring texts are tokenised as one."""


class ChatTemplate(Protocol):
    """How a model wants conversations written down."""

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, continue_last: bool
    ) -> list[Segment]:
        """Messages {"role", "content"} as segments; texts of messages never become control tokens.

        content: a string, or in a user's message a list of {"type": "text", "text"} and {"type": "image"};
        every image gets one slot, in order.
        add_generation_prompt: open the model's turn. continue_last: end within the last message instead.
        RequestError with the template's own words if it refuses the messages.
        """


class GemmaTemplate:
    """Gemma 3's own format, for files without a template (gemma-3-it's chat_template, rule by rule).

    content: a string, or a list of {"type": "text", "text"} and {"type": "image"}; other parts are dropped.
    """

    def __init__(self, control: ControlTexts) -> None:
        self._ids = control.ids

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, continue_last: bool
    ) -> list[Segment]:
        """As `ChatTemplate.render`: roles alternate from user on; system text, untrimmed, opens the first."""
        if not messages:
            raise RequestError("a conversation needs at least one message", param="messages")
        prefix = ""
        if messages[0]["role"] == "system":
            prefix = _system_text(messages[0]["content"]) + "\n\n"
            messages = messages[1:]
        segments: list[Segment] = [self._id("<bos>")]
        numbers = count()
        for i, message in enumerate(messages):
            if (message["role"] == "user") != (i % 2 == 0):
                raise RequestError(
                    "Conversation roles must alternate user/assistant/user/assistant/...", param="messages"
                )
            role = "model" if message["role"] == "assistant" else message["role"]
            segments += (self._id("<start_of_turn>"), f"{role}\n{prefix if i == 0 else ''}")
            segments += self._content(message["content"], numbers)
            segments += (self._id("<end_of_turn>"), "\n")
        if continue_last and messages:
            return segments[:-2]
        if add_generation_prompt:
            segments += (self._id("<start_of_turn>"), "model\n")
        return segments

    @staticmethod
    def _content(content: Any, numbers: Iterator[int]) -> list[Segment]:
        if isinstance(content, str):
            return [content.strip()]
        if not isinstance(content, (list, tuple)):
            raise RequestError("Invalid content type", param="messages")
        segments: list[Segment] = []
        for part in content:
            if part["type"] == "image":
                segments.append(ImageSlot(next(numbers)))
            elif part["type"] == "text":
                segments.append(part["text"].strip())
        return segments

    def _id(self, text: str) -> int:
        if (token_id := self._ids.get(text)) is None:
            raise RequestError(
                f"this model's vocabulary has no {text}, so it cannot chat; ask for a completion instead"
            )
        return token_id


def _system_text(content: Any) -> str:
    text: str = content if isinstance(content, str) else content[0]["text"]
    return text
