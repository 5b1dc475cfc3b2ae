"""The compiled kernels.

Arrays are C-contiguous; wrong shapes raise ValueError; every call releases the GIL.
"""

from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PAGE_SIZE",
    "STRIP",
    "KvStore",
    "Matrix",
    "Team",
    "__version__",
    "attend",
    "cache_size",
    "embed",
    "encoder_qkv",
    "feed_forward",
    "head",
    "layer_norm",
    "linear",
    "linear_add",
    "log_sum_exp",
    "multiply_peaks",
    "norm_gelu",
    "project_add",
    "qkv",
    "quantize",
    "read_bandwidth",
    "rope",
    "top_k",
]

_F32: TypeAlias = NDArray[np.float32]
_I32: TypeAlias = NDArray[np.int32]

PAGE_SIZE: int
STRIP: int
"""Rows that lie side by side in a strip."""
__version__: str

@final
class Team:
    """Persistent threads, and how their products treat activations.

    threads 0: as many as the affinity mask and the cgroup quota allow. isa: auto, scalar, avx2, avx512-vnni,
    amx. compute: int8, int14, mixed, f32.
    """

    def __new__(cls, threads: int = 0, isa: str = "auto", compute: str = "int14") -> Team: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def reads_strips(self) -> bool:
        """Whether products of few tokens read weights in strips faster than in rows."""

@final
class Matrix:
    """A weight matrix [rows, cols] in `format`; keeps `data` (uint8, read-only) alive until it is moved."""

    def __new__(cls, data: NDArray[np.uint8], format: str, rows: int, cols: int) -> Matrix: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def data(self) -> NDArray[np.uint8]:
        """The very array that the matrix was made of; its room when all rows were repacked."""
    @property
    def has_strips(self) -> bool:
        """Whether the format can be kept in strips."""
    @property
    def moved(self) -> int:
        """Rows that were repacked."""
    def repack(self, team: Team, room: NDArray[np.uint8], stop: int) -> None:
        """Move the rows from `moved` to `stop` into strips, or as they are, as `team` reads them faster.

        room: writable, as many bytes as the matrix has, the same array in each call; kept, and not to be
        written by anybody else. stop: a multiple of 16, or all rows. Others may use the matrix meanwhile.
        """
    @property
    def split_nbytes(self) -> int:
        """Bytes of room that `split` needs for a Q8_0 matrix."""
    def split(self, team: Team, room: NDArray[np.uint8], stop: int) -> None:
        """As `repack`, into strips of two planes, for a Q8_0 matrix of which no other row was moved.

        The upper plane, five bits of each weight, is that by which `head` passes rows over, when all rows are
        there. room: `split_nbytes` bytes. The number of rows and stop are multiples of 16. ValueError for
        weights that are not finite: this part and all behind it then have to stay where they are.
        """
    def extend_screen(self, team: Team, stop: int) -> None:
        """Add the rows up to `stop` to the coarse copy by which `head` passes rows over.

        stop: rising, a multiple of 16, or all rows; then the copy comes into use. Others may use the matrix
        meanwhile.
        """
    @property
    def screen_nbytes(self) -> int | None:
        """Bytes of the copy or of the upper plane, with bounds; None without a complete one."""
    def dequantize(self, start: int, stop: int) -> _F32:
        """Rows start:stop as float32 [stop - start, cols]."""

@final
class KvStore:
    """Pages of keys and values: dtype f32, f16 or int8."""

    def __new__(cls, layers: int, kv_heads: int, head_dim: int, dtype: str) -> KvStore: ...
    def reserve(self, pages: int) -> None: ...
    @property
    def pages(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def page_nbytes(self) -> int: ...

def rope(team: Team, positions: _I32, inv_freq: NDArray[np.float64]) -> _F32: ...
def embed(team: Team, table: Matrix, token_ids: _I32, scale: float, out: _F32) -> None: ...
def qkv(
    team: Team,
    x: _F32,
    norm: _F32,
    eps: float,
    q_proj: Matrix,
    k_proj: Matrix,
    v_proj: Matrix,
    q_norm: _F32,
    k_norm: _F32,
    rope: _F32,
    positions: _I32,
    row_starts: _I32,
    page_table: _I32,
    store: KvStore,
    layer: int,
    q: _F32,
) -> None: ...
def attend(
    team: Team,
    q: _F32,
    positions: _I32,
    key_ends: _I32,
    row_starts: _I32,
    page_table: _I32,
    store: KvStore,
    layer: int,
    scale: float,
    window: int,
    out: _F32,
) -> None:
    """Without lower bound when window is 0."""

def project_add(team: Team, x: _F32, h: _F32, proj: Matrix, norm: _F32, eps: float) -> None: ...
def feed_forward(
    team: Team,
    x: _F32,
    norm: _F32,
    eps: float,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    post_norm: _F32,
    post_eps: float,
    hidden: _F32 | None,
) -> None: ...
def head(
    team: Team,
    x: _F32,
    rows: _I32,
    norm: _F32,
    eps: float,
    proj: Matrix,
    out: _F32,
    best: tuple[int, _I32] | None = None,
) -> int:
    """How many rows of `proj` were computed.

    best: so many of the largest logits of a row have to be right, those of some ids (rising) left out;
    others may be wrong and are less. None: all. More are right where there is no screen.
    """

def top_k(team: Team, logits: _F32, k: int) -> tuple[_I32, _F32]: ...
def log_sum_exp(team: Team, logits: _F32) -> NDArray[np.float64]: ...
def linear(team: Team, x: _F32, proj: Matrix, bias: _F32, out: _F32) -> None: ...
def layer_norm(team: Team, x: _F32, norm: _F32, norm_bias: _F32, eps: float, out: _F32) -> None: ...
def encoder_qkv(
    team: Team,
    x: _F32,
    norm: _F32,
    norm_bias: _F32,
    eps: float,
    q_proj: Matrix,
    q_bias: _F32,
    k_proj: Matrix,
    k_bias: _F32,
    v_proj: Matrix,
    v_bias: _F32,
    start: int,
    store: KvStore,
    q: _F32,
) -> None: ...
def linear_add(team: Team, x: _F32, h: _F32, proj: Matrix, bias: _F32) -> None: ...
def norm_gelu(
    team: Team, x: _F32, norm: _F32, norm_bias: _F32, eps: float, proj: Matrix, bias: _F32, out: _F32
) -> None: ...
def cache_size() -> int | None:
    """Bytes of the last-level caches of all processors together; None where the system does not tell."""

def read_bandwidth(threads: int = 0) -> float:
    """Bytes per second that a team of `threads` reads from memory; see `Team` for 0.

    The buffer is four times `cache_size`, at most 512 MiB; MemoryError without it.
    """

def multiply_peaks(threads: int = 0) -> list[tuple[str, str, float]]:
    """Each way to multiply that this CPU has: family, instructions, multiply-accumulates per second.

    Families are f32, int16 and int8; registers only, all of a team of `threads` together.
    """

def quantize(
    team: Team, source: Matrix, format: str, importance: _F32 | None, out: NDArray[np.uint8]
) -> None:
    """Store `source` as `format`. importance: [cols], how much a squared error counts; out: all bytes."""
