"""The peers that the benchmark runs are what their papers say: steps done by hand, orders on exact answers, costs."""

import math

import pytest
import torch
from problems import Gaussian, Mixture, grid
from test_exact import measured_order, x0
from torch import Tensor

from benchmarks.peers import (
    CLEAN,
    EXACT,
    HOST_FORMULAS,
    Ode,
    Result,
    as_latent,
    drawn,
    euler,
    fire_flow,
    flip_sigmas,
    front,
    measure,
    midpoint,
    normalised,
    renoise,
    rf_controlled,
    rf_inversion,
    rows,
    uni_inv,
    unsampler,
)
from inversion import Grid, Level

ROOT = math.sqrt(5 / 2)  # how much the native scale grows from sigma 1 to 2


def steep(x: Tensor, level: Level) -> Tensor:
    """The denoiser whose slope is sigma x, so that a slope taken at another place or level shows."""
    return x - level.sigma**2 * x


def whole(steps: int) -> Grid:
    """A flow model's whole schedule."""
    return Grid.from_sigmas(torch.linspace(1, 0, steps + 1, dtype=torch.float64), "flow")


@pytest.mark.parametrize(
    ("walk", "sigmas", "by_hand", "calls"),
    [
        (euler, [1, 2, 4], 2 + 2 * 4, 2),
        (midpoint, [1, 2, 4], 3.25 + 2 * 3 * 9.75, 4),
        (fire_flow, [1, 2, 4], 3.25 + 2 * 3 * 5.5, 3),
        (uni_inv, [1, 2, 4], 5 + 2 * 4 * 13, 3),
        (lambda *walk: renoise(*walk, extra=2), [1, 2], 5 + 6 * ROOT, 3),
        (renoise, [1, 2], 14 + 15 * ROOT, 5),
    ],
)
def test_steps_by_hand(walk, sigmas: list[float], by_hand: float, calls: int) -> None:
    ode = Ode(steep, Grid.from_sigmas(sigmas[::-1], "ve"))
    assert float(walk(ode, torch.ones(1, 1, dtype=torch.float64), sigmas)) == pytest.approx(by_hand, rel=1e-12)
    assert ode.calls == calls


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize(("walk", "order"), [(euler, 1), (midpoint, 2), (fire_flow, 2)])
def test_solvers_have_their_order_both_ways(kind: str, walk, order: int) -> None:
    """On the mixture; on the Gaussian `midpoint` happens to have order 3."""

    def scaled(x: Tensor, ratio: float) -> Tensor:
        return x / (1 + ratio) if kind == "flow" else x

    clean, noisy = scaled(x0(), 0.05), scaled(x0(), 10.0)
    above, below = scaled(Mixture().carried(x0(), 0.05, 10.0), 10.0), scaled(Mixture().carried(x0(), 10.0, 0.05), 0.05)

    def error(n: int) -> float:
        ode = Ode(Mixture(), grid(kind, n, clean=0.05))
        up, down = walk(ode, clean, ode.rising) - above, walk(ode, noisy, ode.falling) - below
        return float(up.abs().mean() + down.abs().mean())

    assert math.log2(error(400) / error(800)) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize(("walk", "order"), [(euler, 1), (uni_inv, 2), (renoise, 2)])
def test_inverters_leave_the_sampler_an_error_of_their_order(kind: str, walk, order: int) -> None:
    def error(n: int) -> float:
        ode = Ode(Gaussian(), grid(kind, n, clean=0.05))
        return float((euler(ode, walk(ode, x0(), ode.rising), ode.falling) - x0()).abs().mean())

    assert measured_order(error) == pytest.approx(order, abs=0.3)


def test_rf_inversion_lies_between_the_ode_and_the_noise() -> None:
    ode, picture = Ode(Gaussian(), whole(8)), x0(1)
    noise = drawn(picture)
    torch.testing.assert_close(rf_inversion(ode, picture, ode.rising, gamma=0), euler(ode, picture, ode.rising))
    torch.testing.assert_close(rf_inversion(ode, picture, ode.rising, gamma=1), noise)
    step = [0.5, 0.75]  # of one step the slope is linear in gamma
    ends = [rf_inversion(ode, picture, step, gamma=gamma) for gamma in (0, 1)]
    torch.testing.assert_close(ends[1], (picture + noise) / 2)  # half of the way from 0.5 to 1
    torch.testing.assert_close(rf_inversion(ode, picture, step), sum(ends) / 2)


def test_rf_inversion_is_pulled_to_the_picture_for_its_share_of_the_steps() -> None:
    ode, picture = Ode(Gaussian(), whole(8)), x0(1)
    falling, start = ode.falling, drawn(picture)
    torch.testing.assert_close(rf_controlled(ode, start, falling, picture, 1, 1), picture)
    pulled = rf_controlled(ode, start, falling[:3], picture, 0.9, 1)
    assert not torch.allclose(pulled, euler(ode, start, falling[:3]))
    expected = euler(ode, pulled, falling[2:])
    torch.testing.assert_close(rf_controlled(ode, start, falling, picture, 0.9, 0.25), expected)


def test_the_host_loses_a_whole_flow_inversion() -> None:
    ode = Ode(Gaussian(), whole(8))
    assert not flip_sigmas(ode, x0()).isfinite().any()
    free = euler(ode, x0(), [sigma + CLEAN for sigma in ode.rising])
    torch.testing.assert_close(unsampler(ode, x0()), free / -CLEAN, rtol=1e-9, atol=0)
    torch.testing.assert_close(as_latent(ode, unsampler(ode, x0())), as_latent(ode, x0(1)))
    results = {label: measure(row, ode, x0()).decibels for label, row in HOST_FORMULAS.items()}
    assert math.isnan(results.pop("FlipSigmas + SamplerCustom"))
    assert len(set(results.values())) == 1


@pytest.mark.parametrize("levels", [grid("ve", 8, 14.6), grid("flow", 8)])
def test_the_host_keeps_what_ends_below_pure_noise(levels: Grid) -> None:
    ode = Ode(Gaussian(), levels)
    up = euler(ode, x0(), [CLEAN, *ode.rising[1:]])
    back = euler(ode, up, ode.falling)
    torch.testing.assert_close(as_latent(ode, flip_sigmas(ode, x0())), back)
    # Of CLEAN in every sigma not much is seen, but something.
    torch.testing.assert_close(as_latent(ode, unsampler(ode, x0())), back, rtol=0, atol=30 * CLEAN)
    assert not torch.equal(as_latent(ode, unsampler(ode, x0())), back)


def test_normalised_is_noise_of_its_level() -> None:
    z = normalised(3 * x0() + 2, 14.6)
    assert (float(z.mean()), float(z.std())) == pytest.approx((0, 14.6), abs=1e-9)


@pytest.mark.parametrize("kind", ["ve", "flow"])
def test_rows_cost_and_keep_what_they_say(kind: str) -> None:
    n, levels = 6, whole(6) if kind == "flow" else grid("ve", 6, 14.6)
    calls = {label: (n, n) for label in rows(kind, 1.0)} | {
        "no inversion, other noise": (0, n),
        "ReNoise, 4 extra, averaged": (5 * n, n),
        "RF-Solver": (2 * n, 2 * n),
        "FireFlow": (n + 1, n + 1),
        "Uni-Inv": (n + 1, n),
        "ours: Fixed Point, 2, Anderson": (2 * n, n),
        "ours: Guided NR, its node's default": (2 * n, n),
        "ours: Rex": (2 * n, 2 * n),
    }
    for label, row in rows(kind, 1.0).items():
        result = measure(row, Ode(Mixture(), levels), x0())
        if " up to " not in label and label != "ours: Fixed Point, its node's default":  # as many as they need
            assert (result.up, result.down) == calls[label], label
        assert (result.decibels == EXACT) == (row.needs in ("record", "two states")), label
    newton = rows(kind, 3.0)["ours: Guided NR, its node's default"]
    assert measure(newton, Ode(Mixture(), levels), x0()).up == (3 + 1) * n  # the last of a step has no backward pass


def test_the_front_is_what_nothing_beats() -> None:
    results = {
        "cheap": Result(4, 4, 30.0),
        "cheap too": Result(5, 3, 30.0),
        "cheap and worse": Result(4, 4, 29.0),
        "dear": Result(8, 4, 40.0),
        "dear and worse": Result(8, 8, 35.0),
        "dear for nothing": Result(8, 8, 40.0),
        "lost": Result(1, 1, math.nan),
    }
    assert front(results) == {"cheap", "cheap too", "dear"}
