"""EasyInv: which steps it touches, and what its two placements do."""

import math

import pytest
import torch
from problems import KINDS, Gaussian, grid

from inversion import DDIM, EasyInv, Grid, InversionError, invert

SD, XL = EasyInv(0.5, 0.05, 0.2), EasyInv(0.8, 0.85, 0.1)

# What the authors' condition `(s + len) * N > i > s * N and i > 0` gives.
TOUCHED = [
    (SD, 50, range(3, 13)), (SD, 20, [2, 3, 4]), (SD, 10, [1, 2]), (SD, 25, range(2, 7)), (SD, 28, range(2, 7)),
    (SD, 30, range(2, 8)), (SD, 40, range(3, 10)), (SD, 100, range(6, 25)), (SD, 8, [1]), (SD, 5, [1]), (SD, 4, []),
    (SD, 1, []), (XL, 50, range(43, 48)), (XL, 20, [18]), (XL, 10, [9]), (XL, 25, [22, 23]), (XL, 28, [24, 25, 26]),
    (XL, 30, [26, 27, 28]), (XL, 40, [35, 36, 37]), (XL, 100, range(86, 95)), (XL, 5, []), (XL, 6, []), (XL, 7, [6]),
    (XL, 8, [7]), (XL, 9, [8]), (XL, 4, []),
]  # fmt: skip


@pytest.mark.parametrize(("method", "count", "touched"), TOUCHED)
def test_window(method: EasyInv, count: int, touched) -> None:
    assert method.window(count) == list(touched)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("placement", ["after", "before"])
def test_only_steps_from_the_window_on_differ_from_ddim(kind: str, placement: str) -> None:
    x0 = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    method = EasyInv(0.5, 0.2, 0.3, placement)
    plain = invert(Gaussian(), x0, grid(kind, 10), DDIM()).trajectory
    blended = invert(Gaussian(), x0, grid(kind, 10), method).trajectory
    first = method.window(10)[0] + 1  # the state after the first touched step
    assert torch.equal(plain[:first], blended[:first])
    assert not torch.allclose(plain[first], blended[first], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("placement", ["after", "before"])
def test_eta_1_is_ddim(kind: str, placement: str) -> None:
    x0 = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    blended = invert(Gaussian(), x0, grid(kind, 12), EasyInv(1.0, 0.0, 1.0, placement))
    torch.testing.assert_close(blended.latent, invert(Gaussian(), x0, grid(kind, 12), DDIM()).latent)


def test_blend_is_in_the_native_scale() -> None:
    """Algorithm 1 on VP latents, written out for one blended step of a variance-exploding grid."""
    x0 = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    levels = grid("ve", 2)
    plain = invert(Gaussian(), x0, levels, DDIM()).trajectory
    blended = invert(Gaussian(), x0, levels, EasyInv(0.7, 0.0, 1.0)).trajectory
    z_new, z_old = (
        x / (1 + s.sigma**2) ** 0.5 for x, s in ((plain[2], levels.levels[0]), (plain[1], levels.levels[1]))
    )
    expected = (0.7 * z_new + 0.3 * z_old) * (1 + levels.levels[0].sigma ** 2) ** 0.5
    torch.testing.assert_close(blended[2], expected)


def test_report_says_when_the_window_is_empty() -> None:
    x0 = torch.ones(1, 1, 4)
    assert "touches none of the 4 steps" in invert(Gaussian(), x0, grid("ve", 4), SD).report()
    assert "blended steps 3 to 5 of 20" in invert(Gaussian(), x0, grid("ve", 20), SD).report()
    assert "blended step 19 of 20" in invert(Gaussian(), x0, grid("ve", 20), XL).report()


@pytest.mark.parametrize(
    "bad", [{"eta": 1.2}, {"eta": -0.1}, {"start": 2.0}, {"length": -1.0}, {"placement": "beside"}]
)
def test_settings_out_of_range(bad: dict) -> None:
    with pytest.raises(InversionError, match=next(iter(bad))):
        EasyInv(**bad)


@pytest.mark.parametrize("method", [SD, XL])
def test_the_blend_amplifies_what_is_left_of_the_picture(method: EasyInv) -> None:
    """With a network that always predicts the same noise (here none) DDIM's x_T is alpha_T x0; each blend multiplies it
    by eta + (1 - eta) alpha_i / alpha_{i+1} > 1. That, not accuracy, is what the blend changes."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    levels = Grid.from_alphas_cumprod(torch.cumprod(1 - betas, 0), list(range(980, -1, -20)))
    x0 = torch.ones(1, 1, 1, dtype=torch.float64)
    plain, blended = (invert(lambda x, level: x / level.alpha, x0, levels, m).latent for m in (DDIM(), method))
    steps = [levels.upward()[i] for i in method.window(50)]
    gain = math.prod(method.eta + (1 - method.eta) * lower.alpha / upper.alpha for lower, upper in steps)
    assert float(blended / plain) == pytest.approx(gain, rel=1e-12)
    assert gain > 1.08
