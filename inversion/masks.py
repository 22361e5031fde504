"""Where a picture may change: the mask that is found from two predictions, and pooling."""

import torch
from torch import Tensor

MEMORY = 0.7  # what a new difference leaves of the average over those before it


class DifferenceMask:
    """Finds where two estimates of the clean latent differ, as they come in.

    The root mean square over channels of their difference, averaged with the newer ones counting more, as a share of
    its largest value in the picture. (DiffEdit, arXiv 2210.11427, finds its mask so beforehand, from added noise;
    LEDITS++, arXiv 2311.16711, and Uni-Edit, arXiv 2504.13109, at each step from that step alone.)

    Arguments:
        threshold: share of the largest difference from which a place counts as changing, above 0 and up to 1.
        dilation: how far the mask is grown, in latent pixels, >= 0.
    """

    def __init__(self, threshold: float, dilation: int) -> None:
        self.threshold, self.dilation = threshold, dilation
        self.difference: Tensor | None = None  # (B, 1, ...)

    def add(self, difference: Tensor) -> Tensor | None:
        """Take in a difference of two estimates, (B, C, ...); returns the mask with it."""
        size = difference.square().mean(1, keepdim=True).sqrt()
        self.difference = size if self.difference is None else size.lerp(self.difference, MEMORY)
        return self.found()

    def found(self) -> Tensor | None:
        """The mask so far, (B, 1, ...), from 0 to 1; None before the first difference."""
        if self.difference is None:
            return None
        smooth = pool(self.difference, 3, "mean")
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
