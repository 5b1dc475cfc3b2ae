"""MODEL_CARD.md and training_curve.png, from a run's log and its final figures."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from .scenes import BACKGROUNDS, COLOURS, SHAPES, WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EXAMPLES = {
    "describe": "What is this? - A large red circle at the top left on a grey background.",
    "colour": "What colour is the star? - The star is pink.",
    "count": "How many shapes are there? - There are three shapes.",
    "where": "Where is the cross? - The cross is at the bottom right.",
    "read": 'What word is this? - The word is "moon".',
    "compare": "Do both images show the same shape? - Yes, both show a star.",
    "background": "What colour is the background? - The background is beige.",
    "what at": "What is at the top? - A small green triangle.",
    "size": "Is the square large or small? - The square is large.",
    "exists": "Is there an orange square? - No, there is no orange square.",
}

CARD = """\
# ostro-demo-vision

A Gemma 3 with a picture tower, small enough to travel inside the package: {parameters:.1f} million
parameters, {megabytes:.1f} MB in bfloat16. Layers, tensor names, tokenizer format and chat template are
Gemma 3's, so that it exercises every part of an engine that the 4B model does; transformers loads the folder
as it is.

It was trained from nothing, by `scripts/train_demo_model.py`, on pictures that a program draws. It holds no
weights and no data of any other model.

## What it can do

It describes, counts, locates, reads and compares {shapes} in {colours} and two sizes, up to four on a 3x3
grid; numbers of one to three digits; {words} words; on {backgrounds} backgrounds.

| kind | a question and its answer | right | with noise for pictures |
| --- | --- | ---: | ---: |
{rows}
| **all** | {questions} questions | **{all:.1%}** | **{noise:.1%}** |

An answer is right if it equals the expected one in every character. The questions are about a held-out
split: one scene in twelve, by a hash of its contents, is never trained on. Answers are greedy, weights as
shipped. With noise in place of the pictures, what is left is what can be guessed from the question.

## Limits

It knows nothing but such pictures and such questions. Of a photograph it says what shapes, number or word it
would be, and that is wrong. It holds no conversation beyond a greeting. It is for trying out and testing an
engine, nothing else.

## Training

| | |
| --- | --- |
| command | `python scripts/train_demo_model.py --out FOLDER --minutes {minutes:.0f}` |
| took | {minutes:.0f} minutes on two cores of a shared machine, no GPU |
| pictures | {images:,}, each seen once, with several questions each |
| steps | {steps:,} |
| tower | {vision} |
| text | {text} |
| vocabulary | {vocabulary} pieces |

The tower's heads begin by looking at neighbouring patches. It first learns alone, through classifiers that
are thrown away, what each patch shows; then everything learns to answer (Muon and AdamW). The weights are a
running mean over the last steps. Schedules go by the clock: another machine gives slightly different weights.

![Loss, and the share of held-out answers that are right](training_curve.png)
"""

SIZE = (640, 300)
LEFT, TOP, RIGHT, BOTTOM = 46, 18, 594, 262
TOWER, ANSWERS, EXACT = (120, 120, 120), (40, 90, 225), (214, 110, 20)


def write_card(folder: Path, curve: Sequence[dict[str, Any]], result: dict[str, Any]) -> None:
    """Write both files into the model folder. curve: the log; result: what train_demo_model.py measured."""
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    side = vision["image_size"]
    right, guessed = result["accuracy"], result["accuracy_on_noise"]
    rows = "\n".join(
        f"| {kind} | {example} | {right[kind]:.1%} | {guessed[kind]:.1%} |"
        for kind, example in EXAMPLES.items()
    )
    values = {
        "parameters": result["parameters"] / 1e6,
        "megabytes": (folder / "model.safetensors").stat().st_size / 1e6,
        "shapes": _listed([f"{shape}{'es' if shape == 'cross' else 's'}" for shape in SHAPES]),
        "colours": f"{len(COLOURS)} colours",
        "words": len(WORDS),
        "backgrounds": _listed(list(BACKGROUNDS)),
        "rows": rows,
        "questions": f"{result['questions']:,}",
        "all": right["all"],
        "noise": guessed["all"],
        "vision": f"{side}x{side} pixels in patches of {vision['patch_size']}, {_layers(vision)}; "
        f"{config['mm_tokens_per_image']} soft tokens a picture",
        "text": f"{_layers(text)}, window {text['sliding_window']} in every other layer",
        "vocabulary": text["vocab_size"],
        **{name: result[name] for name in ("minutes", "images", "steps")},
    }
    (folder / "MODEL_CARD.md").write_text(CARD.format_map(values))
    draw_curve(curve).save(folder / "training_curve.png", optimize=True)


def draw_curve(lines: Sequence[dict[str, Any]]) -> Image.Image:
    """Loss on a logarithmic axis, and the share of held-out questions that are answered exactly."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    last = max(line["minutes"] for line in lines)

    def at(minutes: float, height: float) -> tuple[float, float]:
        return LEFT + (RIGHT - LEFT) * minutes / last, BOTTOM - (BOTTOM - TOP) * max(0.0, min(1.0, height))

    for minute in range(0, int(last) + 1, 10):
        x, y = at(minute, 0)
        draw.line((x, TOP, x, y), fill=(235, 235, 235))
        draw.text((x, y + 4), str(minute), fill="black", font=font, anchor="ma")
    for tenth in range(0, 11, 2):
        x, y = at(last, tenth / 10)
        draw.line((LEFT, y, x, y), fill=(235, 235, 235))
        draw.text((x + 5, y), f"{tenth * 10} %", fill=EXACT, font=font, anchor="lm")
    for power, label in ((1, "10"), (0, "1"), (-1, "0.1"), (-2, "0.01")):
        x, y = at(0, _height(10.0**power))
        draw.text((x - 5, y), label, fill=ANSWERS, font=font, anchor="rm")
    draw.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline=(150, 150, 150))
    losses = [line for line in lines if "loss" in line]
    for colour, alone in ((TOWER, True), (ANSWERS, False)):
        points = [
            at(line["minutes"], _height(line["loss"])) for line in losses if ("tokens" not in line) == alone
        ]
        if len(points) > 1:
            draw.line(points, fill=colour, width=1)
    exact = [at(line["minutes"], line["held_out"]["all"]) for line in lines if "held_out" in line]
    if len(exact) > 1:
        draw.line(exact, fill=EXACT, width=2)
    for x, y in exact:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=EXACT)
    for x, label, colour in (
        (60, "loss, tower alone", TOWER),
        (190, "loss, answers", ANSWERS),
        (300, "held-out answers exactly right", EXACT),
    ):
        draw.text((x, 3), label, fill=colour, font=font)
    draw.text(((LEFT + RIGHT) / 2, SIZE[1] - 2), "minutes", fill="black", font=font, anchor="md")
    return image.quantize(32)


def _height(loss: float) -> float:
    """Where a loss stands between 0.01 (0) and 10 (1)."""
    return (math.log10(max(loss, 1e-4)) + 2) / 3


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


def _layers(config: dict[str, Any]) -> str:
    return (
        f"{config['num_hidden_layers']} layers of width {config['hidden_size']}, "
        f"{config['num_attention_heads']} heads, MLP {config['intermediate_size']}"
    )
