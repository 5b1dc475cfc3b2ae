"""A host without a model: a tokenizer of bytes and words, and a loop that says words chosen by the prompt.

Words in the prompt steer it: "!fail" ends with an EngineError after three tokens, "!endless" never ends,
"!mute" sends nothing at all.
"""

from __future__ import annotations

import random
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any

from ostro.errors import EngineError, InvalidParameter, Overloaded, PromptTooLong
from ostro.host import ModelHost
from ostro.loading.config import Gemma3Config
from ostro.prompt.control import ControlTexts
from ostro.types import Event, FinishReason, GenerationDefaults, Prompt, Sampling, Timing, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

BOS, END_OF_TURN = 2, 106
CONTROL = {0: "<pad>", 1: "<eos>", BOS: "<bos>", 105: "<start_of_turn>", END_OF_TURN: "<end_of_turn>"}
FIRST_BYTE = 256
FIRST_WORD = 512
WORDS = [" the", " tall", " café", " 🙂", " is", " a", " lighthouse", " of", " stone", ".", "\n", "日本"]
VOCAB_SIZE = FIRST_WORD + len(WORDS)


class FakeTokenizer:
    vocab_size = VOCAB_SIZE
    bos_id = BOS

    def encode(self, text: str, *, control: bool) -> list[int]:
        ids: list[int] = []
        while text:
            for token_id, literal in CONTROL.items():
                if control and text.startswith(literal):
                    ids.append(token_id)
                    text = text[len(literal) :]
                    break
            else:
                ids.extend(FIRST_BYTE + byte for byte in text[0].encode())
                text = text[1:]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if token_id >= FIRST_WORD:
            return WORDS[token_id - FIRST_WORD].encode()
        return bytes([token_id - FIRST_BYTE]) if token_id >= FIRST_BYTE else b""

    def is_control(self, token_id: int) -> bool:
        return token_id in CONTROL

    @property
    def control(self) -> ControlTexts:
        return ControlTexts({text: token_id for token_id, text in CONTROL.items()})

    def id_of(self, text: str) -> int | None:
        return next((token_id for token_id in range(VOCAB_SIZE) if self.token_text(token_id) == text), None)

    def token_text(self, token_id: int) -> str:
        return CONTROL.get(token_id) or self.token_bytes(token_id).decode("utf-8", "replace")

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        parts = [
            (b"" if skip_special else CONTROL[i].encode()) if i in CONTROL else self.token_bytes(i)
            for i in ids
        ]
        return b"".join(parts).decode("utf-8", "replace")


class FakePrompts:
    def __init__(self, tokenizer: FakeTokenizer) -> None:
        self._tokenizer = tokenizer

    def chat(self, messages: Any, *, pan_and_scan: bool | None = None) -> Prompt:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not messages:
            raise InvalidParameter("messages must not be empty", param="messages")
        text = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return self.completion(text)

    def completion(self, prompt: str | Sequence[int]) -> Prompt:
        ids = self._tokenizer.encode(prompt, control=True) if isinstance(prompt, str) else list(prompt)
        return Prompt(tuple(ids if ids[:1] == [BOS] else [BOS, *ids]))


class FakeTicket:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


class _Running:
    def __init__(
        self, prompt: Prompt, sampling: Sampling, sink: Callable[[Event], None], number: int
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.sink = sink
        self.number = number
        self.order = FakeTokenizer().decode(prompt.token_ids)
        self.words = fake_words(prompt, sampling)
        self.said = 0
        self.canceled = False
        self.began = time.perf_counter()


def fake_words(prompt: Prompt, sampling: Sampling) -> list[int]:
    """Token ids that the loop says, before max_tokens; a function of prompt and seed."""
    order = FakeTokenizer().decode(prompt.token_ids)
    chooser = random.Random(f"{zlib.crc32(order.encode())} {sampling.seed}")
    count = 100_000 if "!endless" in order else chooser.randint(5, 40)
    return [FIRST_WORD + chooser.randrange(len(WORDS)) for _ in range(count)]


def fake_text(
    order: str, *, chat: bool = True, max_tokens: int | None = None, seed: int | None = None
) -> str:
    """What the loop answers to a chat of one user turn, or to a text."""
    prompts = FakePrompts(FakeTokenizer())
    prompt = prompts.chat(order) if chat else prompts.completion(order)
    return FakeTokenizer().decode(fake_words(prompt, Sampling(seed=seed))[:max_tokens])


def fake_logprob(token_id: int, alternatives: int) -> TokenLogprob:
    own = -(token_id % 7) / 10
    others = [(token_id, own), *((FIRST_BYTE + i, own - i) for i in range(1, alternatives))]
    return TokenLogprob(token_id, own, tuple(others[:alternatives]))


class FakeLoop:
    """As EngineLoop: one thread, one token per sequence and step; here stops are single words."""

    def __init__(
        self, *, max_seqs: int = 64, max_waiting: int = 1000, limit: int = 2000, pause: float = 0.001
    ):
        self.max_seqs = max_seqs
        self.max_waiting = max_waiting
        self.limit = limit
        self.pause = pause
        self.canceled = 0
        self.submitted = 0
        self._running: list[_Running] = []
        self._changed = threading.Condition()
        self.closed = False
        self._thread = threading.Thread(target=self._run, name="fake-engine", daemon=True)
        self._thread.start()

    @property
    def live(self) -> int:
        return len(self._running)

    def submit(self, prompt: Prompt, sampling: Sampling, sink: Callable[[Event], None]) -> FakeTicket:
        if len(prompt.token_ids) + 1 > self.limit:
            raise PromptTooLong(f"{len(prompt.token_ids):,} tokens, limit {self.limit:,}")
        with self._changed:
            if self.closed:
                raise EngineError("the engine is closed")
            if self.live >= self.max_seqs + self.max_waiting:
                raise Overloaded("too many requests; try later")
            self.submitted += 1
            running = _Running(prompt, sampling, sink, self.submitted)
            self._running.append(running)
            self._changed.notify()

        def cancel() -> None:
            with self._changed:
                running.canceled = True

        return FakeTicket(cancel)

    def await_chore(self) -> None:
        """There is none."""

    def close(self) -> None:
        with self._changed:
            self.closed = True
            for running in self._running:
                running.canceled = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._running or self.closed):
                    self._changed.wait()
                if self.closed and not self._running:
                    return
                batch = self._running[: self.max_seqs]
            for running in batch:
                event = self._advance(running)
                if event is None:
                    continue
                if event.finish_reason is not None:
                    with self._changed:
                        self._running.remove(running)
                running.sink(event)
            time.sleep(self.pause)

    def _advance(self, running: _Running) -> Event | None:
        if running.canceled:
            self.canceled += 1
            return self._event(running, "", (), "canceled")
        if "!mute" in running.order:
            return None
        if "!fail" in running.order and running.said == 3:
            return Event(
                running.number, finish_reason="error", error=EngineError("the fake engine was told to fail")
            )
        sampling = running.sampling
        token_id = running.words[running.said]
        running.said += 1
        text = WORDS[token_id - FIRST_WORD]
        if text in sampling.stop:
            return self._event(running, "", (token_id,), "stop")
        reason: FinishReason | None = None
        if sampling.max_tokens is not None and running.said >= sampling.max_tokens:
            reason = "length"
        elif running.said >= len(running.words):
            reason = "stop"
        logprobs = () if sampling.logprobs is None else (fake_logprob(token_id, sampling.logprobs),)
        return self._event(running, text, (token_id,), reason, logprobs)

    def _event(
        self,
        running: _Running,
        text: str,
        token_ids: tuple[int, ...],
        reason: FinishReason | None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Event:
        timing = None
        if reason is not None:
            timing = Timing(len(running.prompt.token_ids), running.said, 0.5, 2.0)
        return Event(running.number, text, token_ids, logprobs, reason, timing)


def fake_host(loop: FakeLoop | None = None, *, name: str = "fake-org/fake-gemma") -> ModelHost:
    loop = loop or FakeLoop()
    tokenizer = FakeTokenizer()
    config = Gemma3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        layer_kinds=("global",),
        sliding_window=None,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        rope_local_theta=1e4,
        rope_factor=1.0,
        attention_scale=1.0,
        context_length=loop.limit,
        final_logit_softcap=None,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        pad_token_id=0,
        eos_token_ids=(1, END_OF_TURN),
    )
    return ModelHost(
        name=name,
        config=config,
        tokenizer=tokenizer,
        prompts=FakePrompts(tokenizer),
        defaults=GenerationDefaults(),
        loop=loop,
        context_length=loop.limit,
        hardware={"isa": "none"},
    )
