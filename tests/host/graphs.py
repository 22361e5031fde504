"""Short names for calling the host's and the pack's nodes in process, on the demo model."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

METHODS = ("EasyInv", "GuidedNR", "FixedPoint")
"""The Invert nodes, by what follows INV_ in their ids."""


def node_of(pack: ModuleType, node_id: str) -> Any:
    """A node of the pack by its id."""
    made = [*pack.nodes.invert.INVERT_NODES, *pack.nodes.invert.INVERTING_SAMPLERS]
    return next(node for node in made if node.define_schema().node_id == node_id)


def defaults(node: Any) -> dict[str, Any]:
    """What a node's widgets show when it is new."""
    inputs = node.define_schema().inputs
    return {i.id: i.options[0] if i.default is None else i.default for i in inputs if hasattr(i, "default")}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@dataclass
class Bench:
    """One model with prompts and a picture's latent, and the nodes to use on it."""

    pack: ModuleType
    model: Any
    positive: Any
    other: Any
    negative: Any
    latent: dict

    def invert(self, method: str = "EasyInv", **inputs: Any) -> tuple[dict, Any, Tensor, str]:
        """(LATENT, NOISE, SIGMAS, report) of an Invert Image node."""
        node = node_of(self.pack, f"INV_{method}")
        given = {"model": self.model, "positive": self.positive, "latent": self.latent, **defaults(node), **inputs}
        with torch.inference_mode():
            return node.execute(**given).args

    def sampler(self, method: str, **inputs: Any) -> Any:
        """The inverting SAMPLER of a method."""
        node = node_of(self.pack, f"INV_{method}Sampler")
        return node.execute(**{**defaults(node), **inputs}).args[0]

    def through(self, walk: Any, sigmas: Tensor, cfg: float = 1.0, **prompts: Any) -> tuple[Tensor, Any]:
        """(samples, what the walk told), run by the host's guider on the bench's latent."""
        host, given = self.pack.nodes.host, {"positive": self.positive, "negative": self.negative, **prompts}
        with torch.inference_mode():
            guider = host.guider_for(self.model, cfg=cfg, **given)
            samples, grid = host.samples_for(self.model, self.latent), host.grid_of(self.model, sigmas)
            return host.run(guider, samples, grid, walk, grid.steps)

    def edit(self, **inputs: Any) -> tuple[dict, str]:
        """(LATENT, report) of Edit From Latent."""
        return self.edit_with_mask(**inputs)[:2]

    def edit_with_mask(self, **inputs: Any) -> tuple[dict, str, Tensor]:
        """(LATENT, report, MASK) of Edit From Latent; what Edit Settings has goes through that."""
        return self._with_settings(self.pack.nodes.edit.EditFromLatent, inputs)

    def edit_guider(self, **inputs: Any) -> tuple[Any, dict, Any, Tensor]:
        """(GUIDER, LATENT, NOISE, SIGMAS) of Edit Guider; what Edit Settings has goes through that."""
        return self._with_settings(self.pack.nodes.guider.EditGuiderNode, inputs)

    def _with_settings(self, node: Any, inputs: dict[str, Any]) -> Any:
        """A node's outputs, at strength 1 unless told. `preserve` stands for anchor and background."""
        if (preserve := inputs.pop("preserve", None)) is not None:
            inputs |= {"anchor": min(1.0, 2 * preserve), "background": preserve}
        settings = self.pack.nodes.edit_settings.EditSettingsNode
        known = {given.id for given in settings.define_schema().inputs}
        chosen = {name: inputs.pop(name) for name in [*inputs] if name in known}
        if chosen:
            inputs["settings"] = settings.execute(**{**defaults(settings), **chosen}).args[0]
        given = {"model": self.model, "positive": self.positive, **defaults(node), "strength": 1.0, **inputs}
        with torch.inference_mode():
            return node.execute(**given).args

    def save(self, latent: dict, prefix: str = "inversions/inversion") -> str:
        """Save Inversion; returns the file as Load Inversion names it."""
        node = self.pack.nodes.files.SaveInversion
        with torch.inference_mode():
            out = node.execute(latent, prefix)
        (saved,) = out.ui["latents"]
        assert out.args[0] is latent
        return f"{saved['subfolder']}/{saved['filename']} [{saved['type']}]"

    def load(self, file: str) -> tuple[dict, Tensor, str]:
        """(LATENT, SIGMAS, report) of Load Inversion."""
        with torch.inference_mode():
            return self.pack.nodes.files.LoadInversion.execute(file).args


def demo(pack: ModuleType, version: str) -> Bench:
    """The demo model with the Demo Picture as it comes, a fox before a green wall."""
    import nodes

    with torch.inference_mode():
        model, clip, vae = pack.nodes.demo.load(version)
        picture, caption = pack.nodes.demo.DemoPicture.execute("fox", "green", look=0).args
        positive, other, negative = (
            nodes.CLIPTextEncode().encode(clip, text)[0] for text in (caption, "a fox, purple wall", "")
        )
        latent = nodes.VAEEncode().encode(vae, picture)[0]
    return Bench(pack, model, positive, other, negative, latent)


def micro(pack: ModuleType, model_type: str) -> Bench:
    """A random-weight Stable Diffusion UNet of 0.2 M parameters in the host's own classes: eps, v or EDM."""
    kind = getattr(comfy.model_base.ModelType, model_type)

    class Config(comfy.supported_models.SD15):
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}

        def model_type(self, state_dict: dict, prefix: str = "") -> Any:
            return kind

    unet = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1],
        "channel_mult": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1],
        "transformer_depth_middle": 1, "context_dim": 16, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": False, "adm_in_channels": None, "use_checkpoint": False,
        "use_temporal_resblock": False, "use_temporal_attention": False,
    }  # fmt: skip
    config = Config(unet)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    random = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in model.diffusion_model.state_dict().items():
        scale = 1.0 if value.ndim < 2 else value[0].numel() ** -0.5
        weights[name] = torch.randn(value.shape, generator=random) * scale
        if value.ndim < 2:
            weights[name] = torch.ones_like(value) if name.endswith("weight") else weights[name] * 0.02
    weights["out.2.weight"] *= 0.05  # a gentle ODE, as a trained model's is
    model.diffusion_model.load_state_dict(weights)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    device = comfy.model_management.get_torch_device()
    mp = patcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    prompts = [[[torch.randn(1, 7, 16, generator=random), {}]] for _ in range(3)]
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=random) * 4}
    return Bench(pack, mp, *prompts, latent)
