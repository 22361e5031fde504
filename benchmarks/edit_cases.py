"""The editing benchmark's questions and their judge: `python scripts/benchmark.py edit_cases` lists them.

A case is two scenes that differ in what the edit asks for and in nothing else, so the right answer is known to the
pixel. The captions speak of what changes; where the object stands, how it is lit and what lies beside it they do not
say, so an edit has to take that over from the source. Nothing here knows the host or the model.

Two thirds of the cases are for tuning. The last third comes from a seed of its own that only a final run uses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from demo import scenes
from demo.scenes import Scene

KINDS = ("attribute", "wall", "replacement", "add", "remove")
TUNING, FINAL = 55, 25  # cases of each kind
SEEDS = {"tuning": 23, "final": 7919}
QUICK = 4  # every 4th tuning case is the quick mode's
EVERY_UNSEEN = 8  # one case in so many asks for an object on a wall that training never showed it with
CAP = 60.0  # dB; nearer than this is nearer than the rounding to 8 bits
LEAST_KEPT = 0.05  # share of a picture that has to stay for the metrics of what stays
ALIKE = ("animal face", "face", "animal", "food", "thing")  # replaced by another of the same family


@dataclass(frozen=True)
class Case:
    kind: str
    source: Scene
    target: Scene

    @property
    def unseen(self) -> bool:
        """Whether training never showed the target's object on this wall."""
        return scenes.held_out(self.target.thing, self.target.wall)

    def __str__(self) -> str:
        return f"{scenes.caption(self.source)} -> {scenes.caption(self.target)}"


@lru_cache
def cases(split: str = "tuning") -> list[Case]:
    """The cases of a split, "tuning" (275) or "final" (125), kinds in turns, so that a stride is a fair choice too."""
    count = {"tuning": TUNING, "final": FINAL}[split]
    return [_case(kind, SEEDS[split] * 10_000 + i, i % EVERY_UNSEEN == 0) for i in range(count) for kind in KINDS]


def few() -> list[Case]:
    """Ten tuning cases, two of each kind, for tables with many rows."""
    return cases()[:10]


def quick() -> list[Case]:
    """A fair quarter of the tuning cases: every kind, as evenly as can be."""
    return [case for i, case in enumerate(cases()) if i // len(KINDS) % QUICK == 0]


def _case(kind: str, seed: int, unseen: bool) -> Case:
    """A case by a seed; drawn again until the target is a pair that training showed, or one it did not."""
    random = np.random.default_rng([seed, KINDS.index(kind)])
    while True:
        thing, other, hat, other_hat = _change(kind, random)
        wall, other_wall = (str(name) for name in random.choice(list(scenes.WALLS), 2, replace=False))
        if kind != "wall":
            other_wall = wall
        wanted = scenes.held_out(other, other_wall)
        if wanted == unseen and (unseen or not scenes.held_out(thing, wall)):
            break
    source = scenes.scene(random, thing, wall, hat)
    return Case(kind, source, replace(source, thing=other, wall=other_wall, hat=other_hat))


def _change(kind: str, random: np.random.Generator) -> tuple[str, str, str, str]:
    """The object and what it becomes, the hat and what it becomes."""
    if kind in ("add", "remove"):
        thing, hat = str(random.choice(scenes.wearers())), str(random.choice(scenes.named("hat")))
        return (thing, thing, "", hat) if kind == "add" else (thing, thing, hat, "")
    if kind == "wall":
        thing = str(random.choice(scenes.things()))
        return thing, thing, "", ""
    if kind == "attribute":
        family = str(random.choice(["heart", "skin"]))
        thing = str(random.choice([name for name in scenes.things() if variants(name)[:1] == (family,)]))
        others = [name for name in scenes.things() if name != thing and variants(name) == variants(thing)]
        return thing, str(random.choice(others)), "", ""
    thing = str(random.choice([name for name in scenes.things() if scenes.families()[name] in ALIKE]))
    alike = [name for name in scenes.named(scenes.families()[thing]) if name != thing]
    return thing, str(random.choice(alike)), "", ""


def variants(thing: str) -> tuple[str, ...]:
    """Objects that differ in an attribute have this in common: ("heart",), ("skin", "thumbs up"); others nothing."""
    words = thing.split()
    if words[-1] == "heart":
        return ("heart",)
    return ("skin", " ".join(words[:-2])) if words[-1] == "skin" else ()


def parts(thing: str) -> tuple[str, str]:
    """An object and its attribute: ("heart", "red"), ("thumbs up", "tan skin"), ("fox", "")."""
    words, of = thing.split(), variants(thing)
    return (of[-1], " ".join(word for word in words if word not in of[-1].split())) if of else (thing, "")


def pictures(described: Sequence[Scene]) -> Tensor:
    """Scenes as the host's IMAGE, (B, 128, 128, 3) in [0, 1]."""
    return torch.from_numpy(np.stack([scenes.picture(scene) for scene in described]))


def sources(asked: Sequence[Case]) -> Tensor:
    return pictures([case.source for case in asked])


def truths(asked: Sequence[Case]) -> Tensor:
    return pictures([case.target for case in asked])


def changed(asked: Sequence[Case]) -> Tensor:
    """Where source and truth differ, grown by a pixel, (B, 128, 128): 1 there, else 0."""
    differs = ((sources(asked) - truths(asked)).abs().amax(-1) > 2 / 255).float()
    return functional.max_pool2d(differs.unsqueeze(1), 3, 1, 1).squeeze(1)


def other_looks(scene: Scene) -> list[Scene]:
    """The same object, hat and wall with a look that is wrong in one way."""
    aside = 0.14 if scene.x < 0.5 else -0.14
    return [
        replace(scene, mirrored=not scene.mirrored),
        replace(scene, x=scene.x + aside),
        replace(scene, size=scene.size * (0.8 if scene.size > 0.65 else 1.25)),
        replace(scene, horizon=scene.horizon + (0.12 if scene.horizon < 0.6 else -0.12)),
        replace(scene, floor=0.7 if scene.floor > 1 else 1.35),
        replace(scene, light=(-scene.light[0] or 0.2, -scene.light[1])),
        replace(scene, props=() if scene.props else (scenes.Prop("star", (scene.x + 0.5) % 1, 0.95, 0.2, False),)),
    ]


def candidates(case: Case) -> list[Scene]:
    """What a result is compared with: every object with the case's own look, on its walls, with its hats; every wall;
    source and target with other looks."""
    found: dict[Scene, None] = {}
    for scene in (case.source, case.target):
        can = scenes.wearers() if scene.hat else scenes.things()
        found |= {replace(scene, thing=thing): None for thing in can}
        found |= {replace(scene, wall=wall): None for wall in scenes.WALLS}
        if scene.thing in scenes.wearers():
            found |= {replace(scene, hat=hat): None for hat in ("", *scenes.named("hat"))}
        found |= dict.fromkeys(other_looks(scene))
    return list(found)


@lru_cache(maxsize=512)
def _gallery(case: Case) -> Tensor:
    """The candidates as bytes at half the resolution, (N, 12288)."""
    shown = pictures(candidates(case)).movedim(-1, 1)
    return functional.avg_pool2d(shown, 2).mul(255).round().byte().flatten(1)


def nearest(case: Case, edited: Tensor) -> Scene:
    """The candidate with the least squared error to a picture (128, 128, 3), at half the resolution."""
    small = functional.avg_pool2d(edited.movedim(-1, 0), 2).flatten() * 255
    return candidates(case)[int((_gallery(case).float() - small).square().sum(1).argmin())]


def _look(scene: Scene) -> Scene:
    return replace(scene, thing="", wall="", hat="")


def judge(asked: Sequence[Case], edited: Tensor, source: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Scores of edited pictures, one for each case; NaN where a case has next to nothing that stays.

    Arguments:
        asked: the cases.
        edited: what came out, decoded, (B, 128, 128, 3).
        source, truth: their round trips through the codec, so that what the codec loses is not blamed on the edit.

    "object", "attribute" (a heart's colour, a skin, a hat), "colour" (of the wall), "look" and "success" (all of them)
    say whether the nearest candidate is the one asked for.
    """
    kept = (1 - changed(asked)).unsqueeze(-1)
    share = kept.mean((1, 2, 3))
    weight = kept / share.where(share >= LEAST_KEPT, torch.nan)[:, None, None, None]
    error = (edited - truth).square()
    background = (error * weight).mean((1, 2, 3))
    # Inside the region the truth is put in, so that windows that reach into it see only what happened outside.
    outside = torch.lerp(truth, edited, kept)
    small, small_source = (functional.avg_pool2d(x.movedim(-1, 1), 2).movedim(1, -1) for x in (edited, source))
    scores = {
        "background PSNR": decibels(background),
        "background SSIM": (ssim(outside, truth) * weight).mean((1, 2, 3)),
        "background MSE": background,
        "PSNR": decibels(error.mean((1, 2, 3))),
        "structure": (self_similarity(small) - self_similarity(small_source)).square().mean((1, 2)),
    }
    pairs = [(nearest(case, picture), case.target) for case, picture in zip(asked, edited, strict=True)]
    right = {
        "object": [parts(a.thing)[0] == parts(b.thing)[0] for a, b in pairs],
        "attribute": [(parts(a.thing)[1], a.hat) == (parts(b.thing)[1], b.hat) for a, b in pairs],
        "colour": [a.wall == b.wall for a, b in pairs],
        "look": [_look(a) == _look(b) for a, b in pairs],
        "success": [a == b for a, b in pairs],
    }
    listed = {name: values.tolist() for name, values in scores.items()}
    return listed | {name: [float(value) for value in values] for name, values in right.items()}


def decibels(squared_error: Tensor) -> Tensor:
    return (-10 * squared_error.clamp(min=10 ** (-CAP / 10)).log10()).where(squared_error.isfinite(), torch.nan)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """The map of structural similarity (Wang et al. 2004), (B, 64, 64, 3): Gaussian windows of 11 x 11, sigma 1.5."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, 11, 11)

    def local(x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x.movedim(-1, 1), (5,) * 4, "reflect"), window, groups=3)

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (similar / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).movedim(1, -1)


def self_similarity(shown: Tensor) -> Tensor:
    """How alike the places of a picture are by their edges, whatever their colours: (B, 225, 225) of cosines.

    A place is a patch of 8 x 8 pixels, one every 4. Its feature is the strength of brightness changes along 4
    directions in each of its quarters, the strongest of the three channels, and a constant, by which plain places
    are alike.
    """
    x = shown.movedim(-1, 1)
    across, down = (functional.pad(x.diff(dim=axis), side) for axis, side in ((3, (0, 1)), (2, (0, 0, 0, 1))))
    angles = [i * math.pi / 4 for i in range(4)]
    edges = torch.stack([(math.cos(t) * across + math.sin(t) * down).abs().amax(1) for t in angles], 1)
    feature = functional.unfold(functional.avg_pool2d(edges, 4), 2)
    feature = functional.normalize(functional.pad(feature, (0, 0, 0, 1), value=0.1), dim=1)
    return feature.mT @ feature


def main() -> None:
    for split in SEEDS:
        for i, case in enumerate(cases(split)):
            print(f"{split} {i:3}  {case.kind:12} {case}{'  (pair never trained)' if case.unseen else ''}")


if __name__ == "__main__":
    main()
