"""The chat template that a model file brings along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ostro.errors import RequestError
from ostro.prompt.quarantine import Quarantine
from ostro.prompt.sandbox import RefusedError, SandboxedTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostro.prompt.control import ControlTexts
    from ostro.prompt.template import Segment


class JinjaTemplate:
    """A Jinja template in the dialect of Hugging Face's tokenizer configurations.

    variables: further names that it may use, such as bos_token. BadConfig if the source is not valid.
    """

    def __init__(self, source: str, control: ControlTexts, variables: Mapping[str, str]) -> None:
        self._template = SandboxedTemplate(source)
        self._quarantine = Quarantine(source, control)
        self._variables = dict(variables)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, continue_last: bool
    ) -> list[Segment]:
        """As `ChatTemplate.render`; the content of messages is text."""
        mark = self._quarantine.mark_for(message["content"] for message in messages)
        shown = [
            {**message, "content": self._quarantine.protect(message["content"], mark)} for message in messages
        ]
        if continue_last and shown:
            # Protected text has two marks in a row at most.
            shown[-1]["content"] = shown[-1]["content"].strip() + mark * 3
        try:
            rendered = self._template.render(
                {
                    **self._variables,
                    "messages": shown,
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt and not continue_last,
                },
                never_escape=mark,
            )
        except RefusedError as error:
            raise RequestError(str(error), param="messages") from error
        except Exception as error:  # a template can go wrong in any way that Python can
            raise RequestError(
                f"the model's chat template failed: {type(error).__name__}: {error}", param="messages"
            ) from error
        if continue_last:
            rendered, found, _ = rendered.rpartition(mark * 3)
            if not found:
                raise RequestError("the model's chat template leaves the last message out", param="messages")
        return self._quarantine.split(rendered, mark)
