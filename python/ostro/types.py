"""The frozen values that travel between prompt, engine and runner.

What users write and read is in `requests.py` and `responses.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ostro.errors import OstroError


class Vocabulary(Protocol):
    """What the engine needs to know about tokens."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this number."""

    def encode(self, text: str, *, control: bool) -> list[int]:
        """Ids without `<bos>`; control: whether literal texts of control tokens become those tokens."""

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text (UTF-8, maybe part of a character); empty for control tokens."""


FinishReason = Literal["stop", "length", "canceled", "error"]


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """A run of image soft tokens in a prompt: positions [start, start + length), and whose pixels.

    content_hash: of the pixels; images that the model sees alike have the same.
    pixels: uint8 [image_size, image_size, 3], RGB, as the model sees them.
    """

    start: int
    length: int
    content_hash: bytes
    pixels: NDArray[np.uint8] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads. Final: nothing edits the ids after this object exists.

    token_ids: with `<bos>`, ids below the vocabulary size; image positions hold the padding token, since not
        every vocabulary has the image soft token.
    images: in the order of their positions, without overlap.
    """

    token_ids: tuple[int, ...]
    images: tuple[ImageSpan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dry:
    """The "don't repeat yourself" penalty: multiplier * base ** (match length - allowed_length).

    sequence_breakers: strings across which no repetition is followed.
    Source: text-generation-webui pull request 5677.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when a sequence ends; every field is already validated and filled in.

    temperature: 0 means greedy. top_k: None means all. top_p, min_p: in [0, 1], 1 and 0 mean off.
    frequency_penalty, presence_penalty: over generated tokens. repetition_penalty: over prompt and answer,
    1 is off. seed: None draws one. logprobs: None for none, else how many alternatives to report with each
    token (0..20).
    max_tokens: None means up to the context's end. stop: texts that end the answer and are not part of it.
    watch: is called in the engine's thread with the logits [V] of each sampled row, as the model made them;
    they are overwritten afterwards.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry: Dry | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    watch: Callable[[NDArray[np.float32]], None] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What `generation_config.json` (or the GGUF file) says about sampling; None where it says nothing."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    do_sample: bool | None = None
    eos_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of a token's probability after penalties and temperature, before top-k and the like.

    top: the most probable tokens in falling order, as (token id, logprob).
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """Counts and durations of one finished sequence, in tokens and seconds.

    prompt_seconds runs from admission to the first sampled token, completion_seconds from there to the end.
    """

    prompt_tokens: int
    completion_tokens: int
    prompt_seconds: float
    completion_seconds: float


@dataclass(frozen=True, slots=True)
class CalibrationStatus:
    """How far the collection of an importance matrix is; mistral.rs's names.

    layers: matrices that can be recorded; layers_tracking: those that are. total_rows, min_rows, max_rows:
    inputs that they have seen together, the least and the most used one; a text token is one input of each
    matrix of a layer, and of the head only when its logits were needed.
    """

    collecting: bool
    layers: int
    layers_tracking: int
    total_rows: int
    min_rows: int
    max_rows: int


@dataclass(frozen=True, slots=True)
class Event:
    """News of one sequence. Text and log-probabilities are final: what was sent is never taken back.

    text: newly decided text, empty while a stop string or a UTF-8 character is incomplete.
    token_ids: the tokens sampled since the last event. finish_reason, timing: set on the last event only.
    error: set with finish_reason "error".
    """

    sequence_id: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    timing: Timing | None = None
    error: OstroError | None = None
