"""Edit Without Inversion: FlowEdit, to compare with. arXiv 2412.08629."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, flow_edit
from . import host
from .host.masks import crop_remark, mask_for
from .schema import CATEGORY, cfg_input, report_text, schedule_inputs, schema, seed_input, within_bounds


class FlowEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        steps, scheduler, denoise = schedule_inputs(
            24, "Number of steps.", "How much noise to start from. Lower keeps more of the picture.", denoise=0.85
        )
        return schema(
            node_id="INV_FlowEdit",
            display_name="Edit Without Inversion (FlowEdit)",
            category=CATEGORY,
            description="Edits a picture without inverting it, by the difference between two prompts' predictions. It "
            "keeps no background exactly. Takes two model calls per step. Made for flow models.",
            search_aliases=["FlowEdit", "inversion-free editing", "real image editing"],
            inputs=[
                io.Model.Input("model", tooltip="The model. The method is made for flow models, such as SD3 and Flux."),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Conditioning.Input("source_positive", tooltip="What the picture shows."),
                io.Latent.Input(
                    "latent",
                    tooltip="The picture, from VAE Encode with the model's own VAE. With Set Latent Noise Mask, only "
                    "the white parts of the mask may change.",
                ),
                steps,
                cfg_input(3.0, "Guidance under the new prompt."),
                cfg_input(1.5, "Guidance under the source prompt. Take less than cfg.", "source_cfg"),
                scheduler,
                denoise,
                seed_input("Seed of the noise that is added for both predictions."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Needed if cfg or source_cfg is not 1. An empty prompt will do."
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels from high to low, in place of steps, scheduler and denoise.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="The edited latent, for VAE Decode."),
                io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
            ],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model: Any,
        positive: Any,
        source_positive: Any,
        latent: dict,
        steps: int,
        cfg: float,
        source_cfg: float,
        scheduler: str,
        denoise: float,
        seed: int,
        negative: Any = None,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        samples = host.samples_for(model, latent)
        allowed = mask_for(latent, samples)
        grid = host.chosen_grid(model, sigmas, steps, scheduler, denoise)
        guider = host.guider_for(model, positive, negative, cfg, source_positive, source_cfg)

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Tensor, None]:
            generator = torch.Generator().manual_seed(seed)
            source = denoiser.of_source
            return flow_edit(source, denoiser, x, grid, generator, mask=allowed, callback=callback), None

        edited, _ = host.run(guider, samples, grid, walk, grid.steps)
        report = [f"FlowEdit: {grid.steps} steps from sigma {grid.levels[0].sigma:.4g}, {2 * grid.steps} model calls."]
        if allowed is not None:
            report.append(
                f"The latent's mask lets {float(allowed.mean()):.0%} of the picture change. The rest stays as it was."
            )
        report += [remark] if (remark := crop_remark(latent, samples, None)) else []
        if host.model_kind(model) != "flow":
            report.append("The paper is about flow models only. Compare with an Invert node and Edit From Latent.")
        return io.NodeOutput({**latent, "samples": edited}, report_text(report))
