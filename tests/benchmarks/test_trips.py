"""The competitors that the benchmark runs are what their papers say, and its measures know noise and likeness."""

import math

import pytest
import torch
from problems import Mixture, grid
from torch import Tensor

from benchmarks._trips import Averaged, Distance, ForwardStep, Halved, StepResult, likelihood
from demo import judge, scenes
from inversion import DDIM, FixedPoint, Grid, Level, invert, psnr, sample
from inversion.problem import ImplicitStep

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def steep(x: Tensor, level: Level) -> Tensor:
    """The denoiser whose slope is sigma x."""
    return x - level.sigma**2 * x


@pytest.fixture
def problem() -> ImplicitStep:
    """A flow step of height 0.25 to sigma 0.5: F(y) = x + 0.25 * 0.5 y."""
    levels = Grid.from_sigmas([0.5, 0.25, 0.0], "flow")
    upper, lower = levels.levels[:2]
    return ImplicitStep(steep, levels, X, lower, upper, 1, 2, X, X)


def factor(result: StepResult) -> float:
    ratio = result.x / X
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio))
    return float(ratio.mean())


def test_renoise_averages_the_slopes_after_the_first(problem: ImplicitStep) -> None:
    a = 0.125
    first, second = 1 + a, 1 + a + a * a  # y_1 and y_2 over x
    assert factor(Averaged(3).step(problem)) == pytest.approx(1 + a * (first + second) / 2)


def test_aidi_averages_the_last_two_images(problem: ImplicitStep) -> None:
    a = 0.125
    y1 = 1 + a
    y2 = ((1 + a * y1) + y1) / 2
    assert factor(Halved(2).step(problem)) == pytest.approx(y2)
    assert factor(Halved(3).step(problem)) == pytest.approx(((1 + a * y2) + (1 + a * y1)) / 2)


def test_the_forward_step_moves_against_the_samplers_error(problem: ImplicitStep) -> None:
    a, rate = 0.125, 0.5
    y1 = 1 - rate * ((1 - a) - 1)  # the sampler takes y = x to (1 - a) x
    assert factor(ForwardStep(1, rate).step(problem)) == pytest.approx(y1)
    assert factor(ForwardStep(60, rate).step(problem)) == pytest.approx(1 / (1 - a))  # the exact inverse


@pytest.mark.parametrize("method", [Averaged(8), Halved(8), ForwardStep(50)])
def test_each_is_more_accurate_than_ddim(method: Averaged | Halved | ForwardStep) -> None:
    x0, levels = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double(), grid("ve", 10, 14.6)

    def trip(how: object) -> float:
        found = invert(Mixture(), x0, levels, how)  # type: ignore[arg-type]
        assert isinstance(how, DDIM) or set(found.calls) == {how.iterations}  # type: ignore[attr-defined]
        return psnr(x0, sample(Mixture(), found.latent, levels))

    assert trip(method) > trip(DDIM()) + 3
    assert trip(FixedPoint(1, warm_start=False)) == pytest.approx(trip(DDIM()))


def test_the_likelihood_knows_noise_from_what_is_none() -> None:
    noise = torch.randn(64, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    found = likelihood(noise)
    assert abs(found["norm"]) < 0.5  # the mean of 64 has a standard deviation of 1/8
    assert found["low"] == pytest.approx(1, abs=0.02)
    assert found["high"] == pytest.approx(1, abs=0.02)
    assert abs(found["neighbours"]) < 0.01
    assert likelihood(1.01 * noise)["norm"] == pytest.approx(0.01 * math.sqrt(2 * 8192), abs=0.5)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 3
    found = likelihood(smooth)
    assert found["low"] > 2 > 0.5 > found["high"]
    assert found["neighbours"] > 0.3


def test_the_distance_grows_with_the_difference() -> None:
    shown = torch.stack([torch.from_numpy(scenes.picture(scenes.unseen_scene(i, "fox", "blue"))) for i in range(3)])
    other = torch.stack([torch.from_numpy(scenes.picture(scenes.unseen_scene(i, "pizza", "red"))) for i in range(3)])
    distance = Distance(judge.load())
    slight = (shown + 0.02 * torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert distance(shown, shown) == 0
    assert 0 < distance(shown, slight) < distance(shown, other) / 3
