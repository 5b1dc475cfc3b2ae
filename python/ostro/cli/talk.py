"""A conversation whose answers are written to stdout as they are made."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ostro.errors import UnsupportedField
from ostro.requests import ChatCompletionRequest, CompletionRequest
from ostro.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from ostro.cli.settings import Settings
    from ostro.host import ModelHost
    from ostro.responses import (
        ChatCompletionChunkResponse,
        ChatCompletionResponse,
        CompletionChunkResponse,
        CompletionResponse,
        Usage,
    )


def read_images(sources: Sequence[str]) -> list[Image]:
    """The images that paths, URLs or base64 name; BadImage."""
    from ostro.prompt.fetch import IN_PROCESS, ImageFetcher

    return ImageFetcher(IN_PROCESS).fetch_all(sources, [f"{source:.100}" for source in sources])


class Talk:
    """Remembers what was said. Ctrl-C ends the answer that is being written; what is there of it was said.

    images: those that go with what is said next, before its text. They are read once for all turns.
    """

    def __init__(self, host: ModelHost, settings: Settings, *, stats: bool = False) -> None:
        self._host = host
        self.settings = settings
        self.stats = stats
        self.messages: list[dict[str, Any]] = []
        self.images: list[Image] = []

    def show(self, images: Sequence[Image]) -> None:
        """Add images to what is said next; UnsupportedField if the model reads text only."""
        if self._host.config.vision is None:
            raise UnsupportedField(f"{self._host.name} reads text only; images need a model with vision")
        self.images += images

    def clear(self) -> None:
        """Forget what was said and shown."""
        self.messages.clear()
        self.images.clear()

    def ask(self, text: str) -> str:
        """Say something; returns the answer. If it fails nothing was said."""
        turn: dict[str, Any] = {"role": "user", "content": text}
        if self.images:
            shown = [{"type": "image", "image": image} for image in self.images]
            turn["content"] = [*shown, {"type": "text", "text": text}]
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        request = ChatCompletionRequest(
            messages=[*system, *self.messages, turn], stream=True, **self.settings.sampling()
        )
        stream: Stream[ChatCompletionChunkResponse, ChatCompletionResponse] = Stream(
            partial(self._host.start_chat, request)
        )
        answer = self._write(stream, lambda chunk: chunk.choices[0].delta.content)
        self.messages += [turn, {"role": "assistant", "content": answer}]
        self.images.clear()
        return answer

    def complete(self, text: str) -> str:
        """Continue a text without template; returns what was added."""
        request = CompletionRequest(prompt=text, stream=True, **self.settings.sampling())
        stream: Stream[CompletionChunkResponse, CompletionResponse] = Stream(
            partial(self._host.start_completion, request)
        )
        return self._write(stream, lambda chunk: chunk.choices[0].text)

    def _write(self, stream: Stream[Any, Any], text_of: Callable[[Any], str | None]) -> str:
        parts: list[str] = []
        usage: Usage | None = None
        with stream:
            try:
                for chunk in stream:
                    usage = chunk.usage
                    if text := text_of(chunk):
                        parts.append(text)
                        sys.stdout.write(text)
                        sys.stdout.flush()
            except KeyboardInterrupt:
                print()
        if self.stats and usage is not None:
            print(
                f"\n[{usage.prompt_tokens} tokens read, {usage.avg_prompt_tok_per_sec:.1f} tok/s; "
                f"{usage.completion_tokens} written, {usage.avg_compl_tok_per_sec:.1f} tok/s]",
                file=sys.stderr,
            )
        return "".join(parts)
