"""Runs a comparison: every engine in turn, round by round.

    make compare
    .venv/bin/python -m benches.compare --models 270m,4b --rows prefill512,decode0 --rounds 3

Peers are built and random models written when they are not there yet, in $OSTRO_COMPARE_DIR (default
~/.cache/ostro-compare). The engines of a model stay loaded beside each other where memory allows and take
turns in random order within each row; otherwise one at a time is loaded and measures all rows of a round.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from benches.compare import isq, peers, summary
from benches.compare.company import Moment
from benches.compare.models import MODELS, bytes_of, decode_tokens, into_page_cache, model_file, model_for
from benches.compare.protocol import Worker, WorkerError
from benches.compare.rows import ROWS, Row

from ostro.cli.machine import cpu_name, usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benches.compare.summary import Cell, Table

SLOW = 120.0
"""Seconds: a measurement that takes longer is not repeated."""
LOAD_LIMIT = 600.0


class Fleet:
    """The workers of one model. together: whether they stay loaded beside each other.

    models: what each engine reads.
    """

    def __init__(self, models: Mapping[str, Path], *, threads: int, cache: Path) -> None:
        self._models = models
        self._threads = threads
        self._cache = cache
        self._workers: dict[str, Worker] = {}
        self._failed: set[str] = set()
        self.about: dict[str, dict[str, str]] = {}
        """What the engines that were started say about themselves."""
        needed = sum(peers.ENGINES[name].footprint * bytes_of(path) for name, path in models.items())
        self.together = needed + len(models) * (1 << 29) < psutil.virtual_memory().available

    def start(self, name: str) -> tuple[Worker, float]:
        """A new worker in the place of an old one, with the model loaded, and how many seconds that took."""
        self.end(name)
        if not self.together:
            self.close()
        engine, model = peers.ENGINES[name], self._models[name]
        into_page_cache(model)
        worker = self._workers[name] = Worker(
            engine.command(self._cache),
            log=self._cache / "logs" / f"{name.replace(' ', '-')}.log",
            environment={"RAYON_NUM_THREADS": str(self._threads), "OMP_NUM_THREADS": str(self._threads)},
            cwd=peers.ROOT,
        )
        request = {"task": "load", "model": str(model.resolve()), "threads": self._threads}
        self._failed.add(name)
        # Before the clock runs: an interpreter and its imports are not what is compared.
        worker.ask({"task": "about"}, limit=LOAD_LIMIT)
        seconds = float(worker.ask(request, limit=LOAD_LIMIT))
        self._failed.remove(name)
        self.about[name] = worker.ask({"task": "about"}, limit=LOAD_LIMIT)
        return worker, seconds

    def worker(self, name: str, *, fresh: bool = False) -> Worker:
        """A worker with the model loaded; fresh: that has done nothing else yet."""
        if name in self._failed:
            raise WorkerError("the model was not loaded")
        worker = self._workers.get(name)
        if worker is None or not worker.alive or (fresh and worker.used):
            worker, _ = self.start(name)
        return worker

    def end(self, name: str) -> None:
        """Close a worker, if there is one."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """Close all workers."""
        for name in list(self._workers):
            self.end(name)


def measure(fleet: Fleet, name: str, row: Row, *, tokens: int, seed: int, limit: float) -> float:
    """One sample, in the row's unit. WorkerError."""
    if row.task == "load":
        return fleet.start(name)[1]
    worker = fleet.worker(name, fresh=row.task == "memory")
    return float(worker.ask(row.request(decode_tokens=tokens, seed=seed), limit=limit)) * row.scale


def turns(
    rows: Sequence[Row], engines: Sequence[str], *, together: bool, shuffle: Callable[[list[str]], None]
) -> Iterator[tuple[Row, str]]:
    """The order of one round."""
    order = list(engines)
    if not together:
        shuffle(order)
        yield from ((row, name) for name in order for row in rows)
        return
    for row in rows:
        shuffle(order)
        yield from ((row, name) for name in order)


def expected_seconds(row: Row, cells: dict[str, Cell]) -> float:
    """How long reading the prompt of `row` would take, by the median speeds known so far; 0 if unknown."""
    known = [cell.median for name, cell in cells.items() if name.startswith("prefill") and cell.median]
    return row.tokens_to_read() / max(known) if known else 0.0


def compare(
    fleet: Fleet, rows: Sequence[Row], engines: Sequence[str], *, rounds: int, tokens: int, limit: float
) -> Table:
    """All samples of one model."""
    table: Table = {row.name: {name: summary.Cell() for name in engines} for row in rows}
    done: set[tuple[str, str]] = set()
    chance = random.Random(0)
    for number in range(rounds):
        for row, name in turns(rows, engines, together=fleet.together, shuffle=chance.shuffle):
            cell = table[row.name][name]
            if (row.name, name) in done or cell.error:
                continue
            expected = expected_seconds(row, {key: cells[name] for key, cells in table.items()})
            if not cell.samples and expected > limit:
                cell.error = f"would take about {expected:,.0f} s"
                continue
            before = Moment.now()
            try:
                value = measure(fleet, name, row, tokens=tokens, seed=number * 1000, limit=limit)
            except WorkerError as error:
                cell.error = str(error)
                print(f"  {row.name:<12} {name:<20} {error}", flush=True)
                continue
            cell.samples.append(value)
            cell.others.append(before.others_since())
            if row.once or time.perf_counter() - before.time > SLOW:
                done.add((row.name, name))
            print(f"  {row.name:<12} {name:<20} {value:,.2f} {row.unit}", flush=True)
    return table


def commit() -> str:
    """The commit of this tree, with "-dirty" when files differ from it; "unknown" outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=peers.ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a usage message for unknown names."""
    parser = argparse.ArgumentParser(
        "python -m benches.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(known: Sequence[str]) -> Callable[[str], list[str]]:
        def chosen(text: str) -> list[str]:
            asked = [name.strip() for name in text.split(",")]
            if unknown := [name for name in asked if name not in known]:
                raise argparse.ArgumentTypeError(
                    f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}"
                )
            return [name for name in known if name in asked]

        return chosen

    parser.add_argument("--models", type=names(MODELS), default=[*MODELS], help=", ".join(MODELS))
    parser.add_argument(
        "--engines", type=names([*peers.ENGINES]), default=[*peers.USUAL], help=", ".join(peers.ENGINES)
    )
    parser.add_argument("--rows", type=names([*ROWS]), default=[*ROWS], help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of shorter decode runs")
    parser.add_argument(
        "--threads", type=int, default=usable_cpus(), help="of every engine (default: all processors)"
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that one measurement may take")
    parser.add_argument("--record", type=Path, help="JSON file to write")
    parser.add_argument(
        "--isq", metavar="TYPE", help="compare quantization while loading (4b in bfloat16) instead: Q4K"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    rounds = 1 if options.quick else options.rounds
    cache = peers.cache_folder()
    (cache / "logs").mkdir(parents=True, exist_ok=True)
    for name in options.engines:
        if (package := peers.ENGINES[name].package) is not None:
            peers.install(cache, package)
    rows = [ROWS[name] for name in options.rows]
    report: dict[str, Any] = {
        "benchmark": "ostro and its peers on the same files, threads and prompts",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": usable_cpus(),
        "threads": options.threads,
        "rounds": rounds,
        "command": "python -m benches.compare " + shlex.join(sys.argv[1:] if argv is None else argv),
        "engines": {},
        "models": {},
    }
    if options.isq:
        report |= {"benchmark": "quantization while loading, in turns", "models": {}}
        report["isq"] = isq.compare(
            options.isq,
            options.engines,
            rounds=rounds,
            threads=options.threads,
            cache=cache,
            limit=options.limit,
        )
        _write(options.record, report)
        return
    for model in options.models:
        path = model_file(model, cache)
        tokens = decode_tokens(path.stat().st_size, quick=options.quick)
        print(f"{model}: {path.stat().st_size / 1e9:.3f} GB", flush=True)
        with ExitStack() as stack:
            files = {name: model_for(peers.ENGINES[name], model, cache) for name in options.engines}
            fleet = Fleet(files, threads=options.threads, cache=cache)
            stack.callback(fleet.close)
            table = compare(fleet, rows, options.engines, rounds=rounds, tokens=tokens, limit=options.limit)
            report["engines"] |= fleet.about
        report["models"][model] = {
            "file_bytes": path.stat().st_size,
            "decode_tokens": tokens,
            "rows": summary.record(table),
        }
        print("", *summary.lines(table, options.engines), "", sep="\n", flush=True)
        # After each model: an interrupted run keeps what it has.
        _write(options.record, report)


def _write(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
