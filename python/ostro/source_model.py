"""A model and the files that it was made of, from which it can be quantized again at any time."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ostro.config import compute_of
from ostro.errors import InvalidParameter
from ostro.loading.mapped_file import release
from ostro.models.gemma3 import Gemma3
from ostro.models.matrices import text_matrices
from ostro.ops.cpu import CpuOps

if TYPE_CHECKING:
    from collections.abc import Iterator
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
        self._importance: Importance | None = None

    def load(self, progress: Progress | None = None, *, write_uqff: Path | None = None) -> Gemma3[CpuMatrix]:
        """The model as it was asked for. write_uqff: where it is written to, see `write_uqff`."""
        checkpoint = self.checkpoint
        # Imported where they are used: most models are run as they are.
        if self.isq.wanted:
            from ostro.asked_importance import importance_of
            from ostro.quant.in_situ import quantize_in_situ

            self._importance = importance_of(checkpoint, self.isq, self.ops, progress)
            checkpoint = quantize_in_situ(
                checkpoint, self.isq, self.ops, importance=self._importance, progress=progress
            )
        if write_uqff is not None:
            from ostro.loading import uqff_writer

            uqff_writer.write_uqff(checkpoint, None, write_uqff, progress)
        # What stays is kept for being quantized again, which needs no vocabulary: megabytes of it.
        self.checkpoint = replace(self.checkpoint, tokenizer=None)
        return Gemma3.load(checkpoint, self.ops)

    def quantized(
        self, name: str | None, *, importance: Importance | None = None, progress: Progress | None = None
    ) -> Gemma3[CpuMatrix]:
        """The model in the format of that name, see `isq_names`, made of the files and not of what is in use.

        name: None for the format in use. importance: of columns, used from now on; None for the last one.

        Threads of its own do it, so that steps go on meanwhile. One call at a time; others wait.
        """
        from ostro.quant.in_situ import quantize_in_situ

        with self._turn:
            isq = self.isq if name is None else replace(self.isq, name=name)
            if importance is None:
                importance = self._importance
            checkpoint = quantize_in_situ(
                self.checkpoint, isq, self._new_ops(), importance=importance, progress=progress
            )
            # What did not succeed is not what later calls start from.
            self.isq, self._importance = isq, importance
            return Gemma3.load(checkpoint, self.ops)

    def repack(self, model: Gemma3[CpuMatrix]) -> Iterator[None]:
        """Move the weights of a model of this source to where they are read fastest, see `CpuOps.repack`.

        Then make what saves reading the whole head if that is wanted, see `CpuOps.screen`.
        """
        if self._runtime.repack:
            matrices = list(text_matrices(model))
            yield from self.ops.repack(matrices, release, model.lm_head)
            if self._runtime.coarse_head:
                yield from self.ops.screen(model.lm_head, sum(matrix.data.nbytes for matrix in matrices))

    def _new_ops(self) -> CpuOps:
        runtime = self._runtime
        compute = compute_of(runtime.compute, self.checkpoint.config.hidden_size)
        return CpuOps(runtime.threads, runtime.isa, compute, runtime.kv_dtype)
