"""Edit Without Inversion: FlowEdit, to compare with. arXiv 2412.08629."""

from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, InversionError, Level, flow_edit
from . import host
from .invert import sigmas_for
from .schema import CATEGORY, report_text, schema, seed_input


class TwoPrompts(comfy.samplers.CFGGuider):
    """A guider with the source's prompt and cfg beside the edit's, one at a time."""

    def __init__(self, model: Any, source_cfg: float) -> None:
        super().__init__(model)
        self.source_cfg, self.of_source = source_cfg, False

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: Any = None) -> Tensor:
        positive = self.conds["source" if self.of_source else "positive"]
        cfg = self.source_cfg if self.of_source else self.cfg
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds.get("negative"), positive, cfg, model_options or {}, seed
        )


class FlowEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_FlowEdit",
            display_name="Edit Without Inversion (FlowEdit)",
            category=CATEGORY,
            description="Edits a picture by the difference between what two prompts predict. Inverts nothing and so "
            "keeps no exact background; two model calls per step. Made for flow models.",
            search_aliases=["flowedit", "inversion-free editing"],
            inputs=[
                io.Model.Input("model", tooltip="The model; the method is made for flow models (SD3, Flux, ...)."),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Conditioning.Input("source_positive", tooltip="What the picture shows."),
                io.Latent.Input("latent", tooltip="The picture, from VAE Encode with the model's own VAE."),
                io.Int.Input("steps", default=24, min=1, max=10000, tooltip="Number of steps."),
                io.Float.Input(
                    "cfg", default=3.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance toward the new prompt."
                ),
                io.Float.Input(
                    "source_cfg",
                    default=1.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance of the source's prediction, lower than cfg.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.SCHEDULER_NAMES),
                    default="normal",
                    tooltip="How the noise levels are spaced, as in KSampler.",
                ),
                io.Float.Input(
                    "denoise",
                    default=0.85,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="From how noisy to start. Lower keeps more of the picture.",
                ),
                seed_input("Of the noise that both predictions see."),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed when either cfg is not 1."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Replaces steps, scheduler and denoise. Descending."),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="The edited latent, for VAE Decode."),
                io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
            ],
        )

    @classmethod
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
        sigmas = sigmas_for(model, sigmas, steps, scheduler, denoise)
        if negative is None and (cfg != 1 or source_cfg != 1):
            raise InversionError(
                f"cfg {cfg:g} and source_cfg {source_cfg:g} compare with a negative prompt, but `negative` is not "
                "connected. Connect it (an empty CLIP Text Encode will do), or set both to 1."
            )
        guider = TwoPrompts(model, source_cfg)
        guider.set_cfg(cfg)
        conds = {"positive": positive, "source": source_positive}
        guider.inner_set_conds(conds if negative is None else conds | {"negative": negative})

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> Tensor:
            def of_source(x: Tensor, level: Level) -> Tensor:
                guider.of_source = True
                try:
                    return denoiser(x, level)
                finally:
                    guider.of_source = False

            generator = torch.Generator().manual_seed(seed)
            return flow_edit(of_source, denoiser, x, grid, generator, callback=callback)

        count = len(sigmas) - 1
        edited = host.run_guider(guider, samples, sigmas, walk, count)
        report = [f"FlowEdit: {count} steps from sigma {float(sigmas[0]):.4g}, {2 * count} model calls."]
        if host.model_kind(model) != "flow":
            report.append("The paper shows flow models only; compare with an Invert node and Edit From Latent.")
        return io.NodeOutput({**latent, "samples": edited}, report_text(report))
