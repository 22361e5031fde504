"""Round trips of pictures with the methods of both papers and of those they compare with, and the papers' measures.

`papers.py` runs them on the demo models, `large_models.py` on real checkpoints. The competitors are written from their
papers as methods of `inversion`, so that all of them run in its one loop.
"""

import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import edit_cases
import torch
from torch import Tensor
from torch.nn import functional

from demo.judge import Judge
from inversion.problem import StepResult

BACKWARD = 2  # a backward pass costs about as much as two model calls
SEED = 7865  # of the fixed noise, as in GNRI's code


# --- the competitors' methods, written from their papers --------------------------------------------------------------


@dataclass(frozen=True)
class Averaged:
    """ReNoise without its losses and noise correction (arXiv 2403.14602): the mean slope of the last iterates.

    y_0 = the carried state, y_k+1 = F(y_k); the step takes the mean of the slopes at y_1 .. y_n-1.
    """

    iterations: int
    tolerance: float = 0.0

    def step(self, problem: Any, memory: Any = None) -> Any:
        point, slopes = problem.carried(), []
        for _ in range(self.iterations):
            slopes.append(problem.slope(point))
            before, point = point, problem.land(slopes[-1])
        mean = torch.stack(slopes[1:] or slopes).mean(0)
        return StepResult(problem.land(mean), before, mean, self.iterations)

    def notes(self, count: int) -> list[str]:
        return []


@dataclass(frozen=True)
class Halved:
    """AIDI's cheaper form (arXiv 2309.04907): y_k+1 = F(y_k) / 2 + F(y_k-1) / 2."""

    iterations: int
    tolerance: float = 0.0

    def step(self, problem: Any, memory: Any = None) -> Any:
        point, image = problem.carried(), None
        for _ in range(self.iterations):
            slope = problem.slope(point)
            latest = problem.land(slope)
            before, point = point, latest if image is None else (latest + image) / 2
            image = latest
        return StepResult(point, before, slope, self.iterations)

    def notes(self, count: int) -> list[str]:
        return []


@dataclass(frozen=True)
class ForwardStep:
    """Exact DPM inversion of first order (arXiv 2311.18387): y <- y - rate (sampler's step from y - known state)."""

    iterations: int
    rate: float = 0.5
    tolerance: float = 0.0

    def step(self, problem: Any, memory: Any = None) -> Any:
        point = problem.carried()
        for _ in range(self.iterations):
            slope, before = problem.slope(point), point
            reached = problem.grid.move(point, problem.upper, problem.lower, slope)
            point = point - self.rate * (reached - problem.x)
        return StepResult(point, before, slope, self.iterations)

    def notes(self, count: int) -> list[str]:
        return []


@dataclass(frozen=True)
class Solved:
    """Every step solved to rounding but `short`, which takes 2 calls; counted from the clean end, None for no step."""

    inversion: Any
    short: int | None
    tolerance: float = 0.0

    def step(self, problem: Any, memory: Any = None) -> Any:
        fixed = self.inversion.FixedPoint
        return (fixed(2) if problem.index == self.short else fixed(80, 1e-5, anderson=3)).step(problem, memory)

    def notes(self, count: int) -> list[str]:
        return []


def methods(library: Any) -> dict[str, Any]:
    """Label -> method, for few steps."""
    fixed, newton = library.FixedPoint, library.GuidedNewton
    return {
        "DDIM or Euler": library.DDIM(),
        "EasyInv, at every step": library.EasyInv(0.5, 0.0, 1.0),
        "plain fixed point, 2": fixed(2, warm_start=False),
        "plain fixed point, 5": fixed(5, warm_start=False),
        "AIDI, Anderson, 5": fixed(5, warm_start=False, anderson=3),
        "AIDI, averaged, 5": Halved(5),
        "ReNoise, averaged, 5": Averaged(5),
        "ReNoise, averaged, 9": Averaged(9),
        "exact DPM inversion, 50": ForwardStep(50),
        "GNRI, released code, 2": newton(2, 0.1, "sign", start="state"),
        "GNRI, paper, 1": newton(1, 0.1, "autograd"),
        "GNRI, paper, 2": newton(2, 0.1, "autograd"),
        "GNRI, minimum norm, 2": newton(2, 0.1, "min-norm"),
        "ours: Guided NR, node's default": newton(2, 0.1, "sign", start="extrapolated"),
        "ours: Fixed Point, 2": fixed(2, anderson=3),
        "ours: Fixed Point, node's default": fixed(8, 1e-2, anderson=3),
        "ours: Fixed Point, up to 80, to 5e-6": fixed(80, 5e-6, anderson=3),
    }


# --- measures ---------------------------------------------------------------------------------------------------------


class Distance:
    """A perceptual distance in the way of LPIPS (arXiv 1801.03924), with the judge's features for the network's.

    The features of each layer are made unit vectors at each place. The distance is the mean of their squared
    differences, summed over the layers. Nothing in it was fitted to people's judgement.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __call__(self, a: Tensor, b: Tensor) -> float:
        """Of pictures (B, 128, 128, 3) in [0, 1]."""
        x, y = (functional.avg_pool2d(shown.movedim(-1, 1), 2) * 4 - 2 for shown in (a, b))
        total = 0.0
        for layer in self.judge.body:
            x, y = layer(x), layer(y)
            unit = (functional.normalize(x, dim=1) - functional.normalize(y, dim=1)).square().sum(1).mean()
            total += float(unit)
        return total


def likelihood(z: Tensor) -> dict[str, float]:
    """How an inverted noise (B, C, H, W) differs from Gaussian noise, for which each of these is near the value named.

    Returns:
        "norm": by how many standard deviations of the chi distribution its length is from the distribution's mean; 0.
        "low", "high": its power in the lowest and the highest third of its spectrum; 1.
        "neighbours": correlation of numbers side by side; 0.
    """
    count = z[0].numel()
    lengths = z.flatten(1).double().norm(dim=1)
    spectrum = torch.fft.fft2(z.double(), norm="ortho").abs().square().mean(1)
    line = torch.fft.fftfreq(z.shape[-1]).abs()
    radius = torch.maximum(line[:, None], line[None]) * 2  # 0 .. 1
    centred = z - z.mean((2, 3), keepdim=True)
    products = (centred[..., 1:] * centred[..., :-1]).mean() + (centred[..., 1:, :] * centred[..., :-1, :]).mean()
    return {
        "norm": float((lengths - math.sqrt(count - 0.5)).mean() / math.sqrt(0.5)),
        "low": float(spectrum[:, radius <= 1 / 3].mean()),
        "high": float(spectrum[:, radius > 2 / 3].mean()),
        "neighbours": float(products / 2 / centred.square().mean()),
    }


class Trips:
    """A MODEL in the host and its VAE, for pictures to invert. A `bench` has a prompt and the pictures' latents.

    Arguments:
        pack: the pack as the host imports it.
        judge: whose features the distance takes; None for no distance.
    """

    def __init__(self, pack: Any, model: Any, vae: Any, judge: Judge | None = None) -> None:
        self.pack, self.model, self.vae = pack, model, vae
        self.host, self.inversion = pack.nodes.host, pack.inversion
        self.distance = Distance(judge) if judge else None

    def walk(self, bench: Any, steps: int, ancestral: bool, work: Callable, scheduler: str) -> Any:
        """What `work(denoiser, x0, grid, fixed noise)` returns, in the host's guider at cfg 1."""

        def inside(denoiser: Any, x: Tensor, grid: Any, callback: Any) -> tuple[Tensor, Any]:
            del callback
            return x, work(denoiser, x, grid, self.host.fixed_noise(denoiser, x, grid))

        guider = self.host.guider_for(self.model, bench.positive, None, 1.0)
        grid = self.host.chosen_grid(self.model, None, steps, scheduler, 1.0, ancestral)
        return self.host.run(guider, bench.latent["samples"], grid, inside, steps, SEED)[1]

    @torch.no_grad()  # a method that wants a gradient asks for it
    def round_trip(
        self, truth: Tensor, bench: Any, method: Any, steps: int, ancestral: bool, scheduler: str
    ) -> dict[str, float]:
        """What the sampler makes of the inverted latent alone, beside the pictures `truth` (B, H, W, 3)."""

        def work(denoiser: Any, x0: Tensor, grid: Any, noise: Tensor | None) -> Any:
            found = self.inversion.invert(denoiser, x0, grid, method, noise=noise)
            back = self.inversion.sample(denoiser, found.latent, grid, noise=noise)
            scale = self.inversion.noise.noise_scale(grid.levels[0])
            return x0, back, found.latent / scale, sum(found.calls) / grid.steps

        x0, back, z, calls = self.walk(bench, steps, ancestral, work, scheduler)
        latent = mean(min(150.0, value) for value in self.inversion.metrics.psnr_each(x0, back))
        again = self.vae.decode(self.host.to_samples(self.model, back))
        spent = {"calls": calls, "cost": calls + BACKWARD * through(self.inversion, method)}
        return spent | {"latent": latent} | self.likeness(again, truth) | likelihood(z.float().cpu())

    @torch.no_grad()
    def bound(self, truth: Tensor, bench: Any) -> dict[str, float]:
        """What the VAE alone gives: no inversion can be better."""
        return self.likeness(self.vae.decode(bench.latent["samples"]), truth)

    def likeness(self, shown: Tensor, truth: Tensor) -> dict[str, float]:
        shown, truth = shown.float().cpu(), truth.float().cpu()
        found = {
            "picture": mean(edit_cases.decibels((shown - truth).square().mean((1, 2, 3))).tolist()),
            "ssim": float(edit_cases.ssim(shown, truth).mean()),
        }
        return found | ({"distance": self.distance(shown, truth)} if self.distance else {})


def through(library: Any, method: Any) -> int:
    """Backward passes per step: from the last iterate of a step none is taken."""
    newton = isinstance(method, library.GuidedNewton) and method.gradient != "sign"
    return method.iterations - 1 if newton else 0


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(list(values))
