"""Edit Guider: an edit as GUIDER, so that SamplerCustomAdvanced runs it with the SAMPLER that the graph already has."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, InversionError
from . import host
from .edit import strength_input
from .edit_run import Edit, sampling_grid
from .edit_settings import EditSettings, Settings, settings_of
from .host import record
from .host.guider import Guider, WalkSampler
from .host.latents import single
from .host.masks import crop_remark, mask_for
from .host.sampler import AS_INVERTED
from .schema import SAMPLING, schema, within_bounds


class EditGuider(Guider):
    """A guider whose sampling is that of an edit, by whatever SAMPLER the host brings. It keeps nothing of a run.

    It starts at the source's state at the first of the SIGMAS, whatever NOISE comes. Only where that is none at all
    (Disable Noise), it goes on from the LATENT: the second part of sampling on split SIGMAS.
    """

    edit: Edit
    mask: Tensor | None = None
    feather = 0

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        latent_image = single(latent_image)
        goes_on = not noise.any()
        if sigmas.shape[-1] == 0:  # what the host's own guiders do with nothing to do
            return latent_image
        source = self.edit.source
        grid = sampling_grid(self.model_patcher, source, sigmas, [])
        allowed = mask_for({"noise_mask": denoise_mask}, source.latent, self.mask, self.feather)
        if remark := crop_remark({"noise_mask": denoise_mask}, source.latent, self.mask):
            logging.info(remark)
        edit = replace(self.edit, keep=replace(self.edit.keep, mask=allowed))

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, report: Callback) -> tuple[Tensor, None]:
            left = x * grid.levels[0].alpha if goes_on else None  # as the host's samplers take a latent up
            return edit.run(denoiser, x, grid, report, sampler, start=left)[0], None

        start = latent_image if goes_on else host.to_samples(self.model_patcher, source.latent)
        return super().sample(
            torch.zeros_like(start),
            start,
            WalkSampler(walk, grid),
            grid.sigmas,
            callback=callback,
            disable_pbar=disable_pbar,
            seed=seed,
        )


class EditGuiderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_EditGuider",
            display_name="Edit Guider",
            category=SAMPLING,
            description="Edit From Latent as a GUIDER: SamplerCustomAdvanced then edits the inverted picture with any "
            "SAMPLER that fits. Connect all four outputs to it. The old prompt gives the picture back exactly.",
            search_aliases=["edit sampler", "custom sampler edit", "inversion guider", "any sampler"],
            inputs=[
                io.Model.Input("model", tooltip="The model that inverted, or one of its family."),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                strength_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the picture may change. In black parts the latent stays exactly the same.",
                ),
                EditSettings.Input(
                    "settings",
                    optional=True,
                    tooltip="From Edit Settings: negative prompt, how much is kept. Leave sampler and sigmas there as "
                    "they are.",
                ),
            ],
            outputs=[
                io.Guider.Output("guider", display_name="guider", tooltip="For SamplerCustomAdvanced."),
                io.Latent.Output(
                    "latent_out", display_name="latent", tooltip="The picture's latent, for latent_image."
                ),
                io.Noise.Output(
                    "noise", display_name="noise", tooltip="The inverted latent as NOISE. The guider starts there."
                ),
                io.Sigmas.Output(
                    "sigmas_out",
                    display_name="sigmas",
                    tooltip="The inversion's noise levels. Others work too, if they begin no higher.",
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
        strength: float,
        mask: Tensor | None = None,
        settings: Settings | None = None,
    ) -> io.NodeOutput:
        chosen = settings_of(settings)
        if chosen.sampler != AS_INVERTED or chosen.sigmas is not None:
            raise InversionError(
                "Edit Guider takes sampler and sigmas from SamplerCustomAdvanced. In Edit Settings, set sampler to "
                f"{AS_INVERTED!r} and disconnect sigmas."
            )
        found, _ = record.require_for(model, latent, "Connect it straight from an Invert Image node.")
        inversion = found.inversion
        edit, guider = Edit.prepared(model, found, positive, strength, chosen, None, EditGuider)
        guider.edit, guider.mask, guider.feather = edit, mask, chosen.feather
        clean = {key: value for key, value in latent.items() if key != record.KEY}
        clean |= {"samples": host.to_samples(model, inversion.trajectory[0])}
        noise = host.InvertedNoise(model, inversion.latent, inversion.grid.levels[0].sigma)
        return io.NodeOutput(guider, clean, noise, host.lasting_sigmas(inversion.grid))
