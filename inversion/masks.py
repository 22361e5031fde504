"""Where a picture may change: the mask that is found from two predictions, and pooling."""

import torch
from torch import Tensor


class DifferenceMask:
    """Finds where two estimates of the clean latent differ, as they come in.

    The root mean square over channels and steps of their difference, as a share of its largest value in the picture.
    Estimates of clean latents differ most at the noisy end. So the first step says most of it, and the later ones
    correct it little. (DiffEdit, arXiv 2210.11427, finds its mask beforehand, from added noise. DecFlowEdit sums slopes
    over the middle half of the steps and scales between quantiles.)

    Arguments:
        threshold: share of the largest difference from which a place counts as changing, above 0 and up to 1.
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
        soft = ((share - self.threshold / 2) / self.threshold).clamp(0, 1)  # half at the threshold
        return pool(soft, 2 * self.dilation + 1, "max") if self.dilation else soft


def pool(x: Tensor, window: int, how: str) -> Tensor:
    """The mean or the largest value over `window` neighbours in the last two axes (of sound: the last), same shape."""
    axes = min(x.ndim - 2, 2)
    flat = x.reshape(-1, 1, *x.shape[-axes:])
    function = getattr(torch.nn.functional, f"{'avg' if how == 'mean' else 'max'}_pool{axes}d")
    options = {"count_include_pad": False} if how == "mean" else {}
    return function(flat, window, stride=1, padding=window // 2, **options).reshape(x.shape)
