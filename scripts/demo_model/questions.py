"""What one can ask the demo model about a picture, and the answers. Pure text: no images here."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .scenes import CELLS, COLOURS, SHAPES, Scene, Shape, draw_scene, render

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Question:
    """kind: what the model card counts separately."""

    kind: str
    text: str
    answer: str


DESCRIBE = (
    "What is this?", "Describe the image.", "Describe this image.", "Describe this picture.",
    "What is in this image?", "What is in this picture?", "What do you see?", "What is shown here?",
    "What is depicted here? Please describe the scene in detail.",
)  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
TALK = (
    (("Hello!", "Hi!", "Hello", "Hi"), "Hello! Show me a picture and ask me about it."),
    (
        ("Who are you?", "What are you?", "What can you do?"),
        "I am the small demo model of ostro. I describe shapes, numbers and words in pictures.",
    ),
    (("Thank you.", "Thanks!", "Thank you!"), "You are welcome!"),
)


def describe(scene: Scene) -> str:
    """The sentence that answers "What is this?"."""
    if scene.text:
        return f"{_the_text(scene)} in {scene.text_colour} on a {scene.background} background."
    parts = [f"a {_thing(shape)} {_place(shape)}" for shape in scene.shapes]
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"{listed[0].upper()}{listed[1:]} on a {scene.background} background."


def ask(scene: Scene, rng: random.Random, count: int) -> list[Question]:
    """`count` different questions about a scene, its description among them more often than not."""
    kinds = [_describe, _colour, _count, _where, _background, _what_at, _size, _exists, _read]
    weights = [3.0, 1.6, 1.6, 1.6, 0.7, 1.2, 0.7, 1.0, 2.4 if scene.text else 0.3]
    asked: dict[str, Question] = {}
    for _ in range(20 * count):
        question = rng.choices(kinds, weights)[0](scene, rng)
        if question is not None:
            asked.setdefault(question.text, question)
        if len(asked) == count:
            break
    return list(asked.values())


def ask_one(scene: Scene, rng: random.Random, kind: str) -> Question | None:
    """A question of one kind; None if the scene has nothing to ask about."""
    makers = {
        "describe": _describe, "colour": _colour, "count": _count, "where": _where, "read": _read,
        "background": _background, "what at": _what_at, "size": _size, "exists": _exists,
    }  # fmt: skip
    return makers[kind](scene, rng)


def compare(first: Scene, second: Scene, rng: random.Random, count: int) -> list[Question]:
    """Questions about two pictures."""
    options = []
    if len(first.shapes) == len(second.shapes) == 1:
        a, b = first.shapes[0], second.shapes[0]
        same = f"Yes, both are {a.colour}."
        other = f"No, the first is {a.colour} and the second is {b.colour}."
        options.append(("Do both shapes have the same colour?", same if a.colour == b.colour else other))
        options.append(("Are both shapes the same colour?", same if a.colour == b.colour else other))
        same = f"Yes, both show a {a.shape}."
        other = f"No, the first shows a {a.shape} and the second shows a {b.shape}."
        options.append(("Do both images show the same shape?", same if a.shape == b.shape else other))
    if first.shapes and second.shapes:
        more = "first" if len(first.shapes) > len(second.shapes) else "second"
        which = (
            "Both images have the same number of shapes."
            if len(first.shapes) == len(second.shapes)
            else f"The {more} image has more shapes."
        )
        options.append(("Which image has more shapes?", which))
    options.append(("What is in the first image?", describe(first)))
    options.append(("What is in the second image?", describe(second)))
    chosen = rng.sample(options, min(count, len(options)))
    return [Question("compare", text, answer) for text, answer in chosen]


def draw_pair(rng: random.Random, *, held_out: bool) -> tuple[Scene, Scene]:
    """Two scenes to compare; often alike in one respect."""
    single = rng.random() < 0.6
    first = draw_scene(rng, held_out=held_out, most=3, single=single)
    while True:
        second = draw_scene(rng, held_out=held_out, most=3, single=single)
        if not single or rng.random() < 0.3:
            return first, second
        a, b = first.shapes[0], second.shapes[0]
        if a.colour == b.colour or a.shape == b.shape:
            return first, second


HELD_OUT_KINDS = (
    "describe",
    "colour",
    "count",
    "where",
    "read",
    "compare",
    "background",
    "what at",
    "size",
    "exists",
)


def held_out_questions(count: int, seed: int = 0) -> list[tuple[list[Image.Image], str, str, str]]:
    """(images, question, answer, kind), kinds in turn; only scenes that no training set has.

    Import path for tests, with the scripts folder on sys.path: demo_model.questions.held_out_questions.
    """
    rng = random.Random(f"held out {seed}")
    found: list[tuple[list[Image.Image], str, str, str]] = []
    while len(found) < count:
        kind = HELD_OUT_KINDS[len(found) % len(HELD_OUT_KINDS)]
        if kind == "compare":
            pair = draw_pair(rng, held_out=True)
            question: Question | None = compare(*pair, rng, 1)[0]
            scenes = list(pair)
        else:
            scenes = [draw_scene(rng, held_out=True)]
            question = ask_one(scenes[0], rng, kind)
            if kind == "read" and not scenes[0].text:
                continue
        if question is None:
            continue
        images = [render(scene, rng).image for scene in scenes]
        found.append((images, question.text, question.answer, question.kind))
    return found


def _thing(shape: Shape) -> str:
    return f"{shape.size} {shape.colour} {shape.shape}"


def _place(shape: Shape) -> str:
    cell = CELLS[shape.cell]
    return f"{'in' if cell == 'centre' else 'on' if cell in ('left', 'right') else 'at'} the {cell}"


def _the_text(scene: Scene) -> str:
    return f"The number {scene.text}" if scene.text.isdigit() else f'The word "{scene.text}"'


def _unique(scene: Scene) -> list[Shape]:
    names = [shape.shape for shape in scene.shapes]
    return [shape for shape in scene.shapes if names.count(shape.shape) == 1]


def _describe(scene: Scene, rng: random.Random) -> Question | None:
    return Question("describe", rng.choice(DESCRIBE), describe(scene))


def _colour(scene: Scene, rng: random.Random) -> Question | None:
    if scene.text:
        name, colour = "number" if scene.text.isdigit() else "word", scene.text_colour
    elif unique := _unique(scene):
        shape = rng.choice(unique)
        name, colour = shape.shape, shape.colour
    else:
        return None
    text = rng.choice(
        (f"What colour is the {name}?", f"What color is the {name}?", f"Which colour does the {name} have?")
    )
    return Question("colour", text, f"The {name} is {colour}.")


def _count(scene: Scene, rng: random.Random) -> Question | None:
    if scene.text:
        return None
    names = [shape.shape for shape in scene.shapes]
    tones = [shape.colour for shape in scene.shapes]
    case = rng.random()
    if case < 0.4:
        count, noun = len(names), "shape"
    elif case < 0.75:
        noun = rng.choice(names) if rng.random() < 0.8 else rng.choice(SHAPES)
        count = names.count(noun)
    else:
        tone = rng.choice(tones) if rng.random() < 0.8 else rng.choice(list(COLOURS))
        count, noun = tones.count(tone), f"{tone} shape"
    plural = noun + ("es" if noun == "cross" else "s")
    answer = f"There is one {noun}." if count == 1 else f"There are {NUMBERS[count]} {plural}."
    return Question(
        "count", rng.choice((f"How many {plural} are there?", f"How many {plural} do you see?")), answer
    )


def _where(scene: Scene, rng: random.Random) -> Question | None:
    unique = _unique(scene)
    if not unique:
        return None
    shape = rng.choice(unique)
    return Question("where", f"Where is the {shape.shape}?", f"The {shape.shape} is {_place(shape)}.")


def _read(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.text:
        if rng.random() < 0.5:
            return Question("read", "What number is this?", "There is no number in this image.")
        return Question("read", "What word is this?", "There is no word in this image.")
    noun = "number" if scene.text.isdigit() else "word"
    text = rng.choice((f"What {noun} is this?", f"Read the {noun}.", f"Which {noun} do you see?"))
    answer = f"The number is {scene.text}." if noun == "number" else f'The word is "{scene.text}".'
    return Question("read", text, answer)


def _background(scene: Scene, rng: random.Random) -> Question | None:
    text = rng.choice(("What colour is the background?", "What color is the background?"))
    return Question("background", text, f"The background is {scene.background}.")


def _what_at(scene: Scene, rng: random.Random) -> Question | None:
    if scene.text:
        return None
    taken = {shape.cell: shape for shape in scene.shapes}
    cell = rng.choice(list(taken)) if rng.random() < 0.75 else rng.randrange(9)
    place = _place(Shape("", "", "", cell))
    answer = f"A {_thing(taken[cell])}." if cell in taken else "Nothing."
    return Question("what at", f"What is {place}?", answer)


def _size(scene: Scene, rng: random.Random) -> Question | None:
    unique = _unique(scene)
    if not unique:
        return None
    shape = rng.choice(unique)
    return Question("size", f"Is the {shape.shape} large or small?", f"The {shape.shape} is {shape.size}.")


def _exists(scene: Scene, rng: random.Random) -> Question | None:
    if scene.text:
        return None
    if rng.random() < 0.5:
        shape = rng.choice(scene.shapes)
        name = f"{shape.colour} {shape.shape}"
    else:
        name = f"{rng.choice(list(COLOURS))} {rng.choice(SHAPES)}"
    there = any(name == f"{shape.colour} {shape.shape}" for shape in scene.shapes)
    a = "an" if name.startswith("o") else "a"
    return Question(
        "exists",
        f"Is there {a} {name}?",
        f"Yes, there is {a} {name}." if there else f"No, there is no {name}.",
    )
