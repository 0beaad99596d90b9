"""Pictures of shapes: as many kinds and pictures as a measurement needs, from a seed alone.

Place, size, direction, colours and background differ from picture to picture; only the outline
tells the kind.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64  # pixels
DRAWN_AT = 4 * SIDE  # reduced afterwards, so that outlines are smooth

Outline = list[tuple[float, float]]  # around the origin, in a circle of radius 1


def star(points: int, inner: float) -> Outline:
    """A star; with the right inner radius, a regular polygon."""
    radii = (1.0, inner)
    return [
        (
            radii[i % 2] * math.cos(math.pi * i / points),
            radii[i % 2] * math.sin(math.pi * i / points),
        )
        for i in range(2 * points)
    ]


def regular(corners: int) -> Outline:
    """A regular polygon."""
    return star(corners, math.cos(math.pi / corners))


def crescent() -> Outline:
    """What remains of a disc when another one covers it."""
    turns = [math.pi * (i / 20 - 0.5) * 1.3 for i in range(21)]
    outer = [(math.cos(turn), math.sin(turn)) for turn in turns]
    inner = [(0.75 * x - 0.1, y) for x, y in reversed(outer)]
    return [(x - 0.4, y) for x, y in outer + inner]


KINDS: dict[str, Outline] = {
    "triangle": regular(3),
    "square": regular(4),
    "disc": regular(30),
    "star": star(5, 0.4),
    "flash": [(-0.2, 1), (0.5, 1), (0.1, 0.2), (0.6, 0.2), (-0.4, -1), (-0.1, -0.1), (-0.6, -0.1)],
    "bar": [(-1, -0.2), (1, -0.2), (1, 0.2), (-1, 0.2)],
    "corner": [(-0.8, -0.8), (0.8, -0.8), (0.8, -0.4), (-0.4, -0.4), (-0.4, 0.8), (-0.8, 0.8)],
    "hourglass": [(-0.7, -0.7), (0.7, -0.7), (0.1, 0), (0.7, 0.7), (-0.7, 0.7), (-0.1, 0)],
    "arrow": [(1, 0), (0.2, 0.7), (0.2, 0.25), (-1, 0.25), (-1, -0.25), (0.2, -0.25), (0.2, -0.7)],
    "cross": [
        *[(0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3)],
        *[(-0.3, -0.3), (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3)],
    ],
    "sun": star(11, 0.6),
    "crescent": crescent(),
}


def colour(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    """Any colour whose parts are from `low` to `high`."""
    return (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))


def draw(kind: str, rng: random.Random) -> Image.Image:
    """One picture: rows of the shape, so that a random cut has some of it, too."""
    ranges = [(0, 100), (130, 255)]
    rng.shuffle(ranges)
    picture = Image.new("RGB", (DRAWN_AT, DRAWN_AT), colour(rng, *ranges[0]))
    canvas = ImageDraw.Draw(picture)
    cell = DRAWN_AT / rng.choice((2, 3))
    shift_x, shift_y = rng.uniform(0, cell), rng.uniform(0, cell)
    fill, turn = colour(rng, *ranges[1]), rng.uniform(-0.25, 0.25)
    cos, sin = (0.42 * cell * part for part in (math.cos(turn), math.sin(turn)))
    for row in range(4):
        for column in range(4):
            x, y = column * cell - shift_x + cell / 2, row * cell - shift_y + cell / 2
            points = [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in KINDS[kind]]
            canvas.polygon(points, fill=fill)
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16)
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, 6, small.shape)
    return Image.fromarray(np.clip(small + noise, 0, 255).astype(np.uint8))


def draw_folder(folder: str, kinds: Sequence[str], *, train: int, val: int, seed: int) -> None:
    """Write so many pictures of each kind as the trainer reads them: train/<kind>/, val/<kind>/."""
    for split, count in (("train", train), ("val", val)):
        for kind in kinds:
            place = os.path.join(folder, split, kind)
            os.makedirs(place)
            rng = random.Random(f"{seed} {split} {kind}")
            for number in range(count):
                draw(kind, rng).save(os.path.join(place, f"{number:04}.png"))
