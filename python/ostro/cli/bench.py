"""`ostro bench`: prefill and decode speed of a model on this machine."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.cli.model import (
    CoarseHead,
    Compute,
    GgufFile,
    KvDtype,
    Mmproj,
    ModelArgument,
    ModelOption,
    ModelSource,
    Repack,
    Threads,
    open_host,
    runtime_config,
)
from ostro.cli.quantization import (
    Calibration,
    Imatrix,
    Isq,
    IsqCache,
    IsqVision,
    Quantization,
    Topology,
)

if TYPE_CHECKING:
    from ostro.cli.measure import Rates
    from ostro.cli.options import GlobalOptions
    from ostro.cli.roofline import Roofline
    from ostro.host import ModelHost


@dataclass(frozen=True, slots=True)
class Start:
    """How long a model took to load, and the process until then, in seconds; see `Report`."""

    load_seconds: float
    ready_seconds: float | None

    @classmethod
    def since(cls, started: float) -> Start:
        """Of a model that is ready now and began to load at `started` on the clock of perf_counter."""
        from ostro.cli import machine

        return cls(time.perf_counter() - started, machine.seconds_since_start())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One benchmark: speeds in tokens per second, times in seconds, sizes in bytes; None is "not measured".

    load_seconds: the model alone. ready_seconds: from the start of the process until the model was ready.
    roofline: what share of the machine was used; None is "not asked for".
    """

    version: str
    model: str
    cpu: str
    isa: str
    threads: int
    compute: str
    prompt_len: int
    gen_len: int
    depth: int
    iterations: int
    prefill: Rates | None
    decode: Rates | None
    load_seconds: float
    ready_seconds: float | None
    peak_rss: int | None
    roofline: Roofline | None = None

    def lines(self) -> list[str]:
        """The report for people."""
        after = f" after {self.depth:,}" if self.depth else ""
        rows = [(f"prefill {self.prompt_len:,} tokens{after}", self.prefill)]
        rows += [(f"decode {self.gen_len:,} tokens{after}", self.decode)]
        speeds = [
            f"{what:<32}{rates.median:>10,.1f} tok/s" + self._spread(rates)
            for what, rates in rows
            if rates is not None
        ]
        ready = (
            ""
            if self.ready_seconds is None
            else f", ready {self.ready_seconds:.2f} s after the program started"
        )
        peak = "" if self.peak_rss is None else f", peak memory {self.peak_rss / 1e6:,.0f} MB"
        return [
            f"{self.model} on {self.cpu}: {self.isa}, {self.threads} thread{'s' * (self.threads != 1)}",
            *speeds,
            f"loaded in {self.load_seconds:.2f} s{ready}{peak}",
            *([] if self.roofline is None else self.roofline.lines()),
        ]

    def _spread(self, rates: Rates) -> str:
        return f"   min {rates.min:,.1f}, max {rates.max:,.1f}" if self.iterations > 1 else ""


def bench(
    ctx: typer.Context,
    model: ModelArgument = None,
    model_option: ModelOption = None,
    file: GgufFile = None,
    mmproj: Mmproj = None,
    prompt_len: Annotated[int, typer.Option(min=0, help="Tokens to read; 0: do not measure.")] = 512,
    gen_len: Annotated[int, typer.Option(min=0, help="Tokens to write; 0: do not measure.")] = 128,
    depth: Annotated[int, typer.Option(min=0, help="Tokens that are already there.")] = 0,
    iterations: Annotated[int, typer.Option(min=1, help="Measured runs of each.")] = 3,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before, not counted.")] = 1,
    isq: Isq = None,
    isq_vision: IsqVision = True,
    isq_cache: IsqCache = None,
    topology: Topology = None,
    imatrix: Imatrix = None,
    calibration_file: Calibration = None,
    threads: Threads = 0,
    compute: Compute = "auto",
    kv_dtype: KvDtype = None,
    repack: Repack = True,
    coarse_head: CoarseHead = False,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Also measure the machine, and say how much of it was used.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure tokens per second, with random tokens and nothing but the model at work."""
    options: GlobalOptions = ctx.obj
    options.refuse_page_form("bench")
    quantization = Quantization(
        isq=isq,
        vision=isq_vision,
        cache=isq_cache,
        topology=topology,
        imatrix=imatrix,
        calibration=calibration_file,
    )
    source = ModelSource.of(model, model_option, file=file, mmproj=mmproj, tok_model_id=None)
    if source.model is None:
        raise typer.BadParameter(
            "say which model, for example `ostro bench model.gguf`, or `ostro bench demo` for a small one",
            param_hint="MODEL",
        )
    # One position more than is counted: the first token comes out of the prompt's step.
    context = depth + max(prompt_len, gen_len) + 2
    runtime = runtime_config(
        options,
        threads=threads,
        context=context,
        compute=compute,
        kv_dtype=kv_dtype,
        max_seqs=1,
        repack=repack,
        coarse_head=coarse_head,
    )
    started = time.perf_counter()
    with open_host(source, runtime, options, quantization=quantization) as host:
        report = measure(
            host,
            Start.since(started),
            prompt_len=prompt_len,
            gen_len=gen_len,
            depth=depth,
            iterations=iterations,
            warmup=warmup,
        )
        if roofline:
            # Only now: what it takes of memory is no part of the model's peak.
            report = with_roofline(host, report)
    typer.echo(json.dumps(asdict(report)) if as_json else "\n".join(report.lines()))


def measure(
    host: ModelHost,
    start: Start,
    *,
    prompt_len: int,
    gen_len: int,
    depth: int = 0,
    iterations: int = 1,
    warmup: int = 0,
) -> Report:
    """Measure a model that nobody else uses; see `bench` for the numbers."""
    from ostro.cli import machine
    from ostro.cli.measure import Bench, Rates
    from ostro.version import ostro_version

    config = host.config
    runs = Bench(
        host.loop,
        bos_id=config.bos_token_id,
        vocab_size=min(config.vocab_size, config.image_token_id or config.vocab_size),
    )
    prefill, decode = [], []
    host.loop.await_chore()
    # Taking turns spreads a disturbance from outside over both.
    for _ in range(warmup + iterations):
        if prompt_len:
            prefill.append(runs.prefill(prompt_len, depth))
        if gen_len:
            decode.append(runs.decode(gen_len, depth))
    hardware = host.describe()
    return Report(
        version=ostro_version(),
        model=host.name,
        cpu=machine.cpu_name(),
        isa=str(hardware["isa"]),
        threads=int(hardware["threads"]),
        compute=str(hardware["compute"]),
        prompt_len=prompt_len,
        gen_len=gen_len,
        depth=depth,
        iterations=iterations,
        prefill=Rates.of(prefill[warmup:]) if prefill else None,
        decode=Rates.of(decode[warmup:]) if decode else None,
        load_seconds=start.load_seconds,
        ready_seconds=start.ready_seconds,
        peak_rss=machine.peak_rss(),
    )


def with_roofline(host: ModelHost, report: Report) -> Report:
    """The report with what share of this machine it stands for; measures the machine for about a second."""
    from ostro.cli.roofline import compare
    from ostro.errors import EngineError
    from ostro.ops.roofline import Machine

    if host.work is None:
        raise EngineError(f"nothing is known about the work of {host.name}: load it with ModelHost.load")
    shares = compare(
        Machine.measure(report.threads),
        host.work,
        prompt_len=report.prompt_len,
        gen_len=report.gen_len,
        depth=report.depth,
        prefill=None if report.prefill is None else report.prefill.median,
        decode=None if report.decode is None else report.decode.median,
        family=_family(report, dense=host.work.dense),
    )
    return replace(report, roofline=shares)


def _family(report: Report, *, dense: bool) -> str:
    """Of the instructions that multiply weights, quantized unless `dense`, with many rows."""
    if dense or report.compute == "f32":
        return "f32"
    # The matrix unit multiplies int8, of which finer codes take several planes.
    return "int16" if report.compute == "int14" and report.isa != "amx" else "int8"
