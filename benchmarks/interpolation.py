"""Paths between inverted pictures, and seeds from examples: `python scripts/benchmark.py interpolation`

On each demo model, with the nodes' own code:

- *Paths.* Interpolate Inversions between pairs of pictures, after each inversion method and on each path, then Edit
  From Latent on the frames. How evenly do the pictures change, and is what lies between them still a picture? Beside
  them the two pictures cross-faded, in which no model has a say.
- *Seeds.* Pictures of the objects that training showed 20 times less often: from random noise, and from Seeds From
  Examples, given three inverted scenes of the same object before other walls. The classifier of `demo/judge.py` says
  whether the object came out. Compared at few steps without guidance, where random noise does badly. Random noise at
  other settings is in the table too.

Writes `docs/interpolation-tables.md`, and the pictures to `output/`. Some four minutes, with one thread for each model.
"""

import datetime
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / folder) for folder in ("benchmarks", "scripts", "tests/host")]

import edits  # boots the host

# isort: split
import comfy.samplers
import comfy.utils
import graphs
import torch
from _pool import for_each
from edit_cases import pictures, self_similarity
from PIL import Image
from torch import Tensor
from torch.nn import functional

from demo import scenes
from demo.judge import load as load_judge
from demo.scenes import Scene, unseen_scene

PAIRS: list[tuple[Scene, Scene]] = [
    (unseen_scene(10, "red heart", "blue"), unseen_scene(11, "panda", "green")),
    (unseen_scene(12, "fox", "white", "hat"), unseen_scene(13, "pumpkin", "purple")),
    (unseen_scene(14, "thumbs up dark skin", "yellow"), unseen_scene(15, "thumbs up light skin", "blue")),
    (unseen_scene(16, "smiling face", "grey"), unseen_scene(17, "pizza", "orange")),
]
FRAMES, STEPS = 7, 6
PRESERVE = 0.5  # the least at which Edit From Latent gives the ends back exactly

EXAMPLES = ("grey", "orange", "purple")
TARGETS = ("white", "red", "green", "blue")
INVERTED, TRIES = 10, 2  # steps of the examples' inversions; seeds for each object and wall
MIDDLE = {"spread": 0.0, "fresh": 0.0}
USES = {"middle": MIDDLE, "default": {}, "half new": {"spread": 1.0, "fresh": 0.5}}
"""Label -> inputs of Seeds From Examples, over its defaults."""
HARD = edits.Setting(4, 1.0, 1.0)
OTHERS = [edits.Setting(10, 1.0, 1.0), edits.Setting(4, 2.0, 1.0)]


class Lab(edits.Lab):
    """A demo model, with what both tables need of it."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version, self.host, self.empty = version, self.pack.nodes.host, self._prompt([""])

    def bench(self, shown: list[Scene]) -> graphs.Bench:
        """One batch of pictures with their captions."""
        captions, images = self._prompt([scenes.caption(scene) for scene in shown]), pictures(shown)
        return graphs.Bench(self.pack, self.model, captions, None, self.empty, {"samples": self.vae.encode(images)})

    def inverted(self, shown: list[Scene], method: str, steps: int) -> tuple[dict, Tensor]:
        """LATENT and SIGMAS."""
        how = edits.INVERSIONS[method]
        latent, _, sigmas, _ = self.bench(shown).invert(how.node, steps=steps, **how.inputs)
        return latent, sigmas

    def frames(self, ends: list[Scene], inverted: list[dict], path: str) -> tuple[Tensor, Any]:
        """The frames' latents and prompts."""
        node = self.pack.nodes.interpolate.Interpolate
        sides = {f"latent_{side}": latent for side, latent in zip(("from", "to"), inverted, strict=True)}
        sides |= {
            f"positive_{side}": self.bench([end]).positive for side, end in zip(("from", "to"), ends, strict=True)
        }
        given = graphs.defaults(node) | sides | {"frames": FRAMES, "path": path}
        latent, positive, *_ = node.execute(model=self.model, **given).args
        bench = graphs.Bench(self.pack, self.model, positive, None, self.empty, latent)
        return bench.edit(latent=latent, preserve=PRESERVE)[0]["samples"], positive

    def denoising_errors(self, samples: Tensor, prompts: Any) -> Tensor:
        """Mean squared error of the model's own denoising of each latent, with as much noise as picture: (B,)."""

        def walk(denoiser: Any, x: Tensor, grid: Any, callback: Any) -> tuple[Tensor, Tensor]:
            del callback
            level = grid.levels[0]
            noise = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0))
            estimate = denoiser(level.alpha * x + level.sigma * noise, level)
            return x, (estimate - x).square().flatten(1).mean(1)

        sigma = 1.0 if self.host.model_kind(self.model) == "ve" else 0.5
        guider = self.host.guider_for(self.model, prompts, None, 1.0)
        grid = self.host.grid_of(self.model, torch.tensor([sigma, 0.0]))
        return self.host.run(guider, samples, grid, walk, 1)[1]

    def seeds(self, kinds: Sequence[Tensor], sigmas: Tensor, count: int, **settings: float) -> Tensor:
        """Starting noise of Seeds From Examples, `count` for each kind of example, as the host takes it."""
        node, made = self.pack.nodes.seeds.Seeds, []
        for seed, examples in enumerate(kinds):
            given = {"latent": {"samples": examples}, "sigmas": sigmas, "count": count, "seed": seed, **settings}
            noise = node.execute(model=self.model, **graphs.defaults(node) | given).args[1]
            made.append(noise.generate_noise({"samples": torch.zeros_like(noise.x)}))
        return torch.cat(made)

    def levels(self, steps: int) -> Tensor:
        """The noise levels that pictures are drawn on."""
        return self.host.scheduled_sigmas(self.model, steps, "normal", 1.0)

    def drawn(self, wanted: list[Scene], noise: Tensor, setting: edits.Setting) -> Tensor:
        """Pictures by the host's Euler."""
        guider = comfy.samplers.CFGGuider(self.model)
        guider.set_conds(self._prompt([scenes.caption(scene) for scene in wanted]), self.empty)
        guider.set_cfg(setting.cfg)
        sigmas = self.levels(setting.steps)
        euler, nothing = comfy.samplers.ksampler("euler"), torch.zeros_like(noise)
        return self.vae.decode(guider.sample(noise, nothing, euler, sigmas, disable_pbar=True, seed=0))


def paths(lab: Lab) -> tuple[list[list[str]], Tensor]:
    """The lines of the table of paths, and each row's first strip of frames."""
    found: dict[str, list[list[float]]] = {}
    strips: dict[str, Tensor] = {}

    def judge(label: str, samples: Tensor, prompts: Any) -> None:
        shown = lab.vae.decode(samples)
        natural = 1000 * lab.denoising_errors(samples, prompts)
        found.setdefault(label, []).append([*smoothness(shown), float(natural[1:-1].mean())])
        found.setdefault(ENDS, []).append([math.nan] * 3 + [float(natural[[0, -1]].mean())])
        strips.setdefault(label, shown)

    for ends in PAIRS:
        first, last = (lab.bench([end]).latent["samples"] for end in ends)
        share = torch.linspace(0, 1, FRAMES).reshape(-1, 1, 1, 1)
        for method in edits.INVERSIONS:
            inverted = [lab.inverted([end], method, STEPS)[0] for end in ends]
            for path in lab.pack.inversion.paths.PATHS:
                samples, prompts = lab.frames(list(ends), inverted, path)
                judge(f"{method}, {path}", samples, prompts)
        judge("cross-fade", torch.lerp(first, last, share), prompts)
    lines = []
    for label, rows in sorted(found.items(), key=lambda row: row[0] == ENDS):
        means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
        cells = map(format, means, (".2f", ".2f", ".2f", ".1f"))
        lines.append([label, *("" if cell == "nan" else cell for cell in cells)])
    return lines, torch.cat(list(strips.values()))


ENDS = "the pictures at the ends"
PATH_HEADERS = ("", "length", "largest step", "largest turn", "denoising error")


def smoothness(shown: Tensor) -> list[float]:
    """Of frames (F, 128, 128, 3): the way's length over the ends' distance; the largest change over the mean one."""
    blurred = functional.avg_pool2d(shown.movedim(-1, 1), 4)
    steps, ends = rms(blurred.diff(dim=0)), rms(blurred[-1:] - blurred[:1])
    turns = rms(self_similarity(shown).diff(dim=0))
    return [float(value) for value in (steps.sum() / ends[0], steps.max() / steps.mean(), turns.max() / turns.mean())]


def rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def rare_objects(lab: Lab) -> tuple[list[list[str]], Tensor]:
    """The lines of the table of seeds, and each row's pictures at the main setting."""
    rare, seer = scenes.index()["rare"], load_judge()
    wanted = [unseen_scene(0, name, wall) for name in rare for wall in TARGETS for _ in range(TRIES)]
    count = len(TARGETS) * TRIES
    lines, sheets = [], []

    def judge(label: str, noise: Tensor, setting: edits.Setting = HARD) -> None:
        shown = lab.drawn(wanted, noise, setting)
        seen = list(zip(seer.see(shown.movedim(-1, 1).clamp(0, 1)), wanted, strict=True))
        right, wall = sum(a.thing == b.thing for a, b in seen), sum(a.wall == b.wall for a, b in seen)
        low, high = wilson(right, len(wanted))
        tries = shown.unflatten(0, (-1, TRIES))
        cells = [f"{right}/{len(wanted)}", f"{100 * low:.0f} to {100 * high:.0f}", f"{wall}/{len(wanted)}"]
        cells.append(f"{100 * float(rms(tries[:, 0] - tries[:, 1]).mean()):.1f}")
        lines.append([plain(setting), label, *cells])
        print(lab.version, *lines[-1], sep="  ", flush=True)
        if setting == HARD:
            sheets.append(shown)

    random = torch.randn(len(wanted), 32, 16, 16, generator=torch.Generator().manual_seed(0))
    for setting in (HARD, *OTHERS):
        judge("random noise", random, setting)
    examples = [unseen_scene(20 + i, name, wall) for name in rare for i, wall in enumerate(EXAMPLES)]
    for method in edits.INVERSIONS:
        latent, sigmas = lab.inverted(examples, method, INVERTED)
        kinds = latent["samples"].split(len(EXAMPLES))
        for use, settings in USES.items():
            judge(f"{method}, {use}", lab.seeds(kinds, sigmas, count, **settings))
    judge(f"{method}, default", lab.seeds(kinds, sigmas, count), OTHERS[-1])
    judge(f"{method}, one example", lab.seeds([kind[:1] for kind in kinds], sigmas, count, **MIDDLE))
    return lines, torch.cat(sheets)


def plain(setting: edits.Setting) -> str:
    """Without the strength, which is an edit's."""
    return f"{setting.steps} steps, cfg {setting.cfg:g}"


SEED_HEADERS = ("setting", "noise", "right object", "95 % interval", "right wall", "variety")


def wilson(right: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, share = statistics.NormalDist().inv_cdf(0.975), right / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


@torch.inference_mode()
def measure(version: str) -> list[str]:
    """A model's part of the document; leaves its pictures in `output/`."""
    torch.set_num_threads(1)
    comfy.utils.set_progress_bar_enabled(False)
    lab = Lab(version)
    found, strips = paths(lab)
    lines = [f"## {version}", "", "Paths:", "", *edits.table(PATH_HEADERS, found)]
    sheet(strips, FRAMES, f"interpolation-{version}-paths.png")
    found, shown = rare_objects(lab)
    lines += ["Seeds:", "", *edits.table(SEED_HEADERS, found)]
    sheet(shown, len(shown) // sum(line[0] == plain(HARD) for line in found), f"interpolation-{version}-seeds.png")
    return lines


def sheet(shown: Tensor, columns: int, name: str) -> None:
    """Pictures line by line, to look at."""
    tiles = shown.unflatten(0, (-1, columns)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    path = REPOSITORY / "output" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(tiles.mul(255).round().byte().numpy()).save(path)
    print(path, flush=True)


def main() -> None:
    parts = for_each(measure)
    pairs = "; ".join(" to ".join(scenes.caption(end) for end in ends) for ends in PAIRS)
    rare = ", ".join(scenes.index()["rare"])
    lines = [
        f"Made by `python scripts/benchmark.py interpolation` on {datetime.date.today()}, torch {torch.__version__}, "
        f"ComfyUI {edits.host_version}, CPU.",
        "",
        f"**Paths.** {FRAMES} frames from one picture to another, inverted and regenerated in {STEPS} steps at cfg 1, "
        f"preserve {PRESERVE:g}. Means over {len(PAIRS)} pairs: {pairs}.",
        "",
        "- length: differences of neighbouring frames, blurred, summed, over the difference of the ends; 1 at least",
        "- largest step, largest turn: the largest difference of neighbouring frames over the mean one, by blurred "
        "pictures, and by the self-similarity of edges, which knows no colours; 1 is even",
        "- denoising error (x 1000): mean squared error of the model's denoising of the frames between the ends, in "
        "latents with as much noise as picture; what the model takes for a picture it denoises well",
        "",
        f"**Seeds.** The rare objects ({rare}) before walls in {', '.join(TARGETS)}, {TRIES} seeds each; the "
        f"examples are the same objects before walls in {', '.join(EXAMPLES)}, inverted in {INVERTED} steps at cfg 1 "
        "with their own captions. middle: spread 0, fresh 0, so all seeds are one; default: the node's own; half new: "
        "spread 1, fresh 0.5.",
        "",
        "- right object, right wall: what the classifier sees, with Wilson's interval of the first in %",
        "- variety (x 100): root mean square difference of the pictures from two seeds",
        "",
        *(line for part in parts for line in part),
    ]
    path = REPOSITORY / "docs" / "interpolation-tables.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
