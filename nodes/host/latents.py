"""LATENT: its samples, and the model's own state space."""

import math
from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ...inversion import InversionError
from ...inversion.levels import Kind

MEDIUM = {3: "an audio or 1-D", 4: "an image", 5: "a video"}
MIXED_AT = (0.25, 0.75)
"""Sigmas at which a model's sampling rule is asked how it mixes noise and picture."""


def kind(model_sampling: Any) -> Kind:
    """The family of a model's state space, by what its sampling rule is and by how it mixes noise and picture.

    Raises:
        InversionError: a model whose state is neither x0 + sigma n nor (1 - sigma) x0 + sigma n.
    """
    rules = comfy.model_sampling
    names = ", ".join(c.__name__ for c in type(model_sampling).__mro__ if c not in (object, torch.nn.Module))
    family: Kind | None = None
    if isinstance(model_sampling, rules.CONST):
        family = "flow"
    elif isinstance(model_sampling, (rules.EPS, rules.COSMOS_RFLOW)) and not isinstance(
        model_sampling, rules.IMG_TO_IMG
    ):
        family = "ve"
    if family is None or not any(_noise(model_sampling, sigma) for sigma in MIXED_AT):
        raise InversionError(
            f"This model's sampling ({names}) is neither of the noise (eps, v, EDM) nor of the flow family, "
            "so it has no noise to invert to. Use a text-to-image or text-to-video model."
        )
    for sigma in MIXED_AT:
        noise, picture = _noise(model_sampling, sigma), _mixed(model_sampling, sigma, 0.0, 1.0)
        expected = 1 - sigma if family == "flow" else 1.0
        if not (math.isclose(noise, sigma, rel_tol=1e-4) and math.isclose(picture, expected, rel_tol=1e-4)):
            raise InversionError(
                f"At sigma {sigma:g} this model's sampling ({names}) takes {noise:g} of the noise and {picture:g} of "
                f"the picture. An inversion needs {sigma:g} and {expected:g}. If ModelNoiseScale is connected, set it "
                "to 1 or remove it; a model that needs it cannot be inverted."
            )
    return family


def _noise(model_sampling: Any, sigma: float) -> float:
    return _mixed(model_sampling, sigma, 1.0, 0.0)


def _mixed(model_sampling: Any, sigma: float, noise: float, picture: float) -> float:
    """The state that a sampling rule makes of one number of noise and one of a picture."""
    one = torch.ones(1, 1, 1, 1)
    return float(model_sampling.noise_scaling(torch.tensor([sigma]), noise * one, picture * one))


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
    samples = single(latent["samples"])
    wanted = model.get_model_object("latent_format")
    if samples.ndim == 4 and wanted.latent_dimensions == 3:
        samples = samples.unsqueeze(2)  # one frame, as the host does for still images in video latents
    check_fits(samples, wanted)
    return samples


SEVERAL = "This LATENT holds several latents (video with sound). Separate them and use the video's."


def single(samples: Any) -> Tensor:
    """The samples of a LATENT, which are one tensor.

    Raises:
        InversionError: they are several in one.
    """
    if getattr(samples, "is_nested", False):
        raise InversionError(SEVERAL)
    return samples


def check_fits(samples: Tensor, wanted: Any) -> None:
    """See that samples, or a state, are of the model's latent format `wanted`.

    Raises:
        InversionError: they are several in one, which a SAMPLER gets as one row of numbers; of another medium or model;
            or empty.
    """
    if samples.ndim == 3 and samples.shape[1] == 1 != wanted.latent_channels:
        raise InversionError(SEVERAL)
    dimensions = 2 + wanted.latent_dimensions
    came = f"got shape {tuple(samples.shape)}"
    if samples.ndim != dimensions:
        raise InversionError(
            f"This is {MEDIUM.get(samples.ndim, 'another')} latent in {MEDIUM.get(dimensions, 'another')} model: "
            f"{came}, but the model takes {dimensions} dimensions. Use the VAE that belongs to the model."
        )
    check_channels(samples, wanted)
    if not samples.any():
        raise InversionError(
            "The latent is empty (all zeros). Connect a picture's latent, from VAE Encode, not an Empty Latent Image."
        )


def check_channels(samples: Tensor, wanted: Any) -> None:
    """See that samples have the channels of the model's latent format `wanted`.

    Raises:
        InversionError: they have others.
    """
    if samples.shape[1] != wanted.latent_channels:
        raise InversionError(
            f"The model takes latents of {wanted.latent_channels} channels, got {samples.shape[1]}, shape "
            f"{tuple(samples.shape)}. Encode the picture with the VAE that belongs to this model."
        )
