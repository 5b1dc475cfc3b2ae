"""What one process runs with: built once from arguments, then passed to constructors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Compute = Literal["auto", "int8", "int14", "mixed", "f32"]
KvDtype = Literal["f16", "int8", "f32"]


WIDE = 2048
"""Hidden size from which "auto" is "mixed": 4b, 12b and 27b."""


def compute_of(compute: Compute, hidden_size: int) -> Compute:
    """What "auto" means for a model: "int14" for small ones, "mixed" for those whose products take the time.

    8 bits in groups of 256 columns are what llama.cpp uses for K-quants; for other formats its groups are
    finer. The real 270m, most of which has other formats, misses its accuracy bar with 8 bits throughout.
    """
    if compute != "auto":
        return compute
    return "mixed" if hidden_size >= WIDE else "int14"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Limits and choices of an engine; None means "choose for this machine and model".

    threads: 0 is as many as the affinity mask and the cgroup quota allow. isa: "auto", "scalar", "avx2",
    "avx512-vnni", "amx". compute: quantized weights meet activations of 8 bits ("int8"), of 14 bits
    ("int14"), of 8 bits for K-quants and 14 for other formats ("mixed"), or in float32 ("f32", which leaves
    the KV in float32 too); "auto" is as `compute_of` says. kv_dtype: of the KV cache; None is "f32" with
    compute "f32", else "f16".
    max_seqs: sequences in one step. max_waiting: sequences that may wait for a place before requests
    are refused.
    context_length: longest sequence, at most what the model was trained for.
    prefill_chunk: prompt tokens per step over all sequences. kv_bytes: ceiling of the KV cache.
    image_cache_bytes: of encoded images kept for later requests (2.6 MB each for 4b).
    repack: move weights to where they are read fastest, between steps and while there is nothing else to do;
    if not, they stay in their file, whose memory processes share.
    coarse_head: also make a coarse copy of a large head that does not lie in planes, see `CpuOps.screen`; not
    without `repack`.
    """

    threads: int = 0
    isa: str = "auto"
    compute: Compute = "auto"
    kv_dtype: KvDtype | None = None
    max_seqs: int = 32
    max_waiting: int = 1024
    context_length: int | None = None
    prefill_chunk: int = 512
    kv_bytes: int | None = None
    image_cache_bytes: int = 256 << 20
    seed: int | None = None
    repack: bool = True
    coarse_head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IsqConfig:
    """How weights are quantized while they load.

    name: one of `isq_names`, or None for what the topology names alone. topology: YAML file of formats for
    some layers. vision: whether the image half is quantized, too. imatrix: file of importance for columns.
    calibration: text file to make one of. cache: folder for quantized weights.
    """

    name: str | None = None
    topology: Path | None = None
    vision: bool = True
    imatrix: Path | None = None
    calibration: Path | None = None
    cache: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is to be quantized."""
        return self.name is not None or self.topology is not None
