"""Importance matrices: of a text, and of live traffic, for which the engine records while it computes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic

from ostro.engine.alone import STEP, run_alone
from ostro.errors import InvalidParameter
from ostro.models.matrices import named_matrices
from ostro.ops.protocol import MatrixT, StoreT
from ostro.quant.recorder import Recorder
from ostro.types import CalibrationStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ostro.engine.loop import EngineLoop
    from ostro.models.gemma3 import Gemma3
    from ostro.ops.protocol import Ops
    from ostro.quant.importance import Importance


def record_pieces(
    model: Gemma3[MatrixT],
    ops: Ops[MatrixT, StoreT],
    pieces: Sequence[NDArray[np.int32]],
    progress: Callable[[int, int], None] | None = None,
) -> Recorder[MatrixT, StoreT]:
    """What the text model's matrices are multiplied with while it reads pieces of a text.

    pieces: ids [n] each, see `ostro.quant.windows`. progress: told about (done, total) tokens.
    """
    recorder = Recorder(ops, named_matrices(model), unneeded=model.lm_head)
    done, total = 0, sum(map(len, pieces))
    for piece in pieces:
        for start, _ in run_alone(model, recorder, piece):
            if progress is not None:
                progress(done + min(start + STEP, len(piece)), total)
        done += len(piece)
    return recorder


class Calibration(Generic[MatrixT, StoreT]):
    """Collects for one engine; may be called from any thread but the engine's.

    model, ops: those that the engine runs when nothing is collected.
    """

    def __init__(self, loop: EngineLoop, model: Gemma3[MatrixT], ops: Ops[MatrixT, StoreT]) -> None:
        self._loop = loop
        self._ops = ops
        self._model = model
        self._recorder: Recorder[MatrixT, StoreT] | None = None
        self._changing = threading.Lock()

    def begin(self) -> CalibrationStatus:
        """Start to collect with the engine's next step; InvalidParameter when that is under way already."""
        with self._changing:
            if self._recorder is not None:
                raise InvalidParameter("calibration is under way already; apply or cancel it first")
            recorder = Recorder(self._ops, named_matrices(self._model))
            self._loop.replace_ops(recorder)
            self._recorder = recorder
        return self.status()

    def status(self) -> CalibrationStatus:
        """How many inputs the matrices have seen."""
        recorder = self._recorder
        if recorder is None:
            layers = sum(1 for _ in named_matrices(self._model))
            return CalibrationStatus(False, layers, 0, 0, 0, 0)
        rows = list(recorder.rows.values())
        return CalibrationStatus(True, len(rows), len(rows), sum(rows), min(rows), max(rows))

    def importance(self) -> Importance:
        """What was collected so far; InvalidParameter when there is nothing, EngineError if not finite."""
        recorder = self._recorder
        if recorder is None:
            raise InvalidParameter("nothing is being collected: begin a calibration first")
        importance = self._loop.run_between_steps(recorder.importance).result()
        if not importance:
            raise InvalidParameter("nothing was collected yet: send some requests first")
        return importance

    def end(self) -> None:
        """Stop collecting and forget what was collected; without effect when nothing is."""
        with self._changing:
            if self._recorder is not None:
                self._loop.replace_ops(self._ops)
                self._recorder = None

    def follow(self, model: Gemma3[MatrixT]) -> None:
        """Go on with another model of the same shapes, which the engine runs from now on.

        To be called in the engine's thread when it gets that model.
        """
        self._model = model
        if self._recorder is not None:
            self._recorder.follow(named_matrices(model))
