"""Every kind of refusal, in full: status and OpenAI's error object."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai
import pytest

from ostro.host import ModelHost
from tests.server.conftest import Served, serving
from tests.server.fake_host import FakeLoop, fake_host

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
INVALID = ("invalid_request_error", "invalid_value")
UNSUPPORTED = ("invalid_request_error", "unsupported_field")


def refusal(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def post(served: Served, path: str, **fields: Any) -> httpx.Response:
    with served.http() as client:
        return client.post(path, json=fields)


# (path, fields, message, param)
OUT_OF_RANGE: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, {"temperature": 2.5}, "temperature: Input should be less than or equal to 2", "temperature"),
    (CHAT, {"temperature": "hot"}, "temperature: Input should be a valid number", "temperature"),
    (CHAT, {"temperature": "1"}, "temperature: Input should be a valid number", "temperature"),
    (CHAT, {"top_p": 0}, "top_p must be above 0 and at most 1, got 0.0", "top_p"),
    (CHAT, {"top_k": -2}, "top_k must be at least -1, got -2", "top_k"),
    (CHAT, {"top_k": 1.5}, "top_k: Input should be a valid integer", "top_k"),
    (CHAT, {"min_p": 1.1}, "min_p must be at least 0 and at most 1, got 1.1", "min_p"),
    (
        CHAT,
        {"frequency_penalty": -2.1},
        "frequency_penalty must be at least -2 and at most 2, got -2.1",
        "frequency_penalty",
    ),
    (
        CHAT,
        {"presence_penalty": 3},
        "presence_penalty must be at least -2 and at most 2, got 3.0",
        "presence_penalty",
    ),
    (CHAT, {"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0.0", "repetition_penalty"),
    (CHAT, {"max_tokens": 0}, "max_tokens must be at least 1, got 0", "max_tokens"),
    (CHAT, {"max_completion_tokens": -5}, "max_tokens must be at least 1, got -5", "max_tokens"),
    (CHAT, {"n": 0}, "n: Input should be greater than or equal to 1", "n"),
    (CHAT, {"n": 129}, "n: Input should be less than or equal to 128", "n"),
    (CHAT, {"seed": 2**63}, f"seed must be a 64-bit integer, got {2**63}", "seed"),
    (CHAT, {"stop": [""]}, "stop[0] must not be empty", "stop"),
    (CHAT, {"stop": 3}, "stop must be a list of strings, got 3", "stop"),
    (CHAT, {"stop": ["a"] * 17}, "stop may hold at most 16 strings, got 17", "stop"),
    (
        CHAT,
        {"top_logprobs": 21, "logprobs": True},
        "top_logprobs must be from 0 to 20, got 21",
        "top_logprobs",
    ),
    (CHAT, {"top_logprobs": 2}, "top_logprobs needs logprobs=True", "top_logprobs"),
    (CHAT, {"logit_bias": {"dog": 1}}, "logit_bias must have token ids as keys, got 'dog'", "logit_bias"),
    (
        CHAT,
        {"logit_bias": {"5": 101}},
        "logit_bias[5] must be at least -100 and at most 100, got 101.0",
        "logit_bias",
    ),
    (
        CHAT,
        {"logit_bias": {"524": 1}},
        "logit_bias ids must be at least 0 and below 524, got 524",
        "logit_bias",
    ),
    (CHAT, {"dry_multiplier": -1}, "dry_multiplier must be at least 0, got -1.0", "dry_multiplier"),
    (CHAT, {"stream": "yes"}, "stream: Input should be a valid boolean", "stream"),
    (
        CHAT,
        {"stream_options": {"include_usage": 1}},
        "stream_options.include_usage: Input should be a valid boolean",
        "stream_options.include_usage",
    ),
    (CHAT, {"messages": 5}, "messages must be a list of messages or a string, got int", "messages"),
    (CHAT, {"messages": []}, "messages must not be empty", "messages"),
    (CHAT, {"temprature": 1}, "unknown field 'temprature'; did you mean 'temperature'?", "temprature"),
    (CHAT, {"qqq": 1}, "unknown field 'qqq'", "qqq"),
    (TEXT, {"best_of": 2, "n": 3}, "best_of must be at least n (3), got 2", "best_of"),
    (
        TEXT,
        {"best_of": 2, "stream": True},
        "best_of cannot be streamed: the best is only known at the end",
        "best_of",
    ),
    (TEXT, {"logprobs": 21}, "logprobs must be from 0 to 20, got 21", "logprobs"),
    (TEXT, {"logprobs": True}, "logprobs: Input should be a valid integer", "logprobs"),
    (
        TEXT,
        {"prompt": []},
        "prompt must be a string, a list of token ids, or a non-empty list of those",
        "prompt",
    ),
    (TEXT, {"prompt": ["a", 5]}, "prompt[1] must be a string or a list of token ids", "prompt[1]"),
]


@pytest.mark.parametrize(("path", "fields", "message", "param"), OUT_OF_RANGE)
def test_out_of_range_is_400(
    served: Served, path: str, fields: dict[str, Any], message: str, param: str
) -> None:
    needed = {"messages": "hi"} if path == CHAT else {"prompt": "hi"}
    response = post(served, path, **(needed | fields))
    assert response.json() == refusal(message, INVALID[0], param, INVALID[1])
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (CHAT, "tools", [{"type": "function", "function": {"name": "f"}}]),
        (CHAT, "tool_choice", "required"),
        (CHAT, "functions", [{"name": "f"}]),
        (CHAT, "response_format", {"type": "json_object"}),
        (CHAT, "response_format", {"type": "json_schema", "json_schema": {}}),
        (CHAT, "grammar", {"type": "regex", "value": "a"}),
        (CHAT, "enable_thinking", True),
        (CHAT, "reasoning_effort", "high"),
        (CHAT, "web_search_options", {}),
        (CHAT, "session_id", "s"),
        (CHAT, "adapter", "a"),
        (CHAT, "audio", {"voice": "x"}),
        (CHAT, "guided_json", {}),
        (TEXT, "suffix", "end"),
    ],
)
def test_what_is_not_offered_is_422(served: Served, path: str, name: str, value: Any) -> None:
    needed = {"messages": "hi"} if path == CHAT else {"prompt": "hi"}
    response = post(served, path, **needed, **{name: value})
    message = f"{name} is not offered by this version of ostro; leave it out"
    assert response.json() == refusal(message, UNSUPPORTED[0], name, UNSUPPORTED[1])
    assert response.status_code == 422


def test_unwanted_tools_are_no_reason_to_refuse(served: Served) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert post(served, CHAT, messages="hi", tools=tools, tool_choice="none").status_code == 200


def test_log_probabilities_of_an_echo_are_422(served: Served) -> None:
    response = post(served, TEXT, prompt="hi", echo=True, logprobs=1)
    message = "log-probabilities of an echoed prompt are not offered"
    assert response.json() == refusal(message, UNSUPPORTED[0], "logprobs", UNSUPPORTED[1])
    assert response.status_code == 422


def test_missing_messages(served: Served) -> None:
    assert post(served, CHAT, n=1).json() == refusal(
        "messages is missing", INVALID[0], "messages", INVALID[1]
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not valid JSON: EOF while parsing an object at line 1 column 1"),
        (b"", "the body is not valid JSON: EOF while parsing a value at line 1 column 0"),
        (
            b'{"messages": "\xff"}',
            "the body is not valid JSON: invalid unicode code point at line 1 column 15",
        ),
        (
            b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
            "the body is not valid JSON: recursion limit exceeded at line 1 column 214",
        ),
    ],
)
def test_bad_json(served: Served, body: bytes, message: str) -> None:
    with served.http() as client:
        response = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.json() == refusal(message, "invalid_request_error", None, "invalid_json")
    assert response.status_code == 400


def test_json_that_is_no_object(served: Served) -> None:
    with served.http() as client:
        response = client.post(CHAT, json=[1])
    assert response.json() == refusal("the body must be a JSON object", INVALID[0], None, INVALID[1])
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("headers", "said"),
    [({}, "got none"), ({"content-type": "text/plain; charset=utf-8"}, "got 'text/plain'")],
)
def test_other_content_types_are_415(served: Served, headers: dict[str, str], said: str) -> None:
    with served.http() as client:
        response = client.post(CHAT, content=b'{"messages": "hi"}', headers=headers)
    message = f"the content-type header must be application/json, {said}"
    assert response.json() == refusal(message, "invalid_request_error", None, "unsupported_media_type")
    assert response.status_code == 415


def test_unknown_model_says_what_is_here(served: Served) -> None:
    message = (
        "the model 'gpt-4' is not loaded here; "
        "loaded is 'default', 'fake-org/fake-gemma', 'fake-gemma', 'gemma3'"
    )
    expected = refusal(message, "not_found_error", "model", "model_not_found")
    for response in (
        post(served, CHAT, model="gpt-4", messages="hi"),
        post(served, TEXT, model="gpt-4", prompt="hi"),
        httpx.get(f"{served.url}/v1/models/gpt-4"),
    ):
        assert response.json() == expected
        assert response.status_code == 404


def test_unknown_path_and_method(served: Served) -> None:
    response = httpx.get(f"{served.url}/v1/nowhere")
    message = "there is nothing at /v1/nowhere; see /docs"
    assert response.json() == refusal(message, "invalid_request_error", None, "not_found")
    assert response.status_code == 404
    response = httpx.get(f"{served.url}{CHAT}")
    message = "GET is not allowed at /v1/chat/completions"
    assert response.json() == refusal(message, "invalid_request_error", None, "method_not_allowed")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_prompt_too_long(served: Served) -> None:
    response = post(served, TEXT, prompt="x" * 2500)
    message = "2,501 tokens, limit 2,000"
    assert response.json() == refusal(message, "invalid_request_error", None, "context_length_exceeded")
    assert response.status_code == 400
    assert post(served, TEXT, prompt="x" * 2500, truncate_sequence=True, max_tokens=1).status_code == 200


def test_failure_of_the_engine_is_500(served: Served) -> None:
    expected = refusal("the fake engine was told to fail", "server_error", None, None)
    response = post(served, CHAT, messages="!fail")
    assert response.json() == expected
    assert response.status_code == 500
    with pytest.raises(openai.InternalServerError):
        served.openai().chat.completions.create(
            model="default", messages=[{"role": "user", "content": "!fail"}]
        )


def test_failure_midway_ends_the_stream_with_an_error(served: Served) -> None:
    response = post(served, CHAT, messages="!fail", stream=True)
    assert response.status_code == 200
    *chunks, error, done, rest = response.text.split("\n\n")
    assert len(chunks) == 4
    assert json.loads(error.removeprefix("data: ")) == refusal(
        "the fake engine was told to fail", "server_error", None, None
    )
    assert (done, rest) == ("data: [DONE]", "")


def test_failure_of_one_choice_cancels_the_others(served: Served) -> None:
    assert post(served, TEXT, prompt=["!endless", "!fail"]).status_code == 500
    served.wait_until(lambda: served.loop.live == 0)


def test_bug_is_500_without_its_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ModelHost, *_: Any) -> None:
        raise RuntimeError("secret details")

    monkeypatch.setattr(ModelHost, "start_chat", broken)
    with serving(fake_host()) as served:
        response = post(served, CHAT, messages="hi")
    expected = refusal("internal error; the server's log says more", "server_error", None, None)
    assert response.json() == expected
    assert response.status_code == 500


def test_full_waiting_line_is_429() -> None:
    with serving(fake_host(FakeLoop(max_seqs=1, max_waiting=1))) as served, served.http() as client:
        body = {"prompt": "!endless", "stream": True}
        with client.stream("POST", TEXT, json=body) as one, served.http() as other:
            received = one.iter_raw()  # kept: dropping it would close the response
            next(received)
            with other.stream("POST", TEXT, json=body):
                response = post(served, TEXT, prompt="hi")
                assert response.json() == refusal(
                    "too many requests; try later", "rate_limit_error", None, "overloaded"
                )
                assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        served.wait_until(lambda: served.loop.live == 0)
        # None of three sequences may stay when the third does not fit.
        assert post(served, TEXT, prompt=["!endless"] * 3).status_code == 429
        served.wait_until(lambda: served.loop.live == 0)


def test_declared_body_too_large_is_refused_unread() -> None:
    with serving(fake_host(), max_body_bytes=1000) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as raw:
            raw.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 1000000000000\r\n\r\n"
            )
            answer = ""
            while not answer.endswith("}}"):
                received = raw.recv(65536).decode()
                assert received, answer
                answer += received
        assert answer.startswith("HTTP/1.1 413")
        assert answer.endswith(
            json.dumps(
                refusal(
                    "the request's body exceeds 1,000 bytes",
                    "invalid_request_error",
                    None,
                    "request_too_large",
                ),
                separators=(",", ":"),
            )
        )


def test_undeclared_body_too_large_is_refused_midway() -> None:
    with serving(fake_host(), max_body_bytes=1000) as served:
        with served.http() as client:
            parts = (b" " * 500 for _ in range(4))
            response = client.post(CHAT, content=parts, headers={"content-type": "application/json"})
        assert response.status_code == 413
        assert post(served, CHAT, messages="hi").status_code == 200


def test_closed_host_is_unhealthy() -> None:
    with serving(fake_host()) as served:
        healthy = httpx.get(f"{served.url}/health")
        assert (healthy.status_code, healthy.json()["status"]) == (200, "ok")
        served.host.close()
        response = httpx.get(f"{served.url}/health")
        assert (response.status_code, response.json()) == (503, {"status": "closed"})
        assert post(served, CHAT, messages="hi").status_code == 500
