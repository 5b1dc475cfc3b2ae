"""The engines of a comparison and the environment of each, built outside the tree when it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Package:
    """A peer's package at the version that is compared, and how it gets into an environment.

    tools: installed before it. from_source: compiled for this processor. build: goes up when it is compiled
    otherwise.
    """

    name: str
    version: str
    tools: tuple[str, ...] = ()
    from_source: bool = False
    cmake: str = ""
    build: int = 1


LLAMA_CPP = Package(
    name="llama-cpp-python",
    version="0.3.36",
    tools=("cmake", "ninja"),
    from_source=True,
    # GCC 12 takes the tile configuration of its AMX code for dead stores, and the first product ends the
    # process: llama.cpp's issue 20824 and pull request 26954.
    cmake="-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release '-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse'",
    build=2,
)
MISTRAL_RS = Package(name="mistralrs", version="0.9.5")
# Brings OpenVINO itself at the version that it was built with.
OPENVINO = Package(name="openvino-genai", version="2026.4.1.0")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How to start a worker; package None is ostro in the environment of this process.

    footprint: resident memory to expect, in sizes of the model file. reads: the form of its models, see
    `models`. optional: measured only when it is named.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    package: Package | None = None
    footprint: float = 1.5
    reads: Literal["gguf", "openvino"] = "gguf"
    optional: bool = False

    def command(self, cache: Path) -> list[str]:
        python = sys.executable if self.package is None else str(python_of(cache, self.package))
        return [python, "-m", f"benches.compare.{self.module}", *self.arguments]


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(name="ostro", module="worker_ostro"),
        Engine(name="llama.cpp", module="worker_llama", arguments=("0",), package=LLAMA_CPP),
        Engine(
            name="llama.cpp repacked",
            module="worker_llama",
            arguments=("1",),
            package=LLAMA_CPP,
            footprint=2.0,
        ),
        Engine(name="mistral.rs", module="worker_mistralrs", package=MISTRAL_RS, footprint=3.0),
        Engine(
            name="openvino",
            module="worker_openvino",
            package=OPENVINO,
            footprint=2.5,
            reads="openvino",
            optional=True,
        ),
    )
}
USUAL = tuple(name for name, engine in ENGINES.items() if not engine.optional)
LLAMA_CPP_ENGINES = ("llama.cpp", "llama.cpp repacked")
"""Two configurations of one peer: the better one counts."""


def cache_folder() -> Path:
    """Where environments, random models and logs are kept between runs."""
    named = os.environ.get("OSTRO_COMPARE_DIR")
    return Path(named) if named else Path.home() / ".cache" / "ostro-compare"


def python_of(cache: Path, package: Package) -> Path:
    """The interpreter of the package's environment."""
    folder = f"{package.name}-{package.version}-{package.build}"
    return cache / "environments" / folder / "bin" / "python"


def install(cache: Path, package: Package) -> None:
    """Build the environment of `package` unless it is there. CalledProcessError when that fails."""
    python = python_of(cache, package)
    if _installed(python, package):
        return
    folder = python.parents[1]
    print(f"building {package.name} {package.version} in {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if package.tools:
        subprocess.run([*pip, *package.tools], check=True)
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    if package.cmake:
        environment["CMAKE_ARGS"] = package.cmake
    # Not from pip's cache either: a wheel in there may have been compiled for another processor.
    source = ["--no-cache-dir", "--no-binary", package.name] if package.from_source else []
    subprocess.run([*pip, *source, f"{package.name}=={package.version}"], check=True, env=environment)


def _installed(python: Path, package: Package) -> bool:
    if not python.exists():
        return False
    ask = f"import importlib.metadata as m; print(m.version({package.name!r}))"
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=False)
    return done.stdout.strip() == package.version
