"""Which columns of a model's matrices matter, by what was asked for: a file, or a text to be read."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ostro.engine.calibration import record_pieces
from ostro.errors import BadConfig, InvalidParameter
from ostro.models.gemma3 import Gemma3
from ostro.models.matrices import named_matrices
from ostro.prompt.tokenizer import load_tokenizer
from ostro.quant.cache import IsqCache
from ostro.quant.calibration_text import read_text
from ostro.quant.imatrix import read_imatrix, write_imatrix
from ostro.quant.windows import windows

if TYPE_CHECKING:
    from ostro.config import IsqConfig
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.ops.cpu import CpuOps
    from ostro.quant.importance import Importance

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
