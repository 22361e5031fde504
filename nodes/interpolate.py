"""Interpolate Inversions: frames that lead from one inverted picture to another."""

import math
from itertools import chain
from typing import Any, Literal

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Inversion, InversionError, between
from ..inversion.noise import likeness, noise_scale
from ..inversion.paths import PATHS, Path
from . import host, record
from .schema import CATEGORY, report_text, schema

Prompts = Literal["embeddings", "predictions"]
REPEATS = 4  # of the shorter prompt at most, as when the host brings prompts to one length


class Interpolate(io.ComfyNode):
    """Between two records, without a model call; Edit From Latent, or any host sampler, comes down on the frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def side(which: str) -> list[io.Input]:
            return [
                io.Latent.Input(f"latent_{which}", tooltip="From an Invert node: one picture, with its record."),
                io.Conditioning.Input(f"positive_{which}", tooltip="The prompt that this picture was inverted with."),
            ]

        return schema(
            node_id="INV_Interpolate",
            display_name="Interpolate Inversions",
            category=CATEGORY,
            description="Frames from one inverted picture to another, as a batch of inverted latents with a prompt for "
            "each. Edit From Latent gives the two pictures back exactly, and what the model sees between them.",
            search_aliases=["morph", "slerp", "latent interpolation", "blend pictures", "travel", "in-between frames"],
            inputs=[
                io.Model.Input("model", tooltip="The model that inverted both pictures."),
                *side("from"),
                *side("to"),
                io.Int.Input(
                    "frames",
                    default=9,
                    min=2,
                    max=64,
                    tooltip="How many, with the two pictures. The record takes memory for each.",
                ),
                io.Combo.Input(
                    "path",
                    options=list(PATHS),
                    default="spherical",
                    tooltip="Of the noise. spherical: turns evenly, keeps the norm. linear: loses norm half way. "
                    "norm-aware: by way of the norms that noise has.",
                ),
                io.Combo.Input(
                    "prompts",
                    options=["embeddings", "predictions"],
                    default="embeddings",
                    tooltip="What fades from one prompt to the other. embeddings: the prompts themselves. predictions: "
                    "what the model makes of either, at twice the model calls; for prompts that differ in more.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The inverted frames, with a record: for Edit From Latent, at the inversions' cfg and a "
                    "preserve of 0.5 or more.",
                ),
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="The prompt of each frame, to come down with."
                ),
                io.Noise.Output(
                    "noise",
                    display_name="noise",
                    tooltip="The frames as NOISE, for any host sampler, with latent as latent_image and these sigmas; "
                    "the ends are then as near as the sampler alone comes.",
                ),
                io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="The noise levels to come down on."),
                io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
            ],
        )

    @classmethod
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
        first, remarks = _source(model, latent_from, "latent_from")
        last, more = _source(model, latent_to, "latent_to")
        t = torch.linspace(0, 1, frames)
        found = between(first, last, t.tolist(), path)
        if prompts == "embeddings":
            positive = faded(positive_from, positive_to, t)
        else:
            positive = shared(positive_from, positive_to, t, found.latent.shape[2:])
        cfgs = [latent[record.KEY]["cfg"] for latent in (latent_from, latent_to)]
        top = found.grid.levels[0]
        norms = likeness(found.latent, noise_scale(top))["norm"]
        written = record.write(model, found, cfgs[0])
        size = sum(value.nbytes for value in written.values() if isinstance(value, Tensor))
        lines = [
            f"{frames} frames from one picture to the other, noise on a {path} path, {prompts} faded.",
            f"Norm of the noise (pure noise: 1): {float(norms[0]):.2f} and {float(norms[-1]):.2f} at the ends, "
            f"{float(norms.min()):.2f} to {float(norms.max()):.2f} in all.",
            _exactness(*cfgs),
            f"The record takes {size / 2**20:.1f} MB.",
            *dict.fromkeys(remarks + more),
        ]
        if found.grid.ancestral:
            lines.append("Ancestral: come down with Edit From Latent. The host's sampler adds noise of its own.")
        if "noise_mask" in latent_from or "noise_mask" in latent_to:
            lines.append("The latents' noise masks were left out: they belong to one picture each.")
        samples = model.get_model_object("latent_format").process_out(found.latent)
        left = {key: value for key, value in latent_from.items() if key not in ("noise_mask", "batch_index")}
        out = left | {"samples": samples, record.KEY: written}
        noise = host.InvertedNoise(model, found.latent, top.sigma)
        sigmas = torch.tensor([level.sigma for level in found.grid.levels])
        return io.NodeOutput(out, positive, noise, sigmas, report_text(lines))


def _source(model: Any, latent: dict, name: str) -> tuple[Inversion, list[str]]:
    """The record of a LATENT that has to have one."""
    connect = f"Frames need the records of both pictures: connect {name} straight from an Invert node."
    record.require(latent, connect)
    source, remarks = record.read(model, latent, host.samples_for(model, latent))
    if source is None:
        raise InversionError(f"{' '.join(remarks)} {connect}")
    return source, remarks


def _exactness(first: float, last: float) -> str:
    if not math.isclose(first, last):
        return (
            f"The pictures were inverted at cfg {first:g} and {last:g}: Edit From Latent gives back exactly only the "
            "one whose cfg it has. Invert both at the same cfg."
        )
    beside = "" if math.isclose(first, 1) else ", with the negative prompt of the inversions"
    return f"Edit From Latent gives both pictures back exactly at cfg {first:g}{beside}, and preserve 0.5 or more."


def faded(first: Any, last: Any, t: Tensor) -> list:
    """One CONDITIONING for a batch of frames, from `first` at t 0 to `last` at t 1; all their tensors change evenly.

    Raises:
        InversionError: they differ in something else, with the way out.
    """
    if len(first) != len(last):
        raise _cannot(f"a number of entries ({len(first)} and {len(last)})")
    made = []
    for (x, x_options), (y, y_options) in zip(first, last, strict=True):
        length = math.lcm(x.shape[1], y.shape[1]) if x.ndim == y.ndim == 3 else 0
        if length > REPEATS * min(x.shape[1], y.shape[1]):
            raise _cannot(f"their length ({x.shape[1]} and {y.shape[1]} tokens)")
        if length:  # repeating all tokens leaves cross-attention as it is
            x, y = (part.repeat(1, length // part.shape[1], 1) for part in (x, y))
        names = dict.fromkeys(chain(x_options, y_options))
        options = {name: _faded(name, x_options.get(name), y_options.get(name), t) for name in names}
        made.append([_faded("their embeddings", x, y, t), options])
    return made


def _faded(name: str, x: Any, y: Any, t: Tensor) -> Any:
    if _same(x, y):
        return x
    tensors = isinstance(x, Tensor) and isinstance(y, Tensor)
    if not tensors or x.shape != y.shape or len(x) != 1 or not x.is_floating_point():
        raise _cannot(name)
    return torch.lerp(x, y.to(x), t.to(x).reshape(-1, *[1] * (x.ndim - 1)))


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.shape == y.shape and torch.equal(x, y)
    if isinstance(x, list | tuple) and isinstance(y, list | tuple):
        return len(x) == len(y) and all(map(_same, x, y))
    plain = (int, float, str, type(None))
    return x is y or (isinstance(x, plain) and isinstance(y, plain) and x == y)


def _cannot(what: str) -> InversionError:
    return InversionError(
        f"The two prompts differ in {what}, which cannot be faded as embeddings. Set prompts to predictions, which "
        "takes any two prompts, or use the same one for both pictures."
    )


def shared(first: Any, last: Any, t: Tensor, dimensions: torch.Size) -> list:
    """A CONDITIONING of both prompts, each with as much of a say in a frame as `t` gives it.

    The host averages what prompts predict, weighted by their masks; here the weight is a frame's.

    Arguments:
        dimensions: of the latent, without batch and channels.

    Raises:
        InversionError: a prompt is for an area, whose edge the host would draw otherwise beside a mask.
    """
    made = []
    for prompt, weight in ((first, 1 - t), (last, t)):
        for tensor, options in prompt:
            if "area" in options and "mask" not in options:
                raise InversionError(
                    "A prompt for an area (Conditioning Set Area) has no weight for each frame. Use Conditioning Set "
                    "Mask in its place."
                )
            mask = options.get("mask", torch.ones(dimensions))
            mask = mask if mask.ndim > len(dimensions) else mask.unsqueeze(0)
            made.append([tensor, {**options, "mask": mask * weight.to(mask).reshape(-1, *[1] * len(dimensions))}])
    return made
