"""Edit From Latent: an inverted latent to a picture, under a new prompt."""

import time
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, InversionError, Keep, sample
from . import host, record
from .schema import CATEGORY, report_text, schema


class EditFromLatent(io.ComfyNode):
    """Comes down on the inversion's own sigmas and steps, guided by its record."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_EditFromLatent",
            display_name="Edit From Latent",
            category=CATEGORY,
            description="Regenerates an inverted picture under a new prompt. Steps, scheduler and sigmas come with the "
            "latent; the same prompt at the inversion's cfg gives the picture back exactly. A mask on the latent (Set "
            "Latent Noise Mask) keeps everything outside it as it was.",
            search_aliases=["edit image", "resample", "reconstruct", "inversion edit", "prompt edit"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that inverted, or one of its family: another checkpoint, a LoRA."
                ),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance of the edit. Higher follows the new prompt more and the picture less.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed when cfg is not 1."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Only for a latent without an inversion record: the Invert node's sigmas output.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="The edited latent, for VAE Decode."),
                io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, positive: Any, latent: dict, cfg: float, negative: Any = None, sigmas: Tensor | None = None
    ) -> io.NodeOutput:
        samples = host.samples_for(model, latent)
        source, remarks = record.read(model, latent, samples)
        mask = record.mask_for(latent, samples)
        if source is not None:
            if sigmas is not None:
                remarks.append("The record's own sigmas were used; the connected SIGMAS were not needed.")
            sigmas = torch.tensor([level.sigma for level in source.grid.levels])
        elif sigmas is None:
            raise InversionError(
                f"{' '.join(remarks)} Without a record the noise levels are not known: connect the Invert node's "
                "SIGMAS, or its latent directly."
            )
        sigmas = host.checked_sigmas(model, sigmas)
        if mask is not None and source is None:
            raise InversionError(
                f"{' '.join(remarks)} A mask keeps the picture outside it by writing the record's states back, so it "
                "needs a record. Connect the latent straight from the Invert node, or remove the mask."
            )
        steps = len(sigmas) - 1

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> Tensor:
            start = x if source is None else source.latent.to(x)  # the record's, which no node in between has rounded
            region = None if mask is None else mask.to(x)
            return sample(denoiser, start, grid, callback=callback, source=source and Keep(source, mask=region))

        started = time.perf_counter()
        ancestral = source is not None and source.grid.ancestral
        edited = host.run(model, positive, negative, cfg, samples, sigmas, walk, steps, ancestral)
        lines = [f"{steps} steps at cfg {cfg:g}, {steps} model calls, {time.perf_counter() - started:.1f} seconds."]
        if source is not None:
            lines.append(f"Came down on the record of {source.method}, {source.grid.steps} steps.")
        if mask is not None:
            lines.append(f"The mask lets {float(mask.mean()):.0%} of the picture change; the rest is the source's own.")
            if "denoise_mask_function" in model.model_options:
                lines.append("Differential Diffusion was not used: grey in the mask blends source and edit instead.")
        out = {key: value for key, value in latent.items() if key != record.KEY} | {"samples": edited}
        return io.NodeOutput(out, report_text(lines + remarks))
