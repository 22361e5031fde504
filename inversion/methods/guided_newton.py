"""Guided Newton-Raphson inversion."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InversionError
from ..gradient import differentiable
from ..levels import Grid
from ..metrics import relative_difference
from ..problem import ImplicitStep, StepResult, per_item
from .fixed_point import predicted

STABILISER = 1e-2  # eta of the paper's Newton step; its value is given in neither paper nor code


@dataclass(frozen=True)
class GuidedNewton:
    """Newton-Raphson on a scalar residual of y = F(y), guided toward where the forward process would have put y.

        objective(y) = |y - F(y)|_1 + guidance * G(y)

    Cost: `iterations` model calls per step, and one backward pass less with "autograd" and "min-norm".
    Source: Samuel et al., Lightning-Fast Image Inversion and Editing for Text-to-Image Diffusion Models, ICLR 2025,
    arXiv 2312.12540, section 4 and algorithm 1.

    Returns F at the iterate with the smallest objective, as the authors' code does.

    Arguments:
        iterations: model calls per step, >= 1. The paper: 1 or 2.
        guidance: weight of the prior, the paper's lambda, >= 0. 0 is plain Newton-Raphson.
        gradient: how the Newton equation objective + <g, delta> = 0 is solved.
            "autograd", the paper's: g through the model, each coordinate takes a share 1/D of the objective,
                delta_i = -objective / (D (g_i + eta sign g_i)).
            "min-norm": the shortest solution, delta = -objective g / |g|^2, which has no small denominators.
            "sign", what the authors' released code does: the model is held constant, so that g is a sign and the step
                is objective / D * sign(F(y) - y). Needs no gradient of the model. Its prior is another one too: 0.5
                |(F(y) - x0) / sigma|^2 around the clean latent x0, summed over coordinates, which scales the step and
                the choice of iterate.
        dimension: D; default the number of elements of one batch item. The released code has 16384 whatever the size.
        start: the first iterate: "native", the known state carried in the model's native scale (the paper's DDIM
            form), "state", the sampler's state as it stands, noise and all (what the released Turbo code does), or
            "extrapolated", the warm start of `FixedPoint`, which neither has and which is better than both.
        tolerance: relative residual at which a step is solved; 0 spends all iterations.

    The prior G is that of q(y | x) = N(gamma x, beta I), the forward process from the known state x at level a to level
    b, with gamma = alpha_b / alpha_a: |y - gamma x| / beta for eps and v models (in the variance-preserving scale),
    |y - gamma x| for flow models.
    """

    iterations: int = 2
    guidance: float = 0.1
    gradient: Literal["sign", "autograd", "min-norm"] = "sign"
    dimension: int | None = None
    start: Literal["native", "state", "extrapolated"] = "native"
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.guidance < 0 or self.tolerance < 0:
            raise InversionError(
                "GuidedNewton takes iterations >= 1, guidance >= 0 and tolerance >= 0, got iterations "
                f"{self.iterations}, guidance {self.guidance:g}, tolerance {self.tolerance:g}."
            )
        if self.gradient not in ("sign", "autograd", "min-norm") or self.start not in (
            "native",
            "state",
            "extrapolated",
        ):
            raise InversionError(
                "GuidedNewton's gradient is 'sign', 'autograd' or 'min-norm' and its start 'native', 'state' or "
                f"'extrapolated', got {self.gradient!r} and {self.start!r}."
            )
        if self.dimension is not None and self.dimension < 1:
            raise InversionError(f"GuidedNewton's dimension must be 1 or more, got {self.dimension}.")

    def notes(self, count: int) -> list[str]:
        del count
        return [] if self.gradient == "sign" else ["Each call but the last of a step has a backward pass, too."]

    def step(self, problem: ImplicitStep, memory: Any = None) -> StepResult:
        slopes: list[Tensor] = memory or []
        point = self._start(problem, slopes)
        best: tuple[Tensor, ...] | None = None
        calls = 0
        for calls in range(1, self.iterations + 1):
            last = calls == self.iterations
            if self.gradient == "sign":
                slope, image, objective, delta = self._sign(problem, point)
            elif last:  # no step follows from here, so no gradient is needed
                slope, image, objective = self._evaluate(problem, point)
            else:
                slope, image, objective, delta = self._newton(problem, point)
            residual = relative_difference(image, point)
            found = (objective, image, point, slope, residual)
            best = found if best is None else _better(found, best)
            if last or bool((best[4] <= self.tolerance).all()):
                break
            solved = best[4] <= self.tolerance
            point = torch.where(per_item(solved, point), best[2], point + delta)
        assert best is not None
        _, image, point, slope, _ = best
        return StepResult(image, point, slope, calls, [*slopes, slope][-2:])

    def _start(self, problem: ImplicitStep, slopes: list[Tensor]) -> Tensor:
        if self.start == "state":
            return problem.state
        return predicted(problem, slopes, True) if self.start == "extrapolated" else problem.carried()

    def _sign(self, problem: ImplicitStep, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        slope = problem.slope(point)
        image = problem.land(slope)
        prior = 0.5 * ((image - problem.clean) / problem.upper.sigma).square()
        objective = ((image - point).abs() + self.guidance * prior).flatten(1).sum(1)
        delta = per_item(objective / self._dimension(point), point) * (image - point).sign()
        return slope, image, objective, delta

    def _newton(self, problem: ImplicitStep, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            y = point.detach().clone().requires_grad_()
            slope, image, objective = self._evaluate(problem, y)
            (g,) = torch.autograd.grad(objective.sum(), y)
        value = objective.detach()
        if self.gradient == "min-norm":
            norm = g.flatten(1).square().sum(1).clamp(min=torch.finfo(g.dtype).tiny)
            delta = -g * per_item(value / norm, g)
        else:
            sign = torch.where(g < 0, -1.0, 1.0)
            delta = -per_item(value / self._dimension(point), g) / (g + STABILISER * sign)
        return slope.detach(), image.detach(), value, delta

    def _evaluate(self, problem: ImplicitStep, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        denoised = problem.denoise(y)
        slope = problem.grid.slope(y, differentiable(denoised) if y.requires_grad else denoised, problem.upper)
        image = problem.land(slope)
        objective = (y - image).abs().flatten(1).sum(1)
        if self.guidance:
            objective = objective + self.guidance * forward_prior(problem, y)
        return slope, image, objective

    def _dimension(self, point: Tensor) -> int:
        return point[0].numel() if self.dimension is None else self.dimension


def forward_prior(problem: ImplicitStep, y: Tensor) -> Tensor:
    """G(y) of `GuidedNewton`, per batch item: (B, ...) -> (B,).

    Variance-exploding states are first divided by sqrt(1 + sigma^2), which makes them the paper's latents.
    """
    grid: Grid = problem.grid
    lower, upper = problem.lower, problem.upper
    if grid.kind == "flow":
        mean = problem.x * (upper.alpha / lower.alpha)
        return _norm(y - mean)
    alphas = [level.alpha / math.hypot(level.alpha, level.sigma) for level in (lower, upper)]
    gamma = alphas[1] / alphas[0]
    beta = 1 - gamma**2
    distance = y / grid.native(upper) - gamma * problem.x / grid.native(lower)
    return _norm(distance) / max(beta, torch.finfo(y.dtype).eps)


def _norm(x: Tensor) -> Tensor:
    # Added under the root: at x = 0 the gradient of a norm is undefined, and here it should be 0.
    return (x.flatten(1).square().sum(1) + torch.finfo(x.dtype).tiny).sqrt()


def _better(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of two (objective, ...) the one with the smaller objective, for each batch item."""
    smaller = a[0] < b[0]
    return tuple(torch.where(per_item(smaller, x), x, y) for x, y in zip(a, b, strict=True))
