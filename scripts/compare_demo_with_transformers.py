"""Ask ostro and transformers the same held-out questions: python scripts/compare_demo_with_transformers.py.

Both read the embedded demo model's folder and answer greedily, transformers in float32. Needs torch and
transformers; with `--reference-only` ostro is left out and transformers' answers are compared with the truth.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from demo_model.questions import held_out_questions
from demo_model.reference import reference_answers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "python" / "ostro" / "demo_model"


def ostro_answers(
    folder: Path, questions: Iterable[tuple[list[Image.Image], str]], compute: str
) -> Iterator[str]:
    """Greedy answers by ostro. compute: as Runner takes it, "f32" for unquantized activations."""
    from ostro import ChatCompletionRequest, Runner, Which

    with Runner(which=Which.MultimodalPlain(model_id=str(folder)), compute=compute) as runner:
        for images, question in questions:
            content = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
            turn = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
            response = runner.send_chat_completion_request(
                ChatCompletionRequest(messages=[turn], temperature=0.0, max_tokens=96)
            )
            yield response.choices[0].message.content


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Print every difference, and the counts as JSON; the exit code is 1 if too few answers are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compute", default="f32", help="ostro's activations")
    parser.add_argument("--least", type=float, default=1.0, help="share of equal answers that is asked for")
    parser.add_argument("--reference-only", action="store_true")
    args = parser.parse_args()
    held_out = held_out_questions(args.questions, args.seed)
    asked = [(images, question) for images, question, _, _ in held_out]
    truth = [answer for _, _, answer, _ in held_out]
    theirs = list(reference_answers(args.folder, asked))
    result = {"questions": len(asked), "transformers right": _equal(theirs, truth)}
    if not args.reference_only:
        ours = list(ostro_answers(args.folder, asked, args.compute))
        for (_, question), own, other in zip(asked, ours, theirs, strict=True):
            if own != other:
                print(f"{question}\n  ostro         {own}\n  transformers  {other}")
        result |= {"ostro right": _equal(ours, truth), "equal": _equal(ours, theirs)}
    print(json.dumps(result))
    if not args.reference_only and result["equal"] < args.least * len(asked):
        sys.exit(1)


def _equal(some: list[str], others: list[str]) -> int:
    return sum(a == b for a, b in zip(some, others, strict=True))


if __name__ == "__main__":
    main()
