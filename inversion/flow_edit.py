"""Editing without inversion: the difference of two predictions, integrated."""

from itertools import pairwise

import torch
from torch import Tensor

from .errors import InversionError
from .levels import Grid
from .problem import Callback, Denoiser


@torch.no_grad()
def flow_edit(
    source: Denoiser,
    target: Denoiser,
    x0: Tensor,
    grid: Grid,
    generator: torch.Generator,
    *,
    mask: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """FlowEdit: moves `x0` along the target's slope minus the source's, both at the same fresh noise at each step.

        z_source = alpha x0 + sigma n,  z_target = z + z_source - x0,  z' = z + (t' - t) (slope_target - slope_source)

    Cost: two model calls per step. There is nothing to invert, and no record: the same prompt twice gives x0 exactly.
    Source: Kulikov et al., FlowEdit, arXiv 2412.08629, algorithm 1 with one noise a step; stated there for flow models.
    For variance-exploding grids it is the same with their slope, which the paper does not claim.

    Arguments:
        source: the denoiser with the prompt of the picture.
        target: the denoiser with the prompt of the edit.
        x0: the clean latent (B, C, ...) in the model's state space.
        grid: of kind "ve" or "flow", from the level to start at (the paper leaves out the noisiest steps).
        generator: of the noise, on the CPU.
        mask: 1 where the result may change, 0 where it stays `x0`, exactly. Broadcasts against `x0`.

    Returns:
        The edited clean latent, (B, C, ...).
    """
    if grid.kind == "vp" or grid.ancestral:
        raise InversionError("flow_edit takes grids of kind 've' or 'flow', not ancestral ones.")
    x0 = x0 if x0.dtype == torch.float64 else x0.float()
    edit = x0
    for k, (upper, lower) in enumerate(pairwise(grid.levels)):
        noise = torch.randn(x0.shape, generator=generator, dtype=torch.float32).to(x0)
        of_source = upper.alpha * x0 + upper.sigma * noise
        of_target = edit + of_source - x0
        denoised = target(of_target, upper)
        difference = grid.slope(of_target, denoised, upper) - grid.slope(of_source, source(of_source, upper), upper)
        if mask is not None:
            difference = difference * mask.to(difference)
        edit = edit + (grid.time(lower) - grid.time(upper)) * difference
        if callback is not None:
            callback(k, grid.steps, edit, denoised)
    return edit
