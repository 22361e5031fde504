"""An edit that is ready to run: what Edit From Latent and Edit Guider have in common."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..inversion import Callback, Departure, Grid, Inversion, InversionError, Keep, sample
from ..inversion.loops import sample_departure
from . import host
from .edit_settings import Settings
from .host.attention import SharedAttention, Structure
from .host.conditioning import check_alike
from .host.guider import Guider, guider_for
from .host.record import Record
from .host.sampler import play, play_plain


@dataclass(frozen=True)
class Edit:
    """An edit of an inverted picture, in Edit From Latent or in a guider. Serves any number of runs.

    Arguments:
        source: the inversion.
        keep: what to keep of it.
        structure: how much of the source's self-attention to borrow.
        strength: how far to go from the source's prompt to the edit's; every other than 1 asks the guider's source.
        between: whether to ask the guider's source where a sampler asks between the inversion's levels.
    """

    source: Inversion
    keep: Keep
    structure: Structure
    strength: float = 1.0
    between: bool = False

    @classmethod
    def prepared(
        cls,
        model: Any,
        found: Record,
        positive: Any,
        strength: float,
        settings: Settings,
        mask: Tensor | None,
        kind: Any = Guider,
    ) -> tuple["Edit", Any]:
        """The edit of a recorded picture, and a guider of class `kind` that knows the prompts it needs.

        Raises:
            InversionError: the strength compares with the source's prompt, and that is not known.
        """
        source = settings.source
        if source is None and strength != 1:
            source = found.prompt
            if source is None:
                raise InversionError(
                    f"A strength of {strength:g} compares with the original's prompt, but this inversion does not "
                    "carry it: its cfg was not 1, its prompt holds more than text, or it is an older file. Connect the "
                    "prompt as `source` in Edit Settings. Or set strength to 1; in Edit Settings, `cfg` and `negative` "
                    "then guide as in KSampler."
                )
            check_alike(source, positive)
        guider = guider_for(model, positive, settings.negative, settings.cfg, source, found.cfg, kind=kind)
        between = settings.source is not None
        return cls(found.inversion, settings.keep(mask), settings.shared_attention(), strength, between), guider

    @property
    def plain(self) -> bool:
        """Whether nothing is kept but the noise."""
        kept = self.keep.anchor or self.keep.background or self.keep.mask is not None
        return not kept and self.strength == 1

    def run(
        self,
        denoiser: host.HostDenoiser,
        x: Tensor,
        grid: Grid,
        callback: Callback,
        sampler: Any = None,
        name: str = "",
        start: Tensor | None = None,
    ) -> tuple[Tensor, "Told"]:
        """Sample on `grid` from the inverted latent `x`, or where it begins lower from the source's state there.

        A grid that ends above the record gives the state there as the host's samplers do: a flow's over 1 - sigma.

        Arguments:
            sampler: a SAMPLER of the host; None for the one that was inverted.
            name: what to call it in messages.
            start: the state to start from instead, without a head start.
        """
        structured = self.structure.steps > 0
        beside = SharedAttention(denoiser, self.source, self.structure) if structured else denoiser
        if self.plain and start is None and grid == self.source.grid and (sampler is None or not structured):
            if sampler is None:
                edited, calls = sample(beside, x, grid, callback=callback, noise=self.source.noise), grid.steps
            else:
                edited, calls = play_plain(sampler, denoiser, x, grid, callback)
            return edited, Told(calls, beside, None)
        of_source = beside.of_source if self.between or self.strength != 1 else None
        keep = self.keep if start is None else replace(self.keep, head_start=0.0)
        departure = Departure(beside, self.source, keep, of_source, self.strength, self.between)
        top, bottom = grid.levels[0], grid.levels[-1]
        # The record's own state is one that no node in between has rounded.
        e = torch.zeros_like(x) if start is None else departure.start(start.to(x), top)
        if sampler is None:
            e = sample_departure(departure, e, grid, callback)
        else:
            e = play(sampler, departure, denoiser, e, grid, callback, name)
        edited = departure.end(e, bottom)
        if bottom != self.source.grid.levels[-1]:
            edited = edited / bottom.alpha
        return edited, Told(departure.calls, beside, departure)


class Told:
    """What an edit has to say beside its result.

    Arguments:
        calls: model calls.
        remarks: sentences for the report.
        mask: where it could change the picture, (B or 1, 1, ...) from 0 to 1; None: everywhere.
    """

    def __init__(self, calls: int, beside: Any, departure: Departure | None) -> None:
        structured = beside.evaluations if isinstance(beside, SharedAttention) else 0
        of_source = 0 if departure is None else departure.source_calls
        self.calls = calls + structured + of_source
        self.mask = None if departure is None else departure.mask()
        self.remarks = []
        if structured:
            self.remarks.append(f"{structured} of the calls evaluate the source beside the edit, for its structure.")
        if of_source:
            self.remarks.append(f"{of_source} of the calls evaluate the original's prompt.")
        if departure is not None and departure.moved and not departure.between:
            self.remarks.append(
                f"The sampler asked {departure.moved} times between the inversion's levels and got the answer of the "
                "nearest level. Connect `source` in Edit Settings to ask the model there, at one more call each time."
            )


def sampling_grid(model: Any, source: Inversion, sigmas: Tensor | None, remarks: list[str]) -> Grid:
    """The levels to sample on: those of the SIGMAS connected, else the record's own.

    Raises:
        InversionError: they begin above the record's.
    """
    if sigmas is None:
        return source.grid
    grid = host.grid_of(model, sigmas, source.grid.ancestral)
    if len(grid.levels) == len(source.grid.levels) and torch.allclose(grid.sigmas, source.grid.sigmas, atol=1e-6):
        return source.grid
    top, asked = source.grid.levels[0].sigma, grid.levels[0].sigma
    if asked > top * (1 + 1e-5):
        raise InversionError(
            f"These SIGMAS begin at {asked:g}, but the picture was inverted up to {top:g} only. Invert further up "
            "(denoise 1), or connect SIGMAS that begin no higher."
        )
    remarks.append("Sampled on the connected SIGMAS, not on the inversion's own levels.")
    return grid
