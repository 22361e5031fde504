r"""An edit is the sampling of a departure.

Write x for the source's state, known from its record at every level, and x + e for the edit's. Samplers are affine: the
states that they visit depend linearly on where they start and on the estimates of the clean latent that they are given.
So the sampler need not run on the picture. It runs on the *departure* e, from 0, and is given as estimates

    d = M * [(D_S(p + e) - D_p) + w (D_T(p + e) - D_S(p + e))],                                                 (1)

with p the point where the inversion evaluated the model at that level, and D_p what it found there, which is in the
record. D_S and D_T are the model with the source's prompt and with the edit's, w is the strength and M a mask. At w = 1
D_S drops out, and a step is one model call. At w = 0 the source comes back. The result is the source's clean latent
plus the departure's.

Two things make a large w useful:

- *The limit.* Where the model answers clearly, a large w goes far beyond any picture. So the edit's clean latent
  x0 + d is pulled back, place by place, to the length of the picture's own large values (`Keep.limit`). Imagen's
  dynamic thresholding (arXiv 2205.11487, section 2.3) does this to pixels; here it is the vector of a place's channels,
  which keeps its direction.
- *The head start.* The noise of an inversion leans to its own picture, and the model reads that more than the prompt.
  So e does not start at 0 but at kappa sigma d, with d the first answer: the noise leans to the edit a little
  (`Keep.head_start`). The sampler's first question gets that answer again, so it costs no model call.

What holds with all of it:

- Under the source's own prompt d is 0 to the last bit, so e stays 0 and the source comes back exactly, with every
  affine sampler and without a further model call. In half precision too: the network sees the very states of the
  inversion.
- Noise that a sampler adds by itself is the source's, so it is left out of the departure.
- With Euler's method (1) is DirectEdit's update (arXiv 2605.02417) and, for plain inversions, DirectInversion's exact
  source branch (arXiv 2310.01506).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import DivergedError, InversionError
from .levels import Level
from .masks import HIGHEST_SPLIT, DifferenceMask
from .problem import Callback, Denoiser
from .record import Inversion

LARGE = 0.75  # the share of a latent's places that are shorter than what counts as a large value


@dataclass(frozen=True, eq=False)
class Keep:
    """How an edit stays with the picture that was inverted, and where.

    Arguments:
        anchor: where the edit is compared with the source, from 0 to 1. 1: at the point where the inversion took its
            slope, so that an unchanged prompt changes nothing. 0: at the source's state, which makes the edit the plain
            sampler.
        anchor_end: share of the steps, from the noisy end, that are anchored, 0 to 1.
        background: how much of the departure outside the automatic mask (`DifferenceMask`) is left out, 0 to 1.
        threshold, dilation: of the automatic mask.
        mask: the caller's: 1 where the result may change, 0 where it stays the source's, exactly. Broadcasts against
            the latent.
        limit: how large a strength above 1 may make the edit's clean latent at a place, as a multiple of the largest of
            three lengths: the source's there, the model's estimate there, and the source's at `LARGE` of its places.
            >= 0; 0 sets no limit. What the source itself has is never cut.
        head_start: how far the noise leans to the edit at the start, as a share of the first answer, >= 0. `anchor`
            scales it.
    """

    anchor: float = 1.0
    anchor_end: float = 1.0
    background: float = 0.0
    threshold: float = HIGHEST_SPLIT
    dilation: int = 0
    mask: Tensor | None = None
    limit: float = 0.0
    head_start: float = 0.0

    def __post_init__(self) -> None:
        shares = {"anchor": self.anchor, "anchor_end": self.anchor_end, "background": self.background}
        wrong = [f"{name} {value:g}" for name, value in shares.items() if not 0 <= value <= 1]
        positive = {"dilation": self.dilation, "limit": self.limit, "head_start": self.head_start}
        wrong += [f"{name} {value:g}" for name, value in positive.items() if not 0 <= value < math.inf]
        wrong += [] if 0 < self.threshold <= 1 else [f"threshold {self.threshold:g}"]
        if wrong:
            raise InversionError(
                "Keep takes anchor, anchor_end and background from 0 to 1, threshold above 0 and up to 1, and "
                f"dilation, limit and head_start of 0 or more, got {', '.join(wrong)}."
            )


class Departure:
    """What an edit departs from its source, as a `Denoiser` of states e. One object serves one run.

    Arguments:
        denoiser: the model with the edit's prompt.
        source: the inversion.
        keep: what to keep of it.
        of_source: the model with the source's prompt. Every strength but 1 needs it, and then a step is two calls.
        strength: how far to go from the source's prompt to the edit's, >= 0; 1 is the edit's prompt as it is.
        between: whether to ask `of_source` about the source, too, where a sampler asks between the record's levels.
            There the source's state is interpolated, and its estimate is a model call more. Otherwise such a question
            is answered at the record's nearest level: exact under the source's own prompt too, less exact under
            another.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        source: Inversion,
        keep: Keep | None = None,
        of_source: Denoiser | None = None,
        strength: float = 1.0,
        between: bool = False,
    ) -> None:
        if of_source is None and (strength != 1 or between):
            raise InversionError(f"A strength of {strength:g} needs the source's prompt; without it only 1 does.")
        self.denoiser, self.source, self.of_source = denoiser, source, of_source
        self.strength, self.between = strength, between
        self.keep = keep or Keep()
        self.automatic = DifferenceMask(self.keep.threshold, self.keep.dilation)
        self.calls = self.source_calls = 0
        self.moved = 0  # questions between levels that were answered at the nearest
        self._masked_last: Tensor | None = None
        self._first: Tensor | None = None

    def start(self, x: Tensor, level: Level) -> Tensor:
        """The departure of the state `x` (B, C, ...) at `level`: 0 for the inverted latent at the noisy end."""
        expected = self.source.latent
        if x.shape != expected.shape:
            raise InversionError(
                f"The source was inverted at shape {tuple(expected.shape)}; the state to sample from has "
                f"{tuple(x.shape)}. Start at the inversion's own latent."
            )
        e = x - self.source.state(level, x)
        return e if self.keep.mask is None else e * self.keep.mask.to(e)

    def head_start(self, e: Tensor, level: Level) -> Tensor:
        """The departure to start from, in the place of `e` at `level`, where the sampler starts.

        A model call, whose answer the sampler's first question then gets without another. Without an anchor the first
        answer is not 0 under the source's own prompt, so it gives no head start.
        """
        share = self.keep.head_start * (self.keep.anchor if self.keep.anchor_end else 0.0)
        if not share:
            return e
        self._first = self(e, level)
        return e + share * level.sigma * self._first

    def end(self, e: Tensor, level: Level) -> Tensor:
        """The edit's state at `level`, given the departure there."""
        return self.source.state(level, e) + e

    def __call__(self, x: Tensor, level: Level, ahead: bool = False) -> Tensor:
        """The estimate d of the departure's clean latent, equation (1). A model call; between levels perhaps two.

        Arguments:
            x: the departure e, (B, C, ...).
            ahead: whether the sampler only looks ahead from its last question. What the mask leaves out is then left
                out of `e` already. To leave it out again would be a step of its own, which a sampler that divides by
                a small sigma makes far too large; so outside the mask the last answer stands.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        e, grid = x, self.source.grid
        k, on_it = grid.nearest(level)
        self.moved += not on_it
        self.calls += 1
        if not on_it and self.between:
            point, slope = self._source_between(e, level)
        else:
            level = grid.levels[k]
            point, slope = self._source_at(e, k)
        under_source: Tensor | None = None
        if self.strength != 1:
            assert self.of_source is not None
            under_source = grid.slope(point + e, self.of_source(point + e, level), level) - slope
            under_source = grid.denoised(e, under_source, level)
            self.source_calls += 1
        denoised = self.denoiser(point + e, level)
        if not denoised.isfinite().all():
            raise DivergedError(
                f"The model gave values that are not finite at step {k + 1} of {grid.steps} of the edit (sigma "
                f"{level.sigma:g}). Lower cfg or strength, or run the model in a higher precision."
            )
        self.shown = (point + e, denoised)
        # Of the slopes, because their difference is 0 to the last bit where the predictions are the same.
        d = grid.denoised(e, grid.slope(point + e, denoised, level) - slope, level)
        asked = d  # what the change of prompts asks for
        if under_source is not None:
            asked = d - under_source
            d = under_source + self.strength * asked
            if self.strength > 1 and self.keep.limit:
                d = self._limited(d, denoised)
            # Where the prompts agree and the model is another one, such as with a LoRA, the model asks for the change.
            agree = asked.flatten(1).eq(0).all(1).reshape(-1, *[1] * (asked.ndim - 1))
            asked = torch.where(agree, d, asked)
        found = self.automatic.add(asked) if self.keep.background else None
        if found is not None:
            found = 1 - self.keep.background * (1 - found)
        mask = self._masked(found)
        if mask is None:
            return d
        if ahead and self._masked_last is not None:
            return torch.lerp(self._masked_last, d, mask.to(d))
        self._masked_last = d * mask.to(d)
        return self._masked_last

    def _limited(self, d: Tensor, denoised: Tensor) -> Tensor:
        """`d` such that the edit's clean latent is no longer than it may be, at each place."""
        clean, own, large = (value.to(d) for value in self._lengths)
        edit = clean + d
        allowed = torch.maximum(own, self.keep.limit * torch.maximum(_length(denoised), torch.maximum(own, large)))
        length = _length(edit)
        excess = (1 - allowed / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(min=0)
        return d - excess * edit

    @cached_property
    def _lengths(self) -> tuple[Tensor, Tensor, Tensor]:
        """The source's clean latent, its length at each place, and its large length, (B, 1, ...)."""
        last = self.source.grid.levels[-1]
        clean = self.source.trajectory[0] / (last.alpha or 1.0)
        own = _length(clean)
        places = own.flatten(1)
        large = places.kthvalue(math.ceil(LARGE * places.shape[1]), dim=1).values
        return clean, own, large.reshape(-1, *[1] * (own.ndim - 1))

    def mask(self) -> Tensor | None:
        """Where the edit departs, from 0 to 1, (B or 1, 1, ...): both masks together. None: everywhere."""
        return self._masked(self.automatic.found() if self.keep.background else None)

    def _masked(self, found: Tensor | None) -> Tensor | None:
        """The caller's mask and another together."""
        mask = self.keep.mask
        return mask if found is None else found if mask is None else found * mask.to(found)

    def showing(self, callback: Callback | None) -> Callback | None:
        """`callback` for a run on the departure: it gets the edit's own states and estimates."""
        if callback is None:
            return None
        return lambda step, total, _e, _d: callback(step, total, *self.shown)

    def _source_at(self, e: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Where to compare with the source at its k-th level from the noisy end, and its slope there."""
        source, i = self.source, self.source.grid.steps - 1 - k
        point, slope = source.points[i].to(e), source.slopes[i].to(e)
        anchor = self.keep.anchor if k < round(self.keep.anchor_end * source.grid.steps) else 0.0
        if anchor == 1:
            return point, slope
        return torch.lerp(source.trajectory[i + 1].to(e), point, anchor), torch.lerp(source.secant(i, e), slope, anchor)

    def _source_between(self, e: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Between two levels: on the straight line between where the source is compared at either, and its slope there.

        Below the last noisy level the line leads to the clean latent.
        """
        assert self.of_source is not None
        grid = self.source.grid
        times, wanted = [grid.time(known) for known in grid.levels], grid.time(level)
        k = next((k for k in range(1, grid.steps) if times[k] <= wanted), grid.steps)
        upper = self._source_at(e, k - 1)[0]
        lower = self._source_at(e, k)[0] if k < grid.steps else self.source.trajectory[0].to(e)
        share = min(1.0, max(0.0, (wanted - times[k]) / ((times[k - 1] - times[k]) or 1.0)))
        point = torch.lerp(lower / grid.unit(grid.levels[k]), upper / grid.unit(grid.levels[k - 1]), share)
        point = point * grid.unit(level)
        self.source_calls += 1
        return point, grid.slope(point, self.of_source(point, level), level)


def _length(x: Tensor) -> Tensor:
    """The root mean square over the channels, (B, 1, ...)."""
    return x.square().mean(1, keepdim=True).sqrt()
