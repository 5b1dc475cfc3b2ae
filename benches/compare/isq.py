"""Quantization while loading, beside mistral.rs: time until the model is ready, and memory of its own.

    make compare COMPARE_ARGS="--isq Q4K"

Both read the same bfloat16 checkpoint of the shape of Gemma 3 4b, in turns, each time in a new process.
Memory is what the process holds beside the files that it maps (RssAnon), sampled while it loads.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
from benches.compare import peers, random_checkpoint
from benches.compare.models import into_page_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINES = ("ostro", "mistral.rs")
INTERVAL = 0.05


def checkpoint(cache: Path) -> Path:
    """The folder of the checkpoint; made when it is not there."""
    folder = cache / "models" / "gemma-3-4b-random-bf16-1"
    if not folder.exists():
        print(f"writing {folder}", flush=True)
        random_checkpoint.write(folder)
    return folder


def load(engine: str, folder: Path, isq: str, *, threads: int, cache: Path, limit: float) -> dict[str, float]:
    """Load once in a new process: seconds as it measured them, and its peak of RssAnon in bytes."""
    package = peers.ENGINES[engine].package
    python = peers.ENGINES[engine].command(cache)[0]
    command = [python, "-m", "benches.compare.worker_isq", engine, str(folder), isq, str(threads)]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)} if package is not None else None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=peers.ROOT, env=environment, text=True
    ) as process:
        watched, peak, end = psutil.Process(process.pid), 0, time.perf_counter() + limit
        while process.poll() is None:
            peak = max(peak, _anonymous(watched))
            if time.perf_counter() > end:
                process.kill()
                raise TimeoutError(f"{engine} was not ready after {limit:.0f} s")
            time.sleep(INTERVAL)
        output = process.stdout.read() if process.stdout else ""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{engine} ended without a result (status {process.returncode})")
    return {**json.loads(lines[-1]), "anonymous": float(peak)}


def _anonymous(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def compare(
    isq: str, engines: Sequence[str], *, rounds: int, threads: int, cache: Path, limit: float
) -> dict[str, Any]:
    """All samples, their medians and the ratio of times."""
    folder = checkpoint(cache)
    for file in sorted(folder.glob("*.safetensors")):
        into_page_cache(file)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in engines if name in ENGINES}
    errors: dict[str, str] = {}
    for _ in range(rounds):
        for name, known in samples.items():
            if name in errors:
                continue
            try:
                known.append(load(name, folder, isq, threads=threads, cache=cache, limit=limit))
            except (RuntimeError, TimeoutError) as error:
                errors[name] = str(error)
                print(f"  {name:<12} {error}", flush=True)
                continue
            seconds, memory = known[-1]["seconds"], known[-1]["anonymous"] / 1e9
            print(f"  {name:<12} ready after {seconds:.1f} s, {memory:.2f} GB of its own", flush=True)
    rows = {
        name: {
            "seconds": [sample["seconds"] for sample in known],
            "anonymous_bytes": [sample["anonymous"] for sample in known],
            "weights_bytes": known[0].get("weights") if known else None,
            "error": errors.get(name),
        }
        for name, known in samples.items()
    }
    result: dict[str, Any] = {"isq": isq, "checkpoint": folder.name, "engines": rows}
    if all(samples.get(name) for name in ENGINES):
        times = {name: median(sample["seconds"] for sample in samples[name]) for name in ENGINES}
        ratio = result["ratio"] = times["mistral.rs"] / times["ostro"]
        print(f"ostro is ready {ratio:.1f} times sooner", flush=True)
    return result
