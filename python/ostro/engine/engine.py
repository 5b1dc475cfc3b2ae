"""The step: schedule, compute, sample, tell.

Knows token ids, pages and text pieces; nothing about threads (see loop.py), chat templates or HTTP. Not
thread-safe, except where a method says so.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ostro.engine.image_rows import ImageRows
from ostro.engine.kv_pages import KvPages
from ostro.engine.penalties import Breakers
from ostro.engine.sampler import Sampler, SamplerState
from ostro.engine.scheduler import Scheduler
from ostro.engine.sequence import Sequence
from ostro.engine.text_stream import TextStream
from ostro.errors import EngineError, InvalidParameter, PromptTooLong
from ostro.ops.memory import machine_memory
from ostro.ops.protocol import MatrixT, StoreT
from ostro.types import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ostro.config import RuntimeConfig
    from ostro.engine.sampler import Sampled
    from ostro.engine.scheduler import Part
    from ostro.errors import OstroError
    from ostro.ops.batch import Batch, LayerKind
    from ostro.ops.protocol import Ops
    from ostro.types import FinishReason, Prompt, Sampling, TokenLogprob, Vocabulary

_log = logging.getLogger(__name__)

IMAGE_SECONDS = 0.02
"""Time for images in a step, beyond which no slice begins: a small tower needs one step for an image."""


class ImageEncoder(Protocol[MatrixT]):
    """What makes rows of images."""

    @property
    def tokens_per_image(self) -> int:
        """Rows that an image becomes; a step takes them together even when prefill chunks are shorter."""

    def encode(
        self, pixels: NDArray[np.uint8], ops: Ops[MatrixT, StoreT]
    ) -> Generator[None, None, NDArray[np.float32]]:
        """Rows [tokens_per_image, D] of pixels [S, S, 3], returned at the end; pauses after some work."""


class Model(Protocol[MatrixT, StoreT]):
    """What the engine runs."""

    @property
    def sliding_window(self) -> int | None:
        """Positions that a row of a local layer sees, itself included."""

    @property
    def vision(self) -> ImageEncoder[MatrixT] | None:
        """None for a model that reads text only."""

    def kv_stores(self, ops: Ops[MatrixT, StoreT]) -> dict[LayerKind, StoreT]:
        """New, empty stores, one for each kind of layer that the model has."""

    def forward(
        self, batch: Batch, stores: Mapping[LayerKind, StoreT], ops: Ops[MatrixT, StoreT]
    ) -> NDArray[np.float32]:
        """Logits [w, V] of the wanted rows, free to be overwritten; keys and values go to the stores."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the start, and the state between two steps.

    prompt_tokens: rows computed for prompts and after preemptions. images: encoded, those found in the cache
    not counted. image_bytes: held by the image cache. kv_pages: pages in use for each kind of
    layer. kv_bytes: held by the stores. kv_ceiling: the most they may hold. longest: positions that one
    sequence can have.
    """

    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    completion_tokens: int
    preemptions: int
    images: int
    image_bytes: int
    kv_pages: dict[LayerKind, int]
    kv_bytes: int
    kv_ceiling: int
    longest: int


class Engine:
    """Runs many sequences through one model.

    stop_ids: tokens that end an answer. banned_ids: tokens never emitted; stop_ids win. context_length: what
    the model was trained for; config.context_length may lower it. InvalidParameter when config.kv_bytes is
    too small.
    """

    def __init__(
        self,
        model: Model[MatrixT, StoreT],
        ops: Ops[MatrixT, StoreT],
        vocabulary: Vocabulary,
        config: RuntimeConfig,
        *,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        context_length: int,
    ) -> None:
        self.config = config
        self._vocabulary = vocabulary
        self._stop_ids = frozenset(stop_ids)
        stores = model.kv_stores(ops)
        self._images = ImageRows(config.image_cache_bytes)
        # Which types of matrix and store the three agree on ends here.
        self._use: Callable[[Model[Any, Any], Ops[Any, Any]], None] = partial(self._bind, stores)
        self._model: Model[Any, Any] = model
        self._ops: Ops[Any, Any] = ops
        self._use(model, ops)
        vision = model.vision
        self._step_rows = max(config.prefill_chunk, 0 if vision is None else vision.tokens_per_image)
        ceiling = machine_memory() // 2 if config.kv_bytes is None else config.kv_bytes
        pages = KvPages(
            stores,
            model.sliding_window,
            ceiling=ceiling,
            context_length=min(context_length, config.context_length or context_length),
            step_rows=self._step_rows,
        )
        if pages.longest < 2:
            message = f"kv_bytes is {ceiling:,}, at least {pages.nbytes_for(2):,} are needed"
            raise InvalidParameter(message, param="kv_bytes")
        self._scheduler = Scheduler(pages, max_seqs=config.max_seqs, prefill_chunk=config.prefill_chunk)
        self._sampler = Sampler(ops, sorted(set(banned_ids) - self._stop_ids))
        self._breakers = Breakers(vocabulary)
        self._seeds = random.Random(config.seed)
        self._ids = itertools.count()
        self._sequences: dict[int, Sequence] = {}
        self._events: list[Event] = []
        self._steps = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0

    def replace_model(self, model: Model[Any, Any]) -> None:
        """Run another model of the same shapes from the next step on.

        Sequences keep their place, and the keys and values that they have.
        """
        self._model = model
        self._use(model, self._ops)

    def replace_ops(self, ops: Ops[Any, Any]) -> None:
        """Compute with other operations on the same matrices and stores from the next step on.

        Images are encoded again when they come by again.
        """
        self._ops = ops
        self._use(self._model, ops)

    def _bind(self, stores: Mapping[LayerKind, Any], model: Model[Any, Any], ops: Ops[Any, Any]) -> None:
        self._forward: Callable[[Batch], NDArray[np.float32]] = lambda batch: model.forward(
            batch, stores, ops
        )
        vision = model.vision
        self._sees = vision is not None
        self._images.encode_with(None if vision is None else partial(vision.encode, ops=ops))

    def prepare(self, prompt: Prompt, sampling: Sampling) -> Sequence:
        """Check a request and build its sequence, leaving the engine as it is; may be called from any thread.

        PromptTooLong when the prompt and one token do not fit, InvalidParameter for ids that no token has.
        """
        length = len(prompt.token_ids)
        longest = self._scheduler.pages.longest
        if length + 1 > longest:
            raise PromptTooLong(f"{length:,} tokens, limit {longest - 1:,}: the context ends at {longest:,}")
        self._check(prompt, sampling)
        seed = self._seeds.getrandbits(63) if sampling.seed is None else sampling.seed
        breakers = self._breakers.token_ids(sampling.dry.sequence_breakers) if sampling.dry else ()
        return Sequence(
            id=next(self._ids),
            prompt=prompt,
            sampling=sampling,
            limit=longest if sampling.max_tokens is None else min(longest, length + sampling.max_tokens),
            sampler=SamplerState(sampling, seed, prompt.token_ids, breakers),
            stream=TextStream(self._vocabulary, sampling.stop),
            pages=self._scheduler.pages.new_tables(),
        )

    def admit(self, sequence: Sequence) -> int:
        """Put a prepared sequence into the waiting line; returns its id."""
        self._sequences[sequence.id] = sequence
        self._scheduler.add(sequence)
        return sequence.id

    def add(self, prompt: Prompt, sampling: Sampling) -> int:
        """Prepare and admit."""
        return self.admit(self.prepare(prompt, sampling))

    def cancel(self, sequence_id: int) -> None:
        """End a sequence and free its pages at once; unknown ids are ignored.

        Its last event comes with the next step and has the text that was held back.
        """
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            self._events.append(self._finish(sequence, "canceled", flush=True))

    @property
    def has_work(self) -> bool:
        """Whether step would do anything."""
        return bool(self._sequences or self._events)

    def step(self) -> list[Event]:
        """Compute one batch; at most one event for each sequence, besides those of cancelled ones."""
        events, self._events = self._events, []
        events += self._see()
        step = self._scheduler.next_step()
        if step.stuck is not None:
            events.append(self._fail(step.stuck, EngineError("no memory is left for the KV cache")))
        if step.batch is None:
            return events
        wanted = [part.sequence for part in step.parts if part.wanted]
        try:
            states = [sequence.sampler for sequence in wanted]
            logits = self._forward(replace(step.batch, best=self._sampler.best(states)))
            sampled = self._sampler.sample(logits, states)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as cause:  # a panic in a kernel is no Exception
            _log.exception("a step of %d sequences failed", len(step.parts))
            return events + self._fail_all((part.sequence for part in step.parts), "the model failed", cause)
        self._count(step.parts)
        self._scheduler.advance(step.parts)
        now = time.perf_counter()
        return events + [self._advance(seq, result, now) for seq, result in zip(wanted, sampled, strict=True)]

    def _see(self) -> list[Event]:
        """Work for a while on the images that are wanted first, and hand out what is ready."""
        if not self._sees:
            return []
        events = self._provide_images()
        end = time.perf_counter() + IMAGE_SECONDS
        while self._images.busy:
            if self._images.advance():
                events += self._provide_images()
            if time.perf_counter() >= end:
                break
        return events

    def _provide_images(self) -> list[Event]:
        failed = self._images.provide(self._scheduler.next_readers())
        return [self._fail(sequence, error) for sequence, error in failed]

    def fail_all(self, cause: BaseException) -> list[Event]:
        """End every sequence with an error; the last events of all."""
        events, self._events = self._events, []
        return events + self._fail_all(list(self._sequences.values()), "the engine failed", cause)

    def cancel_all(self) -> None:
        """Cancel every sequence."""
        for sequence_id in list(self._sequences):
            self.cancel(sequence_id)

    def stats(self) -> EngineStats:
        """A snapshot; may be called from any thread."""
        pages = self._scheduler.pages
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            preemptions=self._scheduler.preemptions,
            images=self._images.encoded,
            image_bytes=self._images.nbytes,
            kv_pages={kind: group.used for kind, group in pages.groups.items()},
            kv_bytes=pages.nbytes,
            kv_ceiling=pages.ceiling,
            longest=pages.longest,
        )

    def _check(self, prompt: Prompt, sampling: Sampling) -> None:
        if not prompt.token_ids:
            raise InvalidParameter("the prompt is empty", param="prompt")
        if prompt.images and not self._sees:
            raise InvalidParameter("this model reads text only", param="prompt")
        vocab = self._vocabulary.vocab_size
        text_ids = list(prompt.token_ids)
        for span in reversed(prompt.images):
            if span.length > self._step_rows:
                message = f"an image takes {span.length:,} tokens, limit {self._step_rows:,}"
                raise InvalidParameter(message, param="prompt")
            del text_ids[span.start : span.start + span.length]
        if text_ids and not 0 <= min(text_ids) <= max(text_ids) < vocab:
            raise InvalidParameter(f"token ids must be in 0..{vocab - 1:,}", param="prompt")
        for token_id in sampling.logit_bias:
            if not 0 <= token_id < vocab:
                raise InvalidParameter(f"no token has the id {token_id:,}", param="logit_bias")

    def _advance(self, sequence: Sequence, result: Sampled | EngineError, now: float) -> Event:
        if isinstance(result, EngineError):
            return self._fail(sequence, result)
        token_id, logprob = result
        sequence.append(token_id)
        self._completion_tokens += 1
        if sequence.answered_at is None:
            sequence.answered_at = now
        if token_id in self._stop_ids and not sequence.sampling.ignore_eos:
            return self._finish(sequence, "stop", token_ids=(token_id,), flush=True)
        if logprob is not None:
            sequence.undecided.append(logprob)
        delta = sequence.stream.push(token_id)
        logprobs = sequence.decide(delta.released)
        if delta.stopped or len(sequence.token_ids) >= sequence.limit:
            reason: FinishReason = "stop" if delta.stopped else "length"
            flush = not delta.stopped
            return self._finish(sequence, reason, delta.text, (token_id,), logprobs=logprobs, flush=flush)
        return Event(sequence.id, delta.text, (token_id,), logprobs)

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        text: str = "",
        token_ids: tuple[int, ...] = (),
        *,
        logprobs: tuple[TokenLogprob, ...] = (),
        flush: bool = False,
        error: OstroError | None = None,
    ) -> Event:
        """The last event; flush: the text that was held back is part of it."""
        self._scheduler.remove(sequence)
        del self._sequences[sequence.id]
        if flush:
            delta = sequence.stream.finish()
            text += delta.text
            logprobs += sequence.decide(delta.released)
        timing = sequence.timing(time.perf_counter())
        return Event(sequence.id, text, token_ids, logprobs, reason, timing, error)

    def _fail(self, sequence: Sequence, cause: EngineError) -> Event:
        error = EngineError(f"sequence {sequence.id}: {cause.message}")
        error.__cause__ = cause.__cause__
        _log.error("%s", error.message)
        return self._finish(sequence, "error", error=error)

    def _fail_all(self, sequences: Iterable[Sequence], what: str, cause: BaseException) -> list[Event]:
        error = EngineError(f"{what}: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return [self._fail(sequence, error) for sequence in sequences]

    def _count(self, parts: list[Part]) -> None:
        self._steps += 1
        for part in parts:
            if part.sequence.answered_at is None or part.end - part.start > 1:
                self._prompt_tokens += part.end - part.start
