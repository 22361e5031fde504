"""Edit From Latent: an inverted latent to a picture, under a new prompt."""

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Departure, Grid, Inversion, InversionError, Keep, sample
from ..inversion.loops import sample_departure
from ..inversion.verdict import UNSTEADY
from . import host
from .host import record
from .host.attention import SharedAttention, Structure
from .host.masks import mask_for, picture_mask
from .host.sampler import AS_INVERTED, play, play_plain, sampler_names, sampler_object
from .schema import CATEGORY, advanced, cfg_input, report_text, schema, within_bounds

Control = Literal["preserve", "advanced"]


def preserving(preserve: float, mask: Tensor | None) -> Keep:
    """The dial: 0 keeps nothing but the noise, 1 all that the new prompt does not change."""
    return Keep(anchor=min(1.0, 2 * preserve), background=preserve, mask=mask)


@dataclass(frozen=True)
class Edit:
    """An edit of an inverted picture, in Edit From Latent or in a guider. Serves any number of runs.

    Arguments:
        source: the inversion.
        keep: what to keep of it.
        structure: how much of the source's self-attention to borrow.
        has_source: whether the guider knows the source's prompt.
    """

    source: Inversion
    keep: Keep
    structure: Structure
    has_source: bool

    @property
    def plain(self) -> bool:
        """Whether nothing is kept but the noise."""
        return not (self.keep.anchor or self.keep.background or self.keep.mask is not None)

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
            start: the state to start from instead.
        """
        structured = self.structure.steps > 0
        beside = SharedAttention(denoiser, self.source, self.structure) if structured else denoiser
        if self.plain and start is None and grid == self.source.grid and (sampler is None or not structured):
            if sampler is None:
                edited, calls = sample(beside, x, grid, callback=callback, noise=self.source.noise), grid.steps
            else:
                edited, calls = play_plain(sampler, denoiser, x, grid, callback)
            return edited, Told(calls, beside, None)
        departure = Departure(beside, self.source, self.keep, denoiser.of_source if self.has_source else None)
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
        between = 0 if departure is None else departure.source_calls
        self.calls = calls + structured + between
        self.mask = None if departure is None else departure.mask()
        self.remarks = []
        if structured:
            self.remarks.append(f"{structured} of the calls evaluate the source beside the edit, for its structure.")
        if between:
            self.remarks.append(
                f"{between} of the calls evaluate the source, where the sampler asked between the inversion's levels."
            )
        elif departure is not None and departure.moved:
            self.remarks.append(
                f"The sampler asked {departure.moved} times between the inversion's levels and got the answer of the "
                "nearest level. Connect `source` to have the model asked there, at one more call each time."
            )


class EditFromLatent(io.ComfyNode):
    """Comes down on the inversion's own sigmas and steps, guided by its record."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_EditFromLatent",
            display_name="Edit From Latent",
            category=CATEGORY,
            description="Regenerates an inverted picture under a new prompt. Steps, scheduler and sigmas come with the "
            "latent; the same prompt at the inversion's cfg gives the picture back exactly. Keeps what the new prompt "
            "does not change, as far as preserve says, and everything outside a mask.",
            search_aliases=["edit image", "resample", "reconstruct", "inversion edit", "prompt edit"],
            essentials_category="Image Tools",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that inverted, or one of its family: another checkpoint, a LoRA."
                ),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                cfg_input(1.0, "Guidance of the edit. Higher follows the new prompt more and the picture less."),
                preserve_input(),
                *_separate_settings(),
                io.Combo.Input(
                    "sampler",
                    options=[AS_INVERTED, *sampler_names()],
                    default=AS_INVERTED,
                    optional=True,  # graphs that were saved for a server before it was there run on
                    tooltip="The sampler of the edit. as inverted: Euler, or the one that the Invert node names. With "
                    "every other one, too, the same prompt gives the picture back exactly.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed when cfg is not 1."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="The noise levels to sample on, in place of the inversion's own. Starting lower changes "
                    "less. A latent without an inversion record needs them: the Invert node's sigmas output.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the picture may change; the rest is kept exactly. The latent's own mask (Set "
                    "Latent Noise Mask) does the same.",
                ),
                io.Conditioning.Input(
                    "source",
                    optional=True,
                    tooltip="The prompt that the picture was inverted with. Only samplers that ask between the "
                    "inversion's levels (dpm_2, dpmpp_sde, seeds_2) read it, at one more model call each time.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="The edited latent, for VAE Decode."),
                io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
                io.Mask.Output(
                    "mask_out",
                    display_name="mask",
                    tooltip="Where the picture was let change: your mask and the automatic one together.",
                ),
            ],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        cfg: float,
        preserve: float,
        control: Control,
        anchor: float,
        anchor_end: float,
        background: float,
        threshold: float,
        dilation: int,
        structure: float,
        structure_layers: float,
        feather: int,
        sampler: str = AS_INVERTED,
        negative: Any = None,
        sigmas: Tensor | None = None,
        mask: Tensor | None = None,
        source: Any = None,
    ) -> io.NodeOutput:
        samples = host.samples_for(model, latent)
        found, remarks = record.read(model, latent, samples)
        chosen = None if sampler == AS_INVERTED else sampler_object(sampler)
        guider = host.guider_for(model, positive, negative, cfg, source)
        started = time.perf_counter()
        if found is None:
            grid = plain_grid(model, latent, mask, sigmas, " ".join(remarks))
            edit, allowed = None, None
        else:
            grid = sampling_grid(model, found.inversion, sigmas, remarks)
            allowed = mask_for(latent, samples, mask, feather)
            if control == "advanced":
                keep = Keep(anchor, anchor_end, background, threshold, dilation, allowed)
                edit = Edit(found.inversion, keep, Structure(structure, structure_layers), source is not None)
            else:
                edit = Edit(found.inversion, preserving(preserve, allowed), Structure(), source is not None)

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Tensor, Told]:
            if edit is not None:
                return edit.run(denoiser, x, grid, callback, chosen, sampler)
            if chosen is None:
                return sample(denoiser, x, grid, callback=callback), Told(grid.steps, None, None)
            edited, calls = play_plain(chosen, denoiser, x, grid, callback)
            return edited, Told(calls, None, None)

        edited, told = host.run(guider, samples, grid, walk, grid.steps)
        seconds = time.perf_counter() - started
        everywhere = torch.ones_like(samples[:, :1])
        changed = everywhere if told.mask is None else told.mask.to(everywhere) * everywhere
        lines = [f"{grid.steps} steps at cfg {cfg:g}, {told.calls} model calls, {seconds:.1f} seconds."]
        if edit is not None:
            by = "" if chosen is None else f" with {sampler}"
            lines.append(f"Came down{by} on the record of {edit.source.method}, {edit.source.grid.steps} steps.")
            lines.append(
                f"Preserve {preserve:g}."
                if control == "preserve"
                else f"Anchor {anchor:g} to {anchor_end:.0%} of the steps, background {background:g}, structure "
                f"{structure:g}."
            )
            lines += told.remarks + mask_remarks(model, allowed)
            lines += [note for note in edit.source.notes if note.startswith(UNSTEADY)]
            if edit.keep.background:
                lines.append(f"The automatic mask lets {float(changed.mean()):.0%} of the picture change.")
        out = {key: value for key, value in latent.items() if key != record.KEY} | {"samples": edited}
        return io.NodeOutput(out, report_text(lines + remarks), picture_mask(model, changed))


def mask_remarks(model: Any, allowed: Tensor | None) -> list[str]:
    if allowed is None:
        return []
    lines = [f"The mask lets {float(allowed.mean()):.0%} of the picture change; the rest is the source's own."]
    if "denoise_mask_function" in model.model_options:
        lines.append("Differential Diffusion was not used: grey in the mask blends source and edit instead.")
    return lines


def plain_grid(model: Any, latent: dict, mask: Tensor | None, sigmas: Tensor | None, why: str) -> Grid:
    """The levels for a latent without a record.

    Raises:
        InversionError: what only a record makes possible is asked for.
    """
    if mask is not None or latent.get("noise_mask") is not None:
        raise InversionError(
            f"{why} A mask keeps the picture outside it as the record has it, so it needs a record. Connect the latent "
            "straight from the Invert node, or remove the mask."
        )
    if sigmas is None:
        raise InversionError(
            f"{why} Without a record the noise levels are not known: connect the Invert node's SIGMAS, or its latent "
            "directly."
        )
    return host.grid_of(model, sigmas)


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


def preserve_input() -> io.Input:
    return io.Float.Input(
        "preserve",
        default=0.8,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip="How much of the picture to keep where the new prompt changes little. 0: only the noise, as plain "
        "sampling. 1: everything outside the automatic mask, exactly.",
    )


def _separate_settings() -> list[io.Input]:
    only = "Read when control is advanced."

    def share(name: str, default: float, tooltip: str, lowest: float = 0.0) -> io.Input:
        return advanced(
            io.Float.Input(name, default=default, min=lowest, max=1.0, step=0.01, tooltip=f"{tooltip} {only}")
        )

    return [
        advanced(
            io.Combo.Input(
                "control",
                options=["preserve", "advanced"],
                default="preserve",
                tooltip="preserve: one dial. advanced: the separate settings below.",
            )
        ),
        share("anchor", 1.0, "How strongly each step is tied to the inversion's own; 1 gives the same prompt exactly."),
        share("anchor_end", 1.0, "Share of the steps that are anchored, from the noisy end."),
        share("background", 0.8, "How much of what changes outside the automatic mask is undone."),
        share("threshold", 0.35, "Share of the largest difference from which a place counts as changing.", 0.01),
        advanced(
            io.Int.Input(
                "dilation",
                default=0,
                min=0,
                max=64,
                tooltip=f"How far the automatic mask is grown, in latent pixels. {only}",
            )
        ),
        share("structure", 0.0, "Share of the steps that borrow the source's self-attention; doubles their cost."),
        share("structure_layers", 1.0, "Share of the self-attention layers that borrow, from the last."),
        advanced(
            io.Int.Input(
                "feather",
                default=0,
                min=0,
                max=64,
                tooltip="How softly a connected mask ends, in latent pixels inward; outside stays exact.",
            )
        ),
    ]
