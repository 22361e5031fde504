"""Noise From Latent: an inverted latent as NOISE, for samplers that start from noise."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from . import host
from .schema import SAMPLING, schema, seed_input, within_bounds


class NoiseFromLatent(io.ComfyNode):
    """What the Invert nodes' noise output is, for a latent that an inverting SAMPLER made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_NoiseFromLatent",
            display_name="Noise From Latent",
            category=SAMPLING,
            description="Turns an inverted latent into NOISE. SamplerCustomAdvanced then starts at the inverted "
            "latent, with flow models too. Connect the original latent to it as latent_image.",
            search_aliases=["inverted noise", "latent as noise", "noise inversion"],
            inputs=[
                io.Model.Input("model", tooltip="The model of the inversion."),
                io.Latent.Input("latent", tooltip="The inverted latent, from SamplerCustomAdvanced."),
                io.Sigmas.Input("sigmas", tooltip="The same SIGMAS as in the inversion."),
                seed_input("The seed for the sampler. For euler_ancestral take the seed of the inversion's NOISE."),
            ],
            outputs=[
                io.Noise.Output(
                    "noise", display_name="noise", tooltip="For SamplerCustomAdvanced, with the same SIGMAS."
                )
            ],
        )

    @classmethod
    @within_bounds
    def execute(cls, model: Any, latent: dict, sigmas: Tensor, seed: int) -> io.NodeOutput:
        state = host.to_state(model, host.samples_for(model, latent))
        return io.NodeOutput(host.InvertedNoise(model, state, host.grid_of(model, sigmas).levels[0].sigma, seed))
