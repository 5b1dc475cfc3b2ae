"""What the Rust crate `ostro` calls; not meant for Python programs.

The crate sends plain values and gets plain values: no thread of either side waits for an answer. Events are
turned into text in the engine's thread, so that the readers in Rust never need the interpreter.
"""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from ostro.errors import EngineError
from ostro.requests import ChatCompletionRequest
from ostro.runner import Runner
from ostro.types import Sampling
from ostro.which import Which

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

    from ostro.answers import ChatAnswer, Ticket
    from ostro.host import ModelHost
    from ostro.types import Event

INTERFACE = 1
"""Raised when an older crate could no longer work with this module."""

workers = ThreadPoolExecutor(4, "ostro-rust-door")
"""Where models are loaded and texts become tokens; requests with images have the host's own threads."""

_KINDS = {"plain": Which.Plain, "multimodal": Which.MultimodalPlain, "gguf": Which.GGUF}


class Sink(Protocol):
    """The crate's end of a conversation. Its methods only pass on, and may be called from any thread."""

    def opened(self, identity: str, created: int, model: str) -> None:
        """The request runs; comes before all others but `failed`."""

    def text(self, index: int, text: str) -> None:
        """Choice `index` goes on with `text`."""

    def chunk(self, json: str) -> None:
        """A ChatCompletionChunkResponse."""

    def answer(self, json: str) -> None:
        """The ChatCompletionResponse; the last call."""

    def logits(self, row: bytes, token_ids: list[int]) -> None:
        """Logits [V] after a prompt, float32, and the prompt's ids; the last call."""

    def failed(self, error: BaseException) -> None:
        """Nothing more will come."""


def load(kind: str, which: Mapping[str, Any], arguments: Mapping[str, Any]) -> ModelHost:
    """A loaded model. which, arguments: as `Which.*` and `Runner` take them; ModelError, RequestError."""
    return Runner(_KINDS[kind](**which), **arguments).host


def picture(mode: str, width: int, height: int, pixels: bytes) -> Image:
    """A Pillow image of raw pixels. mode: "L", "RGB" or "RGBA"."""
    from PIL import Image

    if not width or not height:  # judged, with its place in the request, by those who read images
        return Image.new(mode, (width, height))
    return Image.frombytes(mode, (width, height), pixels)


def log_to_stderr() -> None:
    """Show what ostro logs from INFO on, unless the program has said otherwise."""
    logger = logging.getLogger("ostro")
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


class Conversation:
    """A chat request on its way. wanted: of the answer, "pieces" or "whole", or else "logits"."""

    def __init__(self, host: ModelHost, sink: Sink, fields: dict[str, Any], wanted: str) -> None:
        self._host = host
        self._sink = sink
        self._stream = wanted == "pieces"
        self._opening = threading.Lock()
        self._early: list[tuple[int, Event]] = []
        self._answer: ChatAnswer | None = None
        self._ticket: Ticket | None = None
        self._cancelled = False
        (host.threads_for(fields.get("messages")) or workers).submit(
            self._watch if wanted == "logits" else self._start, fields
        )

    def cancel(self) -> None:
        """End it, also when it has not begun. Does not wait; any thread, any number of times."""
        self._cancelled = True
        if self._answer is not None:
            self._answer.cancel()
        if self._ticket is not None:
            self._ticket.cancel()

    def _start(self, fields: dict[str, Any]) -> None:
        if self._cancelled:
            return
        try:
            answer = self._host.start_chat(ChatCompletionRequest(**fields), self._deliver)
            with self._opening:
                self._sink.opened(answer.id, answer.created, answer.model)
                for index, event in self._early:
                    self._pass_on(answer, index, event)
                self._answer = answer
            if self._cancelled:
                answer.cancel()
        except BaseException as error:
            self._sink.failed(error)

    def _watch(self, fields: dict[str, Any]) -> None:
        """Have one token sampled and keep the logits that it was chosen by."""
        if self._cancelled:
            return
        seen: list[bytes] = []
        try:
            request = ChatCompletionRequest(**fields)
            prompt = self._host.prompts.chat(request.messages, pan_and_scan=request.pan_and_scan)

            def end(event: Event) -> None:
                if seen:
                    self._sink.logits(seen[0], list(prompt.token_ids))
                elif event.finish_reason is not None:
                    self._sink.failed(event.error or EngineError("the model was closed"))

            sampling = Sampling(temperature=0.0, max_tokens=1, watch=lambda row: seen.append(row.tobytes()))
            self._ticket = self._host.loop.submit(prompt, sampling, end)
            if self._cancelled:
                self._ticket.cancel()
        except BaseException as error:
            self._sink.failed(error)

    def _deliver(self, index: int, event: Event) -> None:
        """In the engine's thread, maybe before `start_chat` has returned."""
        with self._opening:
            if self._answer is None:
                self._early.append((index, event))
                return
        self._pass_on(self._answer, index, event)

    def _pass_on(self, answer: ChatAnswer, index: int, event: Event) -> None:
        try:
            if not self._stream:
                answer.feed(index, event)
                if answer.finished:
                    self._sink.answer(answer.response().model_dump_json())
            elif event.finish_reason is None and not event.logprobs:
                # Most events are of this kind; only the last one of a sequence counts for the usage.
                if event.text:
                    self._sink.text(index, event.text)
            else:
                for chunk in answer.chunks(index, event):
                    self._sink.chunk(chunk.model_dump_json())
        except BaseException as error:
            self._sink.failed(error)
