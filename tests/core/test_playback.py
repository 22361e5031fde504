"""Any sampler on a departure: 0 where nothing departs, and elsewhere what the sampler makes of the estimates."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from problems import Gaussian, Mixture, grid
from torch import Tensor

from inversion import DDIM, Denoiser, Departure, EasyInv, Grid, Inversion, InversionError, Keep, Level, invert, sample
from inversion.playback import Playback

EDIT = Mixture(means=(-1.5, 0.6, 1.4))
SHAPE = (2, 3, 4, 5)
CASES = [("ve", False), ("flow", False), ("ve", True), ("flow", True)]


def latent(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Samplers as k-diffusion writes them: from x, asking `model` with (state, sigma (B,)).


def ask(model: Callable, x: Tensor, sigma: float) -> Tensor:
    return model(x, x.new_full((len(x),), sigma))


def euler(levels: Grid, model: Callable, x: Tensor, seed: int = 0) -> Tensor:
    """In the state space of any grid; on an ancestral one with noise."""
    random = torch.Generator().manual_seed(seed)
    for upper, lower in pairwise(levels.levels):
        slope = levels.slope(x, ask(model, x, upper.sigma), upper)
        noise = torch.randn(x.shape, generator=random).to(x) if levels.ancestral else None
        x = levels.descend(x, upper, lower, slope, noise)
    return x


def heun(levels: Grid, model: Callable, x: Tensor) -> Tensor:
    for upper, lower in pairwise(level.sigma for level in levels.levels):
        slope = (x - ask(model, x, upper)) / upper
        if lower:
            landed = x + (lower - upper) * slope
            slope = (slope + (landed - ask(model, landed, lower)) / lower) / 2
        x = x + (lower - upper) * slope
    return x


def midpoint(levels: Grid, model: Callable, x: Tensor) -> Tensor:
    for upper, lower in pairwise(level.sigma for level in levels.levels):
        slope, middle = (x - ask(model, x, upper)) / upper, (upper + lower) / 2
        halfway = x + (middle - upper) * slope
        x = x + (lower - upper) * (halfway - ask(model, halfway, middle)) / middle
    return x


def multistep(levels: Grid, model: Callable, x: Tensor, stochastic: bool = False) -> Tensor:
    """DPM-Solver++(2M), or with half of the noise renewed at each step."""
    random, sigmas, last = torch.Generator().manual_seed(4), [level.sigma for level in levels.levels], None
    for i, (upper, lower) in enumerate(pairwise(sigmas)):
        denoised, share = ask(model, x, upper), lower / upper
        extrapolated = denoised
        if last is not None and lower:
            ratio = torch.tensor(sigmas[i - 1] / upper).log() / torch.tensor(upper / lower).log()
            extrapolated = denoised + (denoised - last) / (2 * ratio)
        if stochastic:
            share = share * 0.5
        x, last = share * x + (1 - share) * extrapolated, denoised
        if stochastic and lower:
            x = x + lower * 0.75**0.5 * torch.randn(x.shape, generator=random).to(x)
    return x


stochastic = partial(multistep, stochastic=True)
ON_LEVELS = [euler, heun, multistep, stochastic]


def recorded(kind: str, steps: int, method=EasyInv(0.5, 0.1, 0.8), dtype=torch.float64, ancestral=False) -> Inversion:  # noqa: B008
    levels = Grid(grid(kind, steps).levels, kind, ancestral)
    noise = [latent(10 + i, dtype) for i in range(steps)] if ancestral else None
    return invert(Mixture(), latent(dtype=dtype), levels, method, noise=noise)


def prepared(source: Inversion, sampler: Callable, **options: object) -> Playback:
    return Playback.prepare(partial(sampler, source.grid, **options), source.latent, "it")


def edited(source: Inversion, playback: Playback, edit: Denoiser, beside=None, keep=None, callback=None) -> Tensor:
    departure, levels = Departure(edit, source, keep, beside, between=beside is not None), source.grid.levels
    e = playback.run(departure, torch.zeros_like(source.latent), source.grid.kind, callback)
    assert departure.calls == playback.queries
    return departure.end(e, levels[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "ancestral"), CASES)
@pytest.mark.parametrize("sampler", [*ON_LEVELS, midpoint])
def test_the_same_prompt_gives_the_source_to_the_last_bit(sampler, kind, ancestral, dtype) -> None:
    for steps in (1, 2, 7):
        for method in (DDIM(), EasyInv(0.5, 0.1, 0.8)):
            source = recorded(kind, steps, method, dtype, ancestral)
            playback = prepared(source, sampler)
            for beside in (None, Mixture()):
                assert torch.equal(edited(source, playback, Mixture(), beside), source.trajectory[0])


@pytest.mark.parametrize(("kind", "ancestral"), CASES)
@pytest.mark.parametrize("keep", [Keep(), Keep(0.4), Keep(0.0), Keep(1.0, 0.5, 0.7)])
def test_euler_does_what_sample_does(kind, ancestral, keep) -> None:
    source, seen = recorded(kind, 6, ancestral=ancestral), ([], [])
    wanted = sample(
        EDIT, source.latent, source.grid, source=source, keep=keep, callback=lambda *step: seen[0].append(step)
    )
    back = edited(source, prepared(source, euler), EDIT, keep=keep, callback=lambda *step: seen[1].append(step))
    assert float((wanted - source.trajectory[0]).abs().max()) > 0.1
    torch.testing.assert_close(back, wanted, rtol=0, atol=1e-9)
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize("ancestral", [False, True])
@pytest.mark.parametrize("sampler", ON_LEVELS)
def test_it_is_the_sampler_on_estimates_that_take_it_down_the_record(sampler, kind, ancestral) -> None:
    """They are made here, from the sampler's coefficients, and the edit departs from them on its own states."""
    source = recorded(kind, 6, ancestral=ancestral)
    levels, sigmas = source.grid, [level.sigma for level in source.grid.levels]
    places: list[int] = []  # in the record, of each question

    def visited(estimates: Callable, x: Tensor) -> list[Tensor]:
        states: list[Tensor] = []
        places.clear()

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            states.append(x)
            places.append(5 - sigmas.index(float(sigma[0])))
            return estimates(len(states) - 1, x)

        states.append(sampler(levels, model, x))
        return states

    playback = prepared(source, sampler)
    start, calls = source.latent, playback.queries
    zeros = torch.zeros(calls + 1, 1, dtype=torch.float64)
    unit = torch.eye(calls + 1, dtype=torch.float64).unsqueeze(1)
    at_rest = visited(lambda k, _: zeros, zeros)
    rows = visited(lambda k, _: unit[:, :, k + 1], unit[:, :, 0])
    matrix = torch.stack([row - rest for row, rest in zip(rows, at_rest, strict=True)])[..., 0]
    noise = torch.stack(visited(lambda k, x: torch.zeros_like(x), torch.zeros_like(start)))
    wanted = torch.stack([*(source.trajectory[i + 1] for i in places), source.trajectory[0]])
    known = matrix[1:, :1] * start.flatten() + noise[1:].flatten(1)
    estimates = torch.linalg.solve(matrix[1:, 1:], wanted[1:].flatten(1) - known).reshape(calls, *SHAPE)

    def edit(k: int, x: Tensor) -> Tensor:
        i = places[-1]
        recorded, level = (
            levels.denoised(source.points[i], source.slopes[i], levels.levels[5 - i]),
            levels.levels[5 - i],
        )
        return estimates[k] + EDIT(x + source.points[i] - source.trajectory[i + 1], level) - recorded

    torch.testing.assert_close(torch.stack(visited(lambda k, _: estimates[k], start)), wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(edited(source, playback, EDIT), visited(edit, start)[-1], rtol=0, atol=1e-8)


def exact(levels: Grid, source: Gaussian) -> Inversion:
    """A record of the ODE's own solution."""
    clean, steps = latent(), levels.steps
    states = torch.stack([source.carried(clean, levels.levels[-1], level) for level in reversed(levels.levels)])
    upward = list(reversed(levels.levels[:-1]))
    slopes = [levels.slope(x, source(x, level), level) for x, level in zip(states[1:], upward, strict=True)]
    return Inversion(
        levels, states, states[1:], torch.stack(slopes), torch.zeros(steps), (1,) * steps, "exact", torch.zeros(1)
    )


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize(
    ("sampler", "beside", "order"),
    [(euler, False, 1), (heun, False, 2), (multistep, False, 2), (midpoint, True, 2), (midpoint, False, None)],
)
def test_each_sampler_keeps_its_order(kind, sampler, beside, order) -> None:
    """On exact records the edit comes to where the edit's own ODE goes from the same noise."""
    before, after = Gaussian(), Gaussian(-0.4, 1.1)
    errors = []
    for steps in (40, 80):
        levels = grid(kind, steps, 10.0, 0.05)
        source = exact(levels, before)
        wanted = after.carried(source.latent, levels.levels[0], levels.levels[-1])
        found = edited(source, prepared(source, sampler), after, before if beside else None)
        errors.append(float((found - wanted).norm() / (wanted - source.trajectory[0]).norm()))
    if order is None:  # answered at the nearest level, now above and now below
        assert 2e-3 < errors[1] < 0.05
    else:
        assert 0.8 * 2**order < errors[0] / errors[1] < 1.3 * 2**order
        assert errors[1] < (0.05 if order == 1 else 2e-3)


def test_the_noise_of_a_sampler_changes_nothing() -> None:
    source = recorded("ve", 8, ancestral=True)
    edits = [edited(source, prepared(source, euler, seed=seed), EDIT) for seed in (1, 2)]
    torch.testing.assert_close(*edits, rtol=0, atol=1e-10)
    assert [noise is None for noise in prepared(source, euler).noise[:-1]] == [True, *[False] * 7]
    assert all(noise is None for noise in prepared(source, heun).noise)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_a_mask_is_safe_with_samplers_that_look_ahead_to_a_small_sigma(share) -> None:
    levels = Grid.from_sigmas([1.0, 0.75, 0.5, 0.25, 0.001, 0.0], "flow")
    source = invert(Mixture(), latent(), levels, EasyInv(0.5, 0.1, 0.8))
    keep = Keep(mask=torch.tensor(share))
    first, second = (edited(source, prepared(source, sampler), EDIT, keep=keep) for sampler in (euler, heun))
    assert float((second - first).abs().max()) <= 0.5 * share


def adaptive(levels: Grid, model: Callable, x: Tensor) -> Tensor:
    sigma = levels.levels[0].sigma
    while sigma > 0.01:
        denoised = ask(model, x, sigma)
        lower = sigma * (0.5 if float(denoised.abs().max()) < 1 else 0.7)
        x, sigma = denoised + (x - denoised) * lower / sigma, lower
    return x


def endless(levels: Grid, model: Callable, x: Tensor) -> Tensor:
    while not ask(model, x, 1.0).any():
        pass
    return x


def clamped(levels: Grid, model: Callable, x: Tensor) -> Tensor:
    return euler(levels, lambda x, sigma: model(x, sigma).clamp(-1, 1), x)


def rescaled(levels: Grid, model: Callable, x: Tensor) -> Tensor:
    """Twice the estimates give twice the result, and yet it is not linear in them."""
    return euler(levels, lambda x, sigma: (d := model(x, sigma)) * (d.mean().abs() + 1e-9) / (d.std() + 1e-9), x)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (adaptive, "chooses its steps"),
        (endless, "chooses its steps"),
        (clamped, "not linear"),
        (rescaled, "not linear"),
    ],
)
def test_samplers_that_are_not_affine_are_refused(sampler, words) -> None:
    source = recorded("ve", 4)
    with pytest.raises(InversionError, match=f"fancy.*{words}.*such as euler, dpmpp_2m"):
        Playback.prepare(partial(sampler, source.grid), source.latent, "fancy")


def test_a_level_is_one_that_is_just_beside_it_too() -> None:
    levels = Grid.from_sigmas([1.0, 0.8, 0.5, 0.0], "flow")
    asked = [(1.4, 0, True), (0.9999, 0, True), (0.8 + 1e-7, 1, True), (0.8 - 1e-7, 1, True), (0.6, 2, False)]
    for sigma, k, on_it in [*asked, (0.25, 2, False), (0.0, 2, False)]:
        assert levels.nearest(Level(max(0.0, 1 - sigma), sigma)) == (k, on_it)


def test_many_steps_are_no_reason_to_refuse() -> None:
    source = recorded("flow", 700, DDIM())
    playback = prepared(source, heun)
    assert playback.queries == 1399
    assert torch.equal(edited(source, playback, Mixture()), source.trajectory[0])
