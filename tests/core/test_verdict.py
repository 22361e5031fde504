"""What an inversion says of itself is what a round trip shows."""

import pytest
import torch
from problems import Gaussian, Mixture, grid

from inversion import DDIM, EasyInv, FixedPoint, GuidedNewton, Inversion, invert, sample
from inversion.metrics import psnr_each
from inversion.verdict import ALIKE, CLOSE, NEAR, ROUGH, of_risk, of_round_trip


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
def test_a_blend_over_all_steps_is_not_called_close(kind: str, eta: float) -> None:
    """The slopes are right where they were taken; the states are elsewhere."""
    x0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inversion = invert(Mixture(), x0, grid(kind, 20), EasyInv(eta, 0, 1))
    back = sample(Mixture(), inversion.latent, inversion.grid)
    assert min(psnr_each(x0, back)) < NEAR
    assert float(inversion.risk.max()) > CLOSE
    assert not inversion.verdict.startswith("Accurate:")
    assert "The blend moved the states" in inversion.report()
    torch.testing.assert_close(inversion.measured_drift(), inversion.drift)


@pytest.mark.parametrize("method", [DDIM(), FixedPoint(3), GuidedNewton(2)])
def test_what_follows_its_slopes_drifts_nowhere(method) -> None:
    inversion = invert(Gaussian(), torch.ones(1, 2, 4), grid("flow", 8), method)
    assert float(inversion.drift.max()) <= 1e-6
    assert "blend" not in inversion.report()


def test_the_worst_picture_of_a_batch_decides_and_is_named() -> None:
    def second_is_hard(x, level):
        return torch.cat([Mixture()(x[:1], level), Gaussian()(x[1:], level)])

    x0 = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    inversion = invert(second_is_hard, x0, grid("ve", 8), DDIM())
    alone = [Inversion.from_dict(part(inversion, i)) for i in range(2)]
    assert inversion.verdict == max(alone, key=lambda one: float(one.risk.max())).verdict
    assert "Of the 2 pictures, picture 2 is the least accurate." in inversion.report()
    said = of_round_trip([NEAR + 1, ALIKE - 1], 8)
    assert said.startswith("Inaccurate:")
    assert "picture 2 of 2, the worst" in said


def part(inversion: Inversion, i: int) -> dict:
    """The record of one picture of a batch."""
    record = inversion.to_dict()
    for name in ("trajectory", "points", "slopes"):
        record[name] = record[name][:, i : i + 1]
    return record | {"residuals": inversion.residuals[:, i : i + 1], "drift": inversion.drift[i : i + 1]}


def test_the_words_follow_the_thresholds() -> None:
    assert of_risk(CLOSE).startswith("Accurate:")
    assert of_risk(ROUGH).startswith("Fair:")
    assert of_risk(1.01 * ROUGH).startswith("Rough:")
