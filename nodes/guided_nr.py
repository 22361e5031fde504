"""Guided Newton-Raphson in the graph: Invert Image (Guided NR) and its SAMPLER. arXiv 2312.12540."""

from typing import Any, Literal

from comfy_api.latest import io
from torch import Tensor

from ..inversion import GuidedNewton
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

Gradient = Literal["auto", "sign", "autograd", "min-norm"]
Start = Literal["extrapolated", "native", "state"]


def settings() -> list[io.Input]:
    return [
        io.Int.Input(
            "iterations",
            default=2,
            min=1,
            max=100,
            tooltip="Newton iterations per step, a model call each. The paper takes 1 or 2.",
        ),
        io.Float.Input(
            "guidance",
            default=0.1,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="Lambda of the paper: how strongly the solution is pulled toward likely noise. 0 is plain Newton.",
        ),
        io.Float.Input(
            "tolerance",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.0001,
            tooltip="Relative residual at which a step is solved and its remaining iterations are saved, such as 0.01. "
            "0 spends them all.",
        ),
        io.Combo.Input(
            "gradient",
            options=["auto", "sign", "autograd", "min-norm"],
            default="auto",
            tooltip="sign: the released code's step, without a gradient of the model. autograd: the paper's, and "
            "min-norm: its shortest solution; both differentiate the model, with a backward pass for each iteration "
            "but the last, and much memory. auto: sign at cfg 1, where it does as well; else min-norm if the model can "
            "be differentiated.",
        ),
        advanced(
            io.Combo.Input(
                "start",
                options=["extrapolated", "native", "state"],
                default="extrapolated",
                tooltip="The first guess of each step. extrapolated: from the steps before, the best. native: the "
                "known latent in the model's own scale, the paper's. state: as it stands, the released Turbo code's.",
            )
        ),
    ]


class InvertGuidedNR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_GuidedNR",
            display_name="Invert Image (Guided NR)",
            category=CATEGORY,
            description="Turns a picture's latent into the noise that regenerates it, by guided Newton-Raphson. Made "
            "for models of few steps (2 to 8).",
            search_aliases=[
                "unsample",
                "unsampler",
                "noise inversion",
                "newton raphson",
                "turbo inversion",
                "renoise",
                "reconstruct",
            ],
            inputs=[*common_inputs(steps=4), *settings(), *sampler_inputs(), *late_inputs()],
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
        guidance: float,
        tolerance: float,
        gradient: Gradient,
        start: Start,
        sampler: str,
        seed: int,
        check: bool,
        negative: Any = None,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        plan = _plan(iterations, guidance, tolerance, gradient, start, sampler)
        sigmas = sigmas_for(model, sigmas, steps, scheduler, denoise)
        return run_inversion(plan, model, positive, negative, latent, cfg, sigmas, check, [], seed)


class GuidedNRSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_GuidedNRSampler",
            display_name="Inverting Sampler (Guided NR)",
            category=SAMPLING,
            description="Invert Image (Guided NR) as a SAMPLER, for SamplerCustomAdvanced with any guider. Give it "
            "the picture's latent and the SIGMAS of the way down as they are; the NOISE connected there is not added.",
            inputs=[*settings(), *sampler_inputs(seed=False)],
            outputs=SAMPLER_OUTPUT,
        )

    @classmethod
    def execute(
        cls, iterations: int, guidance: float, tolerance: float, gradient: Gradient, start: Start, sampler: str
    ) -> io.NodeOutput:
        return io.NodeOutput(inverting_sampler(_plan(iterations, guidance, tolerance, gradient, start, sampler)))


def _plan(iterations: int, guidance: float, tolerance: float, gradient: Gradient, start: Start, sampler: str) -> Plan:
    fixed = "sign" if gradient == "auto" else gradient
    method = GuidedNewton(iterations, guidance, fixed, start=start, tolerance=tolerance)
    return Plan(method, gradient == "auto", sampler)
