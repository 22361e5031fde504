"""The wide world's model as host objects; `demo/world/` says what it is."""

import json
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from safetensors import safe_open
from torch import Tensor

from ...demo import text
from ...demo.world import network
from ...demo.world.codec import CHANNELS, PATCH, LappedCodec
from ..host.latents import check_channels
from .model import DemoBaseModel, DemoModelConfig, _clip

VERSIONS = {"eps": "vprediction", "flow": "flow"}
WEIGHTS = Path(network.__file__).parent / "weights"


class WorldLatent(comfy.latent_formats.LatentFormat):
    """32 channels for each 8 x 8 pixels, each scaled to the range the network works in."""

    latent_channels = CHANNELS

    def __init__(self, codec: LappedCodec, scale: Tensor) -> None:
        self.scale = scale.float()[:, None, None]
        self.spacial_downscale_ratio = PATCH
        # Previews show each block's mean colour, which is a linear map of the latent.
        to_rgb = codec.basis.unflatten(1, (3, PATCH * PATCH)).mean(-1) / scale.float()[:, None]
        self.latent_rgb_factors = to_rgb.tolist()
        self.latent_rgb_factors_bias = codec.mean.unflatten(0, (3, PATCH * PATCH)).mean(-1).tolist()

    def process_in(self, latent: Tensor) -> Tensor:
        check_channels(latent, self)  # before any node of this pack sees it, the host scales what it samples from
        return latent * self.scale.to(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return latent / self.scale.to(latent)


def load(version: str, folder: Path = WEIGHTS) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the wide world's model, version "eps" or "flow", from a folder of weights."""
    path = folder / "shared.safetensors"
    with safe_open(path, "pt") as file:
        vocabulary = json.loads(file.metadata()["vocabulary"])
    unet = comfy.utils.load_torch_file(str(folder / f"{VERSIONS[version]}.safetensors"))
    return assemble(version, comfy.utils.load_torch_file(str(path)), unet, vocabulary)


def assemble(
    version: str, shared: dict[str, Tensor], unet: dict[str, Tensor], words: list[str]
) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE]:
    """The same from weights in memory: `shared` has "text.", "codec." and "latent.scale"."""
    codec = LappedCodec()
    codec.load_state_dict({k.removeprefix("codec."): v for k, v in shared.items() if k.startswith("codec.")})
    flow = version == "flow"
    config = DemoModelConfig(network.UNET)
    config.latent_format = WorldLatent(codec, shared["latent.scale"])
    config.sampling_settings = network.FLOW_SAMPLING if flow else network.DISCRETE_SAMPLING
    config.set_inference_dtype(torch.float32, None)
    kind = comfy.model_base.ModelType.FLOW if flow else comfy.model_base.ModelType.V_PREDICTION
    model = DemoBaseModel(config, kind)
    model.diffusion_model.load_state_dict(unet)
    # Newer hosts have the former.
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    load_device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    patched = patcher(model, load_device=load_device, offload_device=offload)
    return patched, _clip(shared, text.Vocabulary(words)), _vae(codec)


def _vae(codec: LappedCodec) -> comfy.sd.VAE:
    """The host's VAE around our codec; the host builds its pixel-space VAE, which has no weights of its own, for it."""
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
    vae.first_stage_model = codec.eval()
    vae.patcher = comfy.model_patcher.ModelPatcher(codec, vae.patcher.load_device, vae.patcher.offload_device)
    vae.downscale_ratio = vae.upscale_ratio = PATCH
    vae.latent_channels = CHANNELS
    return vae
