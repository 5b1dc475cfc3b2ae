"""An answer in the making: turns the events of a request's sequences into chunks and whole responses.

The only place that does so; `streams.py` feeds it, synchronously or from asyncio, for Python and for HTTP.
"""

from __future__ import annotations

import codecs
import secrets
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ostro.errors import EngineError
from ostro.responses import (
    ChatCompletionChunkResponse,
    ChatCompletionResponse,
    Choice,
    ChunkChoice,
    CompletionChoice,
    CompletionChunkChoice,
    CompletionChunkResponse,
    CompletionLogprobs,
    CompletionResponse,
    Delta,
    Logprobs,
    ResponseLogprob,
    ResponseMessage,
    TopLogprob,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ostro.types import Event, FinishReason, Timing, TokenLogprob

ChunkT = TypeVar("ChunkT")
ResponseT = TypeVar("ResponseT")


class TokenTexts(Protocol):
    """What log-probabilities need to know about tokens."""

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text; empty for control tokens."""

    def token_text(self, token_id: int) -> str:
        """The token's literal text, also of control tokens."""


class Ticket(Protocol):
    """The right to call a sequence off."""

    def cancel(self) -> None:
        """End the sequence; without effect when it has ended."""


@dataclass(slots=True)
class Draft:
    """What one sequence has said so far."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    timing: Timing | None = None

    def mean_logprob(self) -> float:
        """Of its reported tokens; 0 without any."""
        if not self.logprobs:
            return 0.0
        return sum(token.logprob for token in self.logprobs) / len(self.logprobs)


class Answer(ABC, Generic[ChunkT, ResponseT]):
    """Collects the events of a request's sequences, numbered from 0; the caller feeds it every event.

    prompt_tokens: over all prompts, each counted once. Not thread-safe, except for `cancel`.
    """

    def __init__(
        self,
        kind: str,
        model: str,
        tokens: TokenTexts,
        *,
        sequences: int,
        prompt_tokens: int,
        with_logprobs: bool,
    ) -> None:
        self.id = f"{kind}-{secrets.token_hex(12)}"
        self.model = model
        self.created = int(time.time())
        self.tickets: list[Ticket] = []
        self._tokens = tokens
        self._drafts = [Draft() for _ in range(sequences)]
        self._open = sequences
        self._prompt_tokens = prompt_tokens
        self._with_logprobs = with_logprobs

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        return self._open == 0

    def cancel(self) -> None:
        """Call all sequences off; may be called from any thread, any number of times."""
        for ticket in self.tickets:
            ticket.cancel()

    def feed(self, index: int, event: Event) -> None:
        """Take in an event of sequence `index`; a failed sequence cancels the others and raises its error."""
        draft = self._drafts[index]
        if event.text:
            draft.texts.append(event.text)
        draft.logprobs.extend(event.logprobs)
        if event.finish_reason is None:
            return
        draft.finish_reason = event.finish_reason
        draft.timing = event.timing
        self._open -= 1
        if event.error is not None or event.finish_reason == "error":
            self.cancel()
            raise event.error or EngineError("the engine gave up on this request without saying why")

    def opening(self) -> list[ChunkT]:
        """Chunks that come before the first event."""
        return []

    def chunks(self, index: int, event: Event) -> list[ChunkT]:
        """Take in an event and give the chunks it makes: content, then the end, each if there is any.

        The last chunk of the answer carries the usage.
        """
        self.feed(index, event)
        chunks = []
        if event.text or event.logprobs:
            chunks.append(self._chunk(index, event.text, event.logprobs))
        if event.finish_reason is not None:
            usage = self.usage() if self.finished else None
            chunks.append(self._chunk(index, finish_reason=event.finish_reason, usage=usage))
        return chunks

    @abstractmethod
    def response(self) -> ResponseT:
        """The whole answer; only when finished."""

    def usage(self) -> Usage:
        """Counts and durations over all sequences."""
        timings = [draft.timing for draft in self._drafts if draft.timing is not None]
        completion_tokens = sum(timing.completion_tokens for timing in timings)
        total_tokens = self._prompt_tokens + completion_tokens
        prompt_seconds = max((timing.prompt_seconds for timing in timings), default=0.0)
        completion_seconds = max((timing.completion_seconds for timing in timings), default=0.0)
        total_seconds = max(
            (timing.prompt_seconds + timing.completion_seconds for timing in timings), default=0.0
        )
        return Usage(
            completion_tokens=completion_tokens,
            prompt_tokens=self._prompt_tokens,
            total_tokens=total_tokens,
            avg_tok_per_sec=_rate(total_tokens, total_seconds),
            avg_prompt_tok_per_sec=_rate(self._prompt_tokens, prompt_seconds),
            avg_compl_tok_per_sec=_rate(completion_tokens, completion_seconds),
            total_time_sec=total_seconds,
            total_prompt_time_sec=prompt_seconds,
            total_completion_time_sec=completion_seconds,
        )

    @abstractmethod
    def _chunk(
        self,
        index: int,
        text: str = "",
        logprobs: Sequence[TokenLogprob] = (),
        *,
        finish_reason: str | None = None,
        usage: Usage | None = None,
    ) -> ChunkT:
        """A piece of the answer of sequence `index`."""

    def _spelled(self, token_id: int) -> tuple[str, list[int]]:
        """A token as text and as bytes; bytes that are not whole characters show as U+FFFD in the text."""
        raw = self._tokens.token_bytes(token_id) or self._tokens.token_text(token_id).encode()
        return raw.decode("utf-8", "replace"), list(raw)


class ChatAnswer(Answer[ChatCompletionChunkResponse, ChatCompletionResponse]):
    """The answer to a ChatCompletionRequest; sequence i is choice i."""

    def __init__(
        self, model: str, tokens: TokenTexts, *, sequences: int, prompt_tokens: int, with_logprobs: bool
    ) -> None:
        super().__init__(
            "chatcmpl",
            model,
            tokens,
            sequences=sequences,
            prompt_tokens=prompt_tokens,
            with_logprobs=with_logprobs,
        )

    def role_chunks(self) -> list[ChatCompletionChunkResponse]:
        """For each choice the chunk that OpenAI begins with: the role and an empty content."""
        return [self._chunk(index) for index in range(len(self._drafts))]

    def response(self) -> ChatCompletionResponse:
        """See `Answer.response`."""
        return ChatCompletionResponse(
            id=self.id,
            choices=[
                Choice(
                    finish_reason=_reason(draft),
                    index=index,
                    message=ResponseMessage(content="".join(draft.texts)),
                    logprobs=self._logprobs(draft.logprobs) if self._with_logprobs else None,
                )
                for index, draft in enumerate(self._drafts)
            ],
            created=self.created,
            model=self.model,
            usage=self.usage(),
        )

    def _chunk(
        self,
        index: int,
        text: str = "",
        logprobs: Sequence[TokenLogprob] = (),
        *,
        finish_reason: str | None = None,
        usage: Usage | None = None,
    ) -> ChatCompletionChunkResponse:
        choice = ChunkChoice(
            finish_reason=finish_reason,
            index=index,
            delta=Delta(content=text, role="assistant"),
            logprobs=self._logprobs(logprobs) if logprobs and self._with_logprobs else None,
        )
        return ChatCompletionChunkResponse(
            id=self.id, choices=[choice], created=self.created, model=self.model, usage=usage
        )

    def _logprobs(self, tokens: Iterable[TokenLogprob]) -> Logprobs:
        content = []
        for token in tokens:
            text, raw = self._spelled(token.token_id)
            top = [TopLogprob(*self._alternative(*pair)) for pair in token.top]
            content.append(ResponseLogprob(text, _finite(token.logprob), raw, top))
        return Logprobs(content)

    def _alternative(self, token_id: int, logprob: float) -> tuple[str, float, list[int]]:
        text, raw = self._spelled(token_id)
        return text, _finite(logprob), raw


class _OffsetCounter:
    """Where tokens begin in a text, in characters."""

    def __init__(self, start: int) -> None:
        self._characters = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, raw: bytes) -> int:
        """The offset of the token whose bytes are `raw`."""
        offset = self._characters
        self._characters += len(self._decoder.decode(raw))
        return offset


class CompletionAnswer(Answer[CompletionChunkResponse, CompletionResponse]):
    """The answer to a CompletionRequest: `drawn` sequences per prompt, of which the best `kept` are returned.

    echoes: for each prompt the text that the returned text begins with.
    """

    def __init__(
        self,
        model: str,
        tokens: TokenTexts,
        *,
        echoes: Sequence[str],
        drawn: int,
        kept: int,
        prompt_tokens: int,
        with_logprobs: bool,
    ) -> None:
        super().__init__(
            "cmpl",
            model,
            tokens,
            sequences=len(echoes) * drawn,
            prompt_tokens=prompt_tokens,
            with_logprobs=with_logprobs,
        )
        self._echoes = echoes
        self._drawn = drawn
        self._kept = kept
        self._offsets = [_OffsetCounter(len(echoes[index // drawn])) for index in range(len(self._drafts))]

    def opening(self) -> list[CompletionChunkResponse]:
        """The echoed prompts."""
        echoes = [self._echoes[index // self._drawn] for index in range(len(self._drafts))]
        return [self._chunk(index, echo) for index, echo in enumerate(echoes) if echo]

    def response(self) -> CompletionResponse:
        """See `Answer.response`."""
        choices: list[CompletionChoice] = []
        for prompt, echo in enumerate(self._echoes):
            first = prompt * self._drawn
            indices: Iterable[int] = range(first, first + self._drawn)
            if self._kept < self._drawn:
                indices = sorted(indices, key=lambda i: -self._drafts[i].mean_logprob())[: self._kept]
            for index in indices:
                draft = self._drafts[index]
                logprobs = self._logprobs(index, draft.logprobs) if self._with_logprobs else None
                choices.append(
                    CompletionChoice(_reason(draft), len(choices), echo + "".join(draft.texts), logprobs)
                )
        return CompletionResponse(
            id=self.id, choices=choices, created=self.created, model=self.model, usage=self.usage()
        )

    def _chunk(
        self,
        index: int,
        text: str = "",
        logprobs: Sequence[TokenLogprob] = (),
        *,
        finish_reason: str | None = None,
        usage: Usage | None = None,
    ) -> CompletionChunkResponse:
        choice = CompletionChunkChoice(
            finish_reason=finish_reason,
            index=index,
            text=text,
            logprobs=self._logprobs(index, logprobs) if logprobs and self._with_logprobs else None,
        )
        return CompletionChunkResponse(
            id=self.id, choices=[choice], created=self.created, model=self.model, usage=usage
        )

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> CompletionLogprobs:
        offsets = self._offsets[index]
        return CompletionLogprobs(
            tokens=[self._spelled(token.token_id)[0] for token in tokens],
            token_logprobs=[_finite(token.logprob) for token in tokens],
            top_logprobs=[
                # The chosen token is always among them, as OpenAI has it.
                {self._spelled(token_id)[0]: _finite(logprob) for token_id, logprob in token.top}
                | {self._spelled(token.token_id)[0]: _finite(token.logprob)}
                for token in tokens
            ],
            text_offset=[offsets.next(self._tokens.token_bytes(token.token_id)) for token in tokens],
        )


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what is all but impossible."""
    return max(logprob, -9999.0)


def _reason(draft: Draft) -> str:
    return draft.finish_reason or "canceled"


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
