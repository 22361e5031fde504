"""What all Invert Image nodes and their SAMPLERs share: a picture's latent to the noise that regenerates it."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Denoiser, Grid, GuidedNewton, Inversion, Method, invert, psnr, sample
from . import gradient, host, record
from .schema import advanced, report_text, seed_input

# PSNR of a latent's round trip, in dB: what looks the same (the demo model's codec has 33), and what looks alike.
NEAR, ALIKE = 38.0, 28.0
SAMPLERS = ["euler", "euler_ancestral"]
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

SAMPLER_OUTPUT = [
    io.Sampler.Output(
        "sampler_out",
        display_name="sampler",
        tooltip="Its result is the inverted latent; come down with Edit From Latent and the same SIGMAS, or give it to "
        "Noise From Latent.",
    )
]


def common_inputs(steps: int = 20) -> list[io.Input]:
    """What every Invert node takes before its own settings."""
    return [
        io.Model.Input("model", tooltip="The model to invert with. Edit with the same one, or one of its family."),
        io.Conditioning.Input("positive", tooltip="What the picture shows, in the words you would prompt it with."),
        io.Latent.Input("latent", tooltip="The picture, from VAE Encode with the model's own VAE."),
        io.Int.Input(
            "steps", default=steps, min=1, max=10000, tooltip="Number of steps. More steps invert more exactly."
        ),
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


def sampler_inputs(seed: bool = True) -> list[io.Input]:
    """Which sampler will come down, and its seed; a SAMPLER gets the seed from the NOISE."""
    choice = advanced(
        io.Combo.Input(
            "sampler",
            options=SAMPLERS,
            default="euler",
            tooltip="The sampler to invert. euler_ancestral, which Turbo models are made for, with the noise that it "
            "adds held fixed: come down with Edit From Latent, or with the host's euler_ancestral and the same seed.",
        )
    )
    if not seed:
        return [choice]
    number = seed_input("Of the noise that euler_ancestral adds; euler does not read it.")
    return [choice, advanced(number)]


@dataclass(frozen=True)
class Plan:
    """How to invert: what an Invert node and a SAMPLER have in common.

    Arguments:
        method: the method.
        choose_gradient: for GuidedNewton: choose its gradient when the model is loaded (see `gradient.prepared`).
        sampler: the sampler to invert, one of SAMPLERS.
    """

    method: Method
    choose_gradient: bool = False
    sampler: str = "euler"

    @property
    def ancestral(self) -> bool:
        return self.sampler == "euler_ancestral"

    def climb(self, denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Inversion, str]:
        """The inversion, and a sentence on what was chosen on the way ("" where nothing was)."""
        with self._ready(denoiser, x, grid) as (method, model, start, remark):
            noise = host.fixed_noise(denoiser, start, grid)
            found = invert(model, start, grid, method, callback=callback, noise=noise, store=torch.device("cpu"))
        return found, remark

    @contextlib.contextmanager
    def _ready(
        self, denoiser: host.HostDenoiser, x: Tensor, grid: Grid
    ) -> Iterator[tuple[Method, Denoiser, Tensor, str]]:
        if isinstance(self.method, GuidedNewton):
            with gradient.prepared(self.method, self.choose_gradient, denoiser, x, grid) as ready:
                yield ready
        else:
            yield self.method, denoiser, x, ""


def inverting_sampler(plan: Plan) -> host.WalkSampler:
    """A SAMPLER that inverts: for SamplerCustomAdvanced, with any guider and ordinary descending SIGMAS."""

    def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> Tensor:
        inversion, remark = plan.climb(denoiser, x, grid, callback)
        logging.info(report_text([inversion.verdict, inversion.report(), remark]))
        return inversion.latent.to(x.device)

    return host.WalkSampler(walk, plan.ancestral)


def run_inversion(
    plan: Plan,
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict,
    cfg: float,
    sigmas: Tensor,
    check: bool,
    remarks: list[str],
    seed: int = 0,
) -> io.NodeOutput:
    """Invert by `plan` and make the four outputs that every Invert node has."""
    samples = host.samples_for(model, latent)
    steps = len(sigmas) - 1
    total = 2 * steps if check else steps
    results: list[Inversion] = []
    checked: list[float] = []

    def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> Tensor:
        def upward(index: int, _: int, state: Tensor, denoised: Tensor) -> None:
            callback(index, total, state, denoised)

        def downward(index: int, _: int, state: Tensor, denoised: Tensor) -> None:
            callback(steps + index, total, state, denoised)

        inversion, remark = plan.climb(denoiser, x, grid, upward)
        results.append(inversion)
        remarks.append(remark)
        latent_out = inversion.latent.to(x.device)
        if check:
            back = sample(denoiser, latent_out, grid, callback=downward, noise=inversion.noise)
            checked.append(psnr(x.float(), back))
        return latent_out

    started = time.perf_counter()
    inverted = host.run(model, positive, negative, cfg, samples, sigmas, walk, total, plan.ancestral, seed)
    seconds = time.perf_counter() - started

    (inversion,) = results
    out = {**latent, "samples": inverted, record.KEY: record.write(model, inversion, cfg)}
    noise = host.InvertedNoise(model, inversion.latent, float(sigmas[0]), seed)
    verdict = check_verdict(checked[0], steps) if check else inversion.verdict
    lines = [verdict, inversion.report(), *remarks, f"{seconds:.1f} seconds at cfg {cfg:g}."]
    return io.NodeOutput(out, noise, sigmas, report_text(lines))


def check_verdict(decibels: float, steps: int) -> str:
    """What a round trip by the sampler alone, without the record, says; `decibels` is the PSNR of the latent."""
    if decibels >= NEAR:
        what = "Inverted well: the sampler alone comes back near the picture"
    elif decibels >= ALIKE:
        what = "Inverted fairly: the sampler alone comes back to something like the picture"
    else:
        what = (
            "The inversion did not work well: the sampler alone comes back to another picture. Lower cfg toward 1, "
            "use more steps or more iterations. It came back"
        )
    return f"{what} (checked: {decibels:.1f} dB in the latent, {steps} more model calls)."


def sigmas_for(model: Any, sigmas: Tensor | None, steps: int, scheduler: str, denoise: float) -> Tensor:
    """The noise levels to invert on: those connected, or the host's schedule."""
    if sigmas is None:
        sigmas = host.scheduled_sigmas(model, steps, scheduler, denoise)
    return host.checked_sigmas(model, sigmas)
