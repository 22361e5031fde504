"""Elementwise parity with the numbers of the papers' released code."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inversion import DDIM, EasyInv, Grid, Level, invert, sample

REFERENCE = load_file(Path(__file__).parents[1] / "data" / "reference.safetensors")
TOLERANCE = 2e-5


def network(z: torch.Tensor, t: float) -> torch.Tensor:
    f = torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi * t / 1000
    e = torch.cat([f.sin(), f.cos()])
    h = torch.nn.functional.conv2d(z, REFERENCE["net.conv1.weight"], REFERENCE["net.conv1.bias"], padding=1)
    h = h + (e @ REFERENCE["net.time.weight"].T)[None, :, None, None]
    h = torch.nn.functional.silu(h)
    out = torch.nn.functional.conv2d(h, REFERENCE["net.conv2.weight"], REFERENCE["net.conv2.bias"], padding=1)
    return out + REFERENCE["net.skip"] * z


def alphas_cumprod() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.cumprod(1 - betas, 0)


def vp_denoiser(z: torch.Tensor, level: Level) -> torch.Tensor:
    return (z - level.sigma * network(z, level.timestep)) / level.alpha


def ve_denoiser(x: torch.Tensor, level: Level) -> torch.Tensor:
    return x - level.sigma * network(x / math.hypot(1, level.sigma), level.timestep)


def vp_grid() -> Grid:
    return Grid.from_alphas_cumprod(alphas_cumprod(), list(range(980, -1, -20)))


METHODS = {
    "ddim": DDIM(),
    "easyinv_example_sd14": EasyInv(0.5, 0.05, 0.2, "after"),
    "easyinv_example_sdxl": EasyInv(0.8, 0.85, 0.1, "after"),
    "easyinv_sd14_script": EasyInv(0.5, 0.05, 0.2, "before"),
}


@pytest.mark.parametrize("run", METHODS)
def test_matches_released_code(run: str) -> None:
    inversion = invert(vp_denoiser, REFERENCE["z0"], vp_grid(), METHODS[run])
    torch.testing.assert_close(inversion.latent, REFERENCE[f"{run}.z"], rtol=0, atol=TOLERANCE)
    if f"{run}.traj" in REFERENCE:
        torch.testing.assert_close(inversion.trajectory[:, 0], REFERENCE[f"{run}.traj"], rtol=0, atol=TOLERANCE)
    back = sample(vp_denoiser, inversion.latent, vp_grid())
    torch.testing.assert_close(back, REFERENCE[f"{run}.recon"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("run", METHODS)
def test_variance_exploding_state_gives_the_same(run: str) -> None:
    """The host's samplers hold x = z / alpha; nothing but the scale may differ."""
    vp = vp_grid()
    # By hand, because the last two are the same, and the released code counts the step between them.
    grid = Grid(tuple(Level(1.0, level.sigma / level.alpha, level.timestep or 0) for level in vp.levels), "ve")
    inversion = invert(ve_denoiser, REFERENCE["z0"] / vp.levels[-1].alpha, grid, METHODS[run])
    z = inversion.latent * vp.levels[0].alpha
    torch.testing.assert_close(z, REFERENCE[f"{run}.z"], rtol=0, atol=TOLERANCE)
