"""What an edit keeps: exact at one end, the plain sampler at the other, and in between what the masks say."""

import pytest
import torch
from problems import KINDS, Gaussian, Mixture, grid
from torch import Tensor

from inversion import DDIM, EasyInv, Grid, InversionError, Keep, Level, invert, sample


def x0(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def half(x: Tensor, level: Level) -> Tensor:
    """Another prompt that only wants something else in the left half."""
    wanted = Gaussian(mean=2.0)(x, level)
    wanted[..., 8:] = Gaussian()(x, level)[..., 8:]
    return wanted


CASES = [(kind, False) for kind in KINDS] + [("ve", True), ("flow", True)]


@pytest.mark.parametrize(("kind", "ancestral"), CASES)
@pytest.mark.parametrize("method", [DDIM(), EasyInv(0.5, 0.1, 0.8)])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_mask_compares_with_the_sources_own_estimates(kind, ancestral, method, shift) -> None:
    """Which are not in the record as such. Where the edit's are the same, nothing may change."""
    levels = Grid(grid(kind, 6, 0.9).levels, kind, ancestral)
    noise = [x0(2, 3, 4, 4)] * 6 if ancestral else None
    inversion = invert(Mixture(), x0(2, 3, 4, 4), levels, method, noise=noise)
    for k, level in enumerate(levels.levels[:-1]):
        keep, point = Keep(inversion, background=0.5), inversion.points[5 - k]
        slope = levels.slope(point, Mixture()(point, level) + shift, level)
        keep.settle(inversion.trajectory[5 - k], k, point, slope)
        torch.testing.assert_close(keep.difference, torch.full((2, 1, 4, 4), shift).double(), rtol=1e-7, atol=0)
        assert keep.automatic_mask().unique().tolist() == [1.0 if shift else 0.0]


def test_without_any_of_it_it_is_the_plain_sampler() -> None:
    inversion = invert(Gaussian(), x0(1, 2, 8, 16), grid("ve", 6), EasyInv(0.5, 0.1, 0.8))
    plain = sample(half, inversion.latent, inversion.grid)
    assert torch.equal(sample(half, inversion.latent, inversion.grid, source=Keep(inversion, anchor=0)), plain)
    assert torch.equal(sample(half, inversion.latent, inversion.grid, source=Keep(inversion, anchor_end=0)), plain)
    assert not torch.equal(sample(half, inversion.latent, inversion.grid, source=Keep(inversion)), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_prompt_is_exact_and_its_automatic_mask_empty(kind) -> None:
    inversion = invert(Gaussian(), x0(2, 2, 8, 16), grid(kind, 6), EasyInv(0.5, 0.1, 0.8))
    keep = Keep(inversion, background=0.7)
    assert torch.equal(sample(Gaussian(), inversion.latent, inversion.grid, source=keep), x0(2, 2, 8, 16))
    assert not keep.automatic_mask().any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_automatic_mask_finds_what_the_prompt_changes(kind) -> None:
    source = x0(2, 4, 8, 16)
    inversion = invert(Gaussian(), source, grid(kind, 10), DDIM())
    keep = Keep(inversion, background=1.0)
    edited = sample(half, inversion.latent, inversion.grid, source=keep)
    mask = keep.automatic_mask()
    assert mask.shape == (2, 1, 8, 16)
    assert float(mask[..., :7].min()) > 0.3
    assert float(mask[..., 10:].max()) == 0
    torch.testing.assert_close(edited[..., 10:], source[..., 10:])
    assert float((edited - source)[..., :7].mean()) > 1


def test_dilation_grows_the_mask_and_threshold_shrinks_it() -> None:
    inversion = invert(Gaussian(), x0(1, 4, 8, 16), grid("flow", 10), DDIM())

    def area(**settings) -> float:
        keep = Keep(inversion, background=1.0, **settings)
        sample(half, inversion.latent, inversion.grid, source=keep)
        return float(keep.automatic_mask().sum())

    assert area(dilation=2) > area() > area(threshold=0.8)


def test_more_background_is_kept_the_more_is_asked_for() -> None:
    source = x0(1, 4, 8, 16)
    inversion = invert(Gaussian(), source, grid("ve", 10), DDIM())

    def slightly(x: Tensor, level: Level) -> Tensor:
        denoised = half(x, level)
        denoised[..., 8:] += 0.1
        return denoised

    errors = []
    for background in (0.0, 0.3, 0.6, 0.9, 1.0):
        keep = Keep(inversion, background=background)
        edited = sample(slightly, inversion.latent, inversion.grid, source=keep)
        errors.append(float((edited - source)[..., 10:].norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-9 < errors[-2] < 0.6 * errors[0]


@pytest.mark.parametrize("shape", [(1, 2, 12), (1, 2, 6, 6), (1, 2, 3, 6, 6)])
def test_sound_pictures_and_video(shape) -> None:
    inversion = invert(Gaussian(), x0(*shape), grid("flow", 4), DDIM())
    keep = Keep(inversion, background=0.9, dilation=1)
    assert sample(Gaussian(2.0), inversion.latent, inversion.grid, source=keep).isfinite().all()
    assert keep.automatic_mask().shape == (1, 1, *shape[2:])


@pytest.mark.parametrize(
    "settings",
    [{"anchor": 1.5}, {"anchor_end": -0.1}, {"background": 2.0}, {"threshold": 0.0}, {"dilation": -1}],
)
def test_settings_out_of_range_are_named(settings) -> None:
    inversion = invert(Gaussian(), x0(1, 2, 4), grid("ve", 3), DDIM())
    with pytest.raises(InversionError, match=next(iter(settings))):
        Keep(inversion, **settings)
