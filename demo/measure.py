"""How good is the demo model? `python scripts/host.py run demo/measure.py [--quick]`

Scenes and prompts that training never had, the host's own Euler sampler, from random noise:

- the judge's ceiling: how often `judge.py` is right on true renders through the codec;
- adherence over cfg, in 20 and in 10 steps: the share of samples that show the object, the wall and the hat that the
  prompt names, with its standard error;
- pairs of object and wall that training never showed, and rare objects;
- the Frechet distance of the samples' features to those of fresh renders of the same prompts, beside that of other
  renders (training's own) to them;
- the round trip of looks: a never-seen scene is inverted and comes down under its own caption, without the record;
- the distance of samples to the nearest training picture of the same object and wall, beside that of fresh renders.

`--few` measures the few-step versions in 1, 2 and 4 steps at cfg 1, beside the flow version in 4 and 20.
`--weights FOLDER` measures other weights than those in `weights/`, such as a snapshot of `train.py`; `--curve` only the
adherence, for all snapshots in a run's folder; `--codecs` only what linear codecs keep.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / "scripts"), str(REPOSITORY)]

import inprocess  # noqa: E402

inprocess.boot(None, "--use-pytorch-cross-attention")  # faster than the host's default on CPUs
import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from demo import judge, scenes  # noqa: E402
from demo.codec import LappedCodec  # noqa: E402
from inversion import DDIM, FixedPoint, Grid, Level, invert, psnr, sample  # noqa: E402

BATCH, STEPS = 32, (20, 10)
FEW = [
    ("flow", "euler", 4.0, (20, 4)),
    ("turbo-flow", "euler", 1.0, (4, 2, 1)),
    ("turbo-ve", "euler_ancestral", 1.0, (4, 2, 1)),
]
CURVE = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
POOL = 20_000  # training scenes among which the nearest is looked for


class Measured:
    """A model and what is asked of it."""

    def __init__(self, weights: Path | None, version: str) -> None:
        where = {"folder": weights} if weights else {}
        self.model, self.clip, self.vae = inprocess.load_pack().nodes.demo.load(version, **where)
        self.flow = "flow" in version
        self.judge = judge.load()

    def encoded(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        parts = [self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True) for text in captions]
        context, pooled = (torch.cat(values) for values in zip(*parts, strict=True))
        return context, pooled

    def draw(
        self,
        described: Sequence[scenes.Scene],
        cfg: float,
        steps: int = STEPS[0],
        seed: int = 0,
        how: tuple[str, str] = ("euler", "normal"),
    ) -> Tensor:
        """Pictures (B, 3, 128, 128) of the scenes' captions, by the host's own sampler and scheduler."""
        shown = []
        empty, empty_pooled = self.encoded([""])
        for i in range(0, len(described), BATCH):
            context, pooled = self.encoded([scenes.caption(s) for s in described[i : i + BATCH]])
            latent = torch.zeros(len(context), 32, 16, 16)
            noise = comfy.sample.prepare_noise(latent, seed + i)
            positive, negative = [[context, {"pooled_output": pooled}]], [[empty, {"pooled_output": empty_pooled}]]
            asked = (steps, cfg, *how, positive, negative, latent)
            samples = comfy.sample.sample(self.model, noise, *asked, disable_pbar=True, seed=seed)
            shown.append(self.vae.decode(samples).movedim(-1, 1).float().cpu().clamp(0, 1))
        return torch.cat(shown)

    def adherence(self, described: Sequence[scenes.Scene], shown: Tensor) -> dict[str, float]:
        """The shares of pictures whose object, wall and hat are the described ones, and all three."""
        found = self.judge.see(shown)
        right = np.array(
            [(s.thing == f.thing, s.wall == f.wall, s.hat == f.hat) for s, f in zip(described, found, strict=True)]
        )
        shares = dict(zip(("object", "wall", "hat"), right.mean(0), strict=True))
        return shares | {"all": right.all(1).mean()}

    def features(self, shown: Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.judge.features(shown).double().numpy()

    def through_codec(self, described: Sequence[scenes.Scene]) -> Tensor:
        pictures = torch.from_numpy(np.stack([scenes.picture(s) for s in described]))
        return self.vae.decode(self.vae.encode(pictures)).movedim(-1, 1).float().clamp(0, 1)

    # --- the round trip ---

    def grid(self, steps: int) -> Grid:
        sampling = self.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
        return Grid.from_sigmas(sigmas, "flow" if self.flow else "ve")

    def denoiser(self, captions: Sequence[str]) -> Any:
        """x, level -> the model's estimate at cfg 1, on the host's BaseModel."""
        context, pooled = self.encoded(captions)
        comfy.model_management.load_models_gpu([self.model])

        def estimate(x: Tensor, level: Level) -> Tensor:
            sigma = torch.full((len(x),), level.sigma)
            return self.model.model.apply_model(x.float(), sigma, c_crossattn=context, y=pooled).to(x)

        return estimate

    def round_trip(self, described: Sequence[scenes.Scene]) -> dict[str, tuple[float, float]]:
        """Method -> the PSNR to the source through the codec, and the share whose nearest look is the source's own."""
        from benchmarks import edit_cases

        pictures = torch.from_numpy(np.stack([scenes.picture(s) for s in described]))
        latent = self.model.model.process_latent_in(self.vae.encode(pictures))
        truth = self.vae.decode(self.model.model.process_latent_out(latent))
        denoiser, grid = self.denoiser([scenes.caption(s) for s in described]), self.grid(STEPS[0])
        found = {}
        for name, method in (("DDIM", DDIM()), ("fixed point", FixedPoint())):
            inversion = invert(denoiser, latent, grid, method)
            again = self.vae.decode(self.model.model.process_latent_out(sample(denoiser, inversion.latent, grid)))
            own = [_own_look(edit_cases, s, picture) for s, picture in zip(described, again, strict=True)]
            found[name] = (psnr(truth, again, 1.0), float(np.mean(own)))
        return found


def _own_look(edit_cases: Any, scene: scenes.Scene, picture: Tensor) -> bool:
    looks = edit_cases.pictures([scene, *edit_cases.other_looks(scene)])
    return int((looks - picture).square().sum((1, 2, 3)).argmin()) == 0


def prompts(count: int, seed: int = 5) -> list[scenes.Scene]:
    """Scenes never rendered in training, of pairs that it had; their captions are the prompts."""
    random = np.random.default_rng(seed)
    drawn: list[scenes.Scene] = []
    while len(drawn) < count:
        thing, wall = str(random.choice(scenes.things())), str(random.choice(list(scenes.WALLS)))
        if not scenes.held_out(thing, wall) and thing not in scenes.index()["rare"]:
            hat = str(random.choice(judge.HATS)) if thing in scenes.wearers() else ""
            drawn.append(scenes.unseen_scene(len(drawn) + 1000 * seed, thing, wall, hat))
    return drawn


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet's between two sets of features taken as Gaussians."""
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    A, B = np.cov(a.T), np.cov(b.T)
    values = np.linalg.eigvals(A @ B)
    return float(mean + np.trace(A) + np.trace(B) - 2 * np.sqrt(np.abs(values.real)).sum())


def nearest_in_training(measured: Measured, described: Sequence[scenes.Scene], shown: Tensor) -> float:
    """The mean PSNR of pictures to the nearest training picture of the same object and wall."""
    pool: dict[tuple[str, str], list[scenes.Scene]] = {}
    for i in range(POOL):
        scene = scenes.training_scene(i)
        pool.setdefault((scene.thing, scene.wall), []).append(scene)
    nearest = []
    for scene, picture in zip(described, shown, strict=True):
        alike = pool.get((scene.thing, scene.wall))
        if alike:
            rendered = torch.from_numpy(np.stack([scenes.picture(s) for s in alike])).movedim(-1, 1)
            nearest.append(-10 * float((rendered - picture).square().mean((1, 2, 3)).min().log10()))
    return float(np.mean(nearest))


def standard_error(share: float, count: int) -> float:
    return float(np.sqrt(share * (1 - share) / count))


def sheet(shown: Tensor, name: str) -> None:
    tiles = shown[:40].mul(255).byte().unflatten(0, (-1, 10)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    path = REPOSITORY / "output" / f"demo-{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(tiles.numpy()).save(path)
    print(f"  the first 40: {path.relative_to(REPOSITORY)}")


def told(shares: dict[str, float], count: int) -> str:
    return "  ".join(f"{k} {100 * v:5.1f} +- {100 * standard_error(v, count):.1f} %" for k, v in shares.items())


@torch.inference_mode()
def measure(weights: Path | None, version: str, quick: bool) -> None:
    measured = Measured(weights, version)
    asked, few = prompts(100 if quick else 400), 50 if quick else 100
    print(f"{version}: {len(asked)} prompts, Euler")
    ceiling = measured.adherence(asked, measured.through_codec(asked))
    print(f"  judge on true renders through the codec: {told(ceiling, len(asked))}")
    truth = measured.features(measured.through_codec(asked))
    best, best_cfg = 0.0, CURVE[0]
    for steps in STEPS:
        for cfg in CURVE:
            shown = measured.draw(asked[:few], cfg, steps)
            shares, apart = measured.adherence(asked[:few], shown), distance(measured.features(shown), truth)
            print(f"  {steps} steps, cfg {cfg:g}: {told(shares, few)}  Frechet {apart:.1f}", flush=True)
            if steps == STEPS[0] and shares["all"] > best:
                best, best_cfg = shares["all"], cfg
    print(f"  best at cfg {best_cfg:g}; there, in {STEPS[0]} steps:")
    shown = measured.draw(asked, best_cfg)
    print(f"  pairs that training had: {told(measured.adherence(asked, shown), len(asked))}")
    sheet(shown, version)
    unseen = [scenes.unseen_scene(i, *pair) for i, pair in enumerate(p for p in scenes.pairs() if scenes.held_out(*p))]
    rare = [scenes.unseen_scene(i, thing, w) for i, thing in enumerate(scenes.index()["rare"]) for w in scenes.WALLS]
    for name, group in (("pairs never shown", unseen), ("rare objects", rare)):
        drawn = measured.draw(group, best_cfg, seed=77)
        print(f"  {name}: {told(measured.adherence(group, drawn), len(group))}", flush=True)
    fresh = [scenes.unseen_scene(50_000 + i, s.thing, s.wall, s.hat) for i, s in enumerate(asked)]
    trained = [scenes.training_scene(i) for i in range(len(asked))]
    others = [distance(measured.features(measured.through_codec(group)), truth) for group in (fresh, trained)]
    print(
        f"  Frechet distance to renders of the prompts: samples {distance(measured.features(shown), truth):.1f}, "
        f"other renders of them {others[0]:.1f}, training scenes {others[1]:.1f}"
    )
    for name, (decibels, own) in measured.round_trip(asked[: 16 if quick else 64]).items():
        print(f"  round trip without the record, {name}: {decibels:.1f} dB, own look nearest {100 * own:.0f} %")
    some = asked[: 20 if quick else 100]
    near = nearest_in_training(measured, some, shown[: len(some)])
    apart = nearest_in_training(measured, some, measured.through_codec(some))
    print(f"  nearest of {POOL} training pictures: samples {near:.1f} dB, fresh renders {apart:.1f} dB", flush=True)


@torch.inference_mode()
def few(weights: Path | None, count: int) -> None:
    """The few-step versions beside the one that they were distilled from, on the levels that all of them know."""
    asked = prompts(count)
    truth: np.ndarray | None = None
    for version, sampler, cfg, numbers in FEW:
        measured = Measured(weights, version)
        if truth is None:
            truth = measured.features(measured.through_codec(asked))
        for steps in numbers:
            shown = measured.draw(asked, cfg, steps, how=(sampler, "simple"))
            shares, apart = measured.adherence(asked, shown), distance(measured.features(shown), truth)
            print(f"{version}, {sampler}, {steps} steps, cfg {cfg:g}: {told(shares, count)}  Frechet {apart:.1f}")
            sheet(shown, f"{version}-{steps}")


def codecs() -> None:
    """What linear codecs of 8 x 8 blocks keep of unseen scenes, with and without overlap, by their channels."""
    fitted, unseen = (
        torch.from_numpy(np.stack([scenes.picture(s) for s in group])).movedim(-1, 1) * 2 - 1
        for group in ([scenes.training_scene(i) for i in range(1000)], prompts(200))
    )
    for channels in (16, 24, 32, 48):
        for lapped in (False, True):
            codec = LappedCodec(channels, lapped)
            codec.fit(fitted)
            error = ((codec.decode(codec.encode(unseen)) - unseen) / 2).square().mean()
            print(f"{channels} channels, {'lapped' if lapped else 'blocks'}: {-10 * float(error.log10()):.1f} dB")


@torch.inference_mode()
def curve(folder: Path, version: str, cfg: float, count: int) -> None:
    """The adherence of every snapshot in a run's folder."""
    asked = prompts(count)
    for path in sorted(folder.glob("[0-9]*/")):
        measured = Measured(path, version)
        shown = measured.draw(asked, cfg)
        print(f"step {int(path.name)}, cfg {cfg:g}: {told(measured.adherence(asked, shown), count)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="?", choices=["flow", "v-prediction"], help="default: both")
    parser.add_argument("--few", action="store_true", help="only the few-step versions, beside the flow version")
    parser.add_argument("--quick", action="store_true", help="100 prompts instead of 400")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="default: the pack's own")
    parser.add_argument("--curve", type=Path, metavar="FOLDER", help="of a run of train.py; needs a version")
    parser.add_argument("--cfg", type=float, default=4.0, help="for --curve")
    parser.add_argument("--count", type=int, default=96, help="prompts for --curve")
    parser.add_argument("--codecs", action="store_true", help="only what linear codecs keep")
    options = parser.parse_args()
    if options.codecs:
        return codecs()
    if options.curve:
        if not options.version:
            parser.error("say which version the run is of: flow or v-prediction")
        return curve(options.curve, options.version, options.cfg, options.count)
    if options.few:
        return few(options.weights, 100 if options.quick else 400)
    for version in [options.version] if options.version else ["flow", "v-prediction"]:
        measure(options.weights, version, options.quick)


if __name__ == "__main__":
    main()
