"""Inversion of diffusion and flow models: find the noise that makes a model regenerate a given latent.

    grid = Grid.from_sigmas(sigmas, kind="flow")
    inversion = invert(denoiser, x0, grid, EasyInv())
    x0_again = sample(denoiser, inversion.latent, grid)                       # the sampler alone: approximate
    x0_again = sample(denoiser, inversion.latent, grid, source=inversion)     # with the record: exact
    edited = sample(other_denoiser, inversion.latent, grid, source=inversion)

Pure PyTorch; knows no host. A denoiser is any callable (x, level) -> estimate of x0.
"""

from .edit import Departure, Keep
from .errors import DivergedError, InversionError
from .flow_edit import flow_edit
from .levels import Grid, Level
from .loops import invert, sample
from .methods import DDIM, EasyInv, FixedPoint, GuidedNewton, Rex
from .metrics import psnr
from .paths import between, centroid, interpolate, seeds
from .problem import Callback, Denoiser, ImplicitStep, Method, StepResult
from .record import Inversion

__all__ = [
    "DDIM",
    "Callback",
    "Denoiser",
    "Departure",
    "DivergedError",
    "EasyInv",
    "FixedPoint",
    "Grid",
    "GuidedNewton",
    "ImplicitStep",
    "Inversion",
    "InversionError",
    "Keep",
    "Level",
    "Method",
    "Rex",
    "StepResult",
    "between",
    "centroid",
    "flow_edit",
    "interpolate",
    "invert",
    "psnr",
    "sample",
    "seeds",
]
