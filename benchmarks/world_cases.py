"""The editing benchmark's questions in the wide world, and their judge: `python benchmarks/world_cases.py` lists them.

A case is two scenes that differ in what the edit asks for and in nothing else, so the right answer is known to the
pixel. The captions speak of what changes; where the object stands, how it is lit and what lies beside it they do not
say, so an edit has to take that over from the source. Nothing here knows the host or the model.

Two thirds of the cases are for tuning. The last third comes from a seed of its own that only a final run uses.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.edit_cases import CAP, LEAST_KEPT, decibels, self_similarity, ssim
from demo.world import scenes
from demo.world.scenes import Scene

KINDS = ("attribute", "wall", "replacement", "add", "remove")
TUNING, FINAL = 55, 25  # cases of each kind
SEEDS = {"tuning": 23, "final": 7919}
QUICK = 4  # every 4th tuning case is the quick mode's
EVERY_UNSEEN = 8  # one case in so many asks for an object on a wall that training never showed it with
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


def main() -> None:
    for split in SEEDS:
        for i, case in enumerate(cases(split)):
            print(f"{split} {i:3}  {case.kind:12} {case}{'  (pair never trained)' if case.unseen else ''}")


__all__ = ["CAP", "Case", "candidates", "cases", "changed", "judge", "nearest", "quick", "sources", "truths"]

if __name__ == "__main__":
    main()
