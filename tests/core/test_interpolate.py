"""Paths between inverted latents, their middle, and new seeds: exact ends, the norms promised, the shortest way."""

import math
from collections.abc import Sequence

import pytest
import torch
from problems import KINDS, Gaussian, Mixture, grid
from scipy import stats
from torch import Tensor

from inversion import (
    DDIM,
    EasyInv,
    Grid,
    Inversion,
    InversionError,
    Method,
    between,
    centroid,
    interpolate,
    invert,
    sample,
    seeds,
)
from inversion.noise import likeness, noise_scale
from inversion.paths import PATHS, Path, cost, shell

TURNING = [path for path in PATHS if path != "linear"]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def polar(radius: float, angle: float, d: int) -> Tensor:
    """A state (1, d) in the plane of the first two axes."""
    return torch.tensor([[radius * math.cos(angle), radius * math.sin(angle), *[0.0] * (d - 2)]], dtype=torch.float64)


def length(points: Tensor) -> Tensor:
    """The length of a polyline (F, d) as the paper has it: the cost at the middle of each piece, times the piece."""
    middle = ((points[1:] + points[:-1]) / 2).norm(dim=1)
    return (cost(middle, points.shape[1]) * points.diff(dim=0).norm(dim=1)).sum()


def angle(a: Tensor, b: Tensor) -> float:
    return math.acos(max(-1.0, min(1.0, float((a * b).sum() / a.norm() / b.norm()))))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_ends_are_exact_to_the_bit(path: Path, dtype: torch.dtype) -> None:
    a, b = noise(3, 4, 5, 5, dtype=dtype), 3 * noise(3, 4, 5, 5, seed=1, dtype=dtype)
    frames = interpolate(a, b, [0, 0.3, 1], path)
    assert (frames.shape, frames.dtype) == ((3, 3, 4, 5, 5), dtype)
    for t, frame, end in ((0, frames[0], a), (1, frames[-1], b)):
        assert torch.equal(frame, end)
        assert torch.equal(interpolate(a, b, t, path), end)
    assert torch.equal(interpolate(a, b, torch.tensor([0.25]), path)[0], interpolate(a, b, 0.25, path))


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_is_a_stack_of_singles_and_runs_are_equal(path: Path) -> None:
    a, b, t = noise(3, 4, 5, 5), 2 * noise(3, 4, 5, 5, seed=1), [0.2, 0.5, 0.9]
    frames = interpolate(a, b, t, path)
    singles = [interpolate(a[i : i + 1], b[i : i + 1], t, path) for i in range(3)]
    torch.testing.assert_close(frames, torch.cat(singles, 1), rtol=1e-12, atol=1e-12)
    assert torch.equal(interpolate(a, b, t, path), frames)


def test_linear_is_the_straight_line_and_loses_norm() -> None:
    a, b = noise(1, 5000), noise(1, 5000, seed=1)
    torch.testing.assert_close(interpolate(a, b, 0.25, "linear"), 0.75 * a + 0.25 * b)
    assert float(interpolate(a, b, 0.5, "linear").norm() / a.norm()) == pytest.approx(math.sqrt(0.5), rel=0.02)


def test_spherical_turns_evenly_and_changes_the_norm_evenly() -> None:
    a, b = noise(1, 500), noise(1, 500, seed=1)
    b = b * (3 * a.norm() / b.norm())
    whole = angle(a, b)
    for t in (0.1, 0.4, 0.8):
        x = interpolate(a, b, t)
        assert float(x.norm() / a.norm()) == pytest.approx(1 + 2 * t, rel=1e-12)
        assert angle(a, x) == pytest.approx(t * whole, rel=1e-7)
        assert angle(x, b) == pytest.approx((1 - t) * whole, rel=1e-7)


@pytest.mark.parametrize("path", TURNING)
def test_a_path_on_the_shell_stays_on_it(path: Path) -> None:
    a, b = (shell(4096) * x / x.norm() for x in (noise(1, 4096), noise(1, 4096, seed=1)))
    norms = interpolate(a, b, torch.linspace(0, 1, 9), path).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, shell(4096)), rtol=1e-9, atol=0)


def test_norm_aware_goes_by_way_of_the_likely_norms() -> None:
    a, b = 0.6 * noise(1, 4096), 1.4 * noise(1, 4096, seed=1)
    norms = interpolate(a, b, torch.linspace(0, 1, 101), "norm-aware").flatten(1).norm(dim=1) / shell(4096)
    assert float(norms[0]) == pytest.approx(0.6, rel=0.03)
    assert float(norms[-1]) == pytest.approx(1.4, rel=0.03)
    assert float((norms - 1).abs().lt(1e-3).double().mean()) > 0.5
    assert (norms.diff() > -1e-6).all()


def test_norm_aware_frames_are_evenly_far_apart() -> None:
    frames = interpolate(polar(30, 0, 1000), polar(40, 1.2, 1000), torch.linspace(0, 1, 2001), "norm-aware")[:, 0]
    steps = frames.diff(dim=0).norm(dim=1)
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=2e-2, atol=0)  # chords of a bent path


def test_cost_is_the_chi_density_and_the_shell_its_cheapest_turn() -> None:
    for d in (3, 16, 4096):
        radius = torch.linspace(0.5, 1.5, 4001, dtype=torch.float64) * math.sqrt(d)
        expected = -torch.from_numpy(stats.chi(d).logpdf(radius.numpy()))
        torch.testing.assert_close(cost(radius, d), expected, rtol=1e-8, atol=1e-8)
        assert (cost(radius, d) > 0).all()
        assert shell(d) == pytest.approx(float(radius[(radius * cost(radius, d)).argmin()]), abs=5e-4 * math.sqrt(d))


CORNERS = {
    "both on the likely side": (3, 1.2, 1.4, 3.0),
    "a turning point above the shell": (16, 6.0, 6.0, 0.5),
    "a turning point below the shell": (16, 2.0, 3.0, 1.0),
    "no turning point": (16, 6.0, 6.5, 0.05),
    "through the shell": (64, 5.0, 11.0, 0.3),
    "along the shell": (64, 6.0, 10.0, 1.5),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_no_path_is_shorter(corner: str) -> None:
    """Points that are free to move, but for even distances, find no shorter way, wherever they start."""
    d, *ends, turn = CORNERS[corner]
    a, b, t = polar(ends[0], 0, d), polar(ends[1], turn, d), torch.linspace(0, 1, 101, dtype=torch.float64)
    ours = interpolate(a, b, t, "norm-aware")[:, 0]
    for path in PATHS:
        start = interpolate(a, b, t, path)[:, 0]
        found = shortened(start)
        assert float(length(ours)) <= float(length(start)) * (1 + 1e-9)
        assert float(length(ours)) <= float(length(found)) * (1 + 2e-4)


def shortened(points: Tensor) -> Tensor:
    """A polyline (F, d) after descent on its length, in the plane of the first two axes."""
    d, moving = points.shape[1], points[1:-1, :2].clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([moving], max_iter=150, history_size=20, line_search_fn="strong_wolfe")

    def whole() -> Tensor:
        inner = torch.nn.functional.pad(moving, (0, d - 2))
        return torch.cat([points[:1], inner, points[-1:]])

    def loss() -> Tensor:
        optimiser.zero_grad()
        steps = whole().diff(dim=0).norm(dim=1)
        value = length(whole()) + len(steps) * (steps / steps.mean() - 1).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    return whole().detach()


@pytest.mark.parametrize("path", PATHS)
def test_parallel_zero_and_opposite_states(path: Path) -> None:
    a = noise(1, 4, 8, 8)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    for b, ratio in ((2 * a, 2.0), (0 * a, 0.0), (-0.0 * a, 0.0), (a, 1.0)):
        frames = interpolate(a, b, t, path)
        expected = a.norm() * (1 + (ratio - 1) * t)
        torch.testing.assert_close(frames.flatten(1).norm(dim=1), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(interpolate(b, a, t.flip(0), path), frames, rtol=1e-6, atol=1e-6)
    assert float(interpolate(0 * a, 0 * a, t, path).abs().max()) < 1e-99
    across = interpolate(a, -a, t, path)
    assert across.isfinite().all()
    assert torch.equal(interpolate(a, -a, t, path), across)
    if path == "spherical":
        torch.testing.assert_close(across.flatten(1).norm(dim=1), a.norm().expand(9))
        assert abs(float(likeness(across[4])["neighbours"])) < 0.3  # the plane it gets is one of noise
    if path == "norm-aware":
        assert float(across[4].norm() / shell(256)) == pytest.approx(1, rel=1e-3)


def test_scale_is_the_size_of_noise() -> None:
    a, b = 0.6 * noise(1, 500), 1.3 * noise(1, 500, seed=1)
    expected = 20 * interpolate(a, b, [0.2, 0.7], "norm-aware")
    torch.testing.assert_close(interpolate(20 * a, 20 * b, [0.2, 0.7], "norm-aware", 20.0), expected)


def test_what_is_no_path_is_refused() -> None:
    a = noise(1, 2, 4, 4)
    with pytest.raises(InversionError, match=r"\(1, 2, 4, 4\) and \(1, 2, 4, 5\)"):
        interpolate(a, noise(1, 2, 4, 5), 0.5)
    with pytest.raises(InversionError, match="NaN or infinity"):
        interpolate(a, a / 0, 0.5)
    for t, path in ((1.1, "linear"), ([0.5, -0.1], "spherical"), (0.5, "shortest"), (math.nan, "linear")):
        with pytest.raises(InversionError, match="spherical, linear, norm-aware with t from 0 to 1"):
            interpolate(a, a, t, path)  # type: ignore[arg-type]
    with pytest.raises(InversionError, match="3 numbers or more, got states of 2"):
        interpolate(noise(1, 2), noise(1, 2, seed=1), 0.5, "norm-aware")


def lengths_to(point: Tensor, states: Tensor) -> float:
    """The sum of the norm-aware lengths from (1, d) to (K, d)."""
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    return sum(float(length(interpolate(point, x[None], t, "norm-aware")[:, 0])) for x in states)


def test_no_point_has_shorter_paths_to_all_than_the_centroid() -> None:
    states = torch.stack([0.7 * noise(256), noise(256, seed=1), 1.2 * noise(256, seed=2), noise(256, seed=3)])
    states[3] = 0.8 * states[0] + 0.4 * states[3]  # so the mean direction is not it
    found = centroid(states)
    assert float(found.norm()) == pytest.approx(shell(256))
    least = lengths_to(found, states)
    mean = states.mean(0, keepdim=True)
    others = [mean, mean * (shell(256) / mean.norm()), found * 1.02, found * 0.98]
    others += [found + 0.5 * noise(1, 256, seed=seed) for seed in (4, 5)]
    others += [interpolate(found, x[None], 0.05) for x in states]
    for other in others:
        assert lengths_to(other, states) > least


def test_the_centroid_of_two_is_their_middle_and_of_a_majority_its_own() -> None:
    a, b = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    of_two = centroid(torch.cat([a, 2 * b]))
    assert angle(of_two, a) == pytest.approx(angle(of_two, b), abs=1e-6)
    assert angle(of_two, a) + angle(of_two, b) == pytest.approx(angle(a, b), abs=1e-6)
    assert angle(centroid(torch.cat([a, a, b])), a) < 0.02
    assert angle(centroid(a), a) < 1e-6


def test_states_without_a_middle_are_refused() -> None:
    a = noise(1, 2, 4, 4)
    for states in (torch.cat([a, -a]), torch.cat([a, 0 * a]), torch.cat([a, a / 0])):
        with pytest.raises(InversionError, match="These 2 states have no middle"):
            centroid(states)


def inversions(kind: str, method: Method, ancestral: bool = False) -> tuple[Inversion, Inversion]:
    """Of two pictures under two prompts: a Gaussian's and a mixture's."""
    levels = Grid(grid(kind, 6, 10.0).levels, kind, ancestral)  # type: ignore[arg-type]
    pairs = ((Gaussian(), 0), (Mixture(), 1))
    fixed = [[noise(1, 3, 8, 8, seed=10 * seed + i) for i in range(6)] if ancestral else None for _, seed in pairs]
    a, b = (
        invert(denoiser, noise(1, 3, 8, 8, seed=seed), levels, method, noise=added)
        for (denoiser, seed), added in zip(pairs, fixed, strict=True)
    )
    return a, b


CASES = [(kind, False) for kind in KINDS] + [("ve", True), ("flow", True)]


@pytest.mark.parametrize(("kind", "ancestral"), CASES)
@pytest.mark.parametrize("path", PATHS)
def test_both_ends_of_the_frames_are_exact(kind: str, ancestral: bool, path: Path) -> None:
    a, b = inversions(kind, EasyInv(0.5, 0.1, 0.8), ancestral)
    frames = between(a, b, [0, 0.25, 0.5, 1], path)
    for i, (inversion, denoiser) in ((0, (a, Gaussian())), (-1, (b, Mixture()))):
        back = sample(denoiser, frames.latent, frames.grid, source=frames)
        assert back.isfinite().all()
        torch.testing.assert_close(back[i], inversion.trajectory[0, 0], rtol=1e-9, atol=1e-9)
        for name in ("trajectory", "points", "slopes", *["noise"] * ancestral):
            assert torch.equal(getattr(frames, name)[:, i], getattr(inversion, name)[:, 0]), name
    expected = interpolate(a.latent, b.latent, 0.25, path, noise_scale(a.grid.levels[0]))
    assert torch.equal(frames.latent[1:2], expected)
    if ancestral:
        torch.testing.assert_close(frames.noise[:, 1:2], interpolate(a.noise, b.noise, 0.25))


@pytest.mark.parametrize(("kind", "ancestral"), CASES)
@pytest.mark.parametrize("method", [DDIM(), EasyInv(0.5, 0.1, 0.8)])
def test_the_sources_estimates_fade(kind: str, ancestral: bool, method: Method) -> None:
    a, b = inversions(kind, method, ancestral)
    frames = between(a, b, [0.25, 0.5])
    for i in range(6):
        of_a, of_b, of_frames = (
            x.grid.denoised(x.points[i], x.slopes[i], x.grid.levels[-2 - i]) for x in (a, b, frames)
        )
        expected = torch.cat([torch.lerp(of_a, of_b, t) for t in (0.25, 0.5)])
        torch.testing.assert_close(of_frames, expected, rtol=1e-7, atol=1e-7)


def test_the_record_of_frames_can_be_read_back_and_grows_evenly() -> None:
    a, b = inversions("ve", EasyInv(0.5, 0.1, 0.8))

    def size(count: int) -> int:
        record = between(a, b, torch.linspace(0, 1, count).tolist()).to_dict()
        return sum(value.untyped_storage().nbytes() for value in record.values() if isinstance(value, Tensor))

    assert [size(count) for count in (4, 8, 64)] == [times * size(2) for times in (2, 4, 32)]
    again = Inversion.from_dict(between(a, b, [0, 0.5, 1], "norm-aware").to_dict())
    assert again.method == "EasyInv"
    assert "3 frames between two pictures, on a norm-aware path." in again.report()


def test_inversions_that_do_not_fit_together_are_refused() -> None:
    a, b = inversions("ve", DDIM())
    other = invert(Gaussian(), noise(1, 3, 8, 8), grid("ve", 5), DDIM())
    with pytest.raises(InversionError, match=r"6 steps of kind 've' from sigma 10 by .* and 5 steps"):
        between(a, other, [0, 1])
    larger = invert(Gaussian(), noise(1, 3, 8, 9), a.grid, DDIM())
    with pytest.raises(InversionError, match=r"\(1, 3, 8, 8\) and \(1, 3, 8, 9\)"):
        between(a, larger, [0, 1])
    several = invert(Gaussian(), noise(2, 3, 8, 8), a.grid, DDIM())
    with pytest.raises(InversionError, match="one picture to another"):
        between(several, several, [0, 1])
    assert between(a, b, [0, 1]).converged is None


def drawn(examples: Tensor, count: int = 6, seed: int = 0, **settings: float) -> Tensor:
    return seeds(examples, count, torch.Generator().manual_seed(seed), **settings)


@pytest.mark.parametrize("settings", [{}, {"spread": 0.4}, {"fresh": 0.5}, {"spread": 0.0, "fresh": 1.0}])
def test_seeds_have_the_norm_of_noise_whatever_the_examples_have(settings: dict[str, float]) -> None:
    examples = torch.stack([0.5 * noise(4, 8, 8), 1.5 * noise(4, 8, 8, seed=1), noise(4, 8, 8, seed=2)])
    made = drawn(examples, scale=7.0, **settings)
    norms = made.flatten(1).norm(dim=1)
    assert made.shape == (6, 4, 8, 8)
    torch.testing.assert_close(norms, torch.full_like(norms, 7 * shell(256)), rtol=1e-9, atol=0)
    assert torch.equal(drawn(examples, scale=7.0, **settings), made)
    assert torch.equal(drawn(examples, count=2, scale=7.0, **settings), made[:2])
    assert not torch.equal(drawn(examples, seed=1, scale=7.0, **settings), made)


def test_spread_leaves_the_centroid_and_fresh_the_examples() -> None:
    examples = torch.stack([noise(4, 16, 16, seed=seed) for seed in range(3)])
    middle = centroid(examples)

    def spans(x: Tensor) -> float:
        """Share of a state that lies in the span of the examples."""
        basis = torch.linalg.qr(examples.flatten(1).T).Q
        return float((basis.T @ x.flatten()).norm() / x.norm())

    def apart(**settings: float) -> float:
        return sum(angle(middle, x) for x in drawn(examples, **settings)) / 6

    torch.testing.assert_close(drawn(examples, spread=0.0), middle.expand(6, -1, -1, -1))
    assert 0.01 < apart(spread=0.5) < apart(spread=1.0) < apart(spread=1.0, fresh=0.5)
    assert all(spans(x) > 1 - 1e-9 for x in drawn(examples))
    assert all(spans(x) < 0.2 for x in drawn(examples, fresh=1.0))
    of_one = drawn(examples[:1], spread=1.0)
    assert max(angle(x, examples[0]) for x in of_one) < 1e-6


def test_likeness_tells_noise_from_pictures() -> None:
    of_noise = likeness(5 * noise(2, 4, 64, 64), 5.0)
    for name, expected in (("norm", 1.0), ("mean", 0.0), ("neighbours", 0.0)):
        torch.testing.assert_close(of_noise[name], torch.full((2,), expected).double(), rtol=0, atol=0.03)
    smooth = torch.nn.functional.avg_pool2d(noise(1, 4, 65, 65), 2, 1)  # of any two neighbours one half is the same
    assert float(likeness(smooth + 3)["neighbours"]) == pytest.approx(0.5, abs=0.03)
    assert float(likeness(smooth + 3)["mean"]) == pytest.approx(3, abs=0.1)
    sound = likeness(noise(1, 64, 512))
    assert abs(float(sound["neighbours"])) < 0.03
    assert sequence_of(likeness(noise(1, 4, 3, 8, 8))) == [1, 1, 1]


def sequence_of(values: dict[str, Tensor]) -> Sequence[int]:
    return [len(value) for value in values.values()]
