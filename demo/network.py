"""The denoiser: the host's own `UNetModel` (Stable Diffusion's), small. 32 latent channels, 6.1 M parameters.

Two resolutions, 16 x 16 and 8 x 8, with 128 channels in both: what a latent pixel says is 32 numbers, and 64 channels
are a narrow way for them beside the noise.
"""

import math

import torch
from torch import nn

from .codec import CHANNELS
from .text import WIDTH

UNET = {
    "image_size": 16,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "model_channels": 128,
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 1],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": WIDTH,
    "num_classes": "sequential",  # the pooled caption is added to the timestep embedding, as in SDXL
    "adm_in_channels": WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_heads": 4,
    "num_head_channels": -1,
    "legacy": False,
}
# Stable Diffusion's schedule with a higher end (sigma_max 67): wall colours cover the whole picture, so a picture's
# mean must drown in noise at the top level.
DISCRETE_SAMPLING: dict = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.02, "timesteps": 1000}
FLOW_SAMPLING = {"shift": 1.0, "multiplier": 1000}


def initialise(model: nn.Module, random: torch.Generator) -> None:
    """Random weights, as PyTorch's layers have them when they are new; biases are 0."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2:
                nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)
            elif isinstance(module, nn.Embedding) or name == "position":
                nn.init.normal_(parameter, std=0.1 if name == "position" else 1.0, generator=random)
            else:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=random)
