"""Edit From Latent: an inverted latent to a picture, under a new prompt."""

import time
from typing import Any, Literal

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, InversionError, Keep, sample
from ..inversion.verdict import UNSTEADY
from . import host
from .edit_run import Edit, Told, preserving, sampling_grid
from .host import record
from .host.attention import Structure
from .host.masks import mask_for, picture_mask
from .host.sampler import AS_INVERTED, play_plain, sampler_names, sampler_object
from .schema import CATEGORY, advanced, cfg_input, report_text, schema, within_bounds

Control = Literal["preserve", "advanced"]


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
