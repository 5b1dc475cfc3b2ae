"""What the Rust crate relies on; the crate's own tests see the rest."""

from __future__ import annotations

import json
import queue
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostro import rust_door
from ostro.errors import InvalidParameter, OstroError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ostro.host import ModelHost

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "What is two plus two?"}], "temperature": 0.0}


class Sink:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def opened(self, identity: str, created: int, model: str) -> None:
        self.calls.put(("opened", identity, created, model))

    def text(self, index: int, text: str) -> None:
        self.calls.put(("text", index, text))

    def chunk(self, json: str) -> None:
        self.calls.put(("chunk", json))

    def answer(self, json: str) -> None:
        self.calls.put(("answer", json))

    def logits(self, row: bytes, token_ids: list[int]) -> None:
        self.calls.put(("logits", row, token_ids))

    def failed(self, error: BaseException) -> None:
        self.calls.put(("failed", error))

    def next(self) -> tuple[Any, ...]:
        return self.calls.get(timeout=60)


@pytest.fixture(scope="module")
def host() -> Iterator[ModelHost]:
    with rust_door.load("multimodal", {"model_id": "ostro-demo-vision"}, {"max_seqs": 2}) as host:
        yield host


def whole(host: ModelHost, fields: dict[str, Any]) -> dict[str, Any]:
    sink = Sink()
    rust_door.Conversation(host, sink, fields, "whole")
    assert sink.next()[0] == "opened"
    kind, text = sink.next()
    assert kind == "answer"
    answer: dict[str, Any] = json.loads(text)
    return answer


def test_pieces_make_the_whole(host: ModelHost) -> None:
    sink = Sink()
    rust_door.Conversation(host, sink, ASK, "pieces")
    opened = sink.next()
    assert opened[0] == "opened"
    assert opened[3] == host.name
    texts = []
    while (call := sink.next())[0] == "text":
        texts.append(call[2])
    assert call[0] == "chunk"
    chunk = json.loads(call[1])
    if chunk["choices"][0]["finish_reason"] is None:  # what came with the last event
        texts.append(chunk["choices"][0]["delta"]["content"])
        chunk = json.loads(sink.next()[1])
    answer = whole(host, ASK)
    assert chunk["id"] == opened[1]
    assert "".join(texts) == answer["choices"][0]["message"]["content"]
    assert chunk["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]


def test_events_that_come_before_the_answer_is_known_are_kept(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = threading.Event()
    start_chat = host.start_chat

    def slow(request: Any, deliver: Any) -> Any:
        def watched(index: int, event: Any) -> None:
            deliver(index, event)
            if event.finish_reason is not None:
                finished.set()

        answer = start_chat(request, watched)
        assert finished.wait(60)
        return answer

    wanted = whole(host, ASK)["choices"]
    monkeypatch.setattr(host, "start_chat", slow)
    assert whole(host, ASK)["choices"] == wanted


def test_a_request_that_is_refused(host: ModelHost) -> None:
    sink = Sink()
    rust_door.Conversation(host, sink, {**ASK, "temperature": -1}, "whole")
    kind, error = sink.next()
    assert kind == "failed"
    assert isinstance(error, InvalidParameter)


def test_cancelling(host: ModelHost) -> None:
    sink = Sink()
    conversation = rust_door.Conversation(host, sink, {**ASK, "ignore_eos": True}, "whole")
    assert sink.next()[0] == "opened"
    conversation.cancel()
    conversation.cancel()
    assert json.loads(sink.next()[1])["choices"][0]["finish_reason"] == "canceled"


def test_logits(host: ModelHost) -> None:
    sink = Sink()
    rust_door.Conversation(host, sink, ASK, "logits")
    kind, row, ids = sink.next()
    assert kind == "logits"
    assert ids == host.tokenize_chat(ASK["messages"])
    first = whole(host, {**ASK, "max_tokens": 1, "logprobs": True})["choices"][0]["logprobs"]["content"][0]
    assert host.detokenize([int(np.frombuffer(row, np.float32).argmax())]) == first["token"]


def test_logits_of_a_refused_request(host: ModelHost) -> None:
    sink = Sink()
    rust_door.Conversation(host, sink, {"messages": []}, "logits")
    kind, error = sink.next()
    assert kind == "failed"
    assert isinstance(error, OstroError)


def test_pictures() -> None:
    image = rust_door.picture("RGB", 2, 1, bytes([1, 2, 3, 4, 5, 6]))
    assert image.getpixel((1, 0)) == (4, 5, 6)
    assert rust_door.picture("L", 0, 3, b"").size == (0, 3)
