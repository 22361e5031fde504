"""Properties that hold for every method, family, shape and precision."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import KINDS, Gaussian, Mixture, grid

from inversion import (
    DDIM,
    DivergedError,
    EasyInv,
    FixedPoint,
    Grid,
    GuidedNewton,
    Inversion,
    InversionError,
    Keep,
    Level,
    Rex,
    invert,
    sample,
)

METHODS = [DDIM(), EasyInv(), EasyInv(0.8, 0.3, 0.6, "before"), EasyInv(0.3, 0.0, 1.0, "after")]
ITERATED = [FixedPoint(3, anderson=3), GuidedNewton(2), GuidedNewton(2, gradient="min-norm"), Rex()]


def latent(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    method=st.sampled_from([*METHODS, *ITERATED]),
    steps=st.integers(1, 30),
    shape=st.sampled_from([(1, 1), (3, 2), (2, 4, 5), (1, 3, 4, 6), (2, 2, 3, 4, 5)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_with_the_record_the_way_back_is_exact(kind, method, steps, shape, dtype) -> None:
    x0 = latent(*shape, dtype=dtype, seed=steps)
    before = x0.clone()
    inversion = invert(Mixture(), x0, grid(kind, steps), method)
    back = sample(Mixture(), inversion.latent, inversion.grid, source=inversion)
    assert back.dtype == dtype
    assert back.shape == x0.shape
    assert torch.equal(back, x0)  # to the last bit
    assert torch.equal(x0, before)  # inputs are never written to
    assert inversion.trajectory.shape == (steps + 1, *shape)
    assert torch.equal(inversion.trajectory[0], x0)
    assert torch.equal(inversion.trajectory[-1], inversion.latent)
    assert inversion.residuals.shape == (steps, shape[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_exact_number_of_model_calls_and_never_at_sigma_0(kind, method) -> None:
    levels_asked = []

    def counting(x, level):
        levels_asked.append(level)
        return Gaussian()(x, level)

    x0 = latent(2, 3, 4)
    inversion = invert(counting, x0, grid(kind, 7), method)
    assert len(levels_asked) == sum(inversion.calls) == 7
    sample(counting, inversion.latent, inversion.grid, source=inversion)
    sample(counting, inversion.latent, inversion.grid)
    assert len(levels_asked) == 21
    assert min(level.sigma for level in levels_asked) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_a_stack_of_singles(kind, method) -> None:
    x0 = latent(3, 2, 5)
    together = invert(Mixture(), x0, grid(kind, 9), method).latent
    alone = torch.cat([invert(Mixture(), one[None], grid(kind, 9), method).latent for one in x0])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_keeps_the_source_exactly(kind) -> None:
    x0 = latent(1, 2, 6, 6)
    inversion = invert(Gaussian(), x0, grid(kind, 8), DDIM())
    mask = torch.zeros(1, 1, 6, 6, dtype=x0.dtype)
    mask[..., :3] = 1
    other = Gaussian(mean=2.0)
    edited = sample(other, inversion.latent, inversion.grid, source=inversion, keep=Keep(mask=mask))
    assert torch.equal(edited[..., 3:], x0[..., 3:])
    assert (edited[..., :3] - x0[..., :3]).abs().mean() > 0.5


def test_another_denoiser_departs_from_the_source() -> None:
    x0 = latent(1, 2, 50)
    inversion = invert(Gaussian(0.3), x0, grid("flow", 20, noisiest=1e6), DDIM())
    edited = sample(Gaussian(1.3), inversion.latent, inversion.grid, source=inversion)
    assert float((edited - x0).mean()) == pytest.approx(1.0, abs=0.25)


def test_half_precision_is_computed_in_float32() -> None:
    assert invert(Gaussian(), latent(1, 2, 4).half(), grid("ve", 3), DDIM()).latent.dtype == torch.float32


def test_callbacks_get_progress_and_the_denoised_estimate() -> None:
    seen = []
    x0 = latent(1, 2, 30)
    levels = grid("ve", 5)
    inversion = invert(Gaussian(), x0, levels, DDIM(), callback=lambda *a: seen.append(a))
    assert [(i, n) for i, n, _, _ in seen] == [(i, 5) for i in range(5)]
    for i, _, x, denoised in seen:
        assert torch.equal(x, inversion.trajectory[i + 1])
        upper = levels.upward()[i][1]
        point = inversion.points[i]
        torch.testing.assert_close(denoised, Gaussian()(point, upper))


def test_the_record_survives_a_plain_dictionary() -> None:
    inversion = invert(Gaussian(), latent(2, 3, 4), grid("flow", 6), EasyInv())
    again = Inversion.from_dict(inversion.to_dict())
    assert again.grid == inversion.grid
    assert again.report() == inversion.report()
    back = sample(Gaussian(), again.latent, again.grid, source=again)
    assert torch.equal(back, inversion.trajectory[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"format": None}, "has no format"),
        ({"points": torch.zeros(2, 2)}, "points"),
        ({"trajectory": "none"}, "damaged"),
        ({"levels": [(1.0, 0.0, None)]}, "at least two"),
        ({"calls": None}, "damaged"),
        ({"residuals": torch.zeros(6, dtype=torch.int64)}, "residuals"),
    ],
)
def test_a_damaged_record_is_refused(change, message) -> None:
    record = invert(Gaussian(), latent(1, 3, 4), grid("ve", 6), DDIM()).to_dict() | change
    with pytest.raises(InversionError, match=message):
        Inversion.from_dict(record)


@pytest.mark.parametrize(
    ("sigmas", "kind", "message"),
    [
        ([], "ve", "at least two"),
        ([1.0], "ve", "at least two"),
        ([0.0, 1.0], "ve", "must descend.*0 is followed by 1"),
        ([3.0, 1.0, 2.0, 0.0], "ve", "1 is followed by 2"),
        ([1.0, 1.0], "ve", "at least two different"),
        ([1.000002, 0.5, 0.0], "flow", "0 to 1, got 1"),
        ([1.5, 0.5, 0.0], "flow", "0 to 1, got 1.5"),
        ([1.0, -0.5], "ve", ">= 0"),
        ([float("nan"), 0.0], "ve", "finite"),
        ([1.0, 0.0], "vp", "'ve' or 'flow'"),
    ],
)
def test_bad_sigmas(sigmas, kind, message) -> None:
    with pytest.raises(InversionError, match=message):
        Grid.from_sigmas(sigmas, kind)


@pytest.mark.parametrize("ancestral", [False, True])
@pytest.mark.parametrize("kind", ["ve", "flow"])
def test_levels_that_do_not_move_are_one(kind, ancestral) -> None:
    twice = Grid.from_sigmas([1.0, 1.0, 0.5, 0.5, 0.5, 0.2, 0.0, 0.0], kind, [8, 7, 6, 5, 4, 3, 2], ancestral)
    assert twice == Grid.from_sigmas([1.0, 0.5, 0.2, 0.0], kind, [7, 4, 3], ancestral)
    near = Grid.from_sigmas([1.0, 1 - 2**-24, 0.5, 0.5 - 2**-25, 0.0], kind, ancestral=ancestral)
    assert all(math.isfinite(x) for upper, lower in pairwise(near.levels) for x in near.landing(upper, lower)[1:])
    noise = [latent(1, 2, 3)] * twice.steps if ancestral else None
    inversion = invert(Gaussian(), latent(1, 2, 3), twice, DDIM(), noise=noise)
    assert all(inversion.secant(step, inversion.latent).isfinite().all() for step in range(twice.steps))


@pytest.mark.parametrize("keep", [Keep(), Keep(anchor=0.5), Keep(anchor=0.0, background=0.5)])
@pytest.mark.parametrize("ancestral", [False, True])
def test_a_step_that_does_not_move(keep, ancestral) -> None:
    """As in a diffusers schedule that ends at timestep 0, and below it at the same level."""
    levels = tuple(Level(1.0, sigma) for sigma in (3.0, 3.0, 1.0, 1.0))
    grid = Grid(levels, "ve", ancestral)
    noise = [latent(1, 2, 3)] * grid.steps if ancestral else None
    inversion = invert(Gaussian(), latent(1, 2, 3), grid, DDIM(), noise=noise)
    back = sample(Gaussian(), inversion.latent, grid, source=inversion, keep=keep)
    assert torch.equal(back, inversion.trajectory[0])
    last = Grid.from_alphas_cumprod([0.9, 0.5, 0.1], [2, 1, 0])
    assert invert(Gaussian(), latent(1, 2, 3), last, DDIM()).latent.isfinite().all()


def test_a_flows_sigmas_may_be_rounded_upward() -> None:
    grid = Grid.from_sigmas(torch.tensor([1.0000001, 0.5, 0.0]), "flow")
    assert (grid.levels[0].alpha, grid.levels[0].sigma) == (0.0, 1.0)
    assert Level.of(1.0000001, "flow") == Level(0.0, 1.0)


def test_bad_latents_and_denoisers() -> None:
    levels = grid("ve", 3)
    for bad in (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3), torch.zeros(0, 2)):
        with pytest.raises(InversionError, match="floating-point"):
            invert(Gaussian(), bad, levels, DDIM())
    with pytest.raises(InversionError, match="NaN"):
        invert(Gaussian(), torch.full((1, 2), float("nan")), levels, DDIM())
    with pytest.raises(InversionError, match="shape"):
        invert(lambda x, level: x[:, :1], torch.zeros(1, 2), levels, DDIM())
    with pytest.raises(DivergedError, match="step 2 of 3"):
        invert(lambda x, level: x / 0 if level.sigma > 1 else x, torch.ones(1, 2), grid("ve", 3, 9.0), DDIM())
    inversion = invert(Gaussian(), torch.ones(1, 2), levels, DDIM())
    with pytest.raises(InversionError, match="own grid"):
        sample(Gaussian(), inversion.latent, grid("ve", 4), source=inversion)


def test_exceptions_of_the_model_pass_through() -> None:
    class Interrupted(BaseException):
        pass

    def interrupted(x, level):
        raise Interrupted

    with pytest.raises(Interrupted):
        invert(interrupted, torch.ones(1, 2), grid("ve", 3), DDIM())
