"""The denoiser: the host's own `UNetModel` (Stable Diffusion's), small. 32 latent channels, 6.1 M parameters.

Two resolutions, 16 x 16 and 8 x 8, with 128 channels in both: what a latent pixel says is 32 numbers, and 64 channels,
as in the smaller world's network, are a narrow way for them beside the noise.
"""

from ..text import WIDTH
from .codec import CHANNELS

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
