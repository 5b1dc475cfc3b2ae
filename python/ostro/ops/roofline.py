"""What this machine can do at best: reads of memory and products per second."""

from __future__ import annotations

from dataclasses import dataclass

from ostro._kernels import cache_size, multiply_peaks, read_bandwidth


@dataclass(frozen=True, slots=True)
class Peak:
    """The greatest rate of one way to multiply, all threads together.

    family: what is multiplied: f32, int16 or int8. instructions: mnemonics, or "portable".
    """

    family: str
    instructions: str
    macs_per_second: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes per second that all `threads` read from DRAM, and that one of them reads alone; peaks.

    cache_bytes: the last-level caches together; None where the system does not tell.
    """

    threads: int
    cache_bytes: int | None
    read_bandwidth: float
    read_bandwidth_one: float
    peaks: tuple[Peak, ...]

    @classmethod
    def measure(cls, threads: int) -> Machine:
        """Takes about a second of all `threads`, and up to 512 MiB. MemoryError, OSError without them."""
        alone = read_bandwidth(1)
        return cls(
            threads=threads,
            cache_bytes=cache_size(),
            read_bandwidth=alone if threads == 1 else read_bandwidth(threads),
            read_bandwidth_one=alone,
            peaks=tuple(Peak(*found) for found in multiply_peaks(threads)),
        )

    def peak(self, family: str) -> Peak:
        """The fastest way to multiply numbers of a family."""
        return max((peak for peak in self.peaks if peak.family == family), key=lambda p: p.macs_per_second)
