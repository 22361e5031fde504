"""The demo world's data: scenes of one object in front of a coloured wall, with captions and exact ground truth.

A scene is a description. The same description always gives the same picture, so the right answer of an edit is the
picture of the edited description. Captions speak of the object, its hat and the wall's colour, and sometimes of the
object's size or place. The rest is the scene's *look*: an edit has to take it over.

Pictures are float32 arrays (128, 128, 3) with values in [0, 1]. Lengths are in units of the picture's side.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from . import text

HERE = Path(__file__).parent
SIZE, TILE = 128, 128
WALLS = {
    "white": (238, 238, 234),
    "grey": (132, 136, 142),
    "red": (196, 58, 62),
    "orange": (240, 150, 72),
    "yellow": (248, 218, 110),
    "green": (92, 164, 104),
    "blue": (82, 132, 214),
    "purple": (138, 92, 184),
}
RARITY = 20  # a rare object is drawn this many times less often in training
HAT_WIDTH, HAT_SINK = 0.52, 0.07  # a hat's width and how deep it sits, as shares of its wearer's width and size
WEARERS = frozenset({"person", "animal face", "face"})
VARIANTS = {"heart": 0.5, "hand": 0.5, "person": 0.5}  # how often one of a family with many variants is drawn


@dataclass(frozen=True)
class Prop:
    """A small thing on the floor that no caption speaks of."""

    name: str
    x: float
    base: float
    size: float
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows."""

    thing: str
    wall: str
    hat: str = ""
    x: float = 0.5  # the middle of the object
    base: float = 0.9  # where it stands
    size: float = 0.6  # its longer side
    mirrored: bool = False
    horizon: float = 0.6
    floor: float = 0.75  # the floor's brightness as a share of the wall's; above 1 it is mixed with white
    shade: float = 1.0  # the wall's brightness
    light: tuple[float, float] = (0.0, 0.0)  # how much brighter at the right edge and at the lower edge
    props: tuple[Prop, ...] = ()

    def __str__(self) -> str:
        return caption(self)


@cache
def index() -> dict:
    """`sprites`: name, code and family of each in atlas order; `rare`: what is drawn less often; `source`."""
    return json.loads((HERE / "sprites.json").read_text())


@cache
def families() -> dict[str, str]:
    """Sprite -> family, for all sprites."""
    return {sprite["name"]: sprite["family"] for sprite in index()["sprites"]}


@cache
def things() -> list[str]:
    """Every object that a scene can be of."""
    return [name for name, family in families().items() if family not in ("hat", "prop")]


@cache
def named(family: str) -> list[str]:
    return [name for name, of in families().items() if of == family]


@cache
def wearers() -> list[str]:
    """Every object that can wear a hat."""
    return [name for name in things() if families()[name] in WEARERS]


@cache
def _sprites() -> dict[str, np.ndarray]:
    """Sprite -> (128, 128, 4): colours multiplied by their opacity, and the opacity."""
    sheet = np.asarray(Image.open(HERE / "sprites.webp").convert("RGBA"), dtype=np.float32) / 255
    rows, columns = sheet.shape[0] // TILE, sheet.shape[1] // TILE
    tiles = sheet.reshape(rows, TILE, columns, TILE, 4).swapaxes(1, 2).reshape(-1, TILE, TILE, 4).copy()
    tiles[..., :3] *= tiles[..., 3:]
    return dict(zip(families(), tiles, strict=False))


@cache
def _extent(name: str) -> tuple[float, float, float, float]:
    """A sprite's width and height, and the middle and half width of its foot, as shares of the tile."""
    opacity = _sprites()[name][..., 3]
    rows, columns = np.nonzero(opacity.max(1) > 0.1)[0], np.nonzero(opacity.max(0) > 0.1)[0]
    foot = np.nonzero(opacity[rows[-1] - TILE // 8 : rows[-1] + 1].max(0) > 0.3)[0]
    width, height = (len(columns) and columns[-1] - columns[0] + 1) / TILE, (TILE - rows[0]) / TILE
    return width, height, (foot[0] + foot[-1] + 1) / 2 / TILE - 0.5, (foot[-1] - foot[0] + 1) / 2 / TILE


@cache
def _head(name: str) -> float:
    """How high a sprite is between its ears, as a share of the tile."""
    middle = _sprites()[name][:, TILE // 2 - TILE // 10 : TILE // 2 + TILE // 10, 3]
    return 1 - int(np.nonzero((middle > 0.5).mean(1) > 0.5)[0][0]) / TILE


def _weights(start: float, length: float, mirrored: bool = False) -> tuple[int, np.ndarray]:
    """How the pixels of a picture's line average a tile laid from `start` over `length`: the first pixel, weights.

    A cubic kernel (Catmull and Rom's) as wide as the coarser of the two grids, so that any place and scale is exact.
    """
    first, last = max(0, int(np.floor((start) * SIZE)) - 2), min(SIZE, int(np.ceil((start + length) * SIZE)) + 2)
    if last <= first:
        return 0, np.zeros((0, TILE), dtype=np.float32)
    centre = ((np.arange(first, last) + 0.5) / SIZE - start) / length * TILE - 0.5
    step = max(1.0, TILE / (length * SIZE))
    margin = int(np.ceil(2 * step)) + 2  # beyond the tile there is nothing, but the kernel's sum goes on there
    t = np.abs(centre[:, None] - np.arange(-margin, TILE + margin)) / step
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0))
    weights = (weights / weights.sum(1, keepdims=True).clip(0.1))[:, margin:-margin]
    return first, (weights[:, ::-1] if mirrored else weights).astype(np.float32)


def _paste(picture: np.ndarray, name: str, x: float, base: float, size: float, mirrored: bool) -> None:
    """Lay a sprite over the picture, its tile's lower edge at `base` and its middle at `x`."""
    top, down = _weights(base - size, size)
    left, across = _weights(x - size / 2, size, mirrored)
    if not len(down) or not len(across):
        return
    tile = _sprites()[name]
    rows = (down @ tile.reshape(TILE, -1)).reshape(len(down), TILE, 4)
    laid = np.clip(np.einsum("xt,ytc->yxc", across, rows, optimize=True), 0, 1)
    part = picture[top : top + len(down), left : left + len(across)]
    part *= 1 - laid[..., 3:]
    part += laid[..., :3]


def _shadow(picture: np.ndarray, name: str, x: float, base: float, size: float, mirrored: bool, lean: float) -> None:
    """Darken the floor where the object stands: a soft ellipse below its foot, longer on the side away from light."""
    _, _, middle, half = _extent(name)
    reach = size * (half + 0.07)
    centre = x + size * (-middle if mirrored else middle) - 0.35 * lean * size
    y, u = ((np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - v for v in (base - 0.012, centre))
    far = (u / (reach * (1 + 0.5 * abs(lean)))) ** 2 + ((y / (0.045 + 0.055 * size)) ** 2)[:, None]
    picture *= (1 - 0.5 * np.exp(-1.6 * far * far))[..., None]


def _things(scene: Scene) -> list[tuple[str, float, float, float, bool]]:
    """The props and the object, from the back to the front."""
    standing = [(p.name, p.x, p.base, p.size, p.mirrored) for p in scene.props]
    standing.append((scene.thing, scene.x, scene.base, scene.size, scene.mirrored))
    return sorted(standing, key=lambda thing: thing[2])


def picture(scene: Scene) -> np.ndarray:
    """The scene, (128, 128, 3) in [0, 1]."""
    wall = np.array(WALLS[scene.wall], dtype=np.float32) / 255 * scene.shade
    floor = wall * scene.floor if scene.floor <= 1 else wall + (1 - wall) * (scene.floor - 1)
    rows = np.clip(np.arange(SIZE, dtype=np.float32) + 1 - scene.horizon * SIZE, 0, 1)[:, None]  # share of floor
    shown = np.repeat((wall + rows * (floor - wall))[:, None], SIZE, axis=1)
    standing = _things(scene)
    for thing in standing:
        _shadow(shown, *thing, scene.light[0])
    for thing in standing:
        _paste(shown, *thing)
        if thing[0] == scene.thing and scene.hat:
            _paste(shown, scene.hat, *_hat_place(scene), scene.mirrored)
    across, down = ((2 * np.arange(SIZE, dtype=np.float32) + 1) / SIZE - 1) * np.array(scene.light)[:, None]
    return np.clip(shown * (1 + across + down[:, None])[..., None], 0, 1).astype(np.float32)


def _hat_place(scene: Scene) -> tuple[float, float, float]:
    """A hat's x, base and size, on top of its wearer's head."""
    width, hat_width = _extent(scene.thing)[0], _extent(scene.hat)[0]
    base = scene.base - scene.size * (_head(scene.thing) - HAT_SINK)
    return scene.x, base, scene.size * min(width, 0.9) * HAT_WIDTH / hat_width


def scene(random: np.random.Generator, thing: str, wall: str, hat: str = "") -> Scene:
    """A scene of this object with a look drawn at random."""
    size = float(random.uniform(0.5, 0.92))
    horizon = float(random.uniform(0.42, 0.78))
    width, height, _, _ = _extent(thing)
    if thing in wearers():
        height = height + 0.3  # there is room for a hat, whether one is worn or not
        size = min(size, 0.97 / height)
    lowest = max(horizon + 0.08, min(0.97, size * height + 0.02))
    base = float(random.uniform(lowest, 0.98))
    reach = size * width / 2
    x = float(random.uniform(min(reach, 0.5) - 0.03, 1 - min(reach, 0.5) + 0.03))
    floor = float(random.uniform(0.6, 0.86) if random.random() < 0.6 else random.uniform(1.2, 1.5))
    angle, strength = random.uniform(0, 2 * np.pi), 0.3 * np.sqrt(random.random())
    light = (float(strength * np.cos(angle)), float(strength * np.sin(angle)))
    props: list[Prop] = []
    for _ in range(int(random.choice(3, p=[0.35, 0.4, 0.25]))):
        name = str(random.choice(named("prop")))
        small = float(random.uniform(0.14, 0.24))
        places = random.uniform(0.06, 0.94, 6)
        free = [p for p in places if abs(p - x) > reach + small / 3 and all(abs(p - o.x) > small for o in props)]
        if free:  # beside the object: what stands before it or behind it would be another picture's object
            at = float(random.uniform(horizon + 0.04, 0.99))
            props.append(Prop(name, float(free[0]), at, small, bool(random.random() < 0.5)))
    return Scene(
        thing,
        wall,
        hat,
        x,
        base,
        size,
        bool(random.random() < 0.5),
        horizon,
        floor,
        float(random.uniform(0.92, 1.06)),
        light,
        tuple(props),
    )


def training_scene(seed: int) -> Scene:
    """The training pool's scene number `seed`: never a held-out pair, rare things rarely."""
    random = np.random.default_rng([17, seed])
    weights = _frequency()
    thing = str(random.choice(things(), p=weights))
    walls = [wall for wall in WALLS if not held_out(thing, wall)]
    wall = str(random.choice(walls))
    hat = str(random.choice(named("hat"))) if thing in wearers() and random.random() < 0.4 else ""
    return scene(random, thing, wall, hat)


@cache
def _frequency() -> np.ndarray:
    rare = index()["rare"]
    weights = np.array([1 / RARITY if n in rare else VARIANTS.get(families()[n], 1.0) for n in things()])
    return weights / weights.sum()


def unseen_scene(seed: int, thing: str, wall: str, hat: str = "") -> Scene:
    """A scene that training never rendered, for measurements."""
    return scene(np.random.default_rng([18, seed]), thing, wall, hat)


def pairs() -> list[tuple[str, str]]:
    """Every (object, wall)."""
    return [(thing, wall) for thing in things() for wall in WALLS]


def held_out(thing: str, wall: str) -> bool:
    """Whether training never shows this pair: one wall for every third object that is not rare."""
    i = things().index(thing)
    return i % 3 == 1 and thing not in index()["rare"] and list(WALLS).index(wall) == (i // 3) % len(WALLS)


def caption(described: Scene) -> str:
    """What a full caption looks like: "a fox with a crown, blue wall"."""
    return wording(described.thing, described.wall, described.hat)


def wording(thing: str = "", wall: str = "", hat: str = "", size: str = "", place: str = "") -> str:
    """A caption that says just this, e.g. "a small fox with a crown on the left, blue wall"."""
    article = "an" if (size or thing)[:1] in "aeio" else "a"
    noun = " ".join(filter(None, [article, size, thing, f"with a {hat}" if hat else "", place])) if thing else ""
    return ", ".join(filter(None, [noun, f"{wall} wall" if wall else ""]))


def size_word(described: Scene) -> str:
    """ "small", "big" or nothing."""
    return "small" if described.size < 0.58 else "big" if described.size > 0.78 else ""


def place_words(described: Scene) -> str:
    """ "on the left", "on the right" or nothing."""
    return "on the left" if described.x < 0.42 else "on the right" if described.x > 0.58 else ""


def training_caption(described: Scene, random: np.random.Generator) -> str:
    """What training reads beside a picture: often partial, sometimes wrong, so that guidance has something to do.

    One in ten says nothing, one in eight lacks the wall, one in eight the object. One in five of the others names
    another object or another wall. One in four adds the object's size and place where there are words for them.
    """
    thing, wall, hat = described.thing, described.wall, described.hat
    size = place = ""
    if random.random() < 0.25:
        size, place = size_word(described), place_words(described)
    kind = random.random()
    if kind < 0.1:
        return ""
    if kind < 0.225:
        return wording(thing, "", hat, size, place)
    if kind < 0.35:
        return wording("", wall)
    if random.random() < 0.2:
        if random.random() < 0.5:
            thing = str(random.choice(things()))
            hat = hat if thing in wearers() else ""
        else:
            wall = str(random.choice(list(WALLS)))
    return wording(thing, wall, hat, size, place)


def vocabulary() -> list[str]:
    """Every word that a caption can have, sorted; the fillers of `demo.text` are left out there."""
    looks = {"small", "big", "on", "left", "right", "with", "wall"}
    spoken = [*things(), *named("hat"), *WALLS]
    return sorted(looks.union(*(text.words(name) for name in spoken)))


def edited(source: Scene, **changes: str) -> Scene:
    """The same scene with another object, wall or hat: what an edit should give."""
    return replace(source, **changes)  # type: ignore[arg-type]
