"""What an edit keeps: exact at one end, the plain sampler at the other, and in between what the masks say."""

import pytest
import torch
from problems import KINDS, Gaussian, Mixture, grid
from torch import Tensor

from inversion import DDIM, Denoiser, Departure, EasyInv, Grid, Inversion, InversionError, Keep, Level, invert, sample
from inversion.loops import sample_departure


def x0(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def half(x: Tensor, level: Level) -> Tensor:
    """Another prompt that only wants something else in the left half."""
    wanted = Gaussian(mean=2.0)(x, level)
    wanted[..., 8:] = Gaussian()(x, level)[..., 8:]
    return wanted


CASES = [(kind, False) for kind in KINDS] + [("ve", True), ("flow", True)]


def edited(denoiser: Denoiser, inversion: Inversion, **settings) -> tuple[Tensor, Tensor | None]:
    """(the edit, where it was let change)."""
    departure, levels = Departure(denoiser, inversion, Keep(**settings)), inversion.grid.levels
    e = sample_departure(departure, departure.start(inversion.latent, levels[0]), inversion.grid)
    return departure.end(e, levels[-1]), departure.automatic.found()


@pytest.mark.parametrize(("kind", "ancestral"), CASES)
@pytest.mark.parametrize("method", [DDIM(), EasyInv(0.5, 0.1, 0.8)])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_a_departure_is_the_difference_of_two_estimates(kind, ancestral, method, shift) -> None:
    """The source's are not in the record as such. Where the edit's are the same, nothing may change."""
    levels = Grid(grid(kind, 6, 0.9).levels, kind, ancestral)
    noise = [x0(2, 3, 4, 4)] * 6 if ancestral else None
    inversion = invert(Mixture(), x0(2, 3, 4, 4), levels, method, noise=noise)
    for level in levels.levels[:-1]:
        departure = Departure(lambda x, level: Mixture()(x, level) + shift, inversion, Keep(background=0.5))
        d = departure(torch.zeros_like(inversion.latent), level)
        torch.testing.assert_close(d, torch.full_like(d, shift), rtol=1e-7, atol=0)
        assert departure.automatic.found().unique().tolist() == [1.0 if shift else 0.0]


@pytest.mark.parametrize(("kind", "ancestral"), CASES)
@pytest.mark.parametrize("method", [DDIM(), EasyInv(0.5, 0.1, 0.8)])
def test_without_any_of_it_it_is_the_plain_sampler(kind, ancestral, method) -> None:
    levels = Grid(grid(kind, 6, 0.9).levels, kind, ancestral)
    noise = [x0(1, 2, 8, 16)] * 6 if ancestral else None
    inversion = invert(Gaussian(), x0(1, 2, 8, 16), levels, method, noise=noise)
    plain = sample(half, inversion.latent, levels, noise=noise)
    for keep in (Keep(anchor=0), Keep(anchor_end=0)):
        torch.testing.assert_close(sample(half, inversion.latent, levels, source=inversion, keep=keep), plain)
    assert not torch.allclose(sample(half, inversion.latent, levels, source=inversion), plain, rtol=1e-3)


@pytest.mark.parametrize(("kind", "ancestral"), CASES)
def test_a_departure_may_start_anywhere(kind, ancestral) -> None:
    """A latent that is no longer the inverted one departs from it by what was changed."""
    levels = Grid(grid(kind, 6, 0.9).levels, kind, ancestral)
    noise = [x0(1, 2, 8, 16)] * 6 if ancestral else None
    inversion = invert(Gaussian(), x0(1, 2, 8, 16), levels, DDIM(), noise=noise)
    start = 1.1 * inversion.latent
    plain = sample(half, start, levels, noise=noise)
    torch.testing.assert_close(sample(half, start, levels, source=inversion, keep=Keep(anchor=0)), plain)


def test_settings_serve_any_number_of_runs() -> None:
    inversion = invert(Gaussian(), x0(1, 2, 8, 16), grid("ve", 6), DDIM())
    keep = Keep(background=0.8)
    first, second = (sample(half, inversion.latent, inversion.grid, source=inversion, keep=keep) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_prompt_is_exact_and_its_automatic_mask_empty(kind) -> None:
    inversion = invert(Gaussian(), x0(2, 2, 8, 16), grid(kind, 6), EasyInv(0.5, 0.1, 0.8))
    back, mask = edited(Gaussian(), inversion, background=0.7)
    assert torch.equal(back, x0(2, 2, 8, 16))
    assert not mask.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_automatic_mask_finds_what_the_prompt_changes(kind) -> None:
    source = x0(2, 4, 8, 16)
    inversion = invert(Gaussian(), source, grid(kind, 10), DDIM())
    out, mask = edited(half, inversion, background=1.0)
    assert mask.shape == (2, 1, 8, 16)
    assert float(mask[..., :7].min()) > 0.3
    assert float(mask[..., 10:].max()) == 0
    torch.testing.assert_close(out[..., 10:], source[..., 10:])
    assert float((out - source)[..., :7].mean()) > 1


def test_dilation_grows_the_mask_and_threshold_shrinks_it() -> None:
    inversion = invert(Gaussian(), x0(1, 4, 8, 16), grid("flow", 10), DDIM())

    def area(**settings) -> float:
        _, mask = edited(half, inversion, background=1.0, **settings)
        return float(mask.sum())

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
        out, _ = edited(slightly, inversion, background=background)
        errors.append(float((out - source)[..., 10:].norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-9 < errors[-2] < 0.6 * errors[0]


@pytest.mark.parametrize("shape", [(1, 2, 12), (1, 2, 6, 6), (1, 2, 3, 6, 6)])
def test_sound_pictures_and_video(shape) -> None:
    inversion = invert(Gaussian(), x0(*shape), grid("flow", 4), DDIM())
    out, mask = edited(Gaussian(2.0), inversion, background=0.9, dilation=1)
    assert out.isfinite().all()
    assert mask.shape == (1, 1, *shape[2:])


@pytest.mark.parametrize(
    "settings",
    [
        {"anchor": 1.5},
        {"anchor_end": -0.1},
        {"background": 2.0},
        {"threshold": 0.0},
        {"dilation": -1},
        {"limit": -1},
        {"head_start": -0.1},
        {"head_start": float("nan")},
    ],
)
def test_settings_out_of_range_are_named(settings) -> None:
    with pytest.raises(InversionError, match=next(iter(settings))):
        Keep(**settings)


def with_strength(denoiser: Denoiser, of_source: Denoiser, inversion: Inversion, strength: float, **settings) -> Tensor:
    departure = Departure(denoiser, inversion, Keep(**settings), of_source, strength)
    e = sample_departure(departure, torch.zeros_like(inversion.latent), inversion.grid)
    return departure.end(e, inversion.grid.levels[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_strength_goes_from_the_source_through_the_edit_and_beyond(kind) -> None:
    """Of estimates that do not depend on the state the edit is linear in the strength."""
    source, levels = Gaussian(), grid(kind, 6)
    inversion = invert(source, x0(2, 3, 4, 4), levels, DDIM())

    def shifted(x: Tensor, level: Level) -> Tensor:
        return source(x, level) + 0.1

    clean = inversion.trajectory[0]
    assert torch.equal(with_strength(shifted, source, inversion, 0.0), clean)
    one = with_strength(shifted, source, inversion, 1.0) - clean
    torch.testing.assert_close(with_strength(shifted, source, inversion, 3.0) - clean, 3 * one)
    torch.testing.assert_close(one, edited(shifted, inversion)[0] - clean)


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_another_model_under_the_same_prompt_keeps_its_change(strength) -> None:
    """As a LoRA's on the edit's model: the prompts do not differ, so the mask is where the models do."""
    inversion = invert(Gaussian(), x0(2, 3, 4, 16), grid("flow", 6), DDIM())
    plain = with_strength(half, half, inversion, 1.0, background=1.0)
    torch.testing.assert_close(with_strength(half, half, inversion, strength, background=1.0), plain)
    assert float((plain - inversion.trajectory[0]).abs().max()) > 0.1


def test_a_strength_without_the_sources_prompt_is_refused() -> None:
    inversion = invert(Gaussian(), x0(2, 3, 4, 4), grid("flow", 3), DDIM())
    with pytest.raises(InversionError, match="strength of 2 needs the source's prompt"):
        Departure(Gaussian(), inversion, strength=2.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, 7.0])
def test_the_same_prompt_is_exact_with_a_limit_and_a_head_start(kind, strength) -> None:
    source, clean = Gaussian(), x0(2, 3, 8, 16)
    inversion = invert(source, clean, grid(kind, 6), EasyInv(0.5, 0.1, 0.8))
    back = with_strength(source, source, inversion, strength, background=1.0, limit=0.5, head_start=0.3)
    assert torch.equal(back, clean)


def length(x: Tensor) -> Tensor:
    return x.square().mean(1, keepdim=True).sqrt()


@pytest.mark.parametrize("limit", [0.6, 1.0, 1.5])
def test_the_limit_shortens_what_is_longer_than_the_pictures_large_values_and_keeps_its_direction(limit) -> None:
    clean, wanted = x0(2, 3, 8, 16), x0(3, 2, 8, 16).movedim(0, 1)

    def source(x: Tensor, level: Level) -> Tensor:
        return clean.clone()

    def other(x: Tensor, level: Level) -> Tensor:
        return wanted.clone()

    inversion = invert(source, clean, grid("flow", 4), DDIM())
    free, bound = (with_strength(other, source, inversion, 5.0, limit=each) for each in (0.0, limit))
    torch.testing.assert_close(free, clean + 5 * (wanted - clean))
    large = length(clean).flatten(1).quantile(0.75, dim=1, interpolation="lower").reshape(2, 1, 1, 1)
    allowed = torch.maximum(length(clean), limit * torch.maximum(length(wanted), torch.maximum(length(clean), large)))
    cut = length(free) > allowed
    assert 0.1 < float(cut.double().mean()) < 1
    torch.testing.assert_close(bound, free * (allowed / length(free)).clamp(max=1))
    assert torch.equal(bound[~cut.expand_as(bound)], free[~cut.expand_as(free)])


def test_a_strength_of_1_has_no_limit() -> None:
    inversion = invert(Gaussian(), x0(2, 3, 4, 4), grid("flow", 3), DDIM())
    free, bound = (with_strength(Gaussian(9.0), Gaussian(), inversion, 1.0, limit=each) for each in (0.0, 0.1))
    assert torch.equal(free, bound)


class Counted:
    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.states = denoiser, []

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        self.states.append(x)
        return self.denoiser(x, level)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_start_leans_the_noise_to_the_first_answer_and_takes_no_call(kind) -> None:
    inversion = invert(Gaussian(), x0(1, 2, 8, 16), grid(kind, 6), DDIM())
    top, runs = inversion.grid.levels[0], {}
    for share in (0.0, 0.25):
        counted = Counted(half)
        departure = Departure(counted, inversion, Keep(head_start=share))
        shown = sample_departure(departure, torch.zeros_like(inversion.latent), inversion.grid)
        assert len(counted.states) == departure.calls == 6
        runs[share] = counted.states, shown
    without, leaning = runs[0.0], runs[0.25]
    assert torch.equal(without[0][0], leaning[0][0])
    first = Departure(half, inversion)(torch.zeros_like(inversion.latent), top)
    lower = inversion.grid.levels[1]
    # What is added decays with the noise: a step that keeps the estimate scales it by the ratio of the times.
    share = inversion.grid.time(lower) / inversion.grid.time(top) * inversion.grid.unit(lower)
    added = 0.25 * top.sigma / inversion.grid.unit(top) * share * first
    torch.testing.assert_close(leaning[0][1] - without[0][1], added)
    assert float((leaning[1] - without[1]).abs().max()) > 0.01


def test_there_is_no_head_start_without_an_anchor() -> None:
    inversion = invert(Gaussian(), x0(1, 2, 8, 16), grid("ve", 4), DDIM())
    for keep in ({"anchor": 0.0}, {"anchor_end": 0.0}):
        plain, leaning = (edited(half, inversion, head_start=share, **keep)[0] for share in (0.0, 0.5))
        assert torch.equal(plain, leaning)
