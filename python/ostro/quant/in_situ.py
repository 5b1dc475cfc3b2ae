"""Quantization while loading, from what was asked for to a checkpoint that has it."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from ostro.quant.cache import IsqCache
from ostro.quant.plan import plan
from ostro.quant.quantize import place, quantized_tensors
from ostro.quant.topology import read_topology

if TYPE_CHECKING:
    from ostro.config import IsqConfig
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.ops.cpu import CpuOps
    from ostro.quant.quantize import Importance

logger = logging.getLogger(__name__)


def quantize_in_situ(
    source: Checkpoint,
    isq: IsqConfig,
    ops: CpuOps,
    *,
    importance: Importance | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """The model as `isq` asks for it; `source` itself if that is how it is stored.

    importance: canonical name -> float32 [cols]; what `isq` says of it is for `importance_of` to read.
    Errors: BadConfig and ModelNotFound for the topology file, BadTensor for weights that no format
    can hold.
    """
    topology = None if isq.topology is None else read_topology(isq.topology)
    formats = plan(source, isq.name, topology=topology, vision=isq.vision)
    if not formats:
        logger.info("%s: every weight is stored in as few bits already", source.name)
        return source
    cache = None if isq.cache is None else IsqCache(isq.cache)
    key = "" if cache is None else cache.key(source.files, formats, importance)
    started = time.perf_counter()
    tensors = None if cache is None else cache.load(key)
    if tensors is None:
        tensors = dict(quantized_tensors(source, formats, ops, importance=importance, progress=progress))
        if cache is not None:
            cache.store(key, tensors)
            # From the file, so that the memory can be given back and shared.
            tensors = cache.load(key) or tensors
    text, vision = dict(source.tensors), dict(source.vision_tensors)
    for name, tensor in tensors.items():
        place(name, tensor, text, vision)
    size = sum(tensor.data.nbytes for tensor in (*text.values(), *vision.values()))
    logger.info("%s: quantized to %d MiB in %.1f s", source.name, size >> 20, time.perf_counter() - started)
    return dataclasses.replace(source, tensors=text, vision_tensors=vision)
