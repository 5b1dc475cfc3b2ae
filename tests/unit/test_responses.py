from __future__ import annotations

import json

from ostro.responses import (
    CalledFunction,
    ChatCompletionResponse,
    Choice,
    Delta,
    Logprobs,
    ResponseLogprob,
    ResponseMessage,
    ToolCallResponse,
    TopLogprob,
    Usage,
)

USAGE = Usage(
    completion_tokens=2,
    prompt_tokens=3,
    total_tokens=5,
    avg_tok_per_sec=10.0,
    avg_prompt_tok_per_sec=12.0,
    avg_compl_tok_per_sec=8.0,
    total_time_sec=0.5,
    total_prompt_time_sec=0.25,
    total_completion_time_sec=0.25,
)


def response(message: ResponseMessage, logprobs: Logprobs | None = None) -> ChatCompletionResponse:
    return ChatCompletionResponse(
        id="chatcmpl-1",
        choices=[Choice("stop", 0, message, logprobs)],
        created=7,
        model="m",
        usage=USAGE,
    )


def test_dump_is_openais_shape() -> None:
    token = ResponseLogprob("é", -0.5, [195, 169], [TopLogprob("e", -1.0, [101])])
    dumped = response(ResponseMessage("é"), Logprobs([token])).model_dump()
    assert dumped == {
        "id": "chatcmpl-1",
        "choices": [
            {
                "finish_reason": "stop",
                "index": 0,
                "message": {"content": "é", "role": "assistant"},
                "logprobs": {
                    "content": [
                        {
                            "token": "é",
                            "logprob": -0.5,
                            "bytes": [195, 169],
                            "top_logprobs": [{"token": "e", "logprob": -1.0, "bytes": [101]}],
                        }
                    ],
                    "refusal": None,
                },
            }
        ],
        "created": 7,
        "model": "m",
        "usage": {
            "completion_tokens": 2,
            "prompt_tokens": 3,
            "total_tokens": 5,
            "avg_tok_per_sec": 10.0,
            "avg_prompt_tok_per_sec": 12.0,
            "avg_compl_tok_per_sec": 8.0,
            "total_time_sec": 0.5,
            "total_prompt_time_sec": 0.25,
            "total_completion_time_sec": 0.25,
        },
        "system_fingerprint": "local",
        "object": "chat.completion",
    }


def test_json_is_the_dump() -> None:
    answer = response(ResponseMessage("é\n"))
    assert json.loads(answer.model_dump_json()) == answer.model_dump()
    assert '"content":"é\\n"' in answer.model_dump_json()
    assert '\n  "id": "chatcmpl-1"' in answer.model_dump_json(indent=2)


def test_unset_fields() -> None:
    assert Delta().model_dump() == {}
    assert Delta(content="").model_dump() == {"content": ""}
    message = ResponseMessage(None)
    assert message.model_dump() == {"content": None, "role": "assistant"}
    assert message.model_dump(exclude_none=True) == {"role": "assistant"}


def test_tool_call_type() -> None:
    call = ToolCallResponse(0, "call-1", CalledFunction("f", "{}"))
    assert call.tp == "function"
    assert call.model_dump() == {
        "index": 0,
        "id": "call-1",
        "function": {"name": "f", "arguments": "{}"},
        "type": "function",
    }


def test_attributes_and_repr() -> None:
    answer = response(ResponseMessage("hello"))
    assert answer.choices[0].message.content == "hello"
    assert answer.usage.total_tokens == 5
    assert repr(answer.usage).startswith(
        "Usage(completion_tokens=2, prompt_tokens=3, total_tokens=5, avg_tok_per_sec=10.0"
    )
    assert "content='hello'" in repr(answer)
