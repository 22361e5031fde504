"""Rex: exactly reversible inversion with two states."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InversionError
from ..levels import Grid, Level
from ..problem import Denoiser, ImplicitStep, StepResult


@dataclass(frozen=True)
class Rex:
    """The McCallum-Foster wrapper around Euler's method: every step can be undone by algebra.

        y' = coupling y + (1 - coupling) z + psi(z),    z' = z - psi'(y')

    with psi the Euler increment from the lower to the upper level at z, psi' that from the upper to the lower at y'.

    Cost: 2 model calls per step, up and down. Exact to machine precision with any model, but only with both states: the
    inverted latent alone (y) is no better than other methods', and it is `back` that returns, not the ordinary sampler.
    Source: Blasingame and Liu, Rex, arXiv 2502.08834, and McCallum and Foster's reversible solvers, on which it builds.

    Arguments:
        coupling: zeta, in (0, 1]. The paper's 0.999.
    """

    coupling: float = 0.999
    tolerance: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.coupling <= 1:
            raise InversionError(f"Rex's coupling must lie above 0 and up to 1, got {self.coupling:g}.")

    def notes(self, count: int) -> list[str]:
        del count
        return ["Exact only through Rex.back, with both of its states. For other samplers this is an approximation."]

    def step(self, problem: ImplicitStep, memory: Any = None) -> StepResult:
        if problem.grid.ancestral:
            raise InversionError("Rex has no ancestral form; use a grid without ancestral noise.")
        grid, lower, upper = problem.grid, problem.lower, problem.upper
        z = problem.x if memory is None else memory
        h = grid.time(upper) - grid.time(lower)
        mixed = self.coupling * problem.x / grid.unit(lower) + (1 - self.coupling) * z / grid.unit(lower)
        y = (mixed + h * _slope(problem.denoiser, grid, z, lower, upper)) * grid.unit(upper)
        slope = _slope(problem.denoiser, grid, y, upper, upper)
        z = (z / grid.unit(lower) + h * slope) * grid.unit(upper)
        return StepResult(y, y, slope, calls=2, memory=z, partner=z)

    @torch.no_grad()
    def back(self, denoiser: Denoiser, x: Tensor, partner: Tensor, grid: Grid) -> Tensor:
        """From both states at the noisy end to the clean latent: undoes `step` by algebra."""
        y, z = x, partner
        for upper, lower in pairwise(grid.levels):
            h = grid.time(upper) - grid.time(lower)
            z = (z / grid.unit(upper) - h * _slope(denoiser, grid, y, upper, upper)) * grid.unit(lower)
            rest = y / grid.unit(upper) - h * _slope(denoiser, grid, z, lower, upper)
            y = (rest - (1 - self.coupling) * z / grid.unit(lower)) / self.coupling * grid.unit(lower)
        return y


def _slope(denoiser: Denoiser, grid: Grid, x: Tensor, level: Level, nearest: Level) -> Tensor:
    """The slope at `level`; at the clean end, where it is undefined, what the model says at the `nearest` level."""
    level = level if level.sigma > 0 else nearest
    return grid.slope(x, denoiser(x, level), level)
