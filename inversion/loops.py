"""The two loops: up to the noise, and down again."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .edit import Departure, Keep
from .errors import DivergedError, InversionError
from .levels import Grid, Level
from .metrics import relative_difference
from .problem import Callback, Denoiser, ImplicitStep, Method
from .record import Inversion, record_memory


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    x0: Tensor,
    grid: Grid,
    method: Method,
    *,
    callback: Callback | None = None,
    noise: Sequence[Tensor] | Tensor | None = None,
    store: torch.device | None = None,
) -> Inversion:
    """Find the noise from which `sample` comes back to `x0`.

    Arguments:
        denoiser: the model with its conditioning and guidance.
        x0: the clean latent (B, C, ...) in the model's state space. Half precision is computed in float32.
        grid: the sampler's levels, noisiest first; the last one is the level of `x0`.
        method: how to solve each step.
        callback: called after each step.
        noise: for ancestral grids: the fixed noise of each step, in sampling order, each of the shape of `x0`.
        store: device for the record; default that of `x0`. The CPU saves accelerator memory.

    Raises:
        InversionError: `x0` is not a finite floating-point batch.
        DivergedError: the model gave NaN or infinity; says at which step.
    """
    x = clean = _state(x0, "The latent to invert")
    trajectory, points, slopes = record_memory(x, grid.steps, store)
    trajectory[0] = x
    fixed = _noise(noise, grid, x)
    residuals, calls, memory, partner = [], [], None, None
    drift = x.new_zeros(len(x))
    for i, (lower, upper) in enumerate(grid.upward()):
        added = None if fixed is None else fixed[grid.steps - 1 - i].to(x)
        known, level = grid.without_noise(x, upper, lower, added)
        problem = ImplicitStep(denoiser, grid, known, level, upper, i, grid.steps, x, clean)
        result = method.step(problem, memory)
        memory, partner = result.memory, result.partner
        trajectory[i + 1] = result.x
        points[i], slopes[i] = result.point, result.slope
        residuals.append(relative_difference(result.x, result.point))
        drift = drift + relative_difference(result.x, problem.land(result.slope))
        calls.append(result.calls)
        x = result.x
        if not x.isfinite().all():
            raise _diverged("The inversion", i, grid, upper)
        if callback is not None:
            callback(i, grid.steps, x, grid.denoised(result.point, result.slope, upper))
    return Inversion(
        grid,
        trajectory,
        points,
        slopes,
        torch.stack(residuals).cpu().clamp(max=torch.finfo(x.dtype).max),
        tuple(calls),
        method=type(method).__name__,
        drift=drift.cpu().clamp(max=torch.finfo(x.dtype).max),
        tolerance=method.tolerance,
        notes=tuple(method.notes(grid.steps)),
        noise=None if fixed is None else fixed.to(trajectory),  # the given tensor itself, where it fits
        partner=None if partner is None else partner.to(trajectory),
    )


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    *,
    callback: Callback | None = None,
    noise: Sequence[Tensor] | Tensor | None = None,
    source: Inversion | None = None,
    keep: Keep | None = None,
) -> Tensor:
    """The deterministic Euler (DDIM) sampler that `invert` inverts.

    Arguments:
        denoiser: the model with its conditioning and guidance.
        x: the state (B, C, ...) at the grid's first level.
        grid: the levels, noisiest first.
        callback: called after each step.
        noise: for ancestral grids: the fixed noise of each step, in sampling order; with a source it is the source's.
        source: an inversion on the same grid. Its own denoiser then returns its clean latent exactly, at no extra model
            call, and another denoiser departs from it where its predictions differ (see `edit`).
        keep: how much of the source to keep, and where; default `Keep()`.

    Returns:
        The state at the grid's last level, (B, C, ...).

    Raises:
        DivergedError: the model gave NaN or infinity; says at which step.
    """
    x = _state(x, "The latent to sample from")
    if source is not None:
        if source.grid != grid:
            raise InversionError(
                f"The source was inverted on {source.grid.steps} steps of kind {source.grid.kind!r}; sampling has "
                f"{grid.steps} of kind {grid.kind!r}, or other levels. Use the inversion's own grid."
            )
        departure = Departure(denoiser, source, keep)
        e = sample_departure(departure, departure.start(x, grid.levels[0]), grid, callback)
        return departure.end(e, grid.levels[-1])
    fixed = _noise(noise, grid, x)
    for k, (upper, lower) in enumerate(pairwise(grid.levels)):
        denoised = denoiser(x, upper)
        added = None if fixed is None else fixed[k].to(x)
        x = grid.descend(x, upper, lower, grid.slope(x, denoised, upper), added)
        if not x.isfinite().all():
            raise _diverged("The sampler", k, grid, upper)
        if callback is not None:
            callback(k, grid.steps, x, denoised)
    return x


def sample_departure(departure: Departure, e: Tensor, grid: Grid, callback: Callback | None = None) -> Tensor:
    """`sample` for a departure: from `e` at the grid's first level to its end. Its noise is the source's, so none here.

    `callback` gets the edit's own states and estimates.
    """
    none = e.new_zeros(1).expand(grid.steps, *e.shape) if grid.ancestral else None
    e = departure.head_start(e, grid.levels[0])
    return sample(departure, e, grid, callback=departure.showing(callback), noise=none)


def _diverged(what: str, k: int, grid: Grid, level: Level) -> DivergedError:
    return DivergedError(
        f"{what} met values that are not finite at step {k + 1} of {grid.steps} (sigma {level.sigma:g}). Lower cfg, "
        "use more steps, or run the model in a higher precision."
    )


def _noise(noise: Sequence[Tensor] | Tensor | None, grid: Grid, x: Tensor) -> Tensor | None:
    """The fixed noise as one tensor (N, B, C, ...), or None for grids that take none."""
    if not grid.ancestral:
        if noise is not None:
            raise InversionError("This grid adds no noise; only an ancestral one takes a noise list.")
        return None
    if noise is None:
        raise InversionError(
            f"An ancestral grid needs its noise held fixed. Give `noise`: {grid.steps} tensors of shape "
            f"{tuple(x.shape)}, in sampling order. Give the same ones to invert and to sample."
        )
    shapes = [tuple(n.shape) for n in noise]
    if shapes != [tuple(x.shape)] * grid.steps:
        raise InversionError(
            f"The noise of {grid.steps} ancestral steps is {grid.steps} tensors of shape {tuple(x.shape)}, got "
            f"{len(shapes)} of {', '.join(map(str, sorted(set(shapes))))}."
        )
    return noise if isinstance(noise, Tensor) else torch.stack(list(noise))


def _state(x: Tensor, what: str) -> Tensor:
    """`x` as a state to compute with: at least float32, finite, with a batch and a channel axis."""
    if not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        raise InversionError(
            f"{what} must be a floating-point tensor (B, C, ...), got {x.dtype} of shape {tuple(x.shape)}."
        )
    if not x.isfinite().all():
        raise InversionError(f"{what} holds NaN or infinity. Check the node that made it.")
    return x if x.dtype == torch.float64 else x.float()
