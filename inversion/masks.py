"""Where a picture may change: the mask that is found from two predictions, and pooling."""

import torch
from torch import Tensor

HIGHEST_SPLIT = 0.42  # share of the largest difference; chosen on the tuning cases of benchmarks/edits.py


class DifferenceMask:
    """Finds where two estimates of the clean latent differ, as they come in.

    The root mean square over channels and steps of their difference, as a share of its largest value in the picture.
    Estimates of clean latents differ most at the noisy end. So the first step says most of it, and the later ones
    correct it little. (DiffEdit, arXiv 2210.11427, finds its mask beforehand, from added noise. DecFlowEdit sums slopes
    over the middle half of the steps and scales between quantiles.)

    Otsu's method splits a picture's places into those that differ little and those that differ much. The mask goes from
    0 to 1 between the means of the two, so it is whole inside what changes. Where nearly all changes, the split would
    lie inside the change, so it is at most at `HIGHEST_SPLIT`.

    Arguments:
        threshold: where the mask is half, above 0 and up to 1. `HIGHEST_SPLIT` is at the split, and other values are in
            proportion. In a picture whose split is that high or higher, it is the share of the largest difference.
        dilation: how far the mask is grown, in latent pixels, >= 0.
    """

    def __init__(self, threshold: float, dilation: int) -> None:
        self.threshold, self.dilation = threshold, dilation
        self.squares: Tensor | None = None  # sum over steps, (B, 1, ...)

    def add(self, difference: Tensor) -> Tensor | None:
        """Take in a difference of two estimates, (B, C, ...); returns the mask with it."""
        square = difference.square().mean(1, keepdim=True)
        self.squares = square if self.squares is None else self.squares + square
        return self.found()

    def found(self) -> Tensor | None:
        """The mask so far, (B, 1, ...), from 0 to 1; None before the first difference."""
        if self.squares is None:
            return None
        smooth = pool(self.squares.sqrt(), 3, "mean")
        largest = smooth.flatten(1).amax(1).clamp(min=torch.finfo(smooth.dtype).tiny)
        share = smooth / largest.reshape(-1, *[1] * (smooth.ndim - 1))
        low, high = split(share)
        scale = self.threshold / ((low + high) / 2).clamp(min=HIGHEST_SPLIT)
        soft = ((share / scale - low) / (high - low).clamp(min=torch.finfo(low.dtype).tiny)).clamp(0, 1)
        return pool(soft, 2 * self.dilation + 1, "max") if self.dilation else soft


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the small and of the large values of each picture, (B, 1, ...) each, for x >= 0 (B, 1, ...).

    Small and large are those between whose means the variance is largest (Otsu 1979, "A Threshold Selection Method from
    Gray-Level Histograms"), here of the values themselves, not of a histogram. Values that are all the same are large,
    and the mean of no small value is 0.
    """
    values = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32)).sort(1).values
    count = torch.arange(values.shape[1], device=x.device, dtype=values.dtype)  # of the small values, for each split
    others = values.shape[1] - count
    large = values.flip(1).cumsum(1).flip(1) / others
    small = (values.cumsum(1) - values) / count.clamp(min=1)
    best = (count * others * (large - small).square()).argmax(1, keepdim=True)
    low, high = (mean.gather(1, best).to(x).reshape(-1, *[1] * (x.ndim - 1)) for mean in (small, large))
    return low, high


def pool(x: Tensor, window: int, how: str) -> Tensor:
    """The mean or the largest value over `window` neighbours in the last two axes (of sound: the last), same shape."""
    axes = min(x.ndim - 2, 2)
    flat = x.reshape(-1, 1, *x.shape[-axes:])
    function = getattr(torch.nn.functional, f"{'avg' if how == 'mean' else 'max'}_pool{axes}d")
    options = {"count_include_pad": False} if how == "mean" else {}
    return function(flat, window, stride=1, padding=window // 2, **options).reshape(x.shape)
