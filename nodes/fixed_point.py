"""Fixed-point inversion in the graph: Invert Image (Fixed Point) and its SAMPLER. Plain DDIM is a setting of it."""

from typing import Any, Literal

from comfy_api.latest import io
from torch import Tensor

from ..inversion import FixedPoint
from .invert import (
    OUTPUTS,
    SAMPLER_OUTPUT,
    Plan,
    common_inputs,
    inverting_sampler,
    late_inputs,
    run_inversion,
    sampler_inputs,
    sigmas_for,
)
from .schema import CATEGORY, SAMPLING, advanced, schema

Start = Literal["extrapolated", "last slope", "native"]
WARM_START: dict[Start, Any] = {"extrapolated": True, "last slope": "last", "native": False}


def settings() -> list[io.Input]:
    return [
        io.Int.Input(
            "iterations",
            default=8,
            min=1,
            max=1000,
            tooltip="Most model calls per step. 1 costs what DDIM inversion costs, and with start 'native' it is DDIM "
            "inversion.",
        ),
        io.Float.Input(
            "tolerance",
            default=0.01,
            min=0.0,
            max=1.0,
            step=0.0001,
            tooltip="Relative residual at which a step is solved and its remaining iterations are saved. 0 spends them "
            "all.",
        ),
        advanced(
            io.Combo.Input(
                "start",
                options=list(WARM_START),
                default="extrapolated",
                tooltip="The first guess of each step. extrapolated: from the last two steps, the best. last slope: as "
                "Uni-Inv. native: the known latent in the model's own scale, as DDIM inversion.",
            )
        ),
        advanced(
            io.Int.Input(
                "anderson",
                default=3,
                min=0,
                max=10,
                tooltip="How many iterates Anderson acceleration looks back on. 0 is plain iteration.",
            )
        ),
    ]


class InvertFixedPoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_FixedPoint",
            display_name="Invert Image (Fixed Point)",
            category=CATEGORY,
            description="Turns a picture's latent into the noise that regenerates it, as exactly as asked: repeats "
            "each step until it is solved. The most exact of the Invert nodes at cfg 1.",
            search_aliases=[
                "unsample",
                "unsampler",
                "noise inversion",
                "ddim inversion",
                "renoise",
                "anderson",
                "reconstruct",
            ],
            inputs=[*common_inputs(), *settings(), *sampler_inputs(), *late_inputs()],
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
        iterations: int,
        tolerance: float,
        start: Start,
        anderson: int,
        sampler: str,
        seed: int,
        check: bool,
        negative: Any = None,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        plan = Plan(FixedPoint(iterations, tolerance, WARM_START[start], anderson), sampler=sampler)
        sigmas = sigmas_for(model, sigmas, steps, scheduler, denoise)
        return run_inversion(plan, model, positive, negative, latent, cfg, sigmas, check, [], seed)


class FixedPointSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_FixedPointSampler",
            display_name="Inverting Sampler (Fixed Point)",
            category=SAMPLING,
            description="Invert Image (Fixed Point) as a SAMPLER, for SamplerCustomAdvanced with any guider. Give it "
            "the picture's latent and the SIGMAS of the way down as they are; the NOISE connected there is not added.",
            inputs=[*settings(), *sampler_inputs(seed=False)],
            outputs=SAMPLER_OUTPUT,
        )

    @classmethod
    def execute(cls, iterations: int, tolerance: float, start: Start, anderson: int, sampler: str) -> io.NodeOutput:
        plan = Plan(FixedPoint(iterations, tolerance, WARM_START[start], anderson), sampler=sampler)
        return io.NodeOutput(inverting_sampler(plan))
