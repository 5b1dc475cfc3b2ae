"""Memory of encoding one picture at the real size: under 300 MB beyond the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "benches" / "encode_image.py"


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system does not tell what is resident"
)
@pytest.mark.parametrize("compute", ["auto", "f32"])
def test_memory_of_one_image(compute: str) -> None:
    # Layers use the same scratch memory one after the other, so that two tell as much as 27.
    command = [sys.executable, str(PROGRAM), "--layers", "2", "--compute", compute]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == [256, 2560]
    assert found["finite"]
    # The keys and values of a layer alone take 19 MB; less would mean that nothing was measured.
    assert 19 << 20 < found["peak"] < 300_000_000
