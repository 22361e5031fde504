"""SIGMAS and schedules as a `Grid`."""

from typing import Any

import comfy.samplers
from torch import Tensor

from ...inversion import Grid, InversionError
from .latents import model_kind


def scheduled_sigmas(model: Any, steps: int, scheduler: str, denoise: float) -> Tensor:
    """The host's schedule for this model, descending; `denoise` < 1 keeps the cleaner end of a longer one."""
    if steps < 1 or not 0 < denoise <= 1:
        raise InversionError(
            f"Ask for 1 step or more and a denoise above 0 and up to 1, got steps {steps} and denoise {denoise:g}."
        )
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, int(steps / denoise))[-(steps + 1) :]


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
    return Grid.from_sigmas(values, model_kind(model), ancestral=ancestral)


def chosen_grid(
    model: Any, sigmas: Tensor | None, steps: int, scheduler: str, denoise: float, ancestral: bool = False
) -> Grid:
    """The levels that a node's inputs ask for: the SIGMAS connected, or the host's schedule."""
    if sigmas is None:
        sigmas = scheduled_sigmas(model, steps, scheduler, denoise)
    return grid_of(model, sigmas, ancestral)
