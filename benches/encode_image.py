"""Time and memory of one image through SigLIP So400m (896 x 896) with random weights.

    .venv/bin/python benches/encode_image.py [--layers 27] [--compute auto] [--threads 0]

Prints one line of JSON. "peak" is what the process held at most while encoding, beyond what it held before
(weights included, all of them touched); Linux only.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from ostro.loading.checkpoint import Checkpoint
from ostro.loading.config import VisionConfig
from ostro.models.siglip import Siglip, run
from ostro.ops.cpu import CpuOps
from ostro.ops.tensor import FORMATS, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostro._kernels import Matrix

TEXT_WIDTH = 2560  # of 4b


def so400m(layers: int) -> VisionConfig:
    """The tower of all sizes of Gemma 3 that see, or its first layers."""
    return VisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=layers,
        num_attention_heads=16,
        image_size=896,
        patch_size=14,
        layer_norm_eps=1e-6,
        tokens_per_image=256,
    )


def random_tower(config: VisionConfig, ops: CpuOps) -> Siglip[Matrix]:
    """A tower of bfloat16 matrices, all different."""
    rng = np.random.default_rng(0)
    d, f = config.hidden_size, config.intermediate_size
    tensors: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        values: NDArray[np.float32] = rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        data = bits.reshape(-1).view(np.uint8)
        data.flags.writeable = False
        tensors[name] = Tensor(name, FORMATS["BF16"], shape, data)

    def both(name: str, *shape: int) -> None:
        add(f"vision.{name}.weight", *shape)
        add(f"vision.{name}.bias", shape[0])

    both("embeddings.patch_embedding", d, 3, config.patch_size, config.patch_size)
    add("vision.embeddings.position_embedding.weight", config.grid**2, d)
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            both(f"{layer}self_attn.{name}", d, d)
        both(layer + "mlp.fc1", f, d)
        both(layer + "mlp.fc2", d, f)
        both(layer + "layer_norm1", d)
        both(layer + "layer_norm2", d)
    both("post_layernorm", d)
    add("projector.mm_soft_emb_norm.weight", d)
    add("projector.mm_input_projection_weight", d, TEXT_WIDTH)
    checkpoint = Checkpoint(
        name="random",
        config=cast("Any", None),  # of the text model, which is not there
        tensors={},
        norm_offset=1.0,
        tokenizer=None,
        chat_template=None,
        generation=cast("Any", None),
        vision_tensors=tensors,
    )
    return Siglip.load(checkpoint, config, ops)


def measure(layers: int, compute: Literal["auto", "f32"], threads: int) -> dict[str, object]:
    """Encode one image; seconds, and bytes at most beyond those before."""
    ops = CpuOps(threads=threads, compute=compute)
    tower = random_tower(so400m(layers), ops)
    pixels = np.random.default_rng(1).integers(0, 256, (896, 896, 3), np.uint8)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    started = time.perf_counter()
    rows = run(tower.encode(pixels, ops))
    seconds = time.perf_counter() - started
    return {
        "layers": layers,
        "seconds": round(seconds, 2),
        "peak": _memory("VmHWM") - before,
        "rows": list(rows.shape),
        "finite": bool(np.isfinite(rows).all()),
        **ops.describe(),
    }


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise LookupError(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=27)
    parser.add_argument("--compute", choices=["auto", "f32"], default="auto")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps(measure(args.layers, args.compute, args.threads)))
