"""SIGMAS and schedules as a `Grid`."""

import math
from typing import Any

import comfy.samplers
from torch import Tensor

from ...inversion import Grid, InversionError
from .latents import model_kind

LEFT_BY_UNI_PC = 1e-3
UNI_PC = (
    "The SIGMAS end at 0.001. The host's uni_pc writes that over a last 0 in the SIGMAS that it is given, and a graph "
    "uses the same numbers again. If a uni_pc in this graph has these SIGMAS, connect `sigmas` of the Invert node to "
    "it instead. Then unload models and execution cache once, in the host's menu."
)


def scheduled_sigmas(model: Any, steps: int, scheduler: str, denoise: float) -> Tensor:
    """The host's schedule for this model, descending; `denoise` < 1 keeps the cleaner end of a longer one."""
    if steps < 1 or not 0 < denoise <= 1:
        raise InversionError(
            f"Ask for 1 step or more and a denoise above 0 and up to 1, got steps {steps} and denoise {denoise:g}."
        )
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, int(steps / denoise))[-(steps + 1) :]
    if not sigmas.isfinite().all():
        raise InversionError(
            f"The scheduler {scheduler} gives no finite noise levels for {steps} step{'s' if steps > 1 else ''}. Take "
            "more steps, or another scheduler."
        )
    return sigmas


class _Lasting(Tensor):
    """SIGMAS that stay as they are: the host's uni_pc writes into those that it is given, which a graph uses again."""

    def to(self, *args: Any, **options: Any) -> Tensor:
        """What the host does before it passes them on to a sampler: here always a copy, and a plain one."""
        return self.as_subclass(Tensor).to(*args, **options).clone()


def lasting_sigmas(grid: Grid) -> Tensor:
    """The levels as SIGMAS for a node's output, (N + 1,)."""
    return grid.sigmas.as_subclass(_Lasting)


def grid_of(model: Any, sigmas: Tensor, ancestral: bool = False) -> Grid:
    """SIGMAS as the levels of this model.

    Raises:
        InversionError: fewer than two values, or values that do not descend or are not the model's.
    """
    values = sigmas.detach().float().cpu().flatten().tolist()
    if len(values) < 2:
        raise InversionError(
            f"SIGMAS with {len(values)} value(s) make no step; two or more are needed. "
            "Check the scheduler node: denoise 0 and Split Sigmas at the end give empty SIGMAS."
        )
    try:
        return Grid.from_sigmas(values, model_kind(model), ancestral=ancestral)
    except InversionError as error:
        if not left_by_uni_pc(values[-1]):
            raise
        raise InversionError(f"{error} {UNI_PC}") from error


def left_by_uni_pc(last: float) -> bool:
    """Whether SIGMAS that end here may have been changed by the host's uni_pc."""
    return math.isclose(last, LEFT_BY_UNI_PC, rel_tol=1e-6)


def chosen_grid(
    model: Any, sigmas: Tensor | None, steps: int, scheduler: str, denoise: float, ancestral: bool = False
) -> Grid:
    """The levels that a node's inputs ask for: the SIGMAS connected, or the host's schedule."""
    if sigmas is None:
        sigmas = scheduled_sigmas(model, steps, scheduler, denoise)
    return grid_of(model, sigmas, ancestral)
