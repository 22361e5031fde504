"""Inversion Report: samples without the record, and shows in one picture how close the result is to the original."""

import math
import time
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..inversion import Callback, Grid, InversionError, psnr, sample
from ..inversion.metrics import psnr_each
from ..inversion.verdict import in_short, of_round_trip
from . import host
from .host import record
from .report_picture import ROWS, draw
from .schema import CATEGORY, report_text, schema


class InversionReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_Report",
            display_name="Inversion Report",
            category=CATEGORY,
            description="Shows how accurate an inversion is. Samples from the inverted latent without its record, and "
            "puts the result beside the original, with their difference and the error of each step. Takes one model "
            "call per step.",
            search_aliases=["check inversion", "reconstruction", "round trip", "compare", "PSNR"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input("model", tooltip="The model of the inversion."),
                io.Conditioning.Input("positive", tooltip="The prompt of the inversion."),
                io.Latent.Input("latent", tooltip="From an Invert Image node, or from Load Inversion."),
                io.Vae.Input("vae", tooltip="The model's VAE, to show the latents as pictures."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt of the inversion, if its cfg was not 1."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture before VAE Encode. Without it, the result is compared with what the VAE "
                    "makes of the picture.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A mask to outline on the picture, such as that of an edit. If none is connected, the "
                    "latent's own mask.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image_out",
                    display_name="image",
                    tooltip="Original, result and difference, in a row for each picture (up to "
                    f"{ROWS}), and the error of each step.",
                ),
                io.String.Output("report", display_name="report", tooltip="The same in numbers and plain words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        vae: Any,
        negative: Any = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        found, remarks = record.require_for(
            model, latent, "Connect it straight from an Invert Image node, or from Load Inversion."
        )
        source, cfg = found.inversion, found.cfg
        clean, steps = source.trajectory[0], source.grid.steps

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Tensor, list[float]]:
            back = sample(denoiser, source.latent.to(x), grid, callback=callback, noise=source.noise)
            return back, psnr_each(clean, back.to(clean))

        started = time.perf_counter()
        connect = "Connect the one that the picture was inverted with."
        guider = host.guider_for(model, positive, negative, cfg, connect=connect)
        samples = host.samples_for(model, latent)
        back, decibels = host.run(guider, samples, source.grid, walk, steps, preview=False)
        seconds = time.perf_counter() - started

        verdict = of_round_trip(decibels, steps)
        encoded = _decoded(vae, host.to_samples(model, clean))
        original = encoded if image is None else _fitting(vae, image, encoded)
        came = _decoded(vae, back)
        near_by = [_how_near(*pictures) for pictures in zip(original, came, encoded, strict=True)]
        counted = [f"Picture {i + 1} of {len(near_by)}: {words}." for i, words in enumerate(near_by)]
        lines = [verdict, *counted, source.report(), *remarks, f"{seconds:.1f} seconds at cfg {cfg:g}."]
        text = report_text(lines)
        outlined = latent.get("noise_mask") if mask is None else mask
        if outlined is not None:
            outlined = outlined.float().cpu().reshape(-1, *outlined.shape[-2:])
        grade, sentence = in_short(decibels)
        drawn = draw(original, came, near_by, source.worst, sentence, grade, outlined)
        # The page shows the picture, which has the verdict on it; a node's text it shows for its own nodes only.
        shown = ui.PreviewImage(drawn, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(drawn, text, ui=shown)


def _decoded(vae: Any, samples: Tensor) -> Tensor:
    """Pictures as VAE Decode makes them, videos as their frames: (B, H, W, 3), from 0 to 1."""
    images = vae.decode(samples)
    return images.reshape(-1, *images.shape[-3:]).float().cpu().clamp(0, 1)


def _fitting(vae: Any, image: Tensor, encoded: Tensor) -> Tensor:
    """The picture as the VAE encoded it: cropped by the host's own rule, one for each of `encoded`.

    Raises:
        InversionError: it is another picture than that.
    """
    cropped = vae.vae_encode_crop_pixels(image)[..., :3].float().cpu()
    if cropped.shape[1:] != encoded.shape[1:] or cropped.shape[0] not in (1, encoded.shape[0]):
        (count, height, width), (several, rows, columns) = cropped.shape[:3], encoded.shape[:3]
        raise InversionError(
            f"`image` is {count} of {width} x {height}, the latent {several} of {columns} x {rows}. Connect the "
            "picture that was encoded, or leave it out."
        )
    return cropped.expand_as(encoded)


def _how_near(original: Tensor, came: Tensor, encoded: Tensor) -> str:
    """How near a picture comes back to the original, and where that is not the VAE's own, how near the VAE does."""
    words = _decibels(original, came)
    return words if torch.equal(original, encoded) else f"{words}, the VAE alone {_decibels(original, encoded)}"


def _decibels(original: Tensor, other: Tensor) -> str:
    value = psnr(original, other, 1.0)
    return "no difference" if value == math.inf else f"{value:.1f} dB"
