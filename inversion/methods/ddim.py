"""DDIM inversion."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..problem import ImplicitStep, StepResult


@dataclass(frozen=True)
class DDIM:
    """DDIM (Euler) inversion: F at the carried state, once.

    Cost: 1 model call per step. Error: first order in the step size.
    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12 reversed in time, in the form
    that the released inversion codes use: evaluated at the level being reached, on the latent of the level before.
    """

    tolerance: ClassVar[float] = 0.0

    def step(self, problem: ImplicitStep, memory: Any = None) -> StepResult:
        del memory
        point = problem.carried()
        slope = problem.slope(point)
        return StepResult(problem.land(slope), point, slope, calls=1)

    def notes(self, count: int) -> list[str]:
        del count
        return []
