"""How much a latent looks like noise."""

import math

import torch
from torch import Tensor

from .levels import Level
from .metrics import double


def noise_scale(level: Level) -> float:
    """Root mean square of an inverted latent's numbers at `level`, if picture and noise are of unit variance."""
    return math.hypot(level.alpha, level.sigma)


def likeness(x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    """How much the items of (B, C, ...) look like noise, (B,) each.

    Returns:
        "norm": root mean square over `scale`, of noise 1. "mean": over `scale`, of noise 0. "neighbours": correlation
        of each number with the next in the last axis and, of pictures, the one before; of noise 0.
    """
    x = double(x)
    centred = x - x.flatten(1).mean(1).reshape(-1, *[1] * (x.ndim - 1))
    power = centred.square().flatten(1).mean(1)
    products = [
        (centred.narrow(axis, 1, x.shape[axis] - 1) * centred.narrow(axis, 0, x.shape[axis] - 1)).flatten(1).mean(1)
        for axis in range(max(2, x.ndim - 2), x.ndim)
        if x.shape[axis] > 1
    ]
    correlation = torch.stack(products).mean(0) / power if products else torch.zeros_like(power)
    return {
        "norm": x.square().flatten(1).mean(1).sqrt() / scale,
        "mean": x.flatten(1).mean(1) / scale,
        "neighbours": correlation,
    }
