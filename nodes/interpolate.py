"""Interpolate Inversions: frames that lead from one inverted picture to another."""

import math
from typing import Any, Literal

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import between
from ..inversion.noise import likeness, noise_scale
from ..inversion.paths import PATHS, Path
from . import host
from .host import record
from .prompts import faded, shared
from .schema import CATEGORY, report_text, schema, within_bounds

Prompts = Literal["embeddings", "predictions"]


class Interpolate(io.ComfyNode):
    """Between two records, without a model call; Edit From Latent, or any host sampler, comes down on the frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def side(which: str) -> list[io.Input]:
            return [
                io.Latent.Input(
                    f"latent_{which}", tooltip="One inverted picture with its record, from an Invert node."
                ),
                io.Conditioning.Input(f"positive_{which}", tooltip="The prompt of this picture's inversion."),
            ]

        return schema(
            node_id="INV_Interpolate",
            display_name="Interpolate Inversions",
            category=CATEGORY,
            description="Makes frames from one inverted picture to another: inverted latents, with a prompt for each. "
            "Edit From Latent then draws them. The first and the last frame are exactly the two pictures.",
            search_aliases=[
                "morph",
                "slerp",
                "NAO",
                "latent interpolation",
                "blend pictures",
                "travel",
                "in-between frames",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model of both inversions."),
                *side("from"),
                *side("to"),
                io.Int.Input(
                    "frames",
                    default=9,
                    min=2,
                    max=64,
                    tooltip="How many frames, with the two pictures. The record takes memory for each.",
                ),
                io.Combo.Input(
                    "path",
                    options=list(PATHS),
                    default="spherical",
                    tooltip="The way from one noise to the other. spherical: turns evenly. linear: the straight line, "
                    "where the noise is too weak half way. norm-aware: keeps the noise as strong as real noise.",
                ),
                io.Combo.Input(
                    "prompts",
                    options=["embeddings", "predictions"],
                    default="embeddings",
                    tooltip="What fades from one prompt to the other. embeddings: the prompts themselves. predictions: "
                    "the model's predictions under both. This works with any prompts, and takes twice the model calls.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The inverted frames with a record, for Edit From Latent at strength 1. If the inversions' "
                    "cfg was not 1, set the same cfg and negative in Edit Settings.",
                ),
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="The prompt of each frame, for the edit."
                ),
                io.Noise.Output(
                    "noise",
                    display_name="noise",
                    tooltip="The frames as NOISE, for SamplerCustomAdvanced. Connect sigmas and latent to it too. "
                    "The first and last frame are then not exact.",
                ),
                io.Sigmas.Output(
                    "sigmas",
                    display_name="sigmas",
                    tooltip="The noise levels of the inversions, from high to low, to sample with.",
                ),
                io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
            ],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model: Any,
        latent_from: dict,
        positive_from: Any,
        latent_to: dict,
        positive_to: Any,
        frames: int,
        path: Path,
        prompts: Prompts,
    ) -> io.NodeOutput:
        connect = "Frames need the records of both pictures. Connect {} straight from an Invert node."
        (start, remarks), (end, more) = (
            record.require_for(model, latent, connect.format(name))
            for name, latent in (("latent_from", latent_from), ("latent_to", latent_to))
        )
        first, last = start.inversion, end.inversion
        t = torch.linspace(0, 1, frames)
        found = between(first, last, t.tolist(), path)
        if prompts == "embeddings":
            positive = faded(positive_from, positive_to, t)
        else:
            positive = shared(positive_from, positive_to, t, found.latent.shape[2:])
        top = found.grid.levels[0]
        norms = likeness(found.latent, noise_scale(top))["norm"]
        left = {key: value for key, value in latent_from.items() if key not in ("noise_mask", "batch_index")}
        plain = start.prompt is not None and end.prompt is not None
        made = record.Record(found, record.signature(model), start.cfg, prompt=positive if plain else None)
        out, _ = made.on(left, host.to_samples(model, found.latent))
        size = sum(value.nbytes for value in out[record.KEY].values() if isinstance(value, Tensor))
        lines = [
            f"{frames} frames from one picture to the other, with a {path} path and faded {prompts}.",
            f"Strength of the noise (real noise has 1): {float(norms[0]):.2f} and {float(norms[-1]):.2f} at the ends, "
            f"{float(norms.min()):.2f} to {float(norms.max()):.2f} over all frames.",
            _exactness(start.cfg, end.cfg),
            f"The record takes {size / 2**20:.1f} MB.",
            *dict.fromkeys(remarks + more),
        ]
        if found.grid.ancestral:
            lines.append("Sample with Edit From Latent, because ComfyUI's euler_ancestral adds noise of its own.")
        if "noise_mask" in latent_from or "noise_mask" in latent_to:
            lines.append("The latents' masks were left out, because each belongs to one picture.")
        noise = host.InvertedNoise(model, found.latent, top.sigma)
        return io.NodeOutput(out, positive, noise, host.lasting_sigmas(found.grid), report_text(lines))


def _exactness(first: float, last: float) -> str:
    if not math.isclose(first, last):
        return (
            f"The pictures were inverted at cfg {first:g} and {last:g}. Edit From Latent is exact only for the picture "
            "whose cfg is in Edit Settings. Invert both at the same cfg."
        )
    if math.isclose(first, 1):
        return "Edit From Latent gives both pictures back exactly at strength 1."
    return (
        f"Edit From Latent gives both pictures back exactly at strength 1, with cfg {first:g} and the negative prompt "
        "of the inversions in Edit Settings."
    )
