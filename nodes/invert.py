"""Invert Image and its SAMPLER, for every method of the table: a picture's latent to the noise that regenerates it."""

import dataclasses
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, Inversion, Method, invert, sample
from ..inversion.metrics import psnr_each
from ..inversion.record import in_words
from ..inversion.verdict import of_round_trip
from . import host
from .host import record
from .host.draws import findings
from .host.guider import WalkSampler
from .methods import ALIASES, METHODS, Ready, Row
from .schema import (
    CATEGORY,
    SAMPLING,
    advanced,
    cfg_input,
    report_text,
    schedule_inputs,
    schema,
    seed_input,
    within_bounds,
)

ON_GPU = "Exactly means to rounding here: to the last bit it has been seen on the CPU only."
OUTPUTS = [
    io.Latent.Output(
        "latent_out",
        display_name="latent",
        tooltip="The inverted latent with its record, for Edit From Latent.",
    ),
    io.Noise.Output(
        "noise",
        display_name="noise",
        tooltip="The inverted latent as NOISE, for SamplerCustomAdvanced. Connect sigmas and the picture's original "
        "latent there too. There flow models need this output, not latent.",
    ),
    io.Sigmas.Output(
        "sigmas_out",
        display_name="sigmas",
        tooltip="The noise levels of the inversion, from high to low, to sample with.",
    ),
    io.String.Output("report", display_name="report", tooltip="How well the inversion went, in plain words."),
]


@dataclass(frozen=True)
class Plan:
    """How to invert.

    Arguments:
        row: the method's row of the table.
        settings: what the node's widgets say, by name.
        method: the method that these make.
        remarks: on them, for the report.
    """

    row: Row
    settings: dict[str, Any]
    method: Method
    remarks: list[str]

    @classmethod
    def of(cls, row: Row, settings: dict[str, Any], model: Any = None) -> "Plan":
        return cls(row, settings, *row.method(model, settings))

    @property
    def ancestral(self) -> bool:
        return self.settings.get("sampler") == "euler_ancestral"

    def invert(self, denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Inversion, str]:
        """The inversion, and a sentence on what was chosen when the model was loaded ("" where nothing was)."""
        ready: Ready = nullcontext((self.method, denoiser, x, ""))
        if self.row.prepare is not None:
            ready = self.row.prepare(self.method, self.settings, denoiser, x, grid)
        with ready as (method, model, start, remark):
            record.check_memory(start, grid)
            noise = host.fixed_noise(denoiser, start, grid)
            found = invert(model, start, grid, method, callback=callback, noise=noise, store=torch.device("cpu"))
        more = findings(denoiser, grid, found.points[-1].to(x), found.slopes[-1].to(x))
        return dataclasses.replace(found, notes=(*found.notes, *more)), remark


class InvertNode(io.ComfyNode):
    """Invert Image by the method of `ROW`."""

    ROW: Row

    @classmethod
    def define_schema(cls) -> io.Schema:
        row = cls.ROW
        first = [
            io.Model.Input(
                "model", tooltip="The model to invert with. Edit with the same model, or one of its family."
            ),
            io.Conditioning.Input("positive", tooltip="What the picture shows, written as a prompt."),
            io.Latent.Input("latent", tooltip="The picture, from VAE Encode with the model's own VAE."),
        ]
        steps, scheduler, denoise = schedule_inputs(
            row.steps,
            "Number of steps. More steps are usually more accurate. Models of few steps, such as Turbo, need their own "
            "number.",
            "How far to invert. 1 goes all the way to noise. Below 1 the picture's layout stays, and the edit changes "
            "less.",
        )
        cfg = cfg_input(
            1.0,
            "Guidance of the inversion. Leave it at 1, which is the most accurate and takes half the time. Guide the "
            "edit instead.",
        )
        last = [
            advanced(
                io.Boolean.Input(
                    "check",
                    default=False,
                    tooltip="Sample again without the record, and report how close the result is to the picture. Takes "
                    "one more model call per step.",
                )
            ),
            advanced(
                io.Boolean.Input(
                    "compact",
                    default=False,
                    optional=True,  # graphs that were saved before it was there run on
                    tooltip="Takes about half the memory, and makes files half as large. The old prompt then gives the "
                    "picture back with a very small error.",
                )
            ),
            io.Conditioning.Input(
                "negative", optional=True, tooltip="Needed if cfg is not 1. An empty prompt is enough."
            ),
            io.Sigmas.Input(
                "sigmas",
                optional=True,
                tooltip="Noise levels from high to low, in place of steps, scheduler and denoise.",
            ),
        ]
        return schema(
            node_id=f"INV_{row.id}",
            display_name=f"Invert Image ({row.name})",
            category=CATEGORY,
            description=f"Finds the noise from which the model draws your picture. {row.description}",
            search_aliases=[*ALIASES, *row.aliases],
            essentials_category="Image Tools" if row.essential else None,
            inputs=[*first, steps, cfg, scheduler, denoise, *row.inputs(True), *_sampler_inputs(row, True), *last],
            outputs=OUTPUTS,
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        steps: int,
        cfg: float,
        scheduler: str,
        denoise: float,
        check: bool,
        compact: bool = False,
        negative: Any = None,
        sigmas: Tensor | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> io.NodeOutput:
        plan = Plan.of(cls.ROW, settings, model)
        grid = host.chosen_grid(model, sigmas, steps, scheduler, denoise, plan.ancestral)
        samples = host.samples_for(model, latent)
        total = 2 * grid.steps if check else grid.steps

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Tensor, Any]:
            def inverting(index: int, _: int, state: Tensor, denoised: Tensor) -> None:
                callback(index, total, state, denoised)

            def checking(index: int, _: int, state: Tensor, denoised: Tensor) -> None:
                callback(grid.steps + index, total, state, denoised)

            inversion, remark = plan.invert(denoiser, x, grid, inverting)
            latent_out = inversion.latent.to(x.device)
            decibels = None
            if check:
                back = sample(denoiser, latent_out, grid, callback=checking, noise=inversion.noise)
                decibels = psnr_each(x.float(), back)
            return latent_out, (inversion, remark, decibels)

        started = time.perf_counter()
        guider = host.guider_for(model, positive, negative, cfg)
        inverted, (inversion, remark, decibels) = host.run(guider, samples, grid, walk, total, seed)
        seconds = time.perf_counter() - started

        plain = math.isclose(cfg, 1.0)  # as the host decides; a guided source has two prompts
        made = record.Record(inversion, record.signature(model), cfg, prompt=positive if plain else None)
        out, about_prompt = made.on(latent, inverted, compact)
        noise = host.InvertedNoise(model, inversion.latent, grid.levels[0].sigma, seed)
        verdict = inversion.verdict if decibels is None else of_round_trip(decibels, grid.steps)
        took = f"{seconds:.1f} seconds at cfg {cfg:g}."
        remarks = [*plan.remarks, remark, about_prompt]
        if compact:
            remarks.append(_compact(out[record.KEY], inversion))
        if not host.on_cpu(model):
            remarks.append(ON_GPU)
        if host.left_by_uni_pc(grid.levels[-1].sigma):
            remarks.append(host.UNI_PC)
        report = report_text([verdict, inversion.report(), *remarks, took])
        return io.NodeOutput(out, noise, host.lasting_sigmas(grid), report)


class InvertingSampler(io.ComfyNode):
    """The method of `ROW` as a SAMPLER: for SamplerCustomAdvanced, with any guider and ordinary descending SIGMAS."""

    ROW: Row

    @classmethod
    def define_schema(cls) -> io.Schema:
        row = cls.ROW
        return schema(
            node_id=f"INV_{row.id}Sampler",
            display_name=f"Inverting Sampler ({row.name})",
            category=SAMPLING,
            description=f"Invert Image ({row.name}) as a SAMPLER, for SamplerCustomAdvanced with any guider. Give it "
            "the picture's latent, and SIGMAS as the scheduler makes them. The connected NOISE is not added.",
            search_aliases=[*ALIASES, *row.aliases],
            inputs=[*row.inputs(False), *_sampler_inputs(row, False)],
            outputs=[
                io.Sampler.Output(
                    "sampler_out",
                    display_name="sampler",
                    tooltip="For SamplerCustomAdvanced. Its result is the inverted latent. Connect that to Noise "
                    "From Latent, or to Edit From Latent at strength 1, with the same SIGMAS in Edit Settings.",
                )
            ],
        )

    @classmethod
    @within_bounds
    def execute(cls, **settings: Any) -> io.NodeOutput:
        plan = Plan.of(cls.ROW, settings)

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Tensor, None]:
            inversion, remark = plan.invert(denoiser, x, grid, callback)
            logging.info(report_text([inversion.verdict, inversion.report(), remark]))
            return inversion.latent.to(x.device), None

        return io.NodeOutput(WalkSampler(walk, ancestral=plan.ancestral))


def _compact(kept: dict[str, Any], inversion: Inversion) -> str:
    took, whole = (
        sum(part.nbytes for part in made.values() if isinstance(part, Tensor)) for made in (kept, inversion.to_dict())
    )
    return (
        f"The record is compact: it takes {in_words(took)} in place of {in_words(whole)}. The same prompt gives the "
        "picture back to rounding, not to the last bit."
    )


def _sampler_inputs(row: Row, in_node: bool) -> list[io.Input]:
    """Which sampler is inverted, and its seed; a SAMPLER gets the seed from the NOISE."""
    if not row.ancestral:
        return []
    choice = advanced(
        io.Combo.Input(
            "sampler",
            options=["euler", "euler_ancestral"],
            default="euler",
            tooltip="The sampler to invert. Use euler_ancestral for SDXL Turbo, and euler for all other models. Then "
            "sample with Edit From Latent, or with ComfyUI's euler_ancestral and the same seed.",
        )
    )
    number = seed_input("Seed of the noise that euler_ancestral adds. euler does not read it.")
    return [choice, advanced(number)] if in_node else [choice]


def nodes_of(row: Row) -> tuple[type[InvertNode], type[InvertingSampler]]:
    """The two nodes of a method."""
    node = type(f"Invert{row.id}", (InvertNode,), {"ROW": row})
    return node, type(f"{row.id}Sampler", (InvertingSampler,), {"ROW": row})


INVERT_NODES, INVERTING_SAMPLERS = zip(*map(nodes_of, METHODS), strict=True)
