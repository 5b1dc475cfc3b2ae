"""What users read: mistral.rs's response classes, spelled as OpenAI spells them on the wire.

Every class has attribute access, `model_dump()` (plain dicts and lists) and `model_dump_json()`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

_OPTIONAL: dict[str, bool] = {"omit_none": True}


class Response:
    """Base of all response classes: turning into plain data."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]:
        """As plain dicts and lists. Unset fields that OpenAI leaves out are left out; others are None.

        exclude_none: leave out every field that is None.
        """
        dumped: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None and (exclude_none or "omit_none" in entry.metadata):
                continue
            dumped[entry.metadata.get("wire_name", entry.name)] = _plain(value, exclude_none)
        return dumped

    def model_dump_json(self, *, indent: int | None = None, exclude_none: bool = False) -> str:
        """As JSON text: compact without indent."""
        separators = (",", ":") if indent is None else None
        dumped = self.model_dump(exclude_none=exclude_none)
        return json.dumps(dumped, ensure_ascii=False, indent=indent, separators=separators)


def _plain(value: Any, exclude_none: bool) -> Any:
    if isinstance(value, Response):
        return value.model_dump(exclude_none=exclude_none)
    if isinstance(value, list):
        return [_plain(item, exclude_none) for item in value]
    return value


@dataclass(slots=True)
class Usage(Response):
    """Token counts, rates in tokens per second, durations in seconds; a rate over no time is 0.

    Sequences of one request run side by side: counts are sums (each prompt once), durations the longest's.
    """

    completion_tokens: int
    prompt_tokens: int
    total_tokens: int
    avg_tok_per_sec: float
    avg_prompt_tok_per_sec: float
    avg_compl_tok_per_sec: float
    total_time_sec: float
    total_prompt_time_sec: float
    total_completion_time_sec: float


@dataclass(slots=True)
class TopLogprob(Response):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int] | None = None


@dataclass(slots=True)
class ResponseLogprob(Response):
    """A token of the answer, the natural logarithm of its probability, and the likeliest alternatives.

    Probabilities are taken after penalties and temperature, before top-k, top-p and min-p.
    """

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = field(default_factory=list)


@dataclass(slots=True)
class Logprobs(Response):
    """Log-probabilities of a chat answer, token by token."""

    content: list[ResponseLogprob] | None = None
    refusal: None = None


@dataclass(slots=True)
class CompletionLogprobs(Response):
    """Log-probabilities of a completion in OpenAI's older shape: parallel lists, one entry per token.

    text_offset: where the token begins in the text, in characters.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


@dataclass(slots=True)
class CalledFunction(Response):
    """Name and JSON arguments of a called function."""

    name: str
    arguments: str


@dataclass(slots=True)
class ToolCallResponse(Response):
    """One call; `tp` is "type" on the wire."""

    index: int
    id: str
    function: CalledFunction
    tp: str = field(default="function", metadata={"wire_name": "type"})


@dataclass(slots=True)
class ResponseMessage(Response):
    """The assistant's turn."""

    content: str | None
    role: str = "assistant"
    tool_calls: list[ToolCallResponse] | None = field(default=None, metadata=_OPTIONAL)
    reasoning_content: str | None = field(default=None, metadata=_OPTIONAL)


@dataclass(slots=True)
class Choice(Response):
    """One answer. finish_reason: "stop", "length" or "canceled"."""

    finish_reason: str
    index: int
    message: ResponseMessage
    logprobs: Logprobs | None = None


@dataclass(slots=True)
class ChatCompletionResponse(Response):
    """The whole answer to a ChatCompletionRequest. created: Unix time in seconds."""

    id: str
    choices: list[Choice]
    created: int
    model: str
    usage: Usage
    system_fingerprint: str = "local"
    object: str = "chat.completion"


@dataclass(slots=True)
class Delta(Response):
    """What a chunk adds to the assistant's turn; `content` is a string in every chunk of the Python API."""

    content: str | None = field(default=None, metadata=_OPTIONAL)
    role: str | None = field(default=None, metadata=_OPTIONAL)
    tool_calls: list[ToolCallResponse] | None = field(default=None, metadata=_OPTIONAL)
    reasoning_content: str | None = field(default=None, metadata=_OPTIONAL)


@dataclass(slots=True)
class ChunkChoice(Response):
    """One answer's share of a chunk; finish_reason is set in its last one."""

    finish_reason: str | None
    index: int
    delta: Delta
    logprobs: Logprobs | None = None


@dataclass(slots=True)
class ChatCompletionChunkResponse(Response):
    """A piece of a streamed answer. usage: in the last chunk only."""

    id: str
    choices: list[ChunkChoice]
    created: int
    model: str
    system_fingerprint: str = "local"
    object: str = "chat.completion.chunk"
    usage: Usage | None = field(default=None, metadata=_OPTIONAL)


@dataclass(slots=True)
class CompletionChoice(Response):
    """One continued text."""

    finish_reason: str
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None


@dataclass(slots=True)
class CompletionResponse(Response):
    """The whole answer to a CompletionRequest."""

    id: str
    choices: list[CompletionChoice]
    created: int
    model: str
    usage: Usage
    system_fingerprint: str = "local"
    object: str = "text_completion"


@dataclass(slots=True)
class CompletionChunkChoice(Response):
    """One text's share of a chunk; finish_reason is set in its last one."""

    finish_reason: str | None
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None


@dataclass(slots=True)
class CompletionChunkResponse(Response):
    """A piece of a streamed completion. usage: in the last chunk only."""

    id: str
    choices: list[CompletionChunkChoice]
    created: int
    model: str
    system_fingerprint: str = "local"
    object: str = "text_completion"
    usage: Usage | None = field(default=None, metadata=_OPTIONAL)
