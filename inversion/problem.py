"""One inversion step as an equation, and what a method makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .errors import InversionError
from .levels import Grid, Level


class Denoiser(Protocol):
    """A model with its conditioning: the estimate of the clean latent."""

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """E[x0 | x] for a state x (B, C, ...) at `level`; same shape and dtype out."""
        ...


Callback = Callable[[int, int, Tensor, Tensor], None]
"""Called after each step with (index of the step just done, number of steps, state, denoised estimate)."""


@dataclass(frozen=True)
class ImplicitStep:
    """The step from a known state `x` at level `lower` to the unknown state y at the noisier level `upper`.

    The sampler coming down evaluates the model at `upper`, so its exact inverse is the root of

        y = F(y),    F(p) = move(x, lower -> upper, slope at p),

    and the model is never evaluated at sigma 0. Methods differ in how they approach that root.
    """

    denoiser: Denoiser
    grid: Grid
    x: Tensor
    lower: Level
    upper: Level
    index: int  # counted from the clean end, 0-based
    count: int
    state: Tensor  # the sampler's state at `lower`: x itself, or on ancestral grids x with the step's noise
    clean: Tensor  # the latent that is being inverted

    def denoise(self, point: Tensor) -> Tensor:
        """The denoiser's estimate at `point` on the upper level. One model call."""
        denoised = self.denoiser(point, self.upper)
        if denoised.shape != point.shape:
            raise InversionError(
                f"The denoiser must return its input's shape {tuple(point.shape)}, got {tuple(denoised.shape)}."
            )
        return denoised

    def slope(self, point: Tensor) -> Tensor:
        """The ODE's slope at `point` on the upper level. One model call."""
        return self.grid.slope(point, self.denoise(point), self.upper)

    def land(self, slope: Tensor, origin: Tensor | None = None) -> Tensor:
        """F(p), given the slope at p; from `origin` instead of `x` where a method moved the known state."""
        return self.grid.move(self.x if origin is None else origin, self.lower, self.upper, slope)

    def carried(self) -> Tensor:
        """`x` taken to the upper level unchanged in the model's native scale: the natural first guess of y."""
        return self.x * (self.grid.native(self.upper) / self.grid.native(self.lower))


@dataclass(frozen=True)
class StepResult:
    """What a method returns for one step.

    Arguments:
        x: the accepted state on the upper level, (B, C, ...).
        point: where the slope was taken, so that the way back can take it at the same place.
        slope: the slope taken there.
        calls: model calls spent.
        memory: anything the method wants back at its next step.
        partner: the second state, of two-state methods.
    """

    x: Tensor
    point: Tensor
    slope: Tensor
    calls: int
    memory: Any = None
    partner: Tensor | None = None


class Method(Protocol):
    """An inversion method: how to approach the root of an `ImplicitStep`. Frozen; its state travels in `memory`."""

    @property
    def tolerance(self) -> float:
        """The relative residual at which a step counts as solved; 0 where the method aims at none."""
        ...

    def step(self, problem: ImplicitStep, memory: Any) -> StepResult:
        """Solve one step. `memory` is what the previous step returned, None at the first."""
        ...

    def notes(self, count: int) -> list[str]:
        """Sentences for the report on an inversion of `count` steps: what this method did that a user should know."""
        ...


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """One value for each batch item, (B,), shaped to broadcast against `like`, (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
