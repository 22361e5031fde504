"""LATENT: its samples, and the model's own state space."""

from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ...inversion import InversionError
from ...inversion.levels import Kind

MEDIUM = {3: "an audio or 1-D", 4: "an image", 5: "a video"}


def kind(model_sampling: Any) -> Kind:
    """The family of a model's state space.

    Raises:
        InversionError: a model whose state is neither x0 + sigma n nor (1 - sigma) x0 + sigma n.
    """
    rules = comfy.model_sampling
    without_noise = (rules.IMG_TO_IMG, getattr(rules, "IMG_TO_IMG_FLOW", rules.IMG_TO_IMG))  # the latter: newer hosts
    if not isinstance(model_sampling, without_noise):
        if isinstance(model_sampling, rules.CONST):
            return "flow"
        if isinstance(model_sampling, (rules.EPS, rules.COSMOS_RFLOW)):
            return "ve"
    names = [c.__name__ for c in type(model_sampling).__mro__ if c not in (object, torch.nn.Module)]
    raise InversionError(
        f"This model's sampling ({', '.join(names)}) is neither of the noise (eps, v, EDM) nor of the flow family, "
        "so it has no noise to invert to. Use a text-to-image or text-to-video model."
    )


def model_kind(model: Any) -> Kind:
    return kind(model.get_model_object("model_sampling"))


def to_state(model: Any, samples: Tensor) -> Tensor:
    """A LATENT's samples in the model's state space, float32 on the CPU."""
    return model.get_model_object("latent_format").process_in(samples.float().cpu())


def to_samples(model: Any, state: Tensor) -> Tensor:
    """The inverse of `to_state`, on the state's own device."""
    return model.get_model_object("latent_format").process_out(state)


def samples_for(model: Any, latent: dict) -> Tensor:
    """The LATENT's samples in the number of dimensions that the model wants.

    Raises:
        InversionError: nested (audio-video), empty or misshapen latents, with what to do.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise InversionError("This LATENT holds several latents (video with sound). Separate them and use the video's.")
    wanted = model.get_model_object("latent_format")
    if samples.ndim == 4 and wanted.latent_dimensions == 3:
        samples = samples.unsqueeze(2)  # one frame, as the host does for still images in video latents
    check_fits(samples, wanted)
    return samples


def check_fits(samples: Tensor, wanted: Any) -> None:
    """See that samples, or a state, are of the model's latent format `wanted`.

    Raises:
        InversionError: they are of another medium or model, or empty.
    """
    dimensions = 2 + wanted.latent_dimensions
    came = f"got shape {tuple(samples.shape)}"
    if samples.ndim != dimensions:
        raise InversionError(
            f"This is {MEDIUM.get(samples.ndim, 'another')} latent in {MEDIUM.get(dimensions, 'another')} model: "
            f"{came}, but the model takes {dimensions} dimensions. Use the VAE that belongs to the model."
        )
    if samples.shape[1] != wanted.latent_channels:
        raise InversionError(
            f"The model takes latents of {wanted.latent_channels} channels, got {samples.shape[1]}, shape "
            f"{tuple(samples.shape)}. "
            "Encode the picture with the VAE that belongs to this model."
        )
    if not samples.any():
        raise InversionError(
            "The latent is empty (all zeros). Connect a picture's latent, from VAE Encode, not an Empty Latent Image."
        )
