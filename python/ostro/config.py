"""What one process runs with: built once from arguments, then passed to constructors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Compute = Literal["auto", "f32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Limits and choices of an engine; None means "choose for this machine and model".

    threads: 0 is as many as the affinity mask and the cgroup quota allow. isa: "auto", "scalar", "avx2".
    compute: "auto" multiplies quantized weights with 14-bit activations; "f32" leaves activations and KV in
    float32. max_seqs: sequences in one step. max_waiting: sequences that may wait for a place before requests
    are refused.
    context_length: longest sequence, at most what the model was trained for.
    prefill_chunk: prompt tokens per step over all sequences. kv_bytes: ceiling of the KV cache.
    image_cache_bytes: of encoded images kept for later requests (2.6 MB each for 4b).
    """

    threads: int = 0
    isa: str = "auto"
    compute: Compute = "auto"
    max_seqs: int = 32
    max_waiting: int = 1024
    context_length: int | None = None
    prefill_chunk: int = 512
    kv_bytes: int | None = None
    image_cache_bytes: int = 256 << 20
    seed: int | None = None
