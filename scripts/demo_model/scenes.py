"""Pictures that the demo model knows: coloured shapes on a grid, a number, or a word.

A scene is drawn from a seed. Scenes whose description falls into one of HELD_OUT hash buckets are never
trained on, so that a test asks about combinations that the model has not met.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    import random

COLOURS = {
    "red": (214, 40, 40),
    "orange": (250, 140, 20),
    "yellow": (245, 220, 50),
    "green": (40, 160, 70),
    "blue": (40, 90, 225),
    "purple": (140, 60, 175),
    "pink": (250, 140, 195),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (18, 18, 18),
    "grey": (128, 128, 128),
    "brown": (105, 70, 40),
    "beige": (232, 218, 188),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
CELLS = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
WORDS = (
    "bear", "bird", "book", "cake", "car", "cat", "dog", "door", "fish", "gold", "hand", "king",
    "lamp", "leaf", "lion", "milk", "moon", "rain", "rose", "ship", "snow", "sun", "tree", "wolf",
)  # fmt: skip
HELD_OUT = 12
"""One scene in this many is held out."""
PATCHES = 14
GLYPHS = "0123456789" + "".join(sorted({letter for word in WORDS for letter in word}))


@dataclass(frozen=True)
class Shape:
    """One object; cell: index into CELLS."""

    shape: str
    colour: str
    size: str
    cell: int


@dataclass(frozen=True)
class Scene:
    """What is in a picture. Either shapes (in the order of their cells) or a text, digits or a word."""

    background: str
    shapes: tuple[Shape, ...] = ()
    text: str = ""
    text_colour: str = ""

    @property
    def held_out(self) -> bool:
        """Whether the scene is kept from training."""
        digest = hashlib.blake2b(repr(self).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") % HELD_OUT == 0


def draw_scene(rng: random.Random, *, held_out: bool, most: int = 4, single: bool = False) -> Scene:
    """A random scene of either split. most: shapes at most. single: one shape alone."""
    while True:
        scene = _draw(rng, most, single)
        if scene.held_out == held_out:
            return scene


def draw_crowd(rng: random.Random) -> Scene:
    """Five to nine shapes: more to learn from in one picture than any question is asked about."""
    cells = sorted(rng.sample(range(9), rng.randint(5, 9)))
    shapes = (Shape(rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(SIZES), cell) for cell in cells)
    return Scene(rng.choice(list(BACKGROUNDS)), tuple(shapes))


def draw_lines(rng: random.Random) -> Scene:
    """Two or three lines of random letters and digits, in `text`."""
    lines = ["".join(rng.choices(GLYPHS, k=rng.randint(2, 4))) for _ in range(rng.randint(2, 3))]
    return Scene(rng.choice(list(BACKGROUNDS)), text="\n".join(lines), text_colour=rng.choice(list(COLOURS)))


def _draw(rng: random.Random, most: int, single: bool) -> Scene:
    background = rng.choice(list(BACKGROUNDS))
    kind = 1.0 if single else rng.random()
    if kind < 0.18:
        digits = rng.choice((1, 2, 2, 3))
        number = rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
        return Scene(background, text=str(number), text_colour=rng.choice(list(COLOURS)))
    if kind < 0.34:
        return Scene(background, text=rng.choice(WORDS), text_colour=rng.choice(list(COLOURS)))
    count = 1 if single else rng.choices(range(1, most + 1), weights=(4, 4, 3, 2)[:most])[0]
    cells = sorted(rng.sample(range(9), count))
    shapes = (Shape(rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(SIZES), cell) for cell in cells)
    return Scene(background, tuple(shapes))


@dataclass
class Picture:
    """A rendered scene. labels: int64 [PATCHES * PATCHES, 4]: shape, colour, size, glyph; 0 is none."""

    image: Image.Image
    labels: np.ndarray


def render(scene: Scene, rng: random.Random) -> Picture:
    """Draw a scene with jitter, noise and blur, at a random source size."""
    width = rng.randint(168, 336)
    height = width if rng.random() < 0.7 else round(width * rng.uniform(0.9, 1.1))
    light = rng.uniform(0.94, 1.04)
    image = Image.new("RGB", (width, height), _lit(BACKGROUNDS[scene.background], light))
    mask = Image.new("L", (width, height), 0)
    draw = _text if scene.text else _shapes
    codes = draw(scene, rng, image, mask, light)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0)))
    sigma = rng.uniform(0, 10)
    values = np.asarray(image, np.float32) + sigma * _noise(rng, height, width)
    image = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
    return Picture(image, _labels(mask, codes))


def noise_image(rng: random.Random, size: int = 224) -> Image.Image:
    """Nothing but noise: what answers are compared with that need no picture."""
    return Image.fromarray(
        np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (size, size, 3), np.uint8)
    )


def _shapes(
    scene: Scene, rng: random.Random, image: Image.Image, mask: Image.Image, light: float
) -> list[tuple[int, ...]]:
    width, height = image.size
    codes: list[tuple[int, ...]] = [(0, 0, 0, 0)]
    placed = list(scene.shapes)
    rng.shuffle(placed)
    for shape in placed:
        row, column = divmod(shape.cell, 3)
        x = (column + 0.5 + rng.uniform(-0.09, 0.09)) * width / 3
        y = (row + 0.5 + rng.uniform(-0.09, 0.09)) * height / 3
        low, high = (0.075, 0.095) if shape.size == "small" else (0.14, 0.165)
        radius = rng.uniform(low, high) * min(width, height)
        colour = _lit(tuple(c + rng.randint(-10, 10) for c in COLOURS[shape.colour]), light)
        codes.append(
            (
                1 + SHAPES.index(shape.shape),
                1 + list(COLOURS).index(shape.colour),
                1 + SIZES.index(shape.size),
                0,
            )
        )
        turn = rng.uniform(-0.2, 0.2)
        for canvas, fill in ((image, colour), (mask, len(codes) - 1)):
            _outline(ImageDraw.Draw(canvas), shape.shape, x, y, radius, turn, fill)
    return codes


def _outline(
    draw: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    r: float,
    turn: float,
    fill: tuple[int, ...] | int,
) -> None:
    def around(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [
            (x + r * (a * cos(turn) - b * sin(turn)), y + r * (a * sin(turn) + b * cos(turn)))
            for a, b in points
        ]

    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=max(2, round(r * 0.38)))
    elif shape == "square":
        draw.polygon(around([(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]), fill=fill)
    elif shape == "triangle":
        draw.polygon(around([(0, -1.05), (1.0, 0.75), (-1.0, 0.75)]), fill=fill)
    elif shape == "star":
        points = [
            (reach * sin(i * pi / 5), -reach * cos(i * pi / 5))
            for i in range(10)
            for reach in ((1.15, 0.47)[i % 2],)
        ]
        draw.polygon(around(points), fill=fill)
    else:
        a, b = 0.32, 1.0
        points = [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
        draw.polygon(around(points), fill=fill)


def _text(
    scene: Scene, rng: random.Random, image: Image.Image, mask: Image.Image, light: float
) -> list[tuple[int, ...]]:
    width, height = image.size
    stencil = Image.new("L", image.size, 0)
    owner = Image.new("L", image.size, 0)
    codes: list[tuple[int, ...]] = [(0, 0, 0, 0)]
    lines = scene.text.split("\n")
    room = height / len(lines)
    for number, line in enumerate(lines):
        reach = {1: 0.3, 2: 0.5, 3: 0.72, 4: 0.82}[len(line)] * rng.uniform(0.85, 1.1)
        size = int(reach * width / _font(100).getlength(line) * 100)
        font = _font(max(12, min(size, int(room * 0.7))))
        length = font.getlength(line)
        free_x, free_y = (width - length) / 2 - 0.03 * width, room / 2 - font.size * 0.6
        x = width / 2 - length / 2 + rng.uniform(-0.8, 0.8) * max(0.0, free_x)
        y = room * (number + 0.5) + rng.uniform(-0.7, 0.7) * max(0.0, free_y)
        for i, letter in enumerate(line):
            at = (x + font.getlength(line[:i]), y)
            ImageDraw.Draw(stencil).text(at, letter, fill=255, font=font, anchor="lm")
            codes.append((0, 1 + list(COLOURS).index(scene.text_colour), 0, 1 + GLYPHS.index(letter)))
            box = ImageDraw.Draw(owner).textbbox(at, letter, font=font, anchor="lm")
            ImageDraw.Draw(owner).rectangle(box, fill=len(codes) - 1)
    colour = _lit(tuple(c + rng.randint(-10, 10) for c in COLOURS[scene.text_colour]), light)
    angle = rng.uniform(-7, 7)
    image.paste(colour, (0, 0), stencil.rotate(angle, Image.Resampling.BILINEAR))
    mask.paste(owner.rotate(angle, Image.Resampling.NEAREST))
    return codes


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # type: ignore[return-value]


def _lit(colour: tuple[int, ...], light: float) -> tuple[int, ...]:
    return tuple(max(0, min(255, round(c * light))) for c in colour)


@cache
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(1 << 22, np.float32)


def _noise(rng: random.Random, height: int, width: int) -> np.ndarray:
    count = height * width * 3
    start = rng.randrange((1 << 22) - count)
    noise: np.ndarray = _noise_bank()[start : start + count].reshape(height, width, 3)
    return noise


def _labels(mask: Image.Image, codes: list[tuple[int, ...]]) -> np.ndarray:
    """Per patch, the object that covers most of it, if that is a sixth of the patch at least."""
    side = PATCHES * 8
    owners = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST)).reshape(PATCHES, 8, PATCHES, 8)
    owners = owners.transpose(0, 2, 1, 3).reshape(PATCHES * PATCHES, 64)
    cover = np.stack([(owners == i).sum(axis=1) for i in range(len(codes))], axis=1)
    cover[:, 0] = 10
    labels: np.ndarray = np.array(codes, np.int64)[cover.argmax(axis=1)]
    return labels
