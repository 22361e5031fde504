"""Seeds From Examples: new noise near that of pictures of one kind, for what a model draws badly from random noise."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import InversionError, seeds
from ..inversion.noise import likeness, noise_scale
from . import host
from .host import record
from .schema import CATEGORY, report_text, schema, seed_input, within_bounds

SHOWN = [("norm", "Strength", 1), ("mean", "Mean", 0), ("neighbours", "Correlation of neighbours", 0)]


class Seeds(io.ComfyNode):
    """The noise is for any sampler of the host, under a prompt of the user's choice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_Seeds",
            display_name="Seeds From Examples",
            category=CATEGORY,
            description="Makes starting noise from a few inverted example pictures. Use it for rare things that your "
            "model draws badly from random noise.",
            search_aliases=["rare concepts", "SeedSelect", "NAO", "few-shot", "noise from pictures", "variations"],
            inputs=[
                io.Model.Input("model", tooltip="The model of the inversions."),
                io.Latent.Input(
                    "latent",
                    tooltip="Inverted examples of one kind of picture, as a batch. Invert a batch, or join inverted "
                    "latents with Batch Latents and connect sigmas.",
                ),
                io.Int.Input("count", default=4, min=1, max=64, tooltip="How many seeds to make."),
                io.Float.Input(
                    "spread",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the seeds are spread between the examples. 0: all seeds start from the "
                    "middle of the examples.",
                ),
                io.Float.Input(
                    "fresh",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much new random noise is mixed in. More gives more variety, and less of the "
                    "examples. 1: nothing of the examples is left.",
                ),
                seed_input("Seed of the random choices and of the new noise."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Only for latents without a record: the sigmas output of the Invert node.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent_out",
                    display_name="latent",
                    tooltip="The seeds as latents: for latent_image beside noise, or for Edit From Latent at strength "
                    "1, with sigmas in Edit Settings.",
                ),
                io.Noise.Output(
                    "noise",
                    display_name="noise",
                    tooltip="The seeds as NOISE, for SamplerCustomAdvanced. Connect sigmas and latent to it too.",
                ),
                io.Sigmas.Output(
                    "sigmas_out", display_name="sigmas", tooltip="The noise levels to sample with, from high to low."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="How much the seeds and the examples look like noise."
                ),
            ],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model: Any,
        latent: dict,
        count: int,
        spread: float,
        fresh: float,
        seed: int,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        samples = host.samples_for(model, latent)
        found, _ = record.read(model, latent, samples)
        remarks: list[str] = []
        if found is not None:
            if sigmas is not None:
                remarks.append("The connected SIGMAS were not used, because the record has its own.")
            grid, examples = found.inversion.grid, found.inversion.latent
        elif sigmas is not None:
            grid, examples = host.grid_of(model, sigmas), host.to_state(model, samples)
        else:
            raise InversionError(
                "These latents have no inversion record, so their noise level is not known. (Batch Latents drops "
                "records.) Connect sigmas of the Invert node that made them."
            )
        top = grid.levels[0]
        scale = noise_scale(top)
        made = seeds(examples, count, torch.Generator().manual_seed(seed), spread, fresh, scale)
        ours, theirs = likeness(made, scale), likeness(examples, scale)
        lines = [f"{count} seeds from {len(examples)} examples, spread {spread:g}, fresh {fresh:g}."]
        for name, what, noise in SHOWN:
            lines.append(f"{what}: seeds {_range(ours[name])}, examples {_range(theirs[name])}, real noise {noise}.")
        if "noise_mask" in latent:
            remarks.append("The latent's mask was left out, because it belongs to the examples.")
        out = {"samples": host.to_samples(model, made)}
        return io.NodeOutput(
            out,
            host.InvertedNoise(model, made, top.sigma, seed),
            host.lasting_sigmas(grid),
            report_text(lines + remarks),
        )


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.2f} to {float(values.max()):.2f}"
