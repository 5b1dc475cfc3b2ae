"""What a conversation sends and remembers, with a host that only listens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ostro.cli.settings import Settings
from ostro.cli.talk import Talk
from ostro.errors import PromptTooLong, UnsupportedField

if TYPE_CHECKING:
    from ostro.requests import ChatCompletionRequest


class Refusing:
    """Has no room for anything."""

    name = "gemma"

    def __init__(self, *, sees: bool = True) -> None:
        self.config = SimpleNamespace(vision=object() if sees else None)
        self.requests: list[ChatCompletionRequest] = []

    def start_chat(self, request: ChatCompletionRequest, deliver: object) -> Any:
        self.requests.append(request)
        raise PromptTooLong("no room")


def test_images_precede_the_text_and_stay_when_the_request_fails() -> None:
    host = Refusing()
    talk = Talk(host, Settings(system="Be brief."))  # type: ignore[arg-type]
    first, second = Image.new("RGB", (2, 2)), Image.new("RGB", (3, 3))
    talk.show([first])
    talk.show([second])
    for _ in range(2):
        with pytest.raises(PromptTooLong):
            talk.ask("Which is larger?")
        said: Any = host.requests.pop().messages
        system, user = said
        assert system == {"role": "system", "content": "Be brief."}
        assert user["content"] == [
            {"type": "image", "image": first},
            {"type": "image", "image": second},
            {"type": "text", "text": "Which is larger?"},
        ]
    assert talk.messages == []
    talk.clear()
    with pytest.raises(PromptTooLong):
        talk.ask("Hello")
    said = host.requests.pop().messages
    assert said[1] == {"role": "user", "content": "Hello"}


def test_a_text_model_is_shown_nothing() -> None:
    talk = Talk(Refusing(sees=False), Settings())  # type: ignore[arg-type]
    with pytest.raises(UnsupportedField, match="gemma reads text only"):
        talk.show([Image.new("RGB", (2, 2))])
    assert talk.images == []
