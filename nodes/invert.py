"""Invert Image nodes: a picture's latent to the noise that regenerates it."""

import time
from typing import Any, Literal

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Denoiser, EasyInv, Grid, Inversion, Method, invert, psnr, sample
from . import host, record
from .schema import CATEGORY, advanced, report_text, schema

# EasyInv's settings from the paper (section 4.1 and the authors' example): eta, start, length.
PRESETS = {"SD1.x": (0.5, 0.05, 0.2), "SDXL": (0.8, 0.85, 0.1)}
OUTPUTS = [
    io.Latent.Output(
        "latent_out",
        display_name="latent",
        tooltip="The inverted latent, carrying the inversion record for Edit From Latent.",
    ),
    io.Noise.Output(
        "noise",
        display_name="noise",
        tooltip="The same as NOISE: with the original latent as latent_image and these sigmas, any host sampler starts "
        "at the inverted latent. The only way into SamplerCustomAdvanced for flow models.",
    ),
    io.Sigmas.Output("sigmas_out", display_name="sigmas", tooltip="The noise levels to come down on, descending."),
    io.String.Output("report", display_name="report", tooltip="What was done and how well it went, in plain words."),
]


def common_inputs() -> list[io.Input]:
    """What every Invert node takes before its own settings."""
    return [
        io.Model.Input("model", tooltip="The model to invert with. Edit with the same one, or one of its family."),
        io.Conditioning.Input("positive", tooltip="What the picture shows, in the words you would prompt it with."),
        io.Latent.Input("latent", tooltip="The picture, from VAE Encode with the model's own VAE."),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of steps. More steps invert more exactly."),
        io.Float.Input(
            "cfg",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Guidance during the inversion. 1 is the most exact and twice as fast; keep it unless the edit "
            "asks for more.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.SCHEDULER_NAMES),
            default="normal",
            tooltip="How the noise levels are spaced, as in KSampler.",
        ),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="How far up to invert. Below 1 the latent keeps the picture's layout and the edit changes less.",
        ),
    ]


def late_inputs() -> list[io.Input]:
    """What every Invert node takes after its own settings."""
    return [
        advanced(
            io.Boolean.Input(
                "check",
                default=False,
                tooltip="Also come down again without the record and report how near the picture is. Doubles the model "
                "calls.",
            )
        ),
        io.Conditioning.Input("negative", optional=True, tooltip="Needed when cfg is not 1."),
        io.Sigmas.Input("sigmas", optional=True, tooltip="Replaces steps, scheduler and denoise. Descending."),
    ]


def run_inversion(
    method: Method,
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict,
    cfg: float,
    sigmas: Tensor,
    check: bool,
    remarks: list[str],
) -> io.NodeOutput:
    """Invert with `method` and make the four outputs that every Invert node has."""
    samples = host.samples_for(model, latent)
    steps = len(sigmas) - 1
    total = 2 * steps if check else steps
    results: list[Inversion] = []

    def walk(denoiser: Denoiser, x: Tensor, grid: Grid, callback: Callback) -> Tensor:
        def upward(index: int, _: int, state: Tensor, denoised: Tensor) -> None:
            callback(index, total, state, denoised)

        def downward(index: int, _: int, state: Tensor, denoised: Tensor) -> None:
            callback(steps + index, total, state, denoised)

        inversion = invert(denoiser, x, grid, method, callback=upward, store=torch.device("cpu"))
        results.append(inversion)
        latent_out = inversion.latent.to(x.device)
        if check:
            back = sample(denoiser, latent_out, grid, callback=downward)
            remarks.append(
                f"Checked: the sampler alone, without the record, comes back to the picture's latent at "
                f"{psnr(x.float(), back):.1f} dB ({steps} more model calls)."
            )
        return latent_out

    started = time.perf_counter()
    inverted = host.run(model, positive, negative, cfg, samples, sigmas, walk, total)
    seconds = time.perf_counter() - started

    (inversion,) = results
    out = {**latent, "samples": inverted, record.KEY: record.write(model, inversion, cfg)}
    noise = host.InvertedNoise(model, inversion.latent, float(sigmas[0]))
    lines = [inversion.report(), *remarks, f"{seconds:.1f} seconds at cfg {cfg:g}."]
    return io.NodeOutput(out, noise, sigmas, report_text(lines))


class InvertEasyInv(io.ComfyNode):
    """EasyInv, arXiv 2408.05159."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        custom = "Used when preset is custom."
        return schema(
            node_id="INV_EasyInv",
            display_name="Invert Image (EasyInv)",
            category=CATEGORY,
            description="Turns a picture's latent into the noise that regenerates it. One model call per step.",
            search_aliases=["unsample", "unsampler", "noise inversion", "ddim inversion", "flip sigmas", "reconstruct"],
            inputs=[
                *common_inputs(),
                io.Combo.Input(
                    "preset",
                    options=["auto", *PRESETS, "custom"],
                    default="auto",
                    tooltip="EasyInv's settings from the paper. auto: SDXL's for SDXL models, SD1.x's for all others.",
                ),
                io.Float.Input(
                    "eta",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=f"Weight of the new latent in the blend; 1 is plain DDIM inversion. {custom}",
                ),
                io.Float.Input(
                    "start",
                    default=0.05,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=f"Share of steps before the blend. {custom}",
                ),
                io.Float.Input(
                    "length", default=0.2, min=0.0, max=1.0, step=0.01, tooltip=f"Share of steps to blend. {custom}"
                ),
                advanced(
                    io.Combo.Input(
                        "placement",
                        options=["after", "before"],
                        default="after",
                        tooltip="after: as in the paper. before: as in the authors' scripts.",
                    )
                ),
                *late_inputs(),
            ],
            outputs=OUTPUTS,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        steps: int,
        cfg: float,
        scheduler: str,
        denoise: float,
        preset: str,
        eta: float,
        start: float,
        length: float,
        placement: Literal["after", "before"],
        check: bool,
        negative: Any = None,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        remarks = []
        if preset == "auto":
            preset = "SDXL" if type(model.get_model_object("latent_format")).__name__.startswith("SDXL") else "SD1.x"
            remarks.append(f"Preset auto chose {preset}'s settings.")
            if host.model_kind(model) == "flow":
                remarks.append("The EasyInv paper shows no flow model: compare eta 1, which is plain DDIM inversion.")
        if preset != "custom":
            eta, start, length = PRESETS[preset]
        method = EasyInv(eta, start, length, placement)
        if sigmas is None:
            sigmas = host.scheduled_sigmas(model, steps, scheduler, denoise)
        sigmas = host.checked_sigmas(model, sigmas)
        return run_inversion(method, model, positive, negative, latent, cfg, sigmas, check, remarks)
