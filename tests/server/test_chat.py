"""Chat completions through the real openai client."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from tests.server.conftest import Served, serving
from tests.server.fake_host import FakeLoop, fake_host, fake_text

USER = [{"role": "user", "content": "What is this?"}]


def order(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_answer_is_whole_and_counted(served: Served) -> None:
    completion = served.openai().chat.completions.create(model="gemma3", messages=order("What is this?"))
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.model == "fake-org/fake-gemma"
    [choice] = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == fake_text("What is this?")
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    usage = completion.usage
    assert usage is not None
    assert usage.prompt_tokens == len("user: What is this?\n") + 1
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    extra = usage.model_extra or {}
    assert extra["avg_prompt_tok_per_sec"] == usage.prompt_tokens / 0.5
    assert extra["avg_compl_tok_per_sec"] == usage.completion_tokens / 2.0
    assert extra["avg_tok_per_sec"] == usage.total_tokens / 2.5
    assert (extra["total_prompt_time_sec"], extra["total_completion_time_sec"]) == (0.5, 2.0)
    assert extra["total_time_sec"] == 2.5


def test_request_of_the_users_page(served: Served) -> None:
    completion = served.openai().chat.completions.create(
        model="gemma3",
        messages=order("What is this?"),
        max_tokens=6,
        frequency_penalty=1.0,
        top_p=0.1,
        temperature=0,
    )
    assert completion.choices[0].message.content == fake_text("What is this?", max_tokens=6)
    assert completion.choices[0].finish_reason == "length"


@pytest.mark.parametrize("model", ["default", "gemma3", "fake-org/fake-gemma", "fake-gemma"])
def test_every_name_of_the_model(served: Served, model: str) -> None:
    completion = served.openai().chat.completions.create(model=model, messages=order("hi"), max_tokens=1)
    assert completion.model == "fake-org/fake-gemma"


def test_stream_has_the_same_text_and_openais_order(served: Served) -> None:
    stream = served.openai().chat.completions.create(
        model="default", messages=order("hello"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    first, *contents, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == ""
    assert all(chunk.choices[0].delta.role is None for chunk in contents)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in contents)
    assert text == fake_text("hello")
    assert [chunk.choices[0].finish_reason for chunk in contents] == [None] * len(contents)
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].delta.content is None
    assert all(chunk.usage is None for chunk in [first, *contents, last])
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == len(contents)


def test_stream_without_usage_has_none(served: Served) -> None:
    chunks = list(
        served.openai().chat.completions.create(model="default", messages=order("hello"), stream=True)
    )
    assert all(chunk.choices for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_stream_byte_by_byte(served: Served) -> None:
    body = {
        "messages": order("hello"),
        "max_tokens": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with served.http() as client:
        response = client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    events = response.content.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") and "\n" not in event for event in events[:-1])
    parsed = [json.loads(event[len("data: ") :]) for event in events[:-2]]
    head = {key: parsed[0][key] for key in ("id", "created")}
    common = {
        **head,
        "model": "fake-org/fake-gemma",
        "system_fingerprint": "local",
        "object": "chat.completion.chunk",
        "usage": None,
    }
    prompt_tokens = len("user: hello\n") + 1
    words = [fake_text("hello", max_tokens=1), fake_text("hello", max_tokens=2)]
    words[1] = words[1].removeprefix(words[0])

    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"finish_reason": reason, "index": 0, "delta": delta, "logprobs": None}]

    assert parsed == [
        {**common, "choices": choice({"content": "", "role": "assistant"})},
        {**common, "choices": choice({"content": words[0]})},
        {**common, "choices": choice({"content": words[1]})},
        {**common, "choices": choice({}, "length")},
        {
            **common,
            "choices": [],
            "usage": {
                "completion_tokens": 2,
                "prompt_tokens": prompt_tokens,
                "total_tokens": prompt_tokens + 2,
                "avg_tok_per_sec": (prompt_tokens + 2) / 2.5,
                "avg_prompt_tok_per_sec": prompt_tokens / 0.5,
                "avg_compl_tok_per_sec": 1.0,
                "total_time_sec": 2.5,
                "total_prompt_time_sec": 0.5,
                "total_completion_time_sec": 2.0,
            },
        },
    ]


def test_choices_differ_by_seed_and_stream_apart(served: Served) -> None:
    create = served.openai().chat.completions.create
    expected = [fake_text("tell", seed=5 + index) for index in range(3)]
    whole = create(model="default", messages=order("tell"), n=3, seed=5)
    assert [choice.message.content for choice in whole.choices] == expected
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len("user: tell\n") + 1
    texts = ["", "", ""]
    reasons: list[str | None] = [None] * 3
    for chunk in create(model="default", messages=order("tell"), n=3, seed=5, stream=True):
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == expected
    assert reasons == ["stop"] * 3


def test_logprobs_in_openais_shape(served: Served) -> None:
    create = served.openai().chat.completions.create
    whole = create(model="default", messages=order("count"), logprobs=True, top_logprobs=2)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == whole.choices[0].message.content
    for token in logprobs.content:
        assert bytes(token.bytes or []).decode() == token.token
        assert [top.logprob for top in token.top_logprobs] == [token.logprob, token.logprob - 1]
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[1].bytes == [1]
    streamed: list[Any] = []
    for chunk in create(model="default", messages=order("count"), logprobs=True, top_logprobs=2, stream=True):
        if chunk.choices[0].logprobs:
            streamed.extend(chunk.choices[0].logprobs.content or [])
    assert streamed == logprobs.content


def test_stop_as_text_and_list(served: Served) -> None:
    words = fake_text("a long story")
    stop_word = " café"
    assert stop_word in words
    for stop in (stop_word, [stop_word, "never"]):
        completion = served.openai().chat.completions.create(
            model="default", messages=order("a long story"), stop=stop
        )
        assert completion.choices[0].message.content == words.partition(stop_word)[0]
        assert completion.choices[0].finish_reason == "stop"


def test_extra_sampling_fields_and_harmless_ones(served: Served) -> None:
    completion = served.openai().chat.completions.create(
        model="default",
        messages=order("hi"),
        max_completion_tokens=2,
        user="somebody",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        tools=[],
        response_format={"type": "text"},
        logit_bias={"512": -100},
        extra_body={
            "top_k": 40,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "ignore_eos": True,
            "dry_multiplier": 0.8,
            "dry_base": 1.75,
            "dry_allowed_length": 2,
            "dry_sequence_breakers": ["\n"],
            "truncate_sequence": True,
            "enable_thinking": False,
        },
    )
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 2


def test_messages_may_be_one_string(served: Served) -> None:
    with served.http() as client:
        answer = client.post("/v1/chat/completions", json={"messages": "What is this?"}).json()
    assert answer["choices"][0]["message"]["content"] == fake_text("What is this?")


def test_async_client_gets_many_answers_at_once(served: Served) -> None:
    async def ask(client: Any, number: int) -> str:
        stream = await client.chat.completions.create(
            model="default", messages=order(f"question {number}"), stream=number % 2 == 0
        )
        if number % 2:
            return str(stream.choices[0].message.content)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main() -> list[str]:
        async with served.openai_async() as client:
            return await asyncio.gather(*(ask(client, number) for number in range(24)))

    assert asyncio.run(main()) == [fake_text(f"question {number}") for number in range(24)]


def test_keep_alive_comments_fill_silence() -> None:
    with serving(fake_host(FakeLoop(pause=0.4)), keep_alive=0.02) as served, served.http() as client:
        body = {"messages": "hi", "max_tokens": 2, "stream": True}
        events = client.post("/v1/chat/completions", json=body).text.split("\n\n")
    assert events.count(": keep-alive") >= 2
    kept = [event for event, _ in itertools.groupby(events) if event != ": keep-alive"]
    assert kept[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in kept[:-1])
