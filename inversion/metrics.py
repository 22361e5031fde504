"""How far apart two latents or pictures are."""

import math

import torch
from torch import Tensor


def double(x: Tensor) -> Tensor:
    """`x` in float64; on the CPU where its device has none (Apple's)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def relative_difference(a: Tensor, b: Tensor) -> Tensor:
    """Root-mean-square of a - b relative to that of a, per batch item: (B, ...) -> (B,). 0 where both are 0."""
    difference = (a - b).flatten(1).square().mean(1).sqrt()
    scale = a.flatten(1).square().mean(1).sqrt()
    return difference / scale.clamp(min=torch.finfo(a.dtype).tiny)


def psnr_each(reference: Tensor, other: Tensor) -> list[float]:
    """`psnr` of each item of two batches (B, ...)."""
    return [psnr(a, b) for a, b in zip(reference, other, strict=True)]


def psnr(reference: Tensor, other: Tensor, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all elements; infinite for equal tensors.

    Arguments:
        reference, other: of one shape.
        peak: the signal's range; default the range of `reference`, which suits latents. Pictures in [0, 1] take 1.
    """
    if peak is None:
        peak = float(reference.max() - reference.min())
    error = float((double(reference) - double(other)).square().mean())
    return math.inf if error == 0 else 10 * math.log10(peak * peak / error) if peak > 0 else -math.inf
