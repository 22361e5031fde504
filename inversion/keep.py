"""What an edit keeps of the picture that was inverted, and where."""

import torch
from torch import Tensor

from .errors import InversionError
from .result import Inversion

MEMORY = 0.7  # of the automatic mask: what a step leaves of the average over those before it
QUARTERS = 4


class Keep:
    """How `sample` comes down on an inversion. One object serves one run.

    Write x for the edit's state, s for the source's at the same level, both known. A step of the edit is

        x' = s' + M (x + descent(x) - s - descent(s)),

    the source's own next state plus what the edit has departed from it, M times. Nothing of this costs a model call:
    the source's states, and the slopes it took between them, are in its record.

    - *Anchoring* takes the edit's slope where the inversion took its own, and descends from s as the inversion's slope
      says, so that an unchanged prediction changes nothing, to the last bit (DirectEdit, arXiv 2605.02417, for steps
      of any kind; with plain inversions it is DirectInversion's exact source branch, arXiv 2310.01506).
    - The *mask* is 1 where the picture may change. It is the caller's, or found while coming down, or both.
    - The *automatic mask* is where the edit's estimate of the clean latent differs from the source's: the root mean
      square over channels of D_edit - D_source, averaged over the steps so far with the newer ones counting more, as a
      share of its largest value in the picture (DiffEdit, arXiv 2210.11427, finds its mask so beforehand, from added
      noise; LEDITS++, arXiv 2311.16711, and Uni-Edit, arXiv 2504.13109, at each step from that step alone).

    Arguments:
        source: the inversion.
        anchor: strength of the anchoring, 0 to 1. 0 is the plain sampler.
        anchor_end: share of the steps, from the noisy end, that are anchored, 0 to 1.
        background: how much of the edit's departure outside the automatic mask is undone in a quarter of the steps, 0
            to 1: 0 none, 1 all, at every step.
        threshold: share of the largest difference from which a place counts as changing, above 0 and up to 1.
        dilation: how far the automatic mask is grown, in latent pixels, >= 0.
        mask: the caller's: 1 where the result may change, 0 where the source's own states are written back after every
            step, so that it is kept exactly. Broadcasts against x.
    """

    def __init__(
        self,
        source: Inversion,
        anchor: float = 1.0,
        anchor_end: float = 1.0,
        background: float = 0.0,
        threshold: float = 0.35,
        dilation: int = 0,
        mask: Tensor | None = None,
    ) -> None:
        shares = {"anchor": anchor, "anchor_end": anchor_end, "background": background}
        wrong = [f"{name} {value:g}" for name, value in shares.items() if not 0 <= value <= 1]
        if wrong or not 0 < threshold <= 1 or dilation < 0:
            raise InversionError(
                "Keep takes anchor, anchor_end and background from 0 to 1, threshold above 0 and up to 1 and dilation "
                f">= 0, got {', '.join([*wrong, f'threshold {threshold:g}', f'dilation {dilation}'])}."
            )
        self.source, self.anchor, self.anchor_end, self.background = source, anchor, anchor_end, background
        self.threshold, self.dilation, self.mask = threshold, dilation, mask
        self.difference: Tensor | None = None

    def point(self, x: Tensor, k: int) -> Tensor:
        """Where to evaluate the model at the k-th step down, for the state `x`."""
        i, strength = self._step(k), self._anchor(k)
        if not strength:
            return x
        state, point = self.source.trajectory[i + 1].to(x), self.source.points[i].to(x)
        return torch.lerp(state, point, strength) + (x - state)

    def settle(self, x: Tensor, k: int, point: Tensor, slope: Tensor) -> Tensor:
        """The state after the k-th step down, given where the step went, and the point and the slope it went by."""
        i, strength = self._step(k), self._anchor(k)
        state = self.source.trajectory[i].to(x)
        if strength:
            landed = self.source.landed(i, x)
            x = torch.lerp(landed, state, strength) + (x - landed)
        allowed = None if self.mask is None else self.mask.to(x)
        if self.background:
            self._compare(point, slope, i)
            remaining = (1 - self.background) ** (QUARTERS / self.source.grid.steps)
            found = remaining + (1 - remaining) * self.automatic_mask().to(x)
            allowed = found if allowed is None else allowed * found
        return x if allowed is None else torch.lerp(state, x, allowed)

    def automatic_mask(self) -> Tensor:
        """The mask found so far, (B, 1, ...), from 0 to 1; all 1 before the first step."""
        if self.difference is None:
            return torch.ones_like(self.source.latent[:, :1])
        space = self.difference.ndim - 2
        window = 2 * self.dilation + 1
        smooth = _pool(self.difference, 3, "mean", space)
        largest = smooth.flatten(1).amax(1).clamp(min=torch.finfo(smooth.dtype).tiny)
        share = smooth / largest.reshape(-1, *[1] * (space + 1))
        soft = ((share - self.threshold / 2) / self.threshold).clamp(0, 1)  # half at the threshold
        return _pool(soft, window, "max", space) if self.dilation else soft

    def _compare(self, point: Tensor, slope: Tensor, i: int) -> None:
        source, level = self.source, self.source.grid.levels[-2 - i]
        # D_edit - D_source: the estimate is linear in both, and where nothing departs this is 0, not rounding.
        apart = source.grid.denoised(point - source.points[i].to(point), slope - source.slopes[i].to(slope), level)
        difference = apart.square().mean(1, keepdim=True).sqrt()
        self.difference = difference if self.difference is None else difference.lerp(self.difference, MEMORY)

    def _step(self, k: int) -> int:
        """The inversion's step that the k-th step down undoes."""
        return self.source.grid.steps - 1 - k

    def _anchor(self, k: int) -> float:
        return self.anchor if k < round(self.anchor_end * self.source.grid.steps) else 0.0


def _pool(x: Tensor, window: int, how: str, dimensions: int) -> Tensor:
    """The mean or largest value over `window` neighbours in the last two axes (of sound: the last), same shape."""
    pairs = min(dimensions, 2)
    flat = x.reshape(-1, 1, *x.shape[-pairs:])
    pool = getattr(torch.nn.functional, f"{'avg' if how == 'mean' else 'max'}_pool{pairs}d")
    options = {"count_include_pad": False} if how == "mean" else {}
    return pool(flat, window, stride=1, padding=window // 2, **options).reshape(x.shape)
