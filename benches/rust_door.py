"""A streamed token in the Rust crate beside the same in Python, by turns: processor time on one thread.

    cargo build --release --package ostro --example many
    python benches/rust_door.py [--rounds 3] [--tokens 256] [model.gguf]

Processor time, because the time on the wall says more about what else the machine does.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ostro import ChatCompletionRequest, Runner
from ostro.cli.model import demo_file

MANY = Path(__file__).parents[1] / "target/release/examples/many"
STREAMS = 10


def in_python(runner: Runner, tokens: int) -> float:
    """Milliseconds per token of STREAMS streams, one after the other."""
    started = time.process_time()
    for _ in range(STREAMS):
        request = ChatCompletionRequest(
            [{"role": "user", "content": "Once upon a time"}],
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            stream=True,
        )
        for _ in runner.send_chat_completion_request(request):  # type: ignore[union-attr]
            pass
    return (time.process_time() - started) * 1000 / (STREAMS * tokens)


def in_rust(model: str, tokens: int) -> float:
    """The same as the crate's example measures it."""
    done = subprocess.run([MANY, model, "0", str(tokens)], check=True, capture_output=True, text=True)
    found = re.search(r"a stream ([\d.]+) ms", done.stdout)
    if found is None:
        sys.exit(f"{MANY} did not say what a token costs: {done.stdout}")
    return float(found[1])


def main() -> None:
    """Measure by turns and print the medians."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("model", nargs="?", help="default: the 270m of the demo")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tokens", type=int, default=256)
    parsed = arguments.parse_args()
    model = parsed.model or str(demo_file())
    python, rust = [], []
    for _ in range(parsed.rounds):
        rust.append(in_rust(model, parsed.tokens))
        with Runner(model, context_length=4096, threads=1) as runner:
            in_python(runner, parsed.tokens)  # what is only done once
            python.append(in_python(runner, parsed.tokens))
        print(f"Python {python[-1]:.4f} ms, Rust {rust[-1]:.4f} ms per token")
    ratio = statistics.median(rust) / statistics.median(python) - 1
    print(f"medians: Rust {100 * ratio:+.1f} % beside Python")


if __name__ == "__main__":
    main()
