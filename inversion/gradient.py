"""Gradients through a denoiser: whether they are there, whether they are right, and what they cost."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .errors import InversionError
from .levels import Grid, Level
from .metrics import double
from .problem import Denoiser


def differentiable(denoised: Tensor) -> Tensor:
    """`denoised` itself, made by a denoiser from a point that requires a gradient.

    Raises:
        InversionError: nothing was recorded on the way.
    """
    if not denoised.requires_grad:
        raise InversionError(
            "The gradient needs a denoiser that can be differentiated, but this one gives none (it runs under no_grad "
            "or inference_mode, or is compiled or quantised). Use gradient 'sign', or FixedPoint, which need none."
        )
    return denoised


@torch.no_grad()
def gradient_error(denoiser: Denoiser, x: Tensor, level: Level, grid: Grid, step: float = 1e-2) -> float:
    """How far the gradient through the denoiser is from a central difference, relative: 0 is exact, NaN is none.

    Taken of half the squared norm of the slope, in the direction of its own gradient. Three model calls and a backward
    pass.

    Arguments:
        x: where, (B, C, ...).
        level: the level of `x`.
        grid: the grid that the level is of.
        step: length of the difference, relative to the norm of `x`.
    """

    def energy(y: Tensor) -> Tensor:
        denoised = denoiser(y, level)
        slope = grid.slope(y, differentiable(denoised) if y.requires_grad else denoised, level)
        return double(slope).square().sum() / 2

    with torch.enable_grad():
        y = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(y), y)
    norm = double(gradient).norm()
    change = step * double(x).norm() * (double(gradient) / norm)
    slope = (energy(x + change.to(x)) - energy(x - change.to(x))) / (2 * change.norm())
    return float((slope - norm).abs() / norm)


def backward_memory(denoiser: Denoiser, x: Tensor, level: Level, weights: Iterable[Tensor] = ()) -> int:
    """Bytes that one model call at `x` keeps for its backward pass, `weights` not counted. One model call."""
    seen = {weight.untyped_storage().data_ptr() for weight in weights}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept += storage.nbytes()
        return tensor.detach()  # itself it would hold its own history, and that it, for good

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        recorded = denoiser(x.detach().clone().requires_grad_(), level)
    del recorded  # it kept the tensors alive, so that no storage was counted in another's place
    return kept
