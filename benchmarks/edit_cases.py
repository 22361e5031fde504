"""The editing benchmark's questions and its judge: `python scripts/benchmark.py edit_cases` lists the cases.

A case asks for one of the demo's pictures, given another, so the right answer is known to the pixel. For the demo
model a caption decides the whole picture, so it would do to draw what is asked for, whatever the source. Three cases in
four therefore have a look that no caption speaks of and training never showed; source and truth both have it, so an
edit has to take it over. Nothing here knows the host.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from operator import eq

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from demo import pictures

Picture = tuple[str, str]
"""(emoji, background)"""

PER_KIND = 32
CHANGES = ("background", "skin tone", "heart colour", "face", "skin tone + background", "heart colour + background")
UNSEEN = "pair never trained"
KINDS = (*CHANGES, UNSEEN)
LOOKS = ("as trained", "shaded", "mirrored", "shifted")
SHADE, SHIFT = 0.6, 2  # brightness at the right edge; pixels to the right and up
SUBSET = 8  # every 8th case: 4 of each kind, one with each look

CAP = 60.0  # dB; nearer than this is nearer than the rounding to 8 bits
LEAST_KEPT = 0.05  # share of a picture that has to stay for the metrics of what stays


@dataclass(frozen=True)
class Case:
    kind: str
    source: Picture
    target: Picture
    look: str = LOOKS[0]

    def __str__(self) -> str:
        return f"{pictures.caption(*self.source)} -> {pictures.caption(*self.target)}, {self.look}"


@cache
def cases() -> list[Case]:
    """All cases, kinds and looks in turns, so that every n-th case is a fair choice too.

    Of each kind one half starts from a picture that training never showed. Where the target is such a picture, the case
    is of the kind `UNSEEN`, which takes its share from every change. All are picked at even distances from a sorted
    list.
    """
    kinds: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for i, change in enumerate(CHANGES):
        every = sorted(_candidates(change))
        to_unseen = [pair for pair in every if pictures.held_out(*pair[1])]
        seen = [pair for pair in every if not pictures.held_out(*pair[1])]
        halves = [[pair for pair in seen if pictures.held_out(*pair[0]) == held_out] for held_out in (True, False)]
        kinds[change] = [Case(change, *pair) for half in halves for pair in spread(half, PER_KIND // 2)]
        share = (i + 1) * PER_KIND // len(CHANGES) - i * PER_KIND // len(CHANGES)
        kinds[UNSEEN] += [Case(UNSEEN, *pair) for pair in spread(to_unseen, share)]
    turns = enumerate(zip(*kinds.values(), strict=True))
    return [replace(case, look=LOOKS[(i + i // SUBSET) % len(LOOKS)]) for i, turn in turns for case in turn]


def spread(items: Sequence, count: int) -> list:
    """`count` of the items at even distances."""
    return [items[i * len(items) // count] for i in range(count)]


def _candidates(change: str) -> Iterator[tuple[Picture, Picture]]:
    """Every (source, target) that differs in just what `change` says."""
    what, _, background = change.partition(" + ")
    if what == "background":
        emoji = [(name, name) for name in pictures.index()["names"]]
    else:
        known = [name for name in pictures.index()["names"] if _kin(name)[0] == what]
        emoji = [(a, b) for a, b in product(known, repeat=2) if a != b and _kin(a) == _kin(b)]
    for (a, b), (under_a, under_b) in product(emoji, product(pictures.COLOURS, repeat=2)):
        if (under_a != under_b) == ("background" in (what, background)):
            yield (a, under_a), (b, under_b)


def _kin(name: str) -> tuple[str, str]:
    """What an edit can turn the emoji into: others for which this is the same."""
    words = name.split()
    if words[-2:] == ["skin", "tone"]:
        return "skin tone", " ".join(word for word in words[:-2] if word not in ("light", "medium", "dark"))
    if words[-1] == "heart":
        return "heart colour", "heart"
    return ("face", "face") if "face" in words else ("", name)


def picture(emoji: str, background: str, look: str) -> np.ndarray:
    """One of the demo's pictures with a look, (64, 64, 3)."""
    x = pictures.picture(emoji, background)
    if look == "shaded":
        return x * np.linspace(1, SHADE, pictures.SIZE, dtype=np.float32)[None, :, None]
    if look == "mirrored":
        return x[:, ::-1].copy()
    if look == "shifted":  # what leaves is lost, what comes in is background
        moved = np.empty_like(x)
        moved[:] = np.array(pictures.COLOURS[background], dtype=np.float32) / 255
        moved[:-SHIFT, SHIFT:] = x[SHIFT:, :-SHIFT]
        return moved
    return x


def sources(asked: Sequence[Case]) -> Tensor:
    """The pictures to edit as the host's IMAGE, (B, 64, 64, 3) in [0, 1]."""
    return torch.from_numpy(np.stack([picture(*case.source, case.look) for case in asked]))


def truths(asked: Sequence[Case]) -> Tensor:
    """The right answers, like `sources`."""
    return torch.from_numpy(np.stack([picture(*case.target, case.look) for case in asked]))


def changed(asked: Sequence[Case]) -> Tensor:
    """Where source and truth differ, grown by a pixel, (B, 64, 64): 1 there, else 0."""
    source, truth = sources(asked), truths(asked)
    differs = ((source - truth).abs().amax(-1) > 2 / 255).float()
    return functional.max_pool2d(differs.unsqueeze(1), 3, 1, 1).squeeze(1)


def judge(asked: Sequence[Case], edited: Tensor, source: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Scores of edited pictures, one for each case; NaN where a case has next to nothing that stays.

    Arguments:
        asked: the cases.
        edited: what came out, decoded, (B, 64, 64, 3).
        source, truth: their round trips through the codec, so that what the codec loses is not blamed on the edit.
    """
    kept = (1 - changed(asked)).unsqueeze(-1)
    share = kept.mean((1, 2, 3))
    weight = kept / share.where(share >= LEAST_KEPT, torch.nan)[:, None, None, None]
    error = (edited - truth).square()
    background = (error * weight).mean((1, 2, 3))
    # Inside the region the truth is put in, so that windows that reach into it see only what happened outside.
    outside = torch.lerp(truth, edited, kept)
    found = zip(nearest(edited, [case.look for case in asked]), asked, strict=True)
    right = [tuple(map(eq, answer, (*case.target, case.look))) for answer, case in found]
    emoji, colour, look = ([float(value) for value in values] for values in zip(*right, strict=True))
    scores = {
        "background PSNR": decibels(background),
        "background SSIM": (ssim(outside, truth) * weight).mean((1, 2, 3)),
        "background MSE": background,
        "PSNR": decibels(error.mean((1, 2, 3))),
        "structure": (self_similarity(edited) - self_similarity(source)).square().mean((1, 2)),
    }
    listed = {name: values.tolist() for name, values in scores.items()}
    return listed | {"emoji": emoji, "colour": colour, "look": look, "success": [float(all(r)) for r in right]}


def decibels(squared_error: Tensor) -> Tensor:
    return (-10 * squared_error.clamp(min=10 ** (-CAP / 10)).log10()).where(squared_error.isfinite(), torch.nan)


@cache
def _gallery(look: str) -> tuple[Tensor, Tensor]:
    """Every picture with that look, (2464, 12288), and the squared norm of each."""
    gallery = torch.from_numpy(np.stack([picture(*pair, look).ravel() for pair in pictures.pairs()]))
    return gallery, gallery.square().sum(1)


def distances(shown: Tensor, look: str) -> Tensor:
    """The squared distances of pictures (B, 64, 64, 3) to each of `pictures.pairs()` with that look, (B, 2464)."""
    gallery, squared = _gallery(look)
    flat = shown.flatten(1)
    return (squared - 2 * flat @ gallery.T + flat.square().sum(1, keepdim=True)).clamp(min=0)


def nearest(edited: Tensor, looks: Sequence[str]) -> list[tuple[str, str, str]]:
    """For each picture the emoji, background and look of the candidate with the least squared error.

    Candidates are all 2464 pictures (308 emoji x 8 backgrounds) with the look of the case and all of them as trained.
    """
    found: list[tuple[float, tuple[str, str, str]]] = [(math.inf, ("", "", ""))] * len(edited)
    for look in LOOKS:
        members = [i for i, own in enumerate(looks) if look in (own, LOOKS[0])]
        least, best = distances(edited[members], look).min(1)
        for i, distance, k in zip(members, least.tolist(), best.tolist(), strict=True):
            found[i] = min(found[i], (distance, (*pictures.pairs()[k], look)))
    return [answer for _, answer in found]


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
    for i, case in enumerate(cases()):
        print(f"{i:3}  {case.kind:26} {case}")


if __name__ == "__main__":
    main()
