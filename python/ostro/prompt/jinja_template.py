"""The chat template that a model file brings along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ostro.errors import RequestError
from ostro.prompt.quarantine import Quarantine, Tag
from ostro.prompt.sandbox import RefusedError, SandboxedTemplate
from ostro.prompt.template import ImageSlot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeAlias

    from ostro.prompt.control import ControlTexts
    from ostro.prompt.template import Segment

    Message: TypeAlias = Mapping[str, Any]
    Parts: TypeAlias = Sequence[Mapping[str, str]]
    Order: TypeAlias = list[int | None]  # numbers of tags, None for each image that the template writes


class JinjaTemplate:
    """A Jinja template in the dialect of Hugging Face's tokenizer configurations.

    Messages with images are first shown to it as lists of parts, as Gemma's own template wants them; it must
    write `<start_of_image>` for each image and keep the order of all parts. If it does not, they are shown as
    one text, put together as by Gemma's template, in which marks hold the places of the images.
    variables: further names that it may use, such as bos_token. BadConfig if the source is not valid.
    """

    def __init__(self, source: str, control: ControlTexts, variables: Mapping[str, str]) -> None:
        self._template = SandboxedTemplate(source)
        self._quarantine = Quarantine(source, control)
        self._image_id = control.ids.get("<start_of_image>")
        self._variables = dict(variables)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, continue_last: bool
    ) -> list[Segment]:
        """As `ChatTemplate.render`; RequestError also if the template loses or moves an image."""
        mark = self._quarantine.mark_for(_texts(messages))

        def write(contents: list[Any]) -> list[str | int | Tag]:
            shown = [
                {**message, "content": content} for message, content in zip(messages, contents, strict=True)
            ]
            if continue_last and shown:
                # Protected text has two marks in a row at most.
                shown[-1]["content"] = shown[-1]["content"].strip() + mark * 3
            rendered = self._rendered(shown, mark, add_generation_prompt and not continue_last)
            if continue_last:
                rendered, found, _ = rendered.rpartition(mark * 3)
                if not found:
                    raise RequestError(
                        "the model's chat template leaves the last message out", param="messages"
                    )
            return self._quarantine.split(rendered, mark)

        contents = [message["content"] for message in messages]
        if all(isinstance(content, str) for content in contents):
            parts = write([self._quarantine.protect(content, mark) for content in contents])
            return [part for part in parts if not isinstance(part, Tag)]
        refusal = None
        for as_text in (False, True):
            show = self._as_text if as_text else self._as_parts
            order: Order = []
            shown = [
                self._quarantine.protect(content, mark)
                if isinstance(content, str)
                else show(content, mark, order)
                for content in contents
            ]
            try:
                parts = write(shown)
            except RequestError as error:
                refusal = refusal or error
            else:
                if self._order(parts) == order:
                    return list(self._with_slots(parts, images_are_tags=as_text))
        raise refusal or RequestError(
            "the model's chat template leaves images out or moves them; "
            "give it another with chat_template, or send text only",
            param="messages",
        )

    def _rendered(self, messages: list[dict[str, Any]], mark: str, add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                {
                    **self._variables,
                    "messages": messages,
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                },
                never_escape=mark,
            )
        except RefusedError as error:
            raise RequestError(str(error), param="messages") from error
        except Exception as error:  # a template can go wrong in any way that Python can
            raise RequestError(
                f"the model's chat template failed: {type(error).__name__}: {error}", param="messages"
            ) from error

    def _as_parts(self, parts: Parts, mark: str, order: Order) -> list[dict[str, str]]:
        """Content as a list; texts end in tags, since the template itself writes something for images."""
        shown = []
        for part in parts:
            if part["type"] == "image":
                order.append(None)
                shown.append({"type": "image"})
            else:
                text = self._quarantine.protect(part["text"].strip(), mark)
                shown.append({"type": "text", "text": text + self._quarantine.tag(len(order), mark)})
                order.append(len(order))
        return shown

    def _as_text(self, parts: Parts, mark: str, order: Order) -> str:
        """Content as one text, in which images are tags."""
        text = ""
        for part in parts:
            if part["type"] == "image":
                text += self._quarantine.tag(len(order), mark)
                order.append(len(order))
            else:
                text += self._quarantine.protect(part["text"].strip(), mark)
        return text

    def _order(self, parts: Sequence[str | int | Tag]) -> Order:
        tags_and_images = (part for part in parts if isinstance(part, Tag) or part == self._image_id)
        return [part.number if isinstance(part, Tag) else None for part in tags_and_images]

    def _with_slots(self, parts: Sequence[str | int | Tag], *, images_are_tags: bool) -> Iterator[Segment]:
        index = 0
        for part in parts:
            if isinstance(part, Tag) if images_are_tags else part == self._image_id:
                yield ImageSlot(index)
                index += 1
            elif not isinstance(part, Tag):
                yield part


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if isinstance(message["content"], str):
            yield message["content"]
        else:
            yield from (part["text"] for part in message["content"] if part["type"] == "text")
