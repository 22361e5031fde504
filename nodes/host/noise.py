"""NOISE: what starts a host sampler at an inverted latent, and the noise that an ancestral sampler adds."""

import math
from itertools import pairwise
from typing import Any

import comfy.k_diffusion.sampling
import torch
from torch import Tensor

from ...inversion import Grid, InversionError
from .guider import HostDenoiser
from .latents import single, to_state


def fixed_noise(denoiser: HostDenoiser, x: Tensor, grid: Grid) -> Tensor | None:
    """What the host's `euler_ancestral` adds at each step with this run's seed, (N, B, C, ...); None on other grids."""
    if not grid.ancestral:
        return None
    seed = denoiser.options["seed"]
    try:
        draw = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=seed)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise InversionError(
            f"ComfyUI's euler_ancestral cannot take the seed {seed}, because it adds one to the seed and the sum is "
            "too large. Take a lower seed."
        ) from error
    noise = torch.empty(grid.steps, *x.shape, dtype=x.dtype)
    for step, (upper, lower) in zip(noise, pairwise(grid.levels), strict=True):
        step.copy_(draw(upper.sigma, lower.sigma))  # where the model is, each only for as long as it is copied
    return noise


class InvertedNoise:
    """A NOISE that puts any host sampler at the inverted latent, in eps and flow models, at sigma 1 too.

    The host mixes noise and `latent_image` by the model's own rule before the first step; this solves that rule for the
    noise. (A LATENT cannot do it for flow models: the host multiplies it by 1 - sigma, which is 0.)

    Arguments:
        model: the MODEL that was inverted; its sampling rule is read when the noise is asked for.
        x: the inverted latent in the model's state space, (B, C, ...).
        sigma: the level of `x`.
        seed: what the host's sampler gets for a seed, which decides the noise that `euler_ancestral` adds.
    """

    def __init__(self, model: Any, x: Tensor, sigma: float, seed: int = 0) -> None:
        self.model, self.x, self.sigma, self.seed = model, x.float().cpu(), sigma, seed

    def generate_noise(self, latent: dict) -> Tensor:
        if getattr(self.model.model_options.get("context_handler"), "freenoise", False):
            raise InversionError(
                "This model's context windows have freenoise on, which shuffles the frames of the inverted NOISE. Turn "
                "freenoise off, or use Edit From Latent."
            )
        samples = single(latent["samples"]).float().cpu()
        if samples.ndim == self.x.ndim - 1:
            samples = samples.unsqueeze(2)
        if samples.shape != self.x.shape:
            raise InversionError(
                f"This NOISE was inverted from a latent of shape {tuple(self.x.shape)}, but the sampler works on "
                f"{tuple(samples.shape)}. Connect the original latent, or one of its size and batch, as latent_image."
            )
        if samples.any():  # the host leaves all-zero latents as they are
            samples = to_state(self.model, samples)
        sampling = self.model.get_model_object("model_sampling")
        sigma_max = float(sampling.sigma_max)
        full = math.isclose(sigma_max, self.sigma, rel_tol=1e-5) or self.sigma > sigma_max  # the host's own test
        sigma = torch.tensor(self.sigma)
        base = sampling.noise_scaling(sigma, torch.zeros_like(samples), samples, full)
        gain = sampling.noise_scaling(sigma, torch.ones_like(samples), torch.zeros_like(samples), full)
        return (self.x - base) / gain
