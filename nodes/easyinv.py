"""EasyInv in the graph: Invert Image (EasyInv) and its SAMPLER. arXiv 2408.05159."""

from typing import Any, Literal

from comfy_api.latest import io
from torch import Tensor

from ..inversion import EasyInv
from . import host
from .invert import (
    OUTPUTS,
    SAMPLER_OUTPUT,
    Plan,
    common_inputs,
    inverting_sampler,
    late_inputs,
    run_inversion,
    sigmas_for,
)
from .schema import CATEGORY, SAMPLING, advanced, schema

# The paper's settings (section 4.1 and the authors' example): eta, start, length.
PRESETS = {"SD1.x": (0.5, 0.05, 0.2), "SDXL": (0.8, 0.85, 0.1)}
Placement = Literal["after", "before"]


def settings(presets: list[str], default: str, tooltip: str) -> list[io.Input]:
    custom = "Used when preset is custom."
    return [
        io.Combo.Input("preset", options=[*presets, "custom"], default=default, tooltip=tooltip),
        io.Float.Input(
            "eta",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"Weight of the new latent in the blend; 1 is plain DDIM inversion. {custom}",
        ),
        io.Float.Input(
            "start", default=0.05, min=0.0, max=1.0, step=0.01, tooltip=f"Share of steps before the blend. {custom}"
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
    ]


class InvertEasyInv(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        tooltip = "EasyInv's settings from the paper. auto: SDXL's for SDXL models, SD1.x's for all others."
        return schema(
            node_id="INV_EasyInv",
            display_name="Invert Image (EasyInv)",
            category=CATEGORY,
            description="Turns a picture's latent into the noise that regenerates it. One model call per step.",
            search_aliases=["unsample", "unsampler", "noise inversion", "ddim inversion", "flip sigmas", "reconstruct"],
            essentials_category="Image Tools",
            inputs=[*common_inputs(), *settings(["auto", *PRESETS], "auto", tooltip), *late_inputs()],
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
        placement: Placement,
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
        plan = Plan(_method(preset, eta, start, length, placement))
        sigmas = sigmas_for(model, sigmas, steps, scheduler, denoise)
        return run_inversion(plan, model, positive, negative, latent, cfg, sigmas, check, remarks)


class EasyInvSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_EasyInvSampler",
            display_name="Inverting Sampler (EasyInv)",
            category=SAMPLING,
            description="Invert Image (EasyInv) as a SAMPLER, for SamplerCustomAdvanced with any guider. Give it "
            "the picture's latent and the SIGMAS of the way down as they are; the NOISE connected there is not added.",
            inputs=settings([*PRESETS], "SD1.x", "EasyInv's settings from the paper."),
            outputs=SAMPLER_OUTPUT,
        )

    @classmethod
    def execute(cls, preset: str, eta: float, start: float, length: float, placement: Placement) -> io.NodeOutput:
        return io.NodeOutput(inverting_sampler(Plan(_method(preset, eta, start, length, placement))))


def _method(preset: str, eta: float, start: float, length: float, placement: Placement) -> EasyInv:
    if preset != "custom":
        eta, start, length = PRESETS[preset]
    return EasyInv(eta, start, length, placement)
