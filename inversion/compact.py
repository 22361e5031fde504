"""A record's points and slopes in less memory: as how far they are from what the states alone say of them.

A point lies near the state that its step came to, and where a step is nothing but its slope, two states tell the slope.
So points are kept as distances from the states, in half precision, and slopes as distances from the states' own, where
there are any. Half precision rounds a distance by 1/2048 at most; that is far less than it would round the point.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import fields
from .levels import Grid
from .metrics import relative_difference

if TYPE_CHECKING:
    from .record import Inversion

HALF = torch.float16
ROUNDING = 1e-6  # a step that moves a state by less than this share of it, beside its slope, is nothing but its slope


def packed(inversion: "Inversion") -> dict[str, Any]:
    """The points and slopes of an inversion as `unpacked` takes them.

    "offsets", (N, B, C, ...) in half precision, for the points. "bent", the steps that are more than their slope, and
    where there are any "bends", (that many, B, C, ...) in half precision, for the slopes.
    """
    states, grid = inversion.trajectory[1:], inversion.grid
    parts = zip(inversion.points, states, _scales(grid), strict=True)
    offsets = torch.stack([_half((point - state) / scale) for point, state, scale in parts])
    found = ((step, _bend(inversion, step, slope)) for step, slope in enumerate(inversion.slopes))
    bends = {step: _half(bend) for step, bend in found if bend is not None}
    kept: dict[str, Any] = {"offsets": offsets, "bent": list(bends)}
    return kept | {"bends": torch.stack(list(bends.values()))} if bends else kept


def unpacked(inversion: "Inversion", record: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(points, slopes) of an inversion whose states are there, from what `packed` made of them.

    Raises:
        InversionError: they are damaged.
    """
    states, steps = inversion.trajectory[1:], inversion.grid.steps
    shape = tuple(states.shape)
    offsets = fields.floats("offsets", record.get("offsets"), shape, HALF)
    bent = [fields.whole("a bent step", step, steps - 1) for step in fields.items("bent", record.get("bent"), 0, steps)]
    if len(set(bent)) < len(bent):
        raise fields.damaged("bent", bent, "each step once")
    bends = fields.floats("bends", record.get("bends"), (len(bent), *shape[1:]), HALF) if bent else ()
    by_step = dict(zip(bent, bends, strict=True))
    points, slopes = torch.empty_like(states), torch.empty_like(states)
    for step, (state, scale) in enumerate(zip(states, _scales(inversion.grid), strict=True)):
        points[step] = state + offsets[step].to(state) * scale
        rise = inversion.rise(step, state)
        if rise is None and step not in by_step:
            raise fields.damaged("bent", bent, f"with step {step}, which does not move")
        slopes[step] = 0 if rise is None else rise
        if step in by_step:
            slopes[step] += by_step[step].to(state)
    return fields.floats("offsets", points, shape), fields.floats("bends", slopes, shape)


def _bend(inversion: "Inversion", step: int, slope: Tensor) -> Tensor | None:
    """How far a slope is from the states' own; None where that is rounding."""
    grid, state, rise = inversion.grid, inversion.trajectory[step + 1], inversion.rise(step, slope)
    if rise is None:
        return slope
    lower, upper = grid.levels[-1 - step], grid.levels[-2 - step]
    moved = (slope - rise) * (grid.time(upper) - grid.time(lower)) * grid.unit(upper)
    return slope - rise if float(relative_difference(state + moved, state).max()) > ROUNDING else None


def _scales(grid: Grid) -> list[float]:
    """How large a state is at each level that a step goes up to."""
    return [level.alpha + level.sigma for level in grid.levels[-2::-1]]


def _half(x: Tensor) -> Tensor:
    """In half precision; what is too large for it is no part of an inversion."""
    largest = torch.finfo(HALF).max
    return x.clamp(-largest, largest).to(HALF)
