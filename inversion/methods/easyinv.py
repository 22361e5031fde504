"""EasyInv."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..errors import InversionError
from ..levels import Grid, Level
from ..problem import ImplicitStep, Method, StepResult
from .ddim import DDIM


@dataclass(frozen=True)
class EasyInv:
    """EasyInv: in a window of steps, pull the new latent back toward the one before.

        z' <- eta * z' + (1 - eta) * z        in the model's native (VP) scale

    Cost: none on top of `base`. Outside the window, and for `eta` 1, it is `base` exactly.
    Source: Zhang et al., EasyInv: Toward Fast and Better DDIM Inversion, arXiv 2408.05159, Algorithm 1.

    Arguments:
        eta: weight of the new latent, in [0, 1]. The paper: 0.5 for SD 1.x, 0.8 for SDXL.
        start: first share of the inversion (clean end = 0) that is left alone, in [0, 1]. SD 1.x 0.05, SDXL 0.85.
        length: length of the window as a share of the inversion, in [0, 1]. SD 1.x 0.2, SDXL 0.1.
        placement: "after" blends the step's result with the state it came from: Algorithm 1 and the authors'
            example. "before" is what their SD 1.4 and SDXL scripts do instead: it blends the state the step starts from
            with the start of the step before, and then applies the slope that was taken at the unblended state.
        base: the method that makes the step.

    In flow models both latents lie on (1 - s) x0 + s n and are blended as they stand; the paper shows no flow model.
    """

    eta: float = 0.5
    start: float = 0.05
    length: float = 0.2
    placement: Literal["after", "before"] = "after"
    base: Method = field(default_factory=DDIM)

    @property
    def tolerance(self) -> float:
        return self.base.tolerance

    def __post_init__(self) -> None:
        for name in ("eta", "start", "length"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InversionError(f"EasyInv's {name} must lie between 0 and 1, got {value:g}.")
        if self.placement not in ("after", "before"):
            raise InversionError(f"EasyInv's placement is 'after' or 'before', got {self.placement!r}.")

    def window(self, count: int) -> list[int]:
        """The steps (0-based, from the clean end) that are blended in an inversion of `count` steps.

        Both bounds are strict and the first step is never blended, as in the authors' code.
        """
        return [i for i in range(1, count) if (self.start + self.length) * count > i > self.start * count]

    def notes(self, count: int) -> list[str]:
        steps = self.window(count)
        if not steps:
            return [
                f"EasyInv's window (start {self.start:g}, length {self.length:g}) touches none of the {count} steps: "
                "this is plain DDIM inversion. Use more steps or a wider window."
            ]
        span = f"step {steps[0] + 1}" if len(steps) == 1 else f"steps {steps[0] + 1} to {steps[-1] + 1}"
        return [
            f"EasyInv blended {span} of {count} (eta {self.eta:g}, {self.placement} the step).",
            *self.base.notes(count),
        ]

    def step(self, problem: ImplicitStep, memory: Any = None) -> StepResult:
        grid, origin = problem.grid, problem.x
        earlier, base_memory = (origin, None) if memory is None else memory
        result = self.base.step(problem, base_memory)
        x = result.x
        if problem.index in self.window(problem.count):
            if self.placement == "after":
                x = self._blend(grid, x, problem.upper, origin / grid.native(problem.lower))
            else:
                origin = self._blend(grid, origin, problem.lower, earlier)
                x = problem.land(result.slope, origin)
        carry = (origin / grid.native(problem.lower), result.memory)
        return StepResult(x, result.point, result.slope, result.calls, carry)

    def _blend(self, grid: Grid, x: Tensor, level: Level, earlier: Tensor) -> Tensor:
        """`x` at `level`, blended with an earlier latent given in native scale."""
        return self.eta * x + (1 - self.eta) * earlier * grid.native(level)
