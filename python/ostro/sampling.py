"""From what a request asks for to a `Sampling`: ranges, defaults and what may not be combined.

Defaults: unset fields come from the model's generation_config, else temperature 1, no top_k, top_p 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

from ostro.errors import InvalidParameter
from ostro.types import Dry, Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostro.types import GenerationDefaults

MAX_LOGPROBS = 20
MAX_CHOICES = 128
MAX_STOPS = 16


class SamplingFields(ABC):
    """The fields that chat and completion requests share, under mistral.rs's names; None means "not said"."""

    __slots__ = ()

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_sequence_breakers: Sequence[str] | None
    logit_bias: Mapping[int, float] | None
    max_tokens: int | None
    stop_seqs: Sequence[str] | None
    seed: int | None
    ignore_eos: bool

    @abstractmethod
    def wanted_logprobs(self) -> int | None:
        """How many alternatives to report with each token; None for no log-probabilities at all."""

    def to_sampling(self, defaults: GenerationDefaults, *, vocab_size: int | None = None) -> Sampling:
        """The complete `Sampling`; InvalidParameter names the field that is out of range.

        vocab_size: bound of the ids in logit_bias; unchecked when None.
        """
        return Sampling(
            temperature=self._temperature(defaults),
            top_k=self._top_k(defaults),
            top_p=_first(
                number("top_p", self.top_p, low=0, high=1, above_low=True), defaults.top_p, default=1.0
            ),
            min_p=_first(number("min_p", self.min_p, low=0, high=1), default=0.0),
            repetition_penalty=_first(
                number("repetition_penalty", self.repetition_penalty, low=0, above_low=True), default=1.0
            ),
            frequency_penalty=_first(
                number("frequency_penalty", self.frequency_penalty, low=-2, high=2), default=0.0
            ),
            presence_penalty=_first(
                number("presence_penalty", self.presence_penalty, low=-2, high=2), default=0.0
            ),
            dry=self._dry(),
            logit_bias=_logit_bias(self.logit_bias, vocab_size),
            # Generators want a non-negative seed; two's complement keeps every int64 distinct.
            seed=None if self.seed is None else _seed(self.seed) % 2**64,
            logprobs=self.wanted_logprobs(),
            max_tokens=integer("max_tokens", self.max_tokens, low=1),
            stop=_stops(self.stop_seqs),
            ignore_eos=flag("ignore_eos", self.ignore_eos),
        )

    def _temperature(self, defaults: GenerationDefaults) -> float:
        asked = number("temperature", self.temperature, low=0)
        if asked is not None:
            return asked
        if defaults.do_sample is False:
            return 0.0
        return 1.0 if defaults.temperature is None else defaults.temperature

    def _top_k(self, defaults: GenerationDefaults) -> int | None:
        asked = integer("top_k", self.top_k, low=-1)
        chosen = defaults.top_k if asked is None else asked
        return chosen if chosen is not None and chosen > 0 else None

    def _dry(self) -> Dry | None:
        multiplier = number("dry_multiplier", self.dry_multiplier, low=0)
        base = number("dry_base", self.dry_base, low=0, above_low=True)
        allowed = integer("dry_allowed_length", self.dry_allowed_length, low=0)
        breakers = texts("dry_sequence_breakers", self.dry_sequence_breakers)
        if not multiplier:
            return None
        plain = Dry(multiplier=multiplier)
        return Dry(
            multiplier=multiplier,
            base=_first(base, default=plain.base),
            allowed_length=plain.allowed_length if allowed is None else allowed,
            sequence_breakers=plain.sequence_breakers if breakers is None else breakers,
        )


def number(
    name: str, value: float | None, *, low: float, high: float | None = None, above_low: bool = False
) -> float | None:
    """`value` as a float if it lies in the range (open below with above_low), else InvalidParameter."""
    if value is None:
        return None
    bounds = f"above {low:g}" if above_low else f"at least {low:g}"
    if high is not None:
        bounds += f" and at most {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameter(f"{name} must be a number, got {_shown(value)}", param=name)
    # Written so that NaN fails; an infinite value is never meant.
    inside = (value > low if above_low else value >= low) and value <= (3.4e38 if high is None else high)
    if not inside:
        raise InvalidParameter(f"{name} must be {bounds}, got {value}", param=name)
    return float(value)


def integer(name: str, value: int | None, *, low: int, high: int | None = None) -> int | None:
    """`value` if it is an integer in the range, else InvalidParameter."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameter(f"{name} must be an integer, got {_shown(value)}", param=name)
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidParameter(f"{name} must be {bounds}, got {value}", param=name)
    return value


def flag(name: str, value: bool) -> bool:
    """`value` if it is a bool, else InvalidParameter."""
    if not isinstance(value, bool):
        raise InvalidParameter(f"{name} must be True or False, got {_shown(value)}", param=name)
    return value


def texts(name: str, value: Sequence[str] | None) -> tuple[str, ...] | None:
    """`value` as a tuple of non-empty strings, else InvalidParameter; one string stands for a list of one."""
    if value is None:
        return None
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise InvalidParameter(f"{name} must be a list of strings, got {_shown(value)}", param=name)
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidParameter(f"{name}[{index}] must be a string, got {_shown(item)}", param=name)
        if not item:
            raise InvalidParameter(f"{name}[{index}] must not be empty", param=name)
    return tuple(items)


def _stops(value: Sequence[str] | None) -> tuple[str, ...]:
    stops = texts("stop_seqs", value) or ()
    if len(stops) > MAX_STOPS:
        raise InvalidParameter(
            f"stop_seqs may hold at most {MAX_STOPS} strings, got {len(stops)}", param="stop_seqs"
        )
    return stops


def _seed(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise InvalidParameter(f"seed must be a 64-bit integer, got {_shown(value)}", param="seed")
    return value


def _logit_bias(value: Mapping[int, float] | None, vocab_size: int | None) -> Mapping[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParameter(
            f"logit_bias must map token ids to numbers, got {_shown(value)}", param="logit_bias"
        )
    checked: dict[int, float] = {}
    for token_id, bias in value.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise InvalidParameter(
                f"logit_bias must have token ids as keys, got {_shown(token_id)}", param="logit_bias"
            )
        if token_id < 0 or (vocab_size is not None and token_id >= vocab_size):
            limit = "" if vocab_size is None else f" and below {vocab_size}"
            raise InvalidParameter(
                f"logit_bias ids must be at least 0{limit}, got {token_id}", param="logit_bias"
            )
        try:
            checked[token_id] = cast("float", number(f"logit_bias[{token_id}]", bias, low=-100, high=100))
        except InvalidParameter as error:
            raise InvalidParameter(error.message, param="logit_bias") from None
    return checked


def _first(*values: float | None, default: float) -> float:
    return next((value for value in values if value is not None), default)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
