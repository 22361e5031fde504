r"""Noise levels, and the one formula that moves a state between two of them.

A level is a pair (alpha, sigma): the state there is x = alpha * x0 + sigma * n, with x0 the clean latent and n
Gaussian noise. Three families occur, called the grid's *kind*:

    "ve"    alpha = 1                      Stable Diffusion and other eps, v and EDM models inside k-diffusion samplers
    "vp"    alpha^2 + sigma^2 = 1          the same models in diffusers' latents
    "flow"  alpha = 1 - sigma              rectified-flow models: SD3, Flux, Qwen-Image, Wan, ...

Divide the state by `unit` (alpha for ve and vp, 1 for flow) and call u the result, t = sigma / unit. Then in every
family the probability-flow ODE is

    du/dt = (u - D(x)) / t,        D(x) the denoiser's estimate of x0,

and DDIM (arXiv 2010.02502, eq. 12 with eta 0) is its Euler method. So one `slope` and one `move` serve all three.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .errors import InversionError

Kind = Literal["ve", "vp", "flow"]
# As a share of the gap to the next level. Samplers take logarithms of sigmas and back, and some begin a flow at .9999.
SAME_LEVEL = 0.02

ROUNDING = 1e-6  # what a flow's sigma may be above 1: schedules are computed in single precision


@dataclass(frozen=True)
class Level:
    """One noise level.

    Arguments:
        alpha: scale of the clean latent, >= 0.
        sigma: scale of the noise, >= 0.
        timestep: what a network that wants to be told the time in its own unit is told at this level.
    """

    alpha: float
    sigma: float
    timestep: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and math.isfinite(self.sigma) and self.alpha >= 0 and self.sigma >= 0):
            raise InversionError(
                f"A noise level needs finite alpha >= 0 and sigma >= 0, got alpha {self.alpha} and sigma {self.sigma}."
            )

    @classmethod
    def of(cls, sigma: float, kind: Kind, timestep: float | None = None) -> "Level":
        """The level that a sampler's sigma means on a grid of kind "ve" or "flow"."""
        if kind != "flow":
            return cls(1.0, sigma, timestep)
        if sigma > 1 + ROUNDING:
            raise InversionError(
                f"Flow models have sigmas from 0 to 1, got {sigma:g}. Are these sigmas of another model?"
            )
        sigma = min(sigma, 1.0)
        return cls(1.0 - sigma, sigma, timestep)


@dataclass(frozen=True)
class Grid:
    """The levels that a sampler visits, noisiest first, as samplers get them.

    Arguments:
        levels: two or more; the noise-to-signal ratio never rises, and only the last level may be free of noise. Two
            that are the same make a step that does not move, as in diffusers' schedules that end at timestep 0.
        kind: "ve", "vp" or "flow".
        ancestral: whether each step goes further down than its level and adds fresh noise, as `euler_ancestral` does
            (eta 1). With the noise held fixed that is invertible too. For "ve" and "flow".
    """

    levels: tuple[Level, ...]
    kind: Kind
    ancestral: bool = False

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise InversionError(
                f"A grid needs at least two different noise levels (one step), got {len(self.levels)}. Ask for 1 step "
                "or more."
            )
        if self.ancestral and self.kind == "vp":
            raise InversionError("Ancestral steps are defined for grids of kind 've' and 'flow', got 'vp'.")
        if self.kind == "vp" and any(level.alpha == 0 for level in self.levels):
            raise InversionError("A 'vp' level with alpha 0 (zero terminal SNR) has no finite step; use kind 've'.")
        if self.kind == "flow":
            Level.of(max(level.sigma for level in self.levels), "flow")
        times = [self.time(level) for level in self.levels]
        rising = [i for i in range(1, len(times)) if times[i] > times[i - 1]]
        if rising:
            i = rising[0]
            raise InversionError(
                f"Sigmas must descend, as samplers get them, but {self.levels[i - 1].sigma:g} is followed by "
                f"{self.levels[i].sigma:g}. Do not flip them: inversion walks the same sigmas upward by itself."
            )
        if times[0] == times[-1] or times[-2] == 0:
            raise InversionError(
                "Sigmas must descend to a cleaner end and only the last may be 0, got "
                f"{', '.join(f'{level.sigma:g}' for level in self.levels[-4:])} at the end."
            )

    @classmethod
    def from_sigmas(
        cls,
        sigmas: Sequence[float] | Tensor,
        kind: Kind = "ve",
        timesteps: Sequence[float] | Tensor | None = None,
        ancestral: bool = False,
    ) -> "Grid":
        """A grid from a sampler's sigmas. One that comes twice is one level: many samplers divide by their difference.

        Arguments:
            sigmas: descending, usually to 0.
            kind: "ve" (state x0 + sigma n) or "flow" (state (1 - sigma) x0 + sigma n).
            timesteps: one per sigma, or one per step (all but the last sigma), for denoisers that need them.
            ancestral: see `Grid`.
        """
        if kind not in ("ve", "flow"):
            raise InversionError(f"Sigmas alone make a grid of kind 've' or 'flow', got {kind!r}.")
        values = [float(s) for s in sigmas]
        told: list[float | None] = [None] * len(values) if timesteps is None else [float(t) for t in timesteps]
        if len(told) == len(values) - 1:
            told.append(None)
        if len(told) != len(values):
            raise InversionError(
                f"{len(values)} sigmas take {len(values)} or {len(values) - 1} timesteps, got {len(told)}."
            )
        levels = [Level.of(sigma, kind, t) for sigma, t in zip(values, told, strict=True)]
        return cls(_moving(levels), kind, ancestral)

    @classmethod
    def from_alphas_cumprod(
        cls,
        alphas_cumprod: Sequence[float] | Tensor,
        timesteps: Sequence[int] | Tensor,
        final: float | None = None,
    ) -> "Grid":
        """A variance-preserving grid, as diffusers' schedulers have it.

        Arguments:
            alphas_cumprod: the training schedule's cumulative product, indexed by timestep.
            timesteps: descending, as diffusers gives them.
            final: the cumulative product of the level below the last timestep; default `alphas_cumprod[0]`
                (diffusers' `set_alpha_to_one=False`), 1.0 for a clean end.
        """
        below = float(alphas_cumprod[0]) if final is None else float(final)
        steps = [int(t) for t in timesteps]
        products = [float(alphas_cumprod[t]) for t in steps] + [below]
        told = [*steps, None]
        levels = [Level(math.sqrt(p), math.sqrt(1 - p), t) for p, t in zip(products, told, strict=True)]
        return cls(tuple(levels), "vp")

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    @property
    def sigmas(self) -> Tensor:
        """The levels' sigmas as samplers get them: descending, float32, (N + 1,)."""
        return torch.tensor([level.sigma for level in self.levels])

    def upward(self) -> list[tuple[Level, Level]]:
        """(cleaner, noisier) for each step of an inversion, clean end first."""
        rising = self.levels[::-1]
        return list(pairwise(rising))

    def nearest(self, level: Level) -> tuple[int, bool]:
        """Which of the noisy levels, counted from the noisy end, is nearest, and whether it counts as this one.

        The first does for all above it, as where a sampler adds noise before it asks.
        """
        wanted, times = self.time(level), [self.time(known) for known in self.levels]
        k = min(range(self.steps), key=lambda k: abs(times[k] - wanted))
        gap = min(times[j] - times[j + 1] for j in (k - 1, k) if j >= 0)
        return k, wanted >= times[0] or abs(times[k] - wanted) <= SAME_LEVEL * gap

    def unit(self, level: Level) -> float:
        """What the state is divided by in the ODE's coordinates."""
        return 1.0 if self.kind == "flow" else level.alpha

    def time(self, level: Level) -> float:
        """The ODE's time: sigma in units of `unit`."""
        return level.sigma / self.unit(level)

    def native(self, level: Level) -> float:
        """The state's scale relative to what the network was trained on: the VP latent for ve, the state itself else.

        A variance-exploding state grows with sigma; two states of different levels compare only after dividing by this.
        """
        return 1.0 if self.kind == "flow" else math.hypot(level.alpha, level.sigma)

    def slope(self, point: Tensor, denoised: Tensor, level: Level) -> Tensor:
        """du/dt at `point`, given the denoiser's estimate there. `level` must be noisy."""
        return (point / self.unit(level) - denoised) / self.time(level)

    def denoised(self, point: Tensor, slope: Tensor, level: Level) -> Tensor:
        """The inverse of `slope`: the denoiser's estimate at `point`, given the slope there."""
        return point / self.unit(level) - self.time(level) * slope

    def move(self, x: Tensor, start: Level, end: Level, slope: Tensor) -> Tensor:
        """The state `x` at level `start`, moved to level `end` along `slope`: an Euler (DDIM) step, up or down."""
        u = x / self.unit(start) + (self.time(end) - self.time(start)) * slope
        return u * self.unit(end)

    def landing(self, upper: Level, lower: Level) -> tuple[Level, float, float]:
        """Where the deterministic part of a step from `upper` to `lower` lands, and how noise is then added.

        Returns:
            (level, keep, added): the sampler's state at `lower` is keep * state at `level` + added * noise. Without
            ancestral sampling the level is `lower` itself and nothing is added. With it, for "ve": Karras et al.'s
            sigma_down and sigma_up at eta 1 (sigma_down = lower^2 / upper); for "flow": their rectified-flow
            counterpart, which keeps the state on (1 - s) x0 + s n.
        """
        if not self.ancestral or lower.sigma == upper.sigma:
            return lower, 1.0, 0.0
        down = lower.sigma**2 / upper.sigma
        if self.kind == "ve":
            return Level(1.0, down, lower.timestep), 1.0, _root(lower.sigma**2 - down**2)
        keep = (1 - lower.sigma) / (1 - down)
        return Level(1 - down, down, lower.timestep), keep, _root(lower.sigma**2 - (keep * down) ** 2)

    def descend(self, x: Tensor, upper: Level, lower: Level, slope: Tensor, noise: Tensor | None) -> Tensor:
        """The sampler's whole step from `upper` to `lower` along `slope`; `noise` is what an ancestral step adds."""
        level, keep, added = self.landing(upper, lower)
        x = keep * self.move(x, upper, level, slope)
        return x if noise is None else x + added * noise

    def without_noise(self, x: Tensor, upper: Level, lower: Level, noise: Tensor | None) -> tuple[Tensor, Level]:
        """Undo the noise of `descend`: the state that the deterministic part landed on, and its level."""
        level, keep, added = self.landing(upper, lower)
        return x if noise is None else (x - added * noise) / keep, level


def _moving(levels: Sequence[Level]) -> tuple[Level, ...]:
    """Without those that the next one repeats. Of two, the latter's timestep is the one that the step below is told."""
    moving = [level for level, below in pairwise(levels) if (level.alpha, level.sigma) != (below.alpha, below.sigma)]
    return (*moving, *levels[-1:])


def _root(square: float) -> float:
    """Of what rounding may have taken below 0."""
    return math.sqrt(max(square, 0.0))
