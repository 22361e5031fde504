"""Gradients through a denoiser: found right, found wrong, and measured."""

import os

import pytest
import torch
from problems import Mixture, grid

from inversion import DDIM, FixedPoint, GuidedNewton, InversionError, Level, invert, sample
from inversion.gradient import backward_memory, gradient_error


def x0() -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["ve", "flow"])
def test_a_right_gradient_agrees_with_a_central_difference(kind) -> None:
    levels = grid(kind, 5)
    for upper in levels.levels[:-1]:
        assert gradient_error(Mixture(), x0(), upper, levels, 1e-4) <= 1e-6


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_a_wrong_gradient_is_seen(factor: float) -> None:
    def wrong(x: torch.Tensor, level: Level) -> torch.Tensor:
        right = Mixture()(x, level)
        return right.detach() + factor * (right - right.detach())

    levels = grid("ve", 5)
    assert not gradient_error(wrong, x0(), levels.levels[3], levels, 1e-4) <= 0.1


def test_no_gradient_is_named() -> None:
    levels = grid("ve", 5)
    with pytest.raises(InversionError, match="gives none"):
        gradient_error(torch.no_grad()(Mixture()), x0(), levels.levels[1], levels)


def test_memory_counts_what_the_backward_pass_needs_and_no_weights() -> None:
    weight = torch.eye(16, dtype=torch.float64)

    def denoiser(x: torch.Tensor, level: Level) -> torch.Tensor:
        return ((x.flatten(1) @ torch.block_diag(*[weight] * 3)).sin()).reshape(x.shape)

    def square(x: torch.Tensor, level: Level) -> torch.Tensor:
        return (x.reshape(-1, 16) @ weight).sin().reshape(x.shape)

    level, size = Level(1.0, 1.0), x0().numel() * 8
    assert backward_memory(lambda x, level: x.sin(), x0(), level) == size
    assert backward_memory(square, x0(), level) == size + weight.numel() * 8
    assert backward_memory(square, x0(), level, [weight]) == size
    assert backward_memory(denoiser, x0(), level, [weight]) == size + 9 * weight.numel() * 8


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize("gradient", ["sign", "min-norm"])
def test_newton_gains_from_the_extrapolated_start(kind, gradient) -> None:
    def error(method) -> float:
        inversion = invert(Mixture(), x0(), grid(kind, 20), method)
        return float((sample(Mixture(), inversion.latent, inversion.grid) - x0()).norm())

    native, warm = (error(GuidedNewton(2, 0.1, gradient, start=start)) for start in ("native", "extrapolated"))
    assert warm < 0.7 * native < 0.7 * error(DDIM())


def test_one_iteration_from_the_extrapolated_start_is_the_warm_started_fixed_point() -> None:
    newton = invert(Mixture(), x0(), grid("flow", 9), GuidedNewton(1, 0.0, start="extrapolated"))
    assert torch.equal(newton.latent, invert(Mixture(), x0(), grid("flow", 9), FixedPoint(1)).latent)


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from Linux's /proc")
def test_measuring_keeps_nothing() -> None:
    x = torch.ones(1, 1, 1024, 1024)

    def exponential(x: torch.Tensor, level: Level) -> torch.Tensor:
        return x.exp().exp()  # what it saves for the backward pass is its own result

    backward_memory(exponential, x, Level(1.0, 1.0))
    before = resident()
    for _ in range(20):
        backward_memory(exponential, x, Level(1.0, 1.0))
    assert resident() - before < 20 * 2**20  # one call's alone are 8 MB
