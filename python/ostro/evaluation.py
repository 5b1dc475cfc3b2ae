"""The evaluation door: logits and perplexity of a model, without sampling, batching or text templates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.config import IsqConfig, compute_of
from ostro.engine.kv_pages import KvPages, machine_memory
from ostro.errors import EngineError, InvalidParameter, PromptTooLong, UnsupportedField
from ostro.isq_names import isq_name
from ostro.loading.open import open_checkpoint
from ostro.models import siglip
from ostro.models.gemma3 import Gemma3
from ostro.ops.batch import Batch
from ostro.ops.cpu import CpuOps
from ostro.prompt.tokenizer import load_tokenizer
from ostro.quant.in_situ import quantize_in_situ

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from ostro.config import Compute, KvDtype
    from ostro.engine.kv_pages import SequencePages
    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.protocol import Rows

CHUNK = 256
"""Tokens per forward pass: bounds the memory that logits of a long text take."""


class Model:
    """A loaded model that answers "how probable is this text?".

    Not thread-safe. For generating text use `ostro.Runner`.
    """

    def __init__(self, checkpoint: Checkpoint, ops: CpuOps) -> None:
        self.config = checkpoint.config
        self._checkpoint = checkpoint
        self._ops = ops
        self._model = Gemma3.load(checkpoint, ops)

    def logits(
        self, input_ids: ArrayLike, pixel_values: ArrayLike | None = None, *, last: int | None = None
    ) -> NDArray[np.float32]:
        """Logits [n, V] after each of the n token ids (`<bos>` is not added); `last`: of the last rows only.

        pixel_values: float [images, 3, S, S], normalised as the model's processor does it; the images of the
        runs of image soft tokens among the ids, in order.
        Raises InvalidParameter for ids outside the vocabulary and images that do not fit, PromptTooLong
        beyond the context length.
        """
        ids = np.array(input_ids)
        images = {} if pixel_values is None else self._images(ids, np.asarray(pixel_values, np.float32))
        for start, rows in images.items():
            ids[start : start + len(rows)] = self.config.pad_token_id
        ids = self._checked(ids)
        first = 0 if last is None else max(0, len(ids) - last)
        parts = [logits for _, logits in self._forward(ids, first, images)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def perplexity(self, text: str) -> float:
        """Exponential of the mean negative log-likelihood of the text's tokens.

        Each token is judged given `<bos>` and all before it.
        """
        if self._checkpoint.tokenizer is None:
            raise UnsupportedField("this checkpoint has no tokenizer: use logits()")
        tokenizer = load_tokenizer(self._checkpoint.tokenizer)
        ids = self._checked([self.config.bos_token_id, *tokenizer.encode(text, control=False)])
        if len(ids) < 2:
            raise InvalidParameter("the text is empty", param="text")
        total = 0.0
        for start, logits in self._forward(ids, 0):
            targets = ids[start + 1 : start + 1 + len(logits)]
            chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
            total += float(np.sum(self._ops.log_sum_exp(logits)[: len(targets)] - chosen))
        return math.exp(total / (len(ids) - 1))

    def _images(self, ids: NDArray[Any], pixels: Rows) -> dict[int, Rows]:
        """Rows of the images by the position of their first soft token."""
        vision = self._model.vision
        if vision is None:
            raise UnsupportedField("this model reads text only", param="pixel_values")
        side, length = vision.config.image_size, vision.tokens_per_image
        if pixels.ndim != 4 or pixels.shape[1:] != (vision.config.num_channels, side, side):
            raise InvalidParameter(
                f"expected [images, {vision.config.num_channels}, {side}, {side}], got {list(pixels.shape)}",
                param="pixel_values",
            )
        soft = np.flatnonzero(ids == self.config.image_token_id)
        runs = soft.reshape(-1, length) if len(soft) == len(pixels) * length else soft[:0].reshape(0, length)
        if len(runs) != len(pixels) or np.any(np.diff(runs) != 1):
            raise InvalidParameter(
                f"{len(pixels)} images need as many runs of {length} image soft tokens (id "
                f"{self.config.image_token_id}); there are {len(soft)} such tokens",
                param="input_ids",
            )
        encoded = (siglip.run(vision.encode(image, self._ops)) for image in pixels)
        return {int(run[0]): rows for run, rows in zip(runs, encoded, strict=True)}

    def _checked(self, input_ids: ArrayLike) -> NDArray[np.int32]:
        ids = np.asarray(input_ids)
        if ids.ndim != 1 or len(ids) == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise InvalidParameter("expected a non-empty list of token ids", param="input_ids")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise InvalidParameter(f"token ids must be in [0, {self.config.vocab_size})", param="input_ids")
        if len(ids) > self.config.context_length:
            raise PromptTooLong(f"{len(ids):,} tokens, limit {self.config.context_length:,}")
        return ids.astype(np.int32)

    def _forward(
        self, ids: NDArray[np.int32], first: int, images: Mapping[int, Rows] | None = None
    ) -> Iterator[tuple[int, Rows]]:
        """Chunk by chunk (position of the first row, logits of the chunk's rows from position `first` on)."""
        images = images or {}
        longest = max((len(rows) for rows in images.values()), default=0)
        stores = self._model.kv_stores(self._ops)
        pages = KvPages(
            stores,
            self._model.sliding_window,
            ceiling=machine_memory(),
            context_length=len(ids),
            step_rows=CHUNK + longest,
        )
        if pages.longest < len(ids):
            raise PromptTooLong(f"{len(ids):,} tokens, memory is left for {pages.longest:,}")
        tables = pages.new_tables()
        end = 0
        while end < len(ids):
            start, end = end, min(end + CHUNK, len(ids))
            for at, rows in images.items():
                if at < end < at + len(rows):
                    end = at + len(rows)
            pages.trim(tables, start)
            if not pages.reserve(tables, end):
                raise EngineError(f"no memory for the keys and values of {end:,} tokens")
            batch = _single(ids, start, end, first, tables, images)
            logits = self._model.forward(batch, stores, self._ops)
            if end > first:
                yield max(start, first), logits


def _single(
    ids: NDArray[np.int32],
    start: int,
    end: int,
    first: int,
    tables: SequencePages,
    images: Mapping[int, Rows],
) -> Batch:
    """Rows start:end of one sequence; logits are wanted from position `first` on."""
    positions = np.arange(start, end, dtype=np.int32)
    key_ends = positions + np.int32(1)
    inside = {at - start: rows for at, rows in images.items() if start <= at < end}
    for row, rows in inside.items():
        key_ends[row : row + len(rows)] = start + row + len(rows)
    places = [np.arange(row, row + len(rows), dtype=np.int32) for row, rows in inside.items()]
    return Batch(
        token_ids=ids[start:end],
        positions=positions,
        row_starts=np.array([0, end - start], np.int32),
        key_ends=key_ends,
        page_tables={kind: table.ids[None, : table.last] for kind, table in tables.items()},
        wanted=np.arange(max(first - start, 0), end - start, dtype=np.int32),
        image_rows=np.concatenate(list(inside.values())) if inside else None,
        image_at=np.concatenate(places) if inside else None,
    )


def load_model(
    path_or_id: str | Path,
    isq: str | int | IsqConfig | None = None,
    compute: Compute = "auto",
    kv_dtype: KvDtype | None = None,
) -> Model:
    """Load a GGUF file, a Hugging Face folder or a hub id for evaluation.

    isq: quantize while loading, see `IsqType`; or an IsqConfig that says how. compute: "auto" as `Runner`
    computes; "int8", "int14" or "f32", see `RuntimeConfig`. kv_dtype: of the KV cache, if not as `compute`
    says.
    Raises ModelError for files that cannot be used.
    """
    if not isinstance(isq, IsqConfig):
        isq = IsqConfig(name=None if isq is None else isq_name(isq))
    checkpoint = open_checkpoint(path_or_id)
    ops = CpuOps(compute=compute_of(compute, checkpoint.config.hidden_size), kv_dtype=kv_dtype)
    if isq.wanted:
        checkpoint = quantize_in_situ(checkpoint, isq, ops)
    return Model(checkpoint, ops)
