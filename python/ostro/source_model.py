"""A model and the files that it was made of, from which it can be quantized again at any time."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ostro.config import compute_of
from ostro.engine.calibration import record_pieces
from ostro.errors import BadConfig, InvalidParameter
from ostro.loading import uqff_writer
from ostro.models.gemma3 import Gemma3
from ostro.models.matrices import named_matrices
from ostro.ops.cpu import CpuOps
from ostro.prompt.tokenizer import load_tokenizer
from ostro.quant.cache import IsqCache
from ostro.quant.calibration_text import read_text
from ostro.quant.imatrix import read_imatrix, write_imatrix
from ostro.quant.in_situ import quantize_in_situ
from ostro.quant.windows import windows

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.config import IsqConfig, RuntimeConfig
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.ops.cpu import CpuMatrix
    from ostro.quant.importance import Importance
    from ostro.quant.quantize import Importance as Columns

logger = logging.getLogger(__name__)

CALIBRATION_CHUNK = 1024
"""Tokens of the pieces that a calibration text is read in while loading, as in mistral.rs."""
CALIBRATING = "Calibrating"
"""What progress is called."""


def importance_of(
    checkpoint: Checkpoint, isq: IsqConfig, ops: CpuOps, progress: Progress | None = None
) -> Importance | None:
    """What `isq` says about the importance of columns: a file's, or that for a text, or nothing.

    That for a text is kept in the folder `isq.cache`. progress: told about bytes of the text.
    Errors: see `read_imatrix` and `read_text`; InvalidParameter for both at once, BadTensor for another
    model's matrix, BadConfig for a text without a tokenizer.
    """
    if isq.imatrix is not None and isq.calibration is not None:
        raise InvalidParameter("imatrix and calibration_file exclude each other", param="imatrix")
    if isq.imatrix is not None:
        importance = read_imatrix(isq.imatrix)
        model = Gemma3.load(checkpoint, ops)
        importance.check_widths(
            {name: matrix.cols for name, matrix in named_matrices(model)}, str(isq.imatrix)
        )
        return importance
    if isq.calibration is None:
        return None
    text = read_text(isq.calibration)
    if isq.cache is None:
        return _calibrated(checkpoint, text, isq.calibration.name, ops, progress)
    how = f"{CALIBRATION_CHUNK} {ops.describe()['compute']}"
    kept = IsqCache(isq.cache).importance_file(checkpoint.files, isq.calibration, how)
    if not kept.is_file():
        importance = _calibrated(checkpoint, text, isq.calibration.name, ops, progress)
        part = kept.with_name(f".{os.getpid()}-{kept.name}")
        try:
            write_imatrix(importance, part)
            part.replace(kept)
        except OSError as error:
            logger.warning("%s: the importance matrix is not kept: %s", kept.parent, error.strerror)
            return importance
    # Also the first time: a file rounds, and what is made of it has to be found again.
    return read_imatrix(kept)


def _calibrated(
    checkpoint: Checkpoint, text: str, name: str, ops: CpuOps, progress: Progress | None
) -> Importance:
    if checkpoint.tokenizer is None:
        raise BadConfig(f"{checkpoint.name} has no tokenizer, which a calibration text needs")
    ids = load_tokenizer(checkpoint.tokenizer).encode(text, control=False)
    pieces = windows(ids, checkpoint.config.bos_token_id, CALIBRATION_CHUNK)
    size = len(text.encode())

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(CALIBRATING, size * done // total, size)

    recorder = record_pieces(Gemma3.load(checkpoint, ops), ops, pieces, told)
    return recorder.importance(datasets=(name,), chunk_size=CALIBRATION_CHUNK)


class SourceModel:
    """Makes models of one checkpoint, all for the same `ops`.

    isq: how they are quantized, unless `quantized` is told otherwise. InvalidParameter if it names importance
    of columns for nothing.
    """

    def __init__(self, checkpoint: Checkpoint, isq: IsqConfig, runtime: RuntimeConfig) -> None:
        for param, value in (("imatrix", isq.imatrix), ("calibration_file", isq.calibration)):
            if value is not None and not isq.wanted:
                raise InvalidParameter(
                    f"{param} says how to quantize: give in_situ_quant or topology, too", param=param
                )
        self.checkpoint = checkpoint
        self.isq = isq
        self._runtime = runtime
        self.ops = self._new_ops()
        self._turn = threading.Lock()
        self._importance: Columns | None = None

    def load(self, progress: Progress | None = None, *, write_uqff: Path | None = None) -> Gemma3[CpuMatrix]:
        """The model as it was asked for. write_uqff: where it is written to, see `write_uqff`."""
        checkpoint = self.checkpoint
        if self.isq.wanted:
            self._importance = importance_of(checkpoint, self.isq, self.ops, progress)
            checkpoint = quantize_in_situ(
                checkpoint, self.isq, self.ops, importance=self._importance, progress=progress
            )
        if write_uqff is not None:
            uqff_writer.write_uqff(checkpoint, None, write_uqff, progress)
        return Gemma3.load(checkpoint, self.ops)

    def quantized(
        self, name: str | None, *, importance: Columns | None = None, progress: Progress | None = None
    ) -> Gemma3[CpuMatrix]:
        """The model in the format of that name, see `isq_names`, made of the files and not of what is in use.

        name: None for the format in use. importance: of columns, used from now on; None for the last one.

        Threads of its own do it, so that steps go on meanwhile. One call at a time; others wait.
        """
        with self._turn:
            if name is not None:
                self.isq = replace(self.isq, name=name)
            if importance is not None:
                self._importance = importance
            checkpoint = quantize_in_situ(
                self.checkpoint, self.isq, self._new_ops(), importance=self._importance, progress=progress
            )
            return Gemma3.load(checkpoint, self.ops)

    def _new_ops(self) -> CpuOps:
        runtime = self._runtime
        compute = compute_of(runtime.compute, self.checkpoint.config.hidden_size)
        return CpuOps(runtime.threads, runtime.isa, compute, runtime.kv_dtype)
