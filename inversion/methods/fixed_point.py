"""Fixed-point inversion: iterate F toward the exact inverse."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InversionError
from ..metrics import double, relative_difference
from ..problem import ImplicitStep, StepResult, per_item


@dataclass(frozen=True)
class FixedPoint:
    """Iterate y <- F(y) until the residual is small enough or the calls are spent; keep the best iterate.

    Cost: 1 to `iterations` model calls per step. With one iteration and no warm start it is DDIM inversion.
    Sources: the iteration is that of FPI and AIDI (arXiv 2312.12540 v1, 2309.04907). The warm start from the last slope
    is Uni-Inv's (arXiv 2504.13109), whose extra first call is left out; the extrapolated one continues the last two
    slopes linearly from step to step (in the ODE's time it overshoots where steps grow fast). Anderson acceleration as
    in AIDI, with Tikhonov regularisation.

    Every batch item runs by itself: it stops changing once its residual meets the tolerance, an iterate whose residual
    is worse than the item's best is not accepted, and the next try is then a shorter step from the best. So an
    iteration that would diverge ends with its best iterate, finite.

    Arguments:
        iterations: most model calls per step, >= 1.
        tolerance: relative residual at which a step is solved; 0 spends all iterations.
        warm_start: start from the slope extrapolated from the steps before (True), from the last slope ("last"), or
            from the carried state (False).
        anderson: memory of Anderson acceleration; 0 is plain iteration, 3 is a good value.
    """

    iterations: int = 2
    tolerance: float = 0.0
    warm_start: bool | Literal["last"] = True
    anderson: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.anderson < 0 or self.tolerance < 0:
            raise InversionError(
                "FixedPoint takes iterations >= 1, tolerance >= 0 and anderson >= 0, got iterations "
                f"{self.iterations}, tolerance {self.tolerance:g}, anderson {self.anderson}."
            )
        if self.warm_start not in (True, False, "last"):
            raise InversionError(f"FixedPoint's warm_start is True, False or 'last', got {self.warm_start!r}.")

    def notes(self, count: int) -> list[str]:
        del count
        return []

    def step(self, problem: ImplicitStep, memory: Any = None) -> StepResult:
        slopes: list[Tensor] = memory or []
        point = problem.carried() if self.warm_start is False else predicted(problem, slopes, self.warm_start)
        best = _Iterates(point)
        history: list[tuple[Tensor, Tensor, Tensor]] = []  # F(p), F(p) - p and which items accepted p
        damping = torch.ones(len(point), dtype=point.dtype, device=point.device)
        calls = 0
        for calls in range(1, self.iterations + 1):
            slope = problem.slope(point)
            image = problem.land(slope)
            improved = best.update(point, slope, image)
            if calls == self.iterations or bool((best.residual <= self.tolerance).all()):
                break
            damping = torch.where(improved, 1.0, damping / 2)
            history = [*history, (image, image - point, improved)][-self.anderson - 1 :]
            accelerated = _anderson(history) if self.anderson else image
            damped = torch.lerp(best.point, best.image, per_item(damping, point))
            usable = improved & accelerated.flatten(1).isfinite().all(1)
            point = torch.where(per_item(usable, point), accelerated, damped)
            solved = best.residual <= self.tolerance
            point = torch.where(per_item(solved, point), best.point, point)
        memory = [*slopes, best.slope][-2:]
        return StepResult(best.image, best.point, best.slope, calls, memory)


def predicted(problem: ImplicitStep, slopes: list[Tensor], how: Literal[True, "last"]) -> Tensor:
    """The warm start from the slopes of the steps before: the last one, or (True) the line through the last two."""
    if not slopes:
        return problem.carried()
    if how == "last" or len(slopes) == 1:
        return problem.land(slopes[-1])
    return problem.land(2 * slopes[-1] - slopes[-2])


class _Iterates:
    """The best iterate of each batch item so far."""

    def __init__(self, point: Tensor) -> None:
        self.point = point
        self.image = self.slope = torch.full_like(point, torch.nan)
        self.residual = torch.full((len(point),), torch.inf, dtype=point.dtype, device=point.device)

    def update(self, point: Tensor, slope: Tensor, image: Tensor) -> Tensor:
        """Take over the items whose residual became smaller; returns which."""
        residual = relative_difference(image, point)
        improved = residual < self.residual
        first = self.residual.isinf() & ~improved  # not even a first residual: keep it, so that the failure is seen
        taken = per_item(improved | first, point)
        self.point = torch.where(taken, point, self.point)
        self.slope = torch.where(taken, slope, self.slope)
        self.image = torch.where(taken, image, self.image)
        self.residual = torch.where(improved, residual, self.residual)
        return improved


def _anderson(history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The next point: F at the last point, minus the combination of differences that best cancels the residual.

    Minimises |r_k - sum_q theta_q (r_k - r_{k-q})|^2 + 1e-8 sum_q s_q theta_q^2 for each batch item, s the diagonal of
    its normal equations; then y = F(y_k) - sum_q theta_q (F(y_k) - F(y_{k-q})). Points that an item did not accept take
    no part. The equations are small and set up in float64: in single precision their rounding is ten times the 1e-8.
    """
    image, residual, _ = history[-1]
    if len(history) == 1:
        return image
    shape = image.shape
    residual = double(residual.flatten(1))
    changes = torch.stack(
        [(residual - double(r.flatten(1))) * ok[:, None].to(residual) for _, r, ok in history[:-1]], 1
    )
    images = torch.stack([(image - g).flatten(1) for g, _, _ in history[:-1]], 1)
    normal = changes @ changes.mT  # (B, m, m)
    ridge = 1e-8 * normal.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(image.dtype).tiny)
    weights = torch.linalg.solve_ex(normal + torch.diag_embed(ridge), changes @ residual[..., None])[0]
    return image - (weights.to(images) * images).sum(1).reshape(shape)
