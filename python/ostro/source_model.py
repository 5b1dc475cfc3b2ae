"""A model and the files that it was made of, from which it can be quantized again at any time."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ostro.config import compute_of
from ostro.errors import InvalidParameter
from ostro.loading import uqff_writer
from ostro.models.gemma3 import Gemma3
from ostro.ops.cpu import CpuOps
from ostro.quant.in_situ import quantize_in_situ

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.config import IsqConfig, RuntimeConfig
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.ops.cpu import CpuMatrix
    from ostro.quant.quantize import Importance


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

    def load(self, progress: Progress | None = None, *, write_uqff: Path | None = None) -> Gemma3[CpuMatrix]:
        """The model as it was asked for. write_uqff: where it is written to, see `write_uqff`."""
        checkpoint = self.checkpoint
        if self.isq.wanted:
            checkpoint = quantize_in_situ(checkpoint, self.isq, self.ops, progress=progress)
        if write_uqff is not None:
            uqff_writer.write_uqff(checkpoint, None, write_uqff, progress)
        return Gemma3.load(checkpoint, self.ops)

    def quantized(
        self, name: str, *, importance: Importance | None = None, progress: Progress | None = None
    ) -> Gemma3[CpuMatrix]:
        """The model in another format, a name of `isq_names`, made of the files and not of what is in use.

        Threads of its own do it, so that steps go on meanwhile. One call at a time; others wait.
        """
        with self._turn:
            self.isq = replace(self.isq, name=name)
            checkpoint = quantize_in_situ(
                self.checkpoint, self.isq, self._new_ops(), importance=importance, progress=progress
            )
            return Gemma3.load(checkpoint, self.ops)

    def _new_ops(self) -> CpuOps:
        runtime = self._runtime
        compute = compute_of(runtime.compute, self.checkpoint.config.hidden_size)
        return CpuOps(runtime.threads, runtime.isa, compute, runtime.kv_dtype)
