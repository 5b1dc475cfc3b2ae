"""Bodies of HTTP requests: OpenAI's names, plus the sampling fields that OpenAI does not have.

Here is only what is particular to HTTP; ranges and combinations are checked by the requests these turn into.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from ostro.errors import InvalidParameter, RequestError, UnsupportedField
from ostro.requests import ChatCompletionRequest, CompletionRequest
from ostro.sampling import texts
from ostro.server.failures import InvalidJson

RequestT = TypeVar("RequestT", ChatCompletionRequest, CompletionRequest)
BodyT = TypeVar("BodyT", bound="Body")

# Fields that change nothing about the text.
_IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Fields that would change the text, and the values of theirs that ask for nothing.
_NOT_OFFERED: dict[str, tuple[object, ...]] = {
    "adapter": (None,),
    "agent_permission": (None,),
    "audio": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}, {"enable_thinking": False}),
    "code_execution_permission": (None,),
    "enable_code_execution": (None, False),
    "enable_shell": (None, False),
    "enable_thinking": (None, False),
    "files": (None, []),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "grammar": (None,),
    "grammar_type": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "input_files": (None, []),
    "max_tool_rounds": (None,),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None, "off", "none"),
    "response_format": (None, {"type": "text"}),
    "session_id": (None,),
    "shell_skills": (None, []),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tool_dispatch_url": (None,),
    "tools": (None, []),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
_HTTP_NAMES = {"n_choices": "n", "stop_seqs": "stop", "echo_prompt": "echo"}

Messages = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [{"type": "array", "items": {"type": "object"}, "minItems": 1}, {"type": "string"}],
            "description": "Messages with `role` and `content`, or a string, which is one user message.",
        }
    ),
]
PromptInput = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ]
        }
    ),
]
Strings = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
]


class Body(BaseModel):
    """A JSON object; numbers must be numbers, and unknown fields are judged by `judge_extra`."""

    model_config = ConfigDict(strict=True, extra="allow")


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = Field(None, description="Send a last chunk with the usage.")


class GenerationBody(Body):
    """What chat and text completions have in common."""

    model: str | None = Field(None, description='"default", the id, or "gemma3".')
    max_tokens: int | None = Field(None, description="Unset: up to the context's end.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = None
    top_k: int | None = Field(None, description="0 or -1: all.")
    min_p: float | None = None
    n: int | None = Field(None, ge=1, le=128)
    stop: Strings = Field(None, description="Up to 16 texts.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = Field(None, description="Token id to -100..100.")
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: list[str] | None = None
    ignore_eos: bool | None = None
    truncate_sequence: bool | None = Field(None, description="Drop the oldest tokens of a prompt too long.")

    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def shared(self) -> dict[str, Any]:
        """Arguments of both request classes."""
        judge_extra(self.model_extra or {}, type(self).model_fields)
        same = {name: getattr(self, name) for name in _SAME_NAME}
        return same | {
            "model": self.model or "default",
            "n_choices": self.n or 1,
            "stop_seqs": texts("stop", self.stop),
            "stream": bool(self.stream),
            "logit_bias": _token_ids_as_keys(self.logit_bias),
            "ignore_eos": bool(self.ignore_eos),
            "truncate_sequence": bool(self.truncate_sequence),
        }


_SAME_NAME = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_sequence_breakers",
)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, description="Newer name of max_tokens.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, description="0..20, together with logprobs.")
    pan_and_scan: bool | None = Field(None, description="Show oblong images in crops as well (ostro only).")

    def to_request(self) -> ChatCompletionRequest:
        """The same in the terms of the Python API; RequestError under HTTP's field names."""
        shared = self.shared()
        if self.max_completion_tokens is not None:
            shared["max_tokens"] = self.max_completion_tokens
        logprobs = {"logprobs": bool(self.logprobs), "top_logprobs": self.top_logprobs}
        return _built(
            ChatCompletionRequest,
            messages=self.messages,
            pan_and_scan=self.pan_and_scan,
            **shared,
            **logprobs,
        )


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: PromptInput
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, description="Alternatives per token, 0..20.")

    def to_request(self) -> CompletionRequest:
        """The same in the terms of the Python API; RequestError under HTTP's field names."""
        own = {"best_of": self.best_of, "echo_prompt": bool(self.echo), "logprobs": self.logprobs}
        return _built(CompletionRequest, prompt=self.prompt, **self.shared(), **own)


class TokenizeBody(Body):
    """POST /tokenize: a raw text, or messages as the model would read them."""

    model: str | None = None
    text: str | None = None
    messages: Messages = None
    add_special_tokens: bool = Field(True, description="`<bos>` in front of a text.")


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]
    skip_special_tokens: bool = True


class ReIsqBody(Body):
    """POST /re_isq."""

    model: str | None = None
    ggml_type: str | int = Field(description="A number format, e.g. Q4K, or 4.")


class CalibrationApplyBody(Body):
    """POST /calibration/apply."""

    save_cimatrix: str | None = Field(
        None, description="Not offered over HTTP: GET /calibration/imatrix returns the file."
    )


def parse(kind: type[BodyT], raw: bytes) -> BodyT:
    """The body; InvalidJson, or InvalidParameter naming the first field that is wrong."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _first_problem(error) from None


def judge_extra(extra: dict[str, Any], known: Any) -> None:
    """Pass over fields that change nothing; UnsupportedField or InvalidParameter for the others."""
    for name, value in extra.items():
        if name in _IGNORED:
            continue
        if name not in _NOT_OFFERED:
            close = difflib.get_close_matches(name, [*known, *_IGNORED, *_NOT_OFFERED], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InvalidParameter(f"unknown field {name!r}{hint}", param=name)
        unused = name in {"tools", "functions"} and "none" in (
            extra.get("tool_choice"),
            extra.get("function_call"),
        )
        # Equal is not enough: 0 == False.
        if not unused and not any(
            value == harmless and type(value) is type(harmless) for harmless in _NOT_OFFERED[name]
        ):
            raise UnsupportedField(
                f"{name} is not offered by this version of ostro; leave it out", param=name
            )


def _token_ids_as_keys(bias: dict[str, float] | None) -> dict[int, float] | None:
    if bias is None:
        return None
    for key in bias:
        if not (key.isascii() and key.isdigit() and len(key) < 20):
            raise InvalidParameter(
                f"logit_bias must have token ids as keys, got {key[:60]!r}", param="logit_bias"
            )
    return {int(key): value for key, value in bias.items()}


def _built(kind: type[RequestT], **arguments: Any) -> RequestT:
    try:
        return kind(**arguments)
    except RequestError as error:
        message, param = error.message, error.param
        for python_name, http_name in _HTTP_NAMES.items():
            message = message.replace(python_name, http_name)
            param = param and param.replace(python_name, http_name)
        raise type(error)(message, param=param) from None


def _first_problem(error: ValidationError) -> RequestError:
    problem = error.errors(include_url=False, include_context=False)[0]
    if problem["type"] == "json_invalid":
        return InvalidJson(f"the body is not valid JSON: {problem['msg'].removeprefix('Invalid JSON: ')}")
    if not problem["loc"]:
        return InvalidParameter("the body must be a JSON object")
    param = ""
    for step in problem["loc"]:
        param += f"[{step}]" if isinstance(step, int) else f".{step}" if param else step
    if problem["type"] == "missing":
        return InvalidParameter(f"{param} is missing", param=param)
    return InvalidParameter(f"{param}: {problem['msg']}", param=param)
