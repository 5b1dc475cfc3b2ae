"""Loads a checkpoint with quantization, once.

`python -m benches.compare.worker_isq ENGINE FOLDER ISQ THREADS` prints one JSON object: seconds until the
model is ready to answer, bytes of its weights where they are known.
"""

from __future__ import annotations

import json
import sys
import time


def ostro(folder: str, isq: str, threads: int) -> dict[str, float]:
    import ostro

    start = time.perf_counter()
    with ostro.Runner(ostro.Which.VisionPlain(folder), in_situ_quant=isq, threads=threads) as runner:
        seconds = time.perf_counter() - start
        work = runner.host.work
        return {"seconds": seconds, "weights": 0 if work is None else work.layer_bytes + work.head_bytes}


def mistral_rs(folder: str, isq: str, threads: int) -> dict[str, float]:
    import mistralrs

    del threads  # by the environment
    start = time.perf_counter()
    which = mistralrs.Which.MultimodalPlain(folder, arch=mistralrs.MultimodalArchitecture.Gemma3)
    runner = mistralrs.Runner(which, in_situ_quant=isq)
    seconds = time.perf_counter() - start
    del runner
    return {"seconds": seconds}


if __name__ == "__main__":
    engine, folder, isq, threads = sys.argv[1:]
    load = {"ostro": ostro, "mistral.rs": mistral_rs}[engine]
    print(json.dumps(load(folder, isq, int(threads))), flush=True)
