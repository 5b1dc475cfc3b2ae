"""What users ask for: mistral.rs's request classes, with every field of its older and its newer form.

A field that asks for something ostro does not offer raises UnsupportedField; nothing is dropped in silence.
Requests are checked when they are made and again when they are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from ostro.errors import InvalidParameter, UnsupportedField
from ostro.sampling import MAX_CHOICES, MAX_LOGPROBS, SamplingFields, flag, integer
from ostro.types import GenerationDefaults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Messages: TypeAlias = "str | Sequence[Mapping[str, Any]]"
PromptInput: TypeAlias = "str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]"


class ToolChoice(Enum):
    """mistral.rs's tool choice."""

    NoTools = "none"
    Auto = "auto"


# Known fields and the values of theirs that ask for nothing.
_NOT_OFFERED: dict[str, tuple[object, ...]] = {
    "grammar": (None,),
    "grammar_type": (None,),
    "tool_schemas": (None, [], ()),
    "tool_choice": (None, "none", "auto", ToolChoice.NoTools, ToolChoice.Auto),
    "web_search_options": (None,),
    "enable_thinking": (None, False),
    "reasoning_effort": (None, "off", "none"),
    "max_tool_rounds": (None,),
    "tool_dispatch_url": (None,),
    "enable_code_execution": (None, False),
    "enable_shell": (None, False),
    "shell_skills": (None, [], ()),
    "agent_permission": (None,),
    "agent_approval_callback": (None,),
    "code_execution_permission": (None,),
    "session_id": (None,),
    "files": (None, [], ()),
    "input_files": (None, [], ()),
    "adapter": (None,),
    "suffix": (None, ""),
}
_WHY = {
    "enable_thinking": "Gemma 3 has no thinking mode",
    "reasoning_effort": "Gemma 3 has no thinking mode",
    "suffix": "Gemma 3 was not trained to fill in the middle of a text",
}


@dataclass(slots=True)
class ChatCompletionRequest(SamplingFields):
    """A conversation to be continued by one assistant turn.

    messages: dicts with "role" and "content", or a string, which is one user turn.
    model: not looked at (a Runner holds one model). n_choices: 1..128 answers to the same conversation.
    logprobs, top_logprobs: report each token's log-probability, with 0..20 alternatives.
    stop_seqs: at most 16 texts that end the answer and are not part of it. stream: see Runner.
    truncate_sequence: drop the oldest tokens of a conversation that is too long instead of refusing it.
    seed: makes sampling repeatable (ostro only). Unset sampling fields follow the model's generation_config.
    Errors: InvalidParameter (also a ValueError) names the field; UnsupportedField for what is not offered.
    """

    messages: Messages
    model: str = "default"
    logprobs: bool = False
    n_choices: int = 1
    logit_bias: Mapping[int, float] | None = None
    top_logprobs: int | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop_seqs: Sequence[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool = False
    grammar: str | None = None
    grammar_type: str | None = None
    min_p: float | None = None
    tool_schemas: Sequence[str] | None = None
    tool_choice: ToolChoice | str | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: Sequence[str] | None = None
    web_search_options: Any = None
    enable_thinking: bool | None = None
    truncate_sequence: bool = False
    reasoning_effort: str | None = None
    max_tool_rounds: int | None = None
    tool_dispatch_url: str | None = None
    enable_code_execution: bool = False
    enable_shell: bool = False
    shell_skills: Sequence[Any] | None = None
    agent_permission: Any = None
    agent_approval_callback: Callable[..., Any] | None = None
    code_execution_permission: Any = None
    session_id: str | None = None
    files: Sequence[Any] | None = None
    input_files: Sequence[Any] | None = None
    ignore_eos: bool = False
    adapter: Any = field(default=None, kw_only=True)
    seed: int | None = field(default=None, kw_only=True)
    pan_and_scan: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise InvalidParameter or UnsupportedField when a field cannot be served."""
        _refuse_what_is_not_offered(self)
        if not isinstance(self.messages, (str, list, tuple)):
            raise InvalidParameter(
                f"messages must be a list of messages or a string, got {type(self.messages).__name__}",
                param="messages",
            )
        integer("n_choices", self.n_choices, low=1, high=MAX_CHOICES)
        flag("stream", self.stream)
        flag("truncate_sequence", self.truncate_sequence)
        if self.pan_and_scan is not None:
            flag("pan_and_scan", self.pan_and_scan)
        self.to_sampling(GenerationDefaults())

    def wanted_logprobs(self) -> int | None:
        """As in `SamplingFields`; alternatives can only be asked for together with logprobs."""
        alternatives = integer("top_logprobs", self.top_logprobs, low=0, high=MAX_LOGPROBS) or 0
        if flag("logprobs", self.logprobs):
            return alternatives
        if alternatives:
            raise InvalidParameter("top_logprobs needs logprobs=True", param="top_logprobs")
        return None


@dataclass(slots=True)
class CompletionRequest(SamplingFields):
    """A text to be continued as it stands: no chat template, and control tokens in it are parsed.

    prompt: a text or token ids; or a list of those, each of which is continued on its own.
    best_of: sequences to draw, of which the n_choices with the highest mean log-probability are returned.
    echo_prompt: the text begins with the prompt. logprobs: alternatives per token, 0..20 (ostro only).
    stream, seed: as in ChatCompletionRequest (ostro only). Everything else as in ChatCompletionRequest.
    """

    prompt: PromptInput
    model: str = "default"
    best_of: int | None = 1
    echo_prompt: bool = False
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    max_tokens: int | None = None
    n_choices: int = 1
    stop_seqs: Sequence[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    suffix: str | None = None
    top_k: int | None = None
    grammar: str | None = None
    grammar_type: str | None = None
    min_p: float | None = None
    tool_schemas: Sequence[str] | None = None
    tool_choice: ToolChoice | str | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: Sequence[str] | None = None
    truncate_sequence: bool = False
    ignore_eos: bool = False
    adapter: Any = field(default=None, kw_only=True)
    seed: int | None = field(default=None, kw_only=True)
    logprobs: int | None = field(default=None, kw_only=True)
    stream: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise InvalidParameter or UnsupportedField when a field cannot be served."""
        _refuse_what_is_not_offered(self)
        self.prompts()
        integer("n_choices", self.n_choices, low=1, high=MAX_CHOICES)
        drawn = self.drawn()
        if flag("stream", self.stream) and drawn > self.n_choices:
            raise InvalidParameter(
                "best_of cannot be streamed: the best is only known at the end", param="best_of"
            )
        flag("truncate_sequence", self.truncate_sequence)
        if flag("echo_prompt", self.echo_prompt) and self.logprobs is not None:
            raise UnsupportedField("log-probabilities of an echoed prompt are not offered", param="logprobs")
        self.to_sampling(GenerationDefaults())

    def wanted_logprobs(self) -> int | None:
        """As in `SamplingFields`."""
        return integer("logprobs", self.logprobs, low=0, high=MAX_LOGPROBS)

    def drawn(self) -> int:
        """Sequences per prompt: best_of, but at least n_choices."""
        best_of = integer("best_of", self.best_of, low=1, high=MAX_CHOICES) or 1
        if 1 < best_of < self.n_choices:
            raise InvalidParameter(
                f"best_of must be at least n_choices ({self.n_choices}), got {best_of}", param="best_of"
            )
        return max(best_of, self.n_choices)

    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, each a text or a list of token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not isinstance(prompt, (list, tuple)) or not prompt:
            raise InvalidParameter(
                "prompt must be a string, a list of token ids, or a non-empty list of those", param="prompt"
            )
        if _is_ids(prompt):
            return [list(prompt)]
        singles: list[str | list[int]] = []
        for index, single in enumerate(prompt):
            if isinstance(single, str):
                singles.append(single)
            elif isinstance(single, (list, tuple)) and single and _is_ids(single):
                singles.append(list(single))
            else:
                raise InvalidParameter(
                    f"prompt[{index}] must be a string or a list of token ids", param=f"prompt[{index}]"
                )
        return singles


def has_parts_beside_text(messages: object) -> bool:
    """Whether a message has content that must be fetched; unsound messages are judged elsewhere."""
    if not isinstance(messages, (list, tuple)):
        return False
    contents = (message.get("content") for message in messages if isinstance(message, Mapping))
    return any(
        not (isinstance(part, Mapping) and part.get("type") == "text")
        for content in contents
        if isinstance(content, (list, tuple))
        for part in content
    )


def _is_ids(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _refuse_what_is_not_offered(request: ChatCompletionRequest | CompletionRequest) -> None:
    for name, harmless in _NOT_OFFERED.items():
        value = getattr(request, name, None)
        if value not in harmless:
            raise UnsupportedField(f"{name} is not offered{_reason(name)}", param=name)


def _reason(name: str) -> str:
    return f": {_WHY[name]}" if name in _WHY else " by this version of ostro; leave it out"
