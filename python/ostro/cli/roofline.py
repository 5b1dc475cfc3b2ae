"""How near a model's speed comes to what the machine can do: `ostro bench --roofline`.

Decoding reads all weights for one row: DRAM is its roof. Prefill uses what it reads for many rows: there the
rate of the multipliers is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostro.models.work import Work
    from ostro.ops.roofline import Machine, Peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a phase does per token and second, and how much of `roof` that is; 1 is all of it.

    per_token, per_second, roof: bytes or multiply-accumulates, the last two per second.
    """

    per_token: float
    per_second: float
    roof: float
    share: float

    @classmethod
    def of(cls, per_token: float, tokens_per_second: float, roof: float) -> Share:
        """Of a phase that was measured."""
        per_second = per_token * tokens_per_second
        return cls(per_token=per_token, per_second=per_second, roof=roof, share=per_second / roof)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The machine's limits and the shares of them that one benchmark reached; None is "not measured".

    family: of the peak that prefill is compared with.
    cached: the last-level cache holds what decoding reads, so that DRAM is no limit.
    """

    machine: Machine
    family: str
    prefill: Share | None
    decode: Share | None
    cached: bool

    def lines(self) -> list[str]:
        """For people."""
        machine = self.machine
        alone = f"   1 thread {machine.read_bandwidth_one / 1e9:,.1f}" if machine.threads > 1 else ""
        lines = [f"{'DRAM, reading':<32}{machine.read_bandwidth / 1e9:>10,.1f} GB/s{alone}"]
        families = dict.fromkeys(peak.family for peak in machine.peaks)
        lines += [_peak_line(machine.peak(family)) for family in families]
        if self.prefill is not None:
            lines.append(
                f"prefill: {self.prefill.per_token / 1e6:,.1f} million MAC per token, "
                f"{self.prefill.per_second / 1e9:,.1f} GMAC/s: "
                f"{self.prefill.share:.1%} of the {self.family} peak"
            )
        if self.decode is not None:
            lines.append(
                f"decode: {self.decode.per_token / 1e6:,.1f} MB per token, "
                f"{self.decode.per_second / 1e9:,.1f} GB/s: {self.decode.share:.1%} of the DRAM bandwidth"
                + (" (may exceed 100 %: the model fits the last-level cache)" if self.cached else "")
            )
        return lines


def _peak_line(peak: Peak) -> str:
    what = f"{peak.family} products"
    return f"{what:<32}{peak.macs_per_second / 1e9:>10,.1f} GMAC/s   {peak.instructions}"


def compare(
    machine: Machine,
    work: Work,
    *,
    prompt_len: int,
    gen_len: int,
    depth: int,
    prefill: float | None,
    decode: float | None,
    family: str | None = None,
) -> Roofline:
    """The shares reached by a benchmark of one sequence; see `ostro.cli.measure.Bench` for what it ran.

    prefill, decode: tokens per second; None when not measured. family: of the instructions that multiply
    weights; None for int16 when they are quantized and f32 when not.
    """
    family = family or ("f32" if work.dense else "int16")
    prefill_share = decode_share = None
    if prefill is not None:
        macs = work.prefill_macs(depth, prompt_len)
        if not depth:
            # The head computes one row. After other tokens it is in both of the times that are subtracted.
            macs += work.head_macs
        prefill_share = Share.of(macs / prompt_len, prefill, machine.peak(family).macs_per_second)
    if decode is not None:
        read = work.decode_bytes(max(depth, 1), gen_len)
        decode_share = Share.of(read / gen_len, decode, machine.read_bandwidth)
    return Roofline(
        machine=machine,
        family=family,
        prefill=prefill_share,
        decode=decode_share,
        cached=decode_share is not None and decode_share.per_token <= (machine.cache_bytes or 0),
    )
