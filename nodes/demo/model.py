"""The demo model as MODEL, CLIP and VAE: something real to try the nodes on without a download."""

import functools
import json
import logging
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ...demo import network, text
from ...demo.codec import CHANNELS, PATCH, LappedCodec
from ..host.latents import check_channels

VERSIONS = ("flow", "v-prediction", "turbo-flow", "turbo-ve")
FILES = {"turbo-flow": "turbo", "turbo-ve": "turbo"}
"""Versions whose weights have another name than they: one network, in the state spaces of both families."""
TOP_TIME = 0.985
"""The noisiest level of turbo-ve as flow time: sigma 66, beside the v-prediction version's 67."""
WEIGHTS = Path(network.__file__).parent / "weights"


def load(version: str, folder: Path = WEIGHTS) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of a version of the demo model, from a folder of weights."""
    path = folder / "shared.safetensors"
    with safe_open(path, "pt") as file:
        vocabulary = json.loads(file.metadata()["vocabulary"])
    unet = comfy.utils.load_torch_file(str(folder / f"{FILES.get(version, version)}.safetensors"))
    return assemble(version, comfy.utils.load_torch_file(str(path)), unet, vocabulary)


def assemble(
    version: str, shared: dict[str, Tensor], unet: dict[str, Tensor], words: list[str]
) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE]:
    """The same from weights in memory: `shared` has "text.", "codec." and "latent.scale"."""
    codec = LappedCodec()
    codec.load_state_dict({k.removeprefix("codec."): v for k, v in shared.items() if k.startswith("codec.")})
    model = _model(version, codec, shared["latent.scale"], unet)
    return model, _clip(shared, text.Vocabulary(words)), _vae(codec)


class DemoLatent(comfy.latent_formats.LatentFormat):
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


class DemoModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config: dict = {}
    memory_usage_factor = 1.0

    def inpaint_model(self) -> bool:
        return False  # the base class takes more than 4 channels for an inpainting model


class DemoBaseModel(comfy.model_base.BaseModel):
    """The host's BaseModel, with the caption's pooled vector as the network's `y`."""

    def encode_adm(self, **kwargs: Any) -> Tensor:
        pooled = kwargs.get("pooled_output")
        return kwargs["cross_attn"].mean(1) if pooled is None else pooled


class TurboSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.COSMOS_RFLOW):
    """A flow network as a variance-exploding model: x = x0 + sigma n is the flow state over 1 - s, sigma = s / (1 - s).

    The scaling of states and estimates is the host's own, for Cosmos. The schedules run over the flow time s, so they
    have the levels that the network was distilled on.
    """

    def sigma(self, timestep: Tensor) -> Tensor:
        s = (timestep / self.multiplier).clamp(max=TOP_TIME)
        return s / (1 - s)

    def timestep(self, sigma: Tensor) -> Tensor:
        return self.multiplier * sigma / (1 + sigma)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return 999999999.9  # the host's word for "from the start"
        s = min(1 - percent, TOP_TIME)
        return max(s, 0.0) / (1 - s)


def _model(version: str, codec: LappedCodec, scale: Tensor, unet: dict[str, Tensor]) -> Any:
    kinds = comfy.model_base.ModelType
    kind = {"v-prediction": kinds.V_PREDICTION, "turbo-ve": kinds.FLOW_COSMOS}.get(version, kinds.FLOW)
    config = DemoModelConfig(network.UNET)
    config.latent_format = DemoLatent(codec, scale)
    config.sampling_settings = network.DISCRETE_SAMPLING if version == "v-prediction" else network.FLOW_SAMPLING
    config.set_inference_dtype(torch.float32, None)
    model = DemoBaseModel(config, kind)
    if version == "turbo-ve":
        model.model_sampling = TurboSampling(config)
    model.diffusion_model.load_state_dict(unet)
    # Newer hosts have the former.
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    load_device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return patcher(model, load_device=load_device, offload_device=offload)


class DemoTokenizer:
    """Words to the demo vocabulary, with the host's (word:1.2) weights."""

    def __init__(self, vocabulary: text.Vocabulary) -> None:
        self.vocabulary = vocabulary

    def tokenize_with_weights(self, prompt: str, return_word_ids: bool = False, **kwargs: Any) -> dict:
        tokens, unknown = [], []
        for part, weight in comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(prompt), 1.0):
            known, left_out = self.vocabulary.tokens(comfy.sd1_clip.unescape_important(part))
            tokens += [(token, weight) for token in known]
            unknown += left_out
        if unknown or len(tokens) > text.TOKENS:
            logging.warning(
                "The demo model reads up to %d words it was trained on and leaves out: %s. It knows captions like "
                "'a fox with a crown, blue wall'; its objects and walls are those of the Demo Picture node.",
                text.TOKENS,
                ", ".join(unknown) or "the last words",
            )
        tokens = tokens[: text.TOKENS]
        tokens += [(text.PAD, 1.0)] * (text.TOKENS - len(tokens))
        row = [(token, weight, i) for i, (token, weight) in enumerate(tokens)] if return_word_ids else tokens
        return {"demo": [row]}

    def untokenize(self, pairs: list) -> list:
        names = ["", *self.vocabulary.known]
        return [(pair, names[pair[0]]) for pair in pairs]

    def state_dict(self) -> dict:
        return {}


class DemoTextModel(nn.Module, comfy.sd1_clip.ClipTokenWeightEncoder):
    special_tokens = {"pad": text.PAD}
    disable_offload = True  # small, and its layers are plain PyTorch
    dtypes = {torch.float32}

    def __init__(
        self, encoder: text.TextEncoder, device: Any = None, dtype: Any = None, model_options: Any = None
    ) -> None:
        super().__init__()
        del dtype, model_options
        self.encoder = encoder.to(device)

    def encode(self, tokens: list) -> tuple[Tensor, Tensor]:
        return self.encoder(torch.tensor(tokens, device=self.encoder.position.device))

    def encode_token_weights(self, tokens: dict) -> Any:
        return super().encode_token_weights([[pair[:2] for pair in row] for row in tokens["demo"]])

    def set_clip_options(self, options: dict) -> None:
        pass  # there is one layer: nothing to choose

    def reset_clip_options(self) -> None:
        pass


def _clip(shared: dict[str, Tensor], vocabulary: text.Vocabulary) -> comfy.sd.CLIP:
    encoder = text.TextEncoder(len(vocabulary.known)).eval().requires_grad_(False)
    encoder.load_state_dict({k.removeprefix("text."): v for k, v in shared.items() if k.startswith("text.")})
    model = functools.partial(DemoTextModel, encoder)
    target = comfy.supported_models_base.ClipTarget(lambda **_: DemoTokenizer(vocabulary), model)
    return comfy.sd.CLIP(target)


def _vae(codec: LappedCodec) -> comfy.sd.VAE:
    """The host's VAE around our codec; the host builds its pixel-space VAE, which has no weights of its own, for it."""
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
    vae.first_stage_model = codec.eval()
    vae.patcher = comfy.model_patcher.ModelPatcher(codec, vae.patcher.load_device, vae.patcher.offload_device)
    vae.downscale_ratio = vae.upscale_ratio = PATCH
    vae.latent_channels = CHANNELS
    return vae
