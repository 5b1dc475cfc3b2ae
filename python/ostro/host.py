"""One loaded model, ready to answer: what Runner, AsyncRunner, the HTTP server and the command line share."""

from __future__ import annotations

import dataclasses
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ostro.answers import ChatAnswer, CompletionAnswer
from ostro.errors import InvalidParameter, UnknownModel, UnsupportedField
from ostro.isq_names import isq_name
from ostro.requests import has_parts_beside_text
from ostro.truncation import keep_tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from ostro.answers import Answer, Ticket
    from ostro.config import RuntimeConfig
    from ostro.engine.calibration import Calibration
    from ostro.loading.checkpoint import Progress
    from ostro.loading.config import Gemma3Config
    from ostro.models.work import Work
    from ostro.prompt.fetch import ImageAccess, ImageFetcher
    from ostro.prompt.tokenizer import Tokenizer
    from ostro.quant.quantize import Importance as Columns
    from ostro.requests import ChatCompletionRequest, CompletionRequest, Messages
    from ostro.streams import Deliver
    from ostro.types import CalibrationStatus, Event, GenerationDefaults, Prompt, Sampling
    from ostro.which import Which

    Requantize = Callable[[str | None, Columns | None, Progress | None], Work]


class PromptSource(Protocol):
    """Makes prompts; see `ostro.prompt.build.PromptBuilder`."""

    def chat(self, messages: Messages, *, pan_and_scan: bool | None = None) -> Prompt:
        """A conversation, ready for the assistant's turn; blocks while its images are fetched."""

    def completion(self, prompt: str | Sequence[int]) -> Prompt:
        """A raw text or ids, with `<bos>` in front."""


class SequenceLoop(Protocol):
    """Generates; see `ostro.engine.loop.EngineLoop`."""

    def submit(self, prompt: Prompt, sampling: Sampling, sink: Callable[[Event], None]) -> Ticket:
        """Queue a sequence; `sink` is called in the engine's thread. PromptTooLong, Overloaded."""

    def await_chore(self) -> None:
        """Return when nothing is done between steps any more. EngineError when the engine is closed."""

    def close(self) -> None:
        """End all sequences and the thread."""


ARCHITECTURE = "gemma3"
IMAGE_REQUESTS = 16
"""Requests whose images are fetched at a time; the others wait, and requests without images pass them by."""
DEFAULT_NAME = "default"


class ModelHost:
    """A model under its name, with everything between a request and its tokens. Any thread may call it.

    context_length: longest sequence in tokens. hardware: what the kernels run on, for logs and records.
    work: what a token costs; None where nobody counted.
    requantize: makes the model anew in the format of that name, None for the one in use, and tells what its
        tokens cost; None where there are no weights. in_situ: whether weights were quantized while loading.
    calibration: collects importance from traffic; None where that is not possible.
    reads_any_file: requests may name every file that this process may read as an image.
    """

    def __init__(
        self,
        *,
        name: str,
        config: Gemma3Config,
        tokenizer: Tokenizer,
        prompts: PromptSource,
        defaults: GenerationDefaults,
        loop: SequenceLoop,
        context_length: int,
        hardware: Mapping[str, Any] | None = None,
        work: Work | None = None,
        fetcher: ImageFetcher | None = None,
        requantize: Requantize | None = None,
        in_situ: bool = False,
        calibration: Calibration[Any, Any] | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.defaults = defaults
        self.loop = loop
        self.context_length = context_length
        self.created = int(time.time())
        self.work = work
        self._in_situ = in_situ
        self._calibration = calibration
        self._requantize = requantize
        self._hardware = dict(hardware or {})
        self.reads_any_file = fetcher is not None and fetcher.reads_any_file
        # Threads of their own: fetching waits for strangers, and must not hold up requests without images.
        self._image_threads = ThreadPoolExecutor(IMAGE_REQUESTS, "ostro-image-requests")
        # Also when the host is dropped, and before the interpreter freezes the engine's thread at its end.
        self._end = weakref.finalize(self, _end, loop, fetcher, self._image_threads)

    @classmethod
    def load(
        cls,
        which: Which | str | Path | None,
        runtime: RuntimeConfig,
        *,
        in_situ_quant: str | int | None = None,
        isq_vision: bool = True,
        isq_cache: Path | None = None,
        chat_template: str | None = None,
        token_source: str = "cache",
        progress: Progress | None = None,
        images: ImageAccess | None = None,
        pan_and_scan: bool | None = None,
    ) -> ModelHost:
        """Read the files and start the engine.

        which: None for the small vision model that ostro carries along.
        in_situ_quant: quantize the weights, see `IsqType`. isq_vision: the image half, too. isq_cache: folder
            in which quantized weights are kept for the next start.
        images: what requests may name as images; None for all that this process can read and reach.
        pan_and_scan: whether oblong images are also shown in crops when a request does not say; None for what
            the model's files say.
        chat_template: Jinja text instead of the model's own template.
        token_source: where a hub token comes from, `literal:<v> | env:<v> | path:<v> | cache | none`.
        Errors: ModelError for the files; InvalidParameter or UnsupportedField for the arguments.
        """
        from ostro.host_loading import load_host

        return load_host(
            cls,
            which,
            runtime,
            in_situ_quant=in_situ_quant,
            isq_vision=isq_vision,
            isq_cache=isq_cache,
            chat_template=chat_template,
            token_source=token_source,
            progress=progress,
            images=images,
            pan_and_scan=pan_and_scan,
        )

    def start_chat(self, request: ChatCompletionRequest, deliver: Deliver) -> ChatAnswer:
        """Submit a conversation; `deliver` gets the events that the answer is to be fed with.

        Errors: RequestError; nothing runs then.
        """
        request.check()
        sampling = request.to_sampling(self.defaults, vocab_size=self.config.vocab_size)
        prompt = self.prompts.chat(request.messages, pan_and_scan=request.pan_and_scan)
        prompt = self._fitted(prompt, sampling, request.truncate_sequence)
        answer = ChatAnswer(
            self.name,
            self.tokenizer,
            sequences=request.n_choices,
            prompt_tokens=len(prompt.token_ids),
            with_logprobs=sampling.logprobs is not None,
        )
        self._submit(answer, [prompt] * request.n_choices, sampling, request.n_choices, deliver)
        return answer

    def start_completion(self, request: CompletionRequest, deliver: Deliver) -> CompletionAnswer:
        """Submit one or several texts to be continued; see `start_chat`."""
        request.check()
        with_logprobs = request.logprobs is not None
        sampling = request.to_sampling(self.defaults, vocab_size=self.config.vocab_size)
        drawn = request.drawn()
        if drawn > request.n_choices and not with_logprobs:
            sampling = dataclasses.replace(sampling, logprobs=0)  # needed to tell the best
        asked = request.prompts()
        prompts = [
            self._fitted(self.prompts.completion(prompt), sampling, request.truncate_sequence)
            for prompt in asked
        ]
        answer = CompletionAnswer(
            self.name,
            self.tokenizer,
            echoes=[self._text_of(prompt) if request.echo_prompt else "" for prompt in asked],
            drawn=drawn,
            kept=request.n_choices,
            prompt_tokens=sum(len(prompt.token_ids) for prompt in prompts),
            with_logprobs=with_logprobs,
        )
        self._submit(answer, [prompt for prompt in prompts for _ in range(drawn)], sampling, drawn, deliver)
        return answer

    def re_isq(
        self,
        name: str | int,
        *,
        importance: Columns | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Quantize again from the model's files, while requests go on, and use that from the next step on.

        name: see `isq_names`. importance: canonical name -> float32 [cols]; None: all columns alike.
        InvalidParameter for an unknown name. What is stored in as few bits in the files stays as it is there.
        """
        chosen = isq_name(name)
        if self._requantize is None:
            raise UnsupportedField("this model has no weights to quantize", param="ggml_type")
        self.work = self._requantize(chosen, importance, progress)
        self._in_situ = True

    def threads_for(self, messages: Messages | None) -> ThreadPoolExecutor | None:
        """Where a conversation should be started from an event loop; None for the loop's own threads."""
        return self._image_threads if has_parts_beside_text(messages) else None

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a raw text (control tokens in it are parsed), with `<bos>` in front if asked for."""
        if not isinstance(text, str):
            raise InvalidParameter(f"text must be a string, got {type(text).__name__}", param="text")
        if add_special_tokens:
            return list(self.prompts.completion(text).token_ids)
        return self.tokenizer.encode(text, control=True)

    def tokenize_chat(self, messages: Messages) -> list[int]:
        """Ids of a conversation as the model would read it; an image is a run of its soft tokens."""
        prompt = self.prompts.chat(messages)
        ids = list(prompt.token_ids)
        if self.config.image_token_id is not None:
            for span in prompt.images:
                ids[span.start : span.start + span.length] = [self.config.image_token_id] * span.length
        return ids

    def detokenize(self, tokens: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; without control tokens if asked for."""
        ids = list(tokens)
        for index, token_id in enumerate(ids):
            valid = isinstance(token_id, int) and not isinstance(token_id, bool)
            if not valid or not 0 <= token_id < self.tokenizer.vocab_size:
                raise InvalidParameter(
                    f"tokens[{index}] must be an id below {self.tokenizer.vocab_size}, got {token_id!r}",
                    param=f"tokens[{index}]",
                )
        return self.tokenizer.decode(ids, skip_special=skip_special_tokens)

    def apply_calibration(self, save: Path | None = None) -> CalibrationStatus:
        """Quantize the weights anew by what was collected, and end the collection; returns its last status.

        save: a file for the importance matrix, see `ostro.quant.imatrix.SUFFIXES`. A model that was not
        quantized while loading stays as it is, and UnsupportedField is raised unless `save` is given. If
        quantizing fails, the collection goes on. InvalidParameter when nothing was collected.
        """
        from ostro.quant.imatrix import check_suffix, write_imatrix

        if save is None and not self._in_situ:
            raise UnsupportedField(
                "the model was not quantized while loading, so there is nothing to quantize anew; load it "
                "with in_situ_quant, or name a file to save the importance matrix to"
            )
        if save is not None:
            check_suffix(save)
        status = self.calibration.status()
        importance = self.calibration.importance()
        if save is not None:
            write_imatrix(importance, save, vision=self.config.vision is not None)
        if self._in_situ and self._requantize is not None:
            self.work = self._requantize(None, importance, None)
        self.calibration.end()
        return status

    @property
    def calibration(self) -> Calibration[Any, Any]:
        """Collects the importance of weights from traffic; UnsupportedField where that is not possible."""
        if self._calibration is None:
            raise UnsupportedField("this model cannot collect importance from traffic")
        return self._calibration

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._end.alive

    @property
    def names(self) -> list[str]:
        """What the model may be called: "default", its id, the id's last part, the architecture."""
        short = self.name.rstrip("/").rsplit("/", 1)[-1]
        return list(
            dict.fromkeys([DEFAULT_NAME, self.name, short, short.removesuffix(".gguf"), ARCHITECTURE])
        )

    def check_name(self, model: str) -> None:
        """UnknownModel, saying what is here, unless `model` is one of `names`."""
        if model not in self.names:
            here = ", ".join(repr(name) for name in self.names)
            raise UnknownModel(f"the model {model!r} is not loaded here; loaded is {here}", param="model")

    def describe(self) -> dict[str, Any]:
        """What the kernels run on: instruction set, threads, number formats."""
        return dict(self._hardware)

    def close(self) -> None:
        """End all sequences and free the engine; without effect the second time."""
        self._end()

    def __enter__(self) -> ModelHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _fitted(self, prompt: Prompt, sampling: Sampling, truncate: bool) -> Prompt:
        return keep_tail(prompt, self.context_length, sampling.max_tokens) if truncate else prompt

    def _text_of(self, prompt: str | Sequence[int]) -> str:
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _submit(
        self,
        answer: Answer[Any, Any],
        prompts: Sequence[Prompt],
        sampling: Sampling,
        per_prompt: int,
        deliver: Deliver,
    ) -> None:
        """One sequence per entry of prompts; sequences of the same prompt get different seeds."""
        try:
            for index, prompt in enumerate(prompts):
                own = sampling
                if sampling.seed is not None and index % per_prompt:
                    own = dataclasses.replace(sampling, seed=(sampling.seed + index % per_prompt) % 2**64)
                answer.tickets.append(self.loop.submit(prompt, own, partial(deliver, index)))
        except BaseException:
            answer.cancel()
            raise


def _end(loop: SequenceLoop, fetcher: ImageFetcher | None, image_threads: ThreadPoolExecutor) -> None:
    if fetcher is not None:
        fetcher.close()
    image_threads.shutdown(wait=False, cancel_futures=True)
    loop.close()
