"""The Python API: mistral.rs's Runner over one loaded model."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ostro.config import RuntimeConfig
from ostro.errors import InvalidParameter, UnsupportedField
from ostro.host import DEFAULT_NAME, ModelHost
from ostro.isq_names import isq_name
from ostro.sampling import flag, integer
from ostro.streams import Stream
from ostro.template_source import read_chat_template
from ostro.which import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

    from ostro.config import Compute, KvDtype
    from ostro.isq_names import IsqType
    from ostro.loading.checkpoint import Progress
    from ostro.prompt.fetch import ImageAccess
    from ostro.requests import ChatCompletionRequest, CompletionRequest
    from ostro.responses import (
        ChatCompletionChunkResponse,
        ChatCompletionResponse,
        CompletionChunkResponse,
        CompletionResponse,
    )
    from ostro.types import CalibrationStatus
    from ostro.which import Which

    ChatStream: TypeAlias = Stream[ChatCompletionChunkResponse, ChatCompletionResponse]
    CompletionStream: TypeAlias = Stream[CompletionChunkResponse, CompletionResponse]

logger = logging.getLogger("ostro")

# Arguments of mistral.rs that tune what ostro does not have; given a value, they are named in one log line.
_WITHOUT_EFFECT = frozenset(
    {
        "speculative_gamma",
        "mtp_n_predict",
        "num_device_layers",
        "memory_goal",
        "pa_gpu_mem",
        "pa_gpu_mem_usage",
        "pa_blk_size",
        "pa_cache_type",
        "no_paged_attn",
        "paged_attn",
        "no_bert_model",
    }
)
_NOT_OFFERED = frozenset(
    {
        "which_draft",
        "mtp_model",
        "anymoe_config",
        "enable_search",
        "search_bert_model",
        "search_embedding_model",
        "search_callback",
        "tool_callbacks",
        "mcp_client_config",
        "code_execution_config",
        "shell_config",
    }
)


class LoadedModel:
    """What Runner and AsyncRunner have in common: loading, naming, closing."""

    def __init__(
        self,
        which: Which | str | Path | None = None,
        max_seqs: int = 16,
        no_kv_cache: bool = False,
        prefix_cache_n: int | None = 16,
        token_source: str = "cache",
        *,
        chat_template: str | Path | None = None,
        jinja_explicit: str | Path | None = None,
        in_situ_quant: str | int | None = None,
        seed: int | None = None,
        prompt_batchsize: int | None = None,
        pa_ctxt_len: int | None = None,
        threads: int | None = None,
        context_length: int | None = None,
        compute: Compute = "auto",
        kv_dtype: KvDtype | None = None,
        max_waiting: int = 1024,
        kv_bytes: int | None = None,
        repack: bool = True,
        coarse_head: bool = False,
        progress: Progress | None = None,
        images: ImageAccess | None = None,
        pan_and_scan: bool | None = None,
        image_cache_bytes: int | None = None,
        isq_vision: bool = True,
        isq_cache: str | Path | None = None,
        **others: Any,
    ) -> None:
        if which is None:
            logger.warning(
                "no model is named: this is %s, a small one that knows generated pictures", DEMO_MODEL
            )
        without_effect = {"no_kv_cache": no_kv_cache, "prefix_cache_n": prefix_cache_n != 16}
        _judge(without_effect, others)
        if compute not in ("auto", "int8", "int14", "mixed", "f32"):
            raise InvalidParameter(
                f"compute must be 'auto', 'int8', 'int14', 'mixed' or 'f32', got {compute!r}", param="compute"
            )
        if kv_dtype not in (None, "f16", "int8", "f32"):
            raise InvalidParameter(
                f"kv_dtype must be 'f16', 'int8' or 'f32', got {kv_dtype!r}", param="kv_dtype"
            )
        template = jinja_explicit if jinja_explicit is not None else chat_template
        wanted_context = context_length if context_length is not None else pa_ctxt_len
        runtime = RuntimeConfig(
            threads=integer("threads", threads, low=0) or 0,
            compute=compute,
            kv_dtype=kv_dtype,
            max_seqs=integer("max_seqs", max_seqs, low=1) or 1,
            max_waiting=integer("max_waiting", max_waiting, low=0) or 0,
            context_length=integer("context_length", wanted_context, low=2),
            prefill_chunk=integer("prompt_batchsize", prompt_batchsize, low=1)
            or RuntimeConfig().prefill_chunk,
            kv_bytes=integer("kv_bytes", kv_bytes, low=1),
            repack=flag("repack", repack),
            coarse_head=flag("coarse_head", coarse_head),
            seed=integer("seed", seed, low=0, high=2**64 - 1),
            image_cache_bytes=_cache_bytes(which, image_cache_bytes),
        )
        self._host = ModelHost.load(
            which,
            runtime,
            in_situ_quant=None if in_situ_quant is None else isq_name(in_situ_quant),
            isq_vision=flag("isq_vision", isq_vision),
            isq_cache=None if isq_cache is None else Path(isq_cache),
            chat_template=None if template is None else read_chat_template(template),
            token_source=token_source,
            progress=progress,
            images=images,
            pan_and_scan=None if pan_and_scan is None else flag("pan_and_scan", pan_and_scan),
        )

    @classmethod
    def from_host(cls, host: ModelHost) -> Self:
        """Over a model that is loaded already; closing the runner closes it."""
        runner = cls.__new__(cls)
        runner._host = host
        return runner

    @property
    def host(self) -> ModelHost:
        """The loaded model, for serving it over HTTP as well."""
        return self._host

    def max_sequence_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._host.context_length

    def list_models(self) -> list[str]:
        """Ids of the loaded models: one."""
        return [self._host.name]

    def get_default_model_id(self) -> str:
        """Id of the model that answers when none is named."""
        return self._host.name

    def is_model_loaded(self, model_id: str) -> bool:
        """Whether requests may name this model."""
        return not self._host.closed and model_id in self._host.names

    def _close(self) -> None:
        self._host.close()

    def _named(self, model_id: str | None) -> ModelHost:
        self._host.check_name(DEFAULT_NAME if model_id is None else model_id)
        return self._host


class Runner(LoadedModel):
    """A loaded model that answers requests; many threads may share it and are batched together.

    which: `Which.*`, a path or a hub id; None for the small vision model that ostro carries along.
    max_seqs: sequences generated side by side; more wait for a place.
    token_source: where a hub token comes from, `literal:<v> | env:<v> | path:<v> | cache | none`.
    chat_template, jinja_explicit: Jinja text, or a .jinja or .json file, instead of the model's own template.
    in_situ_quant: a number format's name or bits. seed: makes requests that bring no seed repeatable, too.
    context_length (pa_ctxt_len): at most what the model was trained for. prompt_batchsize: tokens a step.
    threads: None for all this process may use. compute: of activations, see `RuntimeConfig`.
    kv_dtype: of the KV cache, "f16" (as with None, unless compute is "f32"), "int8" (half of it) or "f32".
    max_waiting: requests beyond it are refused with Overloaded. kv_bytes: ceiling of the KV cache.
    repack: move weights to where they are read fastest, between steps; if not, they stay in the file, whose
    memory processes share. coarse_head: also keep a coarse copy of a large head that is not in Q8_0, so that
    greedy decoding and sampling with top_k read less of it: faster, for a third of its size in memory.
    images: what requests may name as images (`ostro.ImageAccess`); None for all that this process can read
    and reach. pan_and_scan: show oblong images in crops as well unless a request says otherwise.
    image_cache_bytes: of encoded images kept for later requests.
    Other arguments of mistral.rs are accepted: those that ask for what is not offered raise UnsupportedField
    when set, those that tune what ostro does not have (no_paged_attn ...) are named in a log line.

    Errors: ModelError when the model cannot be loaded; RequestError (a ValueError) for requests; EngineError.
    """

    def send_chat_completion_request(
        self, request: ChatCompletionRequest, model_id: str | None = None
    ) -> ChatCompletionResponse | ChatStream:
        """The whole answer, or with `stream=True` an iterator over its chunks; dropping that cancels."""
        stream = Stream(partial(self._named(model_id).start_chat, request))
        if request.stream:
            return stream
        with stream:
            return stream.response()

    def send_completion_request(
        self, request: CompletionRequest, model_id: str | None = None
    ) -> CompletionResponse | CompletionStream:
        """The whole answer, or with `stream=True` an iterator over its chunks; dropping that cancels."""
        stream = Stream(partial(self._named(model_id).start_completion, request))
        if request.stream:
            return stream
        with stream:
            return stream.response()

    def tokenize_text(
        self,
        text: str,
        add_special_tokens: bool = True,
        enable_thinking: bool | None = None,
        model_id: str | None = None,
    ) -> list[int]:
        """Ids of a raw text, in which control tokens are parsed; add_special_tokens: `<bos>` in front."""
        refuse_thinking(enable_thinking)
        return self._named(model_id).tokenize(text, add_special_tokens=add_special_tokens)

    def detokenize_text(
        self, tokens: Iterable[int], skip_special_tokens: bool = True, model_id: str | None = None
    ) -> str:
        """The text of token ids, with or without the literal texts of control tokens."""
        return self._named(model_id).detokenize(tokens, skip_special_tokens=skip_special_tokens)

    def send_re_isq(self, dtype: str | int | IsqType, model_id: str | None = None) -> None:
        """Quantize again from the model's files, in another format; requests go on meanwhile."""
        self._named(model_id).re_isq(isq_name(dtype))

    def begin_calibration(self, model_id: str | None = None) -> CalibrationStatus:
        """Collect the importance of weights from all requests from now on; answers take somewhat longer."""
        return self._named(model_id).calibration.begin()

    def calibration_status(self, model_id: str | None = None) -> CalibrationStatus:
        """How much was collected."""
        return self._named(model_id).calibration.status()

    def apply_calibration(
        self, save_cimatrix: str | Path | None = None, model_id: str | None = None
    ) -> CalibrationStatus:
        """Quantize the source's weights anew by what was collected; see `ModelHost.apply_calibration`.

        save_cimatrix: where to keep the importance matrix; ".gguf", ".imatrix" and ".dat" are llama.cpp's
        layouts, ".cimatrix" is mistral.rs's.
        """
        return self._named(model_id).apply_calibration(imatrix_path(save_cimatrix))

    def close(self) -> None:
        """End running requests (finish_reason "canceled") and free the model."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _cache_bytes(which: object, given: int | None) -> int:
    """The newer Which.MultimodalPlain and Which.GGUF of mistral.rs can say it, too."""
    if given is None:
        given = getattr(which, "encoder_cache_memory_bytes", None)
    wanted = integer("image_cache_bytes", given, low=0)
    return RuntimeConfig().image_cache_bytes if wanted is None else wanted


def _judge(without_effect: dict[str, bool], others: dict[str, Any]) -> None:
    """Refuse arguments that ask for what is not offered, or are none; log those without effect."""
    ignored = [name for name, given in without_effect.items() if given]
    for name, value in others.items():
        if name in _WITHOUT_EFFECT:
            if value not in (None, False):
                ignored.append(name)
        elif name not in _NOT_OFFERED:
            raise TypeError(f"Runner got an unexpected argument {name!r}")
        elif value not in (None, False, [], {}):
            raise UnsupportedField(
                f"{name} is not offered by this version of ostro; leave it out", param=name
            )
    if ignored:
        logger.warning("without meaning here, ignored: %s", ", ".join(ignored))


def imatrix_path(given: str | Path | None) -> Path | None:
    """A file's path as the user may write it."""
    from pathlib import Path

    return None if given is None else Path(given).expanduser()


def refuse_thinking(enable_thinking: bool | None) -> None:
    """UnsupportedField when it is wanted."""
    if enable_thinking:
        raise UnsupportedField(
            "enable_thinking is not offered: Gemma 3 has no thinking mode", param="enable_thinking"
        )
