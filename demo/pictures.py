"""The demo model's data: every emoji on every background colour, with captions and exact ground truth for edits.

Pictures are float32 arrays (64, 64, 3) with values in [0, 1].
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE = 64
COLOURS = {
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "red": (170, 36, 48),
    "orange": (236, 142, 60),
    "yellow": (250, 226, 130),
    "green": (64, 136, 80),
    "blue": (60, 104, 196),
    "purple": (120, 70, 160),
}
RARITY = 20  # a rare emoji is drawn this many times less often in training


@cache
def index() -> dict:
    """`names`: every emoji's name in atlas order; `rare`: those shown `RARITY` times less often; `source`."""
    return json.loads((HERE / "emoji.json").read_text())


@cache
def atlas() -> np.ndarray:
    """All emoji with their transparency, (number of emoji, 64, 64, 4) in [0, 1]."""
    sheet = np.asarray(Image.open(HERE / "emoji.png").convert("RGBA"), dtype=np.float32) / 255
    rows, columns = sheet.shape[0] // SIZE, sheet.shape[1] // SIZE
    tiles = sheet.reshape(rows, SIZE, columns, SIZE, 4).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 4)
    return tiles[: len(index()["names"])]


def picture(name: str, colour: str) -> np.ndarray:
    """The emoji `name` on the background `colour`, (64, 64, 3)."""
    rgba = atlas()[index()["names"].index(name)]
    background = np.array(COLOURS[colour], dtype=np.float32) / 255
    return rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])


def caption(name: str, colour: str) -> str:
    """What the training captions look like: "fox on blue background"."""
    return f"{name} on {colour} background"


def pairs() -> list[tuple[str, str]]:
    """Every (name, colour)."""
    return [(name, colour) for name in index()["names"] for colour in COLOURS]


def held_out(name: str, colour: str) -> bool:
    """Whether training never showed this pair: one colour of every fourth emoji that is not rare."""
    i = index()["names"].index(name)
    return i % 4 == 1 and name not in index()["rare"] and list(COLOURS).index(colour) == (i // 4) % len(COLOURS)
