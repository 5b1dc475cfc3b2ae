"""The evaluation door: logits and perplexity of a model, without sampling, batching or text templates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ostro.asked_importance import importance_of
from ostro.config import IsqConfig, compute_of
from ostro.engine.alone import STEP, run_alone
from ostro.engine.calibration import record_pieces
from ostro.errors import InvalidParameter, PromptTooLong, UnsupportedField
from ostro.isq_names import isq_name
from ostro.loading.open import open_checkpoint
from ostro.models import siglip
from ostro.models.gemma3 import Gemma3
from ostro.models.matrices import named_matrices
from ostro.ops.cpu import CpuOps
from ostro.prompt.tokenizer import load_tokenizer
from ostro.quant.importance import CHUNK_SIZE, Importance
from ostro.quant.in_situ import quantize_in_situ
from ostro.quant.windows import windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from ostro.config import Compute, KvDtype
    from ostro.loading.checkpoint import Checkpoint
    from ostro.ops.protocol import Rows
    from ostro.quant.report import ReadableMatrix


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
        parts = [logits for _, logits in run_alone(self._model, self._ops, ids, first, images)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def perplexity(self, text: str) -> float:
        """Exponential of the mean negative log-likelihood of the text's tokens.

        Each token is judged given `<bos>` and all before it.
        """
        ids = self._checked([self.config.bos_token_id, *self.encode(text)])
        if len(ids) < 2:
            raise InvalidParameter("the text is empty", param="text")
        total = 0.0
        for start, logits in run_alone(self._model, self._ops, ids):
            targets = ids[start + 1 : start + 1 + len(logits)]
            chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
            total += float(np.sum(self._ops.log_sum_exp(logits)[: len(targets)] - chosen))
        return math.exp(total / (len(ids) - 1))

    def encode(self, text: str) -> list[int]:
        """Ids of a text without `<bos>`; texts of control tokens in it are only text."""
        if self._checkpoint.tokenizer is None:
            raise UnsupportedField("this checkpoint has no tokenizer: give token ids")
        return load_tokenizer(self._checkpoint.tokenizer).encode(text, control=False)

    def logit_steps(self, input_ids: ArrayLike, step: int = STEP) -> Iterator[Rows]:
        """What `logits` returns, in parts of at most `step` rows that are yours until the next one."""
        ids = self._checked(input_ids)
        return (logits for _, logits in run_alone(self._model, self._ops, ids, step=step))

    def matrices(self) -> Iterator[tuple[str, ReadableMatrix]]:
        """(canonical name, matrix) of all that is multiplied with, see `named_matrices`."""
        return named_matrices(self._model)

    def calibrate(
        self,
        text: str | ArrayLike,
        *,
        chunk: int = CHUNK_SIZE,
        max_chunks: int | None = None,
        name: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> Importance:
        """The importance of every column of the text model's matrices for a text, or its token ids.

        chunk: tokens of the independent pieces that the text is read in, `<bos>` and chunk - 1 others; at
        most max_chunks of them are read. name: of the text, for the file. progress: told about (done, total)
        tokens. A tied embedding gets the importance of the head.
        """
        ids = self.encode(text) if isinstance(text, str) else text
        pieces = windows(ids, self.config.bos_token_id, chunk, max_chunks)
        pieces = [self._checked(piece) for piece in pieces]
        recorder = record_pieces(self._model, self._ops, pieces, progress)
        return recorder.importance(datasets=(name,) if name else (), chunk_size=chunk)

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
        importance = importance_of(checkpoint, isq, ops)
        checkpoint = quantize_in_situ(checkpoint, isq, ops, importance=importance)
    return Model(checkpoint, ops)
