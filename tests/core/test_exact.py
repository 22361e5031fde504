"""Exact-answer problems: the methods converge to the known solution, at the order they claim."""

import numpy as np
import pytest
import torch
from problems import KINDS, Gaussian, Mixture, grid
from scipy.stats import linregress

from inversion import DDIM, Grid, invert, sample

COUNTS = (20, 40, 80, 160, 320)


def measured_order(error_at) -> float:
    errors = [error_at(n) for n in COUNTS]
    return -linregress(np.log(COUNTS), np.log(errors)).slope


def x0(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_ddim_inversion_has_order_1(kind: str) -> None:
    def error(n: int) -> float:
        levels = grid(kind, n, clean=0.05)
        truth = Gaussian().carried(x0(), levels.levels[-1], levels.levels[0])
        return float((invert(Gaussian(), x0(), levels, DDIM()).latent - truth).abs().mean())

    assert measured_order(error) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_sampler_has_order_1(kind: str) -> None:
    def error(n: int) -> float:
        levels = grid(kind, n, clean=0.05)
        truth = Gaussian().carried(x0(), levels.levels[0], levels.levels[-1])
        return float((sample(Gaussian(), x0(), levels) - truth).abs().mean())

    assert measured_order(error) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_ddim_round_trip_has_order_1(kind: str) -> None:
    def error(n: int) -> float:
        levels = grid(kind, n, clean=0.05)
        latent = invert(Gaussian(), x0(), levels, DDIM()).latent
        return float((sample(Gaussian(), latent, levels) - x0()).abs().mean())

    assert measured_order(error) == pytest.approx(1.0, abs=0.2)


def test_mixture_converges_to_the_reference_solution() -> None:
    start = Mixture().carried(x0(1), 0.05, 10.0)

    def error(n: int) -> float:
        levels = grid("ve", n, clean=0.05)
        return float((invert(Mixture(), x0(1), levels, DDIM()).latent - start).abs().mean())

    errors = [error(n) for n in (100, 200, 400, 800)]
    slope = -linregress(np.log((100, 200, 400, 800)), np.log(errors)).slope
    assert slope == pytest.approx(1.0, abs=0.2)
    assert errors[-1] < 0.05


def test_the_three_families_are_one_problem() -> None:
    """VE, VP and flow states at one signal-to-noise ratio are one state in three scales."""
    ve, vp = grid("ve", 30), grid("vp", 30)
    a, b = invert(Mixture(), x0(), ve, DDIM()), invert(Mixture(), x0(), vp, DDIM())
    torch.testing.assert_close(a.latent * vp.levels[0].alpha, b.latent)
    down = [sample(Mixture(), a.latent, ve), sample(Mixture(), b.latent, vp)]
    # The flow sampler's Euler step is another discretisation of the same ODE, so it agrees in the limit only.
    fine = Grid.from_sigmas([s.sigma / (1 + s.sigma) for s in grid("ve", 3000).levels], "flow")
    flow = sample(Mixture(), a.latent / (1 + ve.levels[0].sigma), fine)
    torch.testing.assert_close(down[0], down[1])
    torch.testing.assert_close(flow, sample(Mixture(), a.latent, grid("ve", 3000)), rtol=0, atol=2e-2)
