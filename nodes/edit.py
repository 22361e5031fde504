"""Edit From Latent: an inverted latent to a picture, under a new prompt."""

import time
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, InversionError, sample
from ..inversion.verdict import UNSTEADY
from . import host
from .edit_run import Edit, Told, sampling_grid
from .edit_settings import EditSettings, Settings, settings_of
from .host import record
from .host.masks import crop_remark, mask_for, picture_mask
from .host.sampler import AS_INVERTED, play_plain, sampler_object
from .schema import CATEGORY, report_text, schema, within_bounds

OUTPUTS = [
    io.Latent.Output("latent_out", display_name="latent", tooltip="The edited latent, for VAE Decode."),
    io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
    io.Mask.Output(
        "mask_out",
        display_name="mask",
        tooltip="White where the picture was allowed to change: where your mask and the automatic mask are both white. "
        "background 0 in Edit Settings turns the automatic mask off.",
    ),
]


class EditFromLatent(io.ComfyNode):
    """Samples on the inversion's own levels and steps, guided by its record."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_Edit",
            display_name="Edit From Latent",
            category=CATEGORY,
            description="Edits an inverted picture: write what it should show now. Steps and noise levels come with "
            "the latent. The old prompt gives the picture back exactly. With a mask only its white parts change.",
            search_aliases=["edit image", "resample", "reconstruct", "inversion edit", "prompt edit"],
            essentials_category="Image Tools",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that inverted, or one of its family: another checkpoint, a LoRA."
                ),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                strength_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the picture may change. In black parts the latent stays exactly the same. "
                    "Restore Original Background keeps their pixels, too.",
                ),
                EditSettings.Input("settings", optional=True, tooltip="From Edit Settings: sampler, negative prompt, "
                                   "how much is kept."),
            ],
            outputs=OUTPUTS,
        )  # fmt: skip

    @classmethod
    @within_bounds
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        strength: float,
        mask: Tensor | None = None,
        settings: Settings | None = None,
    ) -> io.NodeOutput:
        return edited(model, positive, latent, strength, mask, settings_of(settings))


def edited(
    model: Any, positive: Any, latent: dict, strength: float, mask: Tensor | None, settings: Settings
) -> io.NodeOutput:
    """What Edit From Latent gives out.

    Raises:
        InversionError: something that is asked for needs what is not there; says what.
    """
    samples = host.samples_for(model, latent)
    found, remarks = record.read(model, latent, samples)
    chosen = None if settings.sampler == AS_INVERTED else sampler_object(settings.sampler)
    started = time.perf_counter()
    if found is None:
        grid = plain_grid(model, latent, mask, settings.sigmas, strength, " ".join(remarks))
        edit, allowed = None, None
        guider = host.guider_for(model, positive, settings.negative, settings.cfg)
    else:
        grid = sampling_grid(model, found.inversion, settings.sigmas, remarks)
        allowed = mask_for(latent, samples, mask, settings.feather)
        remarks += [remark] if (remark := crop_remark(latent, samples, mask)) else []
        edit, guider = Edit.prepared(model, found, positive, strength, settings, allowed)

    def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Tensor, Told]:
        if edit is not None:
            return edit.run(denoiser, x, grid, callback, chosen, settings.sampler)
        if chosen is None:
            return sample(denoiser, x, grid, callback=callback), Told(grid.steps, None, None)
        done, calls = play_plain(chosen, denoiser, x, grid, callback)
        return done, Told(calls, None, None)

    done, told = host.run(guider, samples, grid, walk, grid.steps)
    seconds = time.perf_counter() - started
    everywhere = torch.ones_like(samples[:, :1])
    changed = everywhere if told.mask is None else told.mask.to(everywhere) * everywhere
    guided = f" and cfg {settings.cfg:g}" if settings.cfg != 1 else ""
    lines = [f"{grid.steps} steps at strength {strength:g}{guided}, {told.calls} model calls, {seconds:.1f} seconds."]
    if edit is not None:
        by = "" if chosen is None else f" with {settings.sampler}"
        lines.append(f"Sampled{by} on the record of {edit.source.method}, {edit.source.grid.steps} steps.")
        lines.append(str(settings))
        lines += told.remarks + mask_remarks(model, allowed)
        lines += [note for note in edit.source.notes if note.startswith(UNSTEADY)]
        if edit.keep.background:
            lines.append(f"The automatic mask lets {float(changed.mean()):.0%} of the picture change.")
    out = {key: value for key, value in latent.items() if key != record.KEY} | {"samples": done}
    return io.NodeOutput(out, report_text(lines + remarks), picture_mask(model, changed))


def mask_remarks(model: Any, allowed: Tensor | None) -> list[str]:
    if allowed is None:
        return []
    lines = [f"The mask lets {float(allowed.mean()):.0%} of the picture change; the rest is the source's own."]
    if "denoise_mask_function" in model.model_options:
        lines.append("Differential Diffusion was not used: grey in the mask blends source and edit instead.")
    return lines


def plain_grid(model: Any, latent: dict, mask: Tensor | None, sigmas: Tensor | None, strength: float, why: str) -> Grid:
    """The levels for a latent without a record.

    Raises:
        InversionError: what only a record makes possible is asked for.
    """
    if mask is not None or latent.get("noise_mask") is not None:
        raise InversionError(
            f"{why} A mask keeps the picture outside it as the record has it, so it needs a record. Connect the latent "
            "straight from the Invert node, or remove the mask."
        )
    if strength != 1:
        raise InversionError(
            f"{why} A strength of {strength:g} compares with the original's prompt, so it needs a record. Connect the "
            "latent straight from the Invert node, or set strength to 1."
        )
    if sigmas is None:
        raise InversionError(
            f"{why} Without a record the noise levels are not known. Connect the Invert node's latent directly, or its "
            "SIGMAS to Edit Settings."
        )
    return host.grid_of(model, sigmas)


def strength_input() -> io.Input:
    return io.Float.Input(
        "strength",
        default=STRENGTH,
        min=0.0,
        max=20.0,
        step=0.1,
        tooltip="How far to go from the original's prompt to the new one. 0: the original. 1: the new prompt, at half "
        "the cost of any other strength. More: a stronger edit. With your own model start at 4, with Turbo and schnell "
        "at 1.",
    )


STRENGTH = 8.0
