"""Which object, wall colour and hat a picture shows: a small classifier trained on renders, not on the model.

`python scripts/host.py run demo/judge.py` trains it (some minutes) and writes `weights/judge.safetensors`;
`... judge.py --check` says how often it is right on renders that nothing was trained on, through the codec.

It looks at pictures of 64 x 64, by convolutions alone. Its last layer's input is the feature space in which
`measure.py` compares whole sets of pictures. So that it judges blurred or noisy samples by what is there, it was
trained on renders that were blurred, made noisy, tinted and covered in part, most of them through the codec.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

REPOSITORY = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.append(str(REPOSITORY))
    from demo import network, scenes
    from demo.codec import LappedCodec
else:
    from . import network, scenes
    from .codec import LappedCodec

PATH = Path(__file__).parent / "weights" / "judge.safetensors"
HATS = ("", *scenes.named("hat"))
FEATURES = 192
SCENES, STEPS, BATCH, RATE = 16_000, 1_200, 64, 3e-3
CHECK = 1_000


class Shown(NamedTuple):
    """What a picture is taken to show."""

    thing: str
    wall: str
    hat: str


class Block(nn.Module):
    """Two convolutions beside a shortcut; half the resolution."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(inner, outer, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)])

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(y)) + self.short(functional.avg_pool2d(x, 2)))


class Judge(nn.Module):
    """Pictures (B, 3, 128, 128) in [0, 1] -> features (B, 192), logits of objects, walls and hats."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 5, 2, 2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            Block(32, 64),
            Block(64, 128),
            Block(128, FEATURES),
        )
        self.heads = nn.ModuleList([nn.Linear(FEATURES, n) for n in (len(scenes.things()), len(scenes.WALLS), 3)])

    def features(self, pictures: Tensor) -> Tensor:
        x = functional.avg_pool2d(pictures, 2) if pictures.shape[-1] == scenes.SIZE else pictures
        x = self.body(x * 4 - 2)
        return (x.mean((2, 3)) + x.amax((2, 3))) / 2

    def forward(self, pictures: Tensor) -> list[Tensor]:
        features = self.features(pictures)
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def see(self, pictures: Tensor) -> list[Shown]:
        """What each picture of (B, 3, 128, 128) in [0, 1] shows."""
        best = [logits.argmax(1).tolist() for logits in self(pictures)]
        walls, things = list(scenes.WALLS), scenes.things()
        return [Shown(things[a], walls[b], HATS[c]) for a, b, c in zip(*best, strict=True)]


def load() -> Judge:
    """The trained judge."""
    judge = Judge().eval().requires_grad_(False)
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(PATH).items()})
    return judge


def _scene(seed: int) -> scenes.Scene:
    random = np.random.default_rng([19, seed])
    thing, wall = str(random.choice(scenes.things())), str(random.choice(list(scenes.WALLS)))
    hat = str(random.choice(HATS)) if thing in scenes.wearers() else ""
    return scenes.scene(random, thing, wall, hat)


def _labels(described: list[scenes.Scene]) -> Tensor:
    walls, things = list(scenes.WALLS), scenes.things()
    return torch.tensor([(things.index(s.thing), walls.index(s.wall), HATS.index(s.hat)) for s in described])


def _render(described: list[scenes.Scene]) -> Tensor:
    return torch.from_numpy(np.stack([scenes.picture(s) for s in described])).movedim(-1, 1)


def _worn(x: Tensor, random: torch.Generator) -> Tensor:
    """Pictures (B, 3, 64, 64) blurred, made noisy, tinted and covered, each by chance."""

    def chance(share: float, *shape: int) -> Tensor:
        return (torch.rand(len(x), *shape, generator=random) < share).float()

    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)
    twice = functional.avg_pool2d(functional.pad(blurred, (1, 1, 1, 1), "replicate"), 3, 1)
    x = x.lerp(blurred.lerp(twice, chance(0.5, 1, 1, 1)), chance(0.5, 1, 1, 1))
    noise = torch.randn(x.shape, generator=random) * 0.06
    soft = functional.interpolate(
        torch.randn(len(x), 3, 8, 8, generator=random) * 0.06, size=x.shape[-2:], mode="bicubic"
    )
    x = x + noise * chance(0.4, 1, 1, 1) + soft * chance(0.4, 1, 1, 1)
    x = x * (
        1
        + 0.08 * torch.randn(len(x), 1, 1, 1, generator=random)
        + 0.03 * torch.randn(len(x), 3, 1, 1, generator=random)
    )
    for i in torch.nonzero(chance(0.3))[:, 0].tolist():
        top, left = torch.randint(0, 52, (2,), generator=random).tolist()
        x[i, :, top : top + 12, left : left + 12] = x[i].mean((1, 2), keepdim=True)
    return x.clamp(0, 1)


def train() -> None:
    started = time.time()
    described = [_scene(i) for i in range(SCENES)]
    labels = _labels(described)
    codec = LappedCodec()
    small = torch.empty(SCENES, 3, scenes.SIZE // 2, scenes.SIZE // 2, dtype=torch.uint8)
    for i in range(0, SCENES, 500):
        pictures = _render(described[i : i + 500])
        if i == 0:
            codec.fit(pictures * 2 - 1)
        lossy = codec.decode(codec.encode(pictures * 2 - 1)).clamp(-1, 1) / 2 + 0.5
        pictures[::4] = lossy[::4]
        pictures[1::4] = lossy[1::4]
        pictures[2::4] = lossy[2::4]
        small[i : i + 500] = functional.avg_pool2d(pictures, 2).mul(255).round().byte()
    print(f"{SCENES} scenes rendered, {time.time() - started:.0f} s", flush=True)
    random = torch.Generator().manual_seed(0)
    judge = Judge()
    network.initialise(judge, random)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.15)
    for step in range(STEPS):
        drawn = torch.randint(SCENES, (BATCH,), generator=random)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(_worn(small[drawn].float() / 255, random))
        weights = (1.0, 0.5, 0.5)
        losses = [
            w * functional.cross_entropy(answer.float(), labels[drawn, i], label_smoothing=0.05)
            for i, (answer, w) in enumerate(zip(logits, weights, strict=True))
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{step + 1}/{STEPS}  loss {loss.item():.3f}  {time.time() - started:.0f} s", flush=True)
    PATH.parent.mkdir(exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file({k: v.contiguous() for k, v in half.items()}, PATH, {"trained": "demo/judge.py", "licence": "MIT"})


def check(codec: LappedCodec | None = None) -> dict[str, float]:
    """The shares of unseen renders whose object, wall and hat the judge names: its ceiling."""
    described = [scenes.unseen_scene(10**6 + i, *_pick(i)) for i in range(CHECK)]
    judge = load()
    right = np.zeros(3)
    for i in range(0, CHECK, 100):
        pictures = _render(described[i : i + 100])
        if codec:
            pictures = codec.decode(codec.encode(pictures * 2 - 1)).clamp(-1, 1) / 2 + 0.5
        for scene, shown in zip(described[i : i + 100], judge.see(pictures), strict=True):
            right += [scene.thing == shown.thing, scene.wall == shown.wall, scene.hat == shown.hat]
    return dict(zip(("object", "wall", "hat"), right / CHECK, strict=True))


def _pick(i: int) -> tuple[str, str, str]:
    scene = _scene(10**6 + i)
    return scene.thing, scene.wall, scene.hat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        train()
    codec = LappedCodec()
    codec.fit(_render([scenes.training_scene(i) for i in range(1000)]) * 2 - 1)
    for name, share in check(codec).items():
        print(f"{name}: right on {100 * share:.1f} % of {CHECK} unseen renders through the codec")


if __name__ == "__main__":
    main()
