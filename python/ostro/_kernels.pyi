"""The compiled kernels. Arrays are C-contiguous; wrong shapes raise ValueError; every call releases the GIL."""

from typing import final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

PAGE_SIZE: int
__version__: str

@final
class Team:
    """Persistent threads. threads 0: as many as the affinity mask and the cgroup quota allow. isa: auto, scalar, avx2."""

    def __new__(cls, threads: int = 0, isa: str = "auto") -> Team: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...

@final
class Matrix:
    """A weight matrix [rows, cols] in `format`; keeps `data` (uint8, read-only) alive and never copies it."""

    def __new__(cls, data: NDArray[np.uint8], format: str, rows: int, cols: int) -> Matrix: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def format(self) -> str: ...
    def dequantize(self, start: int, stop: int) -> F32:
        """Rows start:stop as float32 [stop - start, cols]."""

@final
class KvStore:
    """Pages of keys and values: dtype f32 or f16."""

    def __new__(cls, layers: int, kv_heads: int, head_dim: int, dtype: str) -> KvStore: ...
    def reserve(self, pages: int) -> None: ...
    @property
    def pages(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def page_nbytes(self) -> int: ...

def rope(team: Team, positions: I32, inv_freq: NDArray[np.float64]) -> F32: ...
def embed(team: Team, table: Matrix, token_ids: I32, scale: float, out: F32) -> None: ...
def qkv(
    team: Team,
    x: F32,
    norm: F32,
    eps: float,
    q_proj: Matrix,
    k_proj: Matrix,
    v_proj: Matrix,
    q_norm: F32,
    k_norm: F32,
    rope: F32,
    positions: I32,
    row_starts: I32,
    page_table: I32,
    store: KvStore,
    layer: int,
    q: F32,
    exact: bool,
) -> None: ...
def attend(
    team: Team,
    q: F32,
    positions: I32,
    key_ends: I32,
    row_starts: I32,
    page_table: I32,
    store: KvStore,
    layer: int,
    scale: float,
    window: int,
    out: F32,
) -> None:
    """window 0: no lower bound."""

def project_add(team: Team, x: F32, h: F32, proj: Matrix, norm: F32, eps: float, exact: bool) -> None: ...
def gated_gelu(team: Team, x: F32, norm: F32, eps: float, gate: Matrix, up: Matrix, out: F32, exact: bool) -> None: ...
def head(team: Team, x: F32, rows: I32, norm: F32, eps: float, proj: Matrix, out: F32, exact: bool) -> None: ...
def top_k(team: Team, logits: F32, k: int) -> tuple[I32, F32]: ...
def log_sum_exp(team: Team, logits: F32) -> NDArray[np.float64]: ...
