"""Edit From Latent: an inverted latent to a picture, under a new prompt."""

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy_api.latest import io
from torch import Tensor

from ..inversion import Callback, Grid, Inversion, InversionError, Keep, sample
from . import host, record
from .schema import CATEGORY, advanced, report_text, schema
from .structure import SharedAttention

Control = Literal["preserve", "advanced"]


@dataclass(frozen=True)
class Settings:
    """What is kept of the source, in separate settings; see `Keep` and `SharedAttention`."""

    anchor: float
    anchor_end: float = 1.0
    background: float = 0.0
    threshold: float = 0.35
    dilation: int = 0
    structure: float = 0.0
    structure_layers: float = 1.0

    @classmethod
    def preserving(cls, preserve: float) -> "Settings":
        """The dial: 0 keeps nothing but the noise, 1 all that the new prompt does not change."""
        return cls(anchor=min(1.0, 2 * preserve), background=preserve)


class EditFromLatent(io.ComfyNode):
    """Comes down on the inversion's own sigmas and steps, guided by its record."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_EditFromLatent",
            display_name="Edit From Latent",
            category=CATEGORY,
            description="Regenerates an inverted picture under a new prompt. Steps, scheduler and sigmas come with the "
            "latent; the same prompt at the inversion's cfg gives the picture back exactly. Keeps what the new prompt "
            "does not change, as far as preserve says, and everything outside a mask.",
            search_aliases=["edit image", "resample", "reconstruct", "inversion edit", "prompt edit"],
            essentials_category="Image Tools",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that inverted, or one of its family: another checkpoint, a LoRA."
                ),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance of the edit. Higher follows the new prompt more and the picture less.",
                ),
                io.Float.Input(
                    "preserve",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the picture to keep where the new prompt changes little. 0: only the noise, "
                    "as plain sampling. 1: everything outside the automatic mask, exactly.",
                ),
                *_separate_settings(),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed when cfg is not 1."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Only for a latent without an inversion record: the Invert node's sigmas output.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the picture may change; the rest is kept exactly. The latent's own mask (Set "
                    "Latent Noise Mask) does the same.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="The edited latent, for VAE Decode."),
                io.String.Output("report", display_name="report", tooltip="What was done, in plain words."),
                io.Mask.Output(
                    "mask_out",
                    display_name="mask",
                    tooltip="Where the picture was let change: your mask and the automatic one together.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        cfg: float,
        preserve: float,
        control: Control,
        anchor: float,
        anchor_end: float,
        background: float,
        threshold: float,
        dilation: int,
        structure: float,
        structure_layers: float,
        feather: int,
        negative: Any = None,
        sigmas: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        separate = Settings(anchor, anchor_end, background, threshold, dilation, structure, structure_layers)
        settings = separate if control == "advanced" else Settings.preserving(preserve)
        samples = host.samples_for(model, latent)
        source, remarks = record.read(model, latent, samples)
        allowed = record.mask_for(latent, samples, mask, feather)
        if source is not None:
            if sigmas is not None:
                remarks.append("The record's own sigmas were used; the connected SIGMAS were not needed.")
            sigmas = torch.tensor([level.sigma for level in source.grid.levels])
        elif sigmas is None:
            raise InversionError(
                f"{' '.join(remarks)} Without a record the noise levels are not known: connect the Invert node's "
                "SIGMAS, or its latent directly."
            )
        sigmas = host.checked_sigmas(model, sigmas)
        if allowed is not None and source is None:
            raise InversionError(
                f"{' '.join(remarks)} A mask keeps the picture outside it by writing the record's states back, so it "
                "needs a record. Connect the latent straight from the Invert node, or remove the mask."
            )
        steps = len(sigmas) - 1
        keep = None if source is None else _keep(source, settings, allowed)
        shared: list[SharedAttention] = []

        def walk(denoiser: host.HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> Tensor:
            if source is None:
                return sample(denoiser, x, grid, callback=callback)
            start = source.latent.to(x) if keep is not None else x  # the record's, which no node in between has rounded
            if settings.structure:
                shared.append(SharedAttention(denoiser, source, settings.structure, settings.structure_layers))
            beside = shared[0] if shared else denoiser
            return sample(beside, start, grid, callback=callback, noise=source.noise, source=keep)

        started = time.perf_counter()
        ancestral = source is not None and source.grid.ancestral
        edited = host.run(model, positive, negative, cfg, samples, sigmas, walk, steps, ancestral)
        extra = shared[0].evaluations if shared else 0
        seconds = time.perf_counter() - started
        lines = [f"{steps} steps at cfg {cfg:g}, {steps + extra} model calls, {seconds:.1f} seconds."]
        if source is not None:
            lines.append(f"Came down on the record of {source.method}, {source.grid.steps} steps.")
            lines.append(_kept(settings, control, preserve))
        if extra:
            lines.append(f"{extra} of the calls evaluate the source beside the edit, for its structure.")
        if allowed is not None:
            lines.append(
                f"The mask lets {float(allowed.mean()):.0%} of the picture change; the rest is the source's own."
            )
            if "denoise_mask_function" in model.model_options:
                lines.append("Differential Diffusion was not used: grey in the mask blends source and edit instead.")
        changed = _changed(keep, allowed, samples)
        if settings.background and source is not None:
            lines.append(f"The automatic mask lets {float(changed.mean()):.0%} of the picture change.")
        out = {key: value for key, value in latent.items() if key != record.KEY} | {"samples": edited}
        return io.NodeOutput(out, report_text(lines + remarks), _picture_mask(model, changed))


def _separate_settings() -> list[io.Input]:
    only = "Read when control is advanced."

    def share(name: str, default: float, tooltip: str, lowest: float = 0.0) -> io.Input:
        return advanced(
            io.Float.Input(name, default=default, min=lowest, max=1.0, step=0.01, tooltip=f"{tooltip} {only}")
        )

    return [
        advanced(
            io.Combo.Input(
                "control",
                options=["preserve", "advanced"],
                default="preserve",
                tooltip="preserve: one dial. advanced: the separate settings below.",
            )
        ),
        share("anchor", 1.0, "How strongly each step is tied to the inversion's own; 1 gives the same prompt exactly."),
        share("anchor_end", 1.0, "Share of the steps that are anchored, from the noisy end."),
        share("background", 0.8, "How much of what changes outside the automatic mask is undone."),
        share("threshold", 0.35, "Share of the largest difference from which a place counts as changing.", 0.01),
        advanced(
            io.Int.Input(
                "dilation",
                default=0,
                min=0,
                max=64,
                tooltip=f"How far the automatic mask is grown, in latent pixels. {only}",
            )
        ),
        share("structure", 0.0, "Share of the steps that borrow the source's self-attention; doubles their cost."),
        share("structure_layers", 1.0, "Share of the self-attention layers that borrow, from the last."),
        advanced(
            io.Int.Input(
                "feather",
                default=0,
                min=0,
                max=64,
                tooltip="How softly a connected mask ends, in latent pixels inward; outside stays exact.",
            )
        ),
    ]


def _keep(source: Inversion, settings: Settings, mask: Tensor | None) -> Keep | None:
    """None where nothing at all is kept, which is plain sampling."""
    if not (settings.anchor or settings.background or settings.structure or mask is not None):
        return None
    chosen = (settings.anchor, settings.anchor_end, settings.background, settings.threshold, settings.dilation)
    return Keep(source, *chosen, mask)


def _kept(settings: Settings, control: Control, preserve: float) -> str:
    if control == "preserve":
        return f"Preserve {preserve:g}."
    return (
        f"Anchor {settings.anchor:g} to {settings.anchor_end:.0%} of the steps, background {settings.background:g}, "
        f"structure {settings.structure:g}."
    )


def _changed(keep: Keep | None, allowed: Tensor | None, samples: Tensor) -> Tensor:
    """Where the edit could change the picture, (B, 1, ..., H, W), from 0 to 1."""
    changed = torch.ones_like(samples[:, :1]) if allowed is None else allowed.expand_as(samples[:, :1])
    return changed * keep.automatic_mask().to(changed) if keep is not None else changed


def _picture_mask(model: Any, mask: Tensor) -> Tensor:
    """A latent mask as the host's MASK, (B, H, W): pictures are larger than their latents."""
    ratio = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
    flat = mask.float().cpu().reshape(-1, 1, *mask.shape[-2:] if mask.ndim > 3 else (1, mask.shape[-1]))
    return torch.nn.functional.interpolate(flat, scale_factor=float(ratio), mode="nearest")[:, 0]
