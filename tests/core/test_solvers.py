"""Fixed point, guided Newton-Raphson, Rex: they find the exact inverse, at the cost they claim, or say they did not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import KINDS, Gaussian, Mixture, grid
from test_reference import REFERENCE, TOLERANCE, ve_denoiser

from inversion import DDIM, FixedPoint, Grid, GuidedNewton, InversionError, Level, Rex, invert, sample
from inversion.methods.fixed_point import _anderson
from inversion.methods.guided_newton import STABILISER, forward_prior
from inversion.problem import ImplicitStep

PATIENT = [FixedPoint(400, 1e-14), FixedPoint(400, 1e-14, anderson=3), FixedPoint(400, 1e-14, warm_start="last")]
ALL = [
    *PATIENT,
    FixedPoint(3, 0.0),
    FixedPoint(1, 0.0, warm_start=False),
    GuidedNewton(2, 0.1, "sign"),
    GuidedNewton(2, 0.1, "autograd"),
    GuidedNewton(2, 0.0, "min-norm"),
    Rex(),
]


def x0(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*(shape or (2, 3, 8)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def round_trip(method, levels: Grid, denoiser=None) -> float:
    denoiser = denoiser or Mixture()
    inversion = invert(denoiser, x0(), levels, method)
    return float((sample(denoiser, inversion.latent, levels) - x0()).abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PATIENT)
def test_converged_means_exact(kind: str, method: FixedPoint) -> None:
    """The sampler alone, without the record, comes back to the latent."""
    inversion = invert(Mixture(), x0(), grid(kind, 20), method)
    assert inversion.converged
    assert "Every step converged" in inversion.report()
    assert round_trip(method, grid(kind, 20)) <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("anderson", [0, 3])
def test_error_falls_with_the_tolerance(kind: str, anderson: int) -> None:
    tolerances = [1e-1, 1e-2, 1e-3, 1e-5, 1e-8, 1e-12]
    errors = [round_trip(FixedPoint(400, t, anderson=anderson), grid(kind, 12)) for t in tolerances]
    calls = [
        sum(invert(Mixture(), x0(), grid(kind, 12), FixedPoint(400, t, anderson=anderson)).calls) for t in tolerances
    ]
    assert errors == sorted(errors, reverse=True)
    assert calls == sorted(calls)


@pytest.mark.parametrize("kind", KINDS)
def test_orders_of_the_round_trip(kind: str) -> None:
    """One call a step: the carried start misses the root by O(h), the last slope by O(h^2). A step multiplies that by
    O(h) once more and 1 / h steps add up. The extrapolated start misses by O(h^3), but the first step, which has
    nothing to start from, keeps the whole at order 2; what it gains is the constant."""

    def errors(warm_start) -> list[float]:
        method = FixedPoint(1, warm_start=warm_start)
        return [round_trip(method, grid(kind, n, clean=0.05), Gaussian()) for n in (80, 320)]

    def order(pair: list[float]) -> float:
        return math.log(pair[0] / pair[1]) / math.log(4)

    assert order(errors(False)) == pytest.approx(1, abs=0.2)
    assert order(errors("last")) == pytest.approx(2, abs=0.2)
    assert order(errors(True)) > 1.8
    assert errors(True)[0] < 0.5 * errors("last")[0]


def test_one_iteration_without_a_warm_start_is_ddim() -> None:
    for kind in KINDS:
        plain = invert(Mixture(), x0(), grid(kind, 9), DDIM())
        for method in (FixedPoint(1, warm_start=False), GuidedNewton(1)):
            assert torch.equal(invert(Mixture(), x0(), grid(kind, 9), method).trajectory, plain.trajectory)


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    method=st.sampled_from(ALL),
    steps=st.integers(1, 12),
    shape=st.sampled_from([(1, 1), (3, 2, 4), (2, 2, 3, 4, 2)]),
)
def test_properties_of_every_method(kind, method, steps, shape) -> None:
    calls = 0

    def counting(x, level):
        nonlocal calls
        calls += 1
        return Mixture()(x, level)

    start = x0(*shape, seed=steps)
    kept = start.clone()
    inversion = invert(counting, start, grid(kind, steps), method)
    assert calls == sum(inversion.calls)
    assert inversion.latent.isfinite().all()
    assert inversion.latent.dtype == start.dtype
    assert torch.equal(start, kept)
    back = sample(Mixture(), inversion.latent, inversion.grid, source=inversion)
    torch.testing.assert_close(back, start, rtol=1e-10, atol=1e-10)
    alone = torch.cat([invert(Mixture(), one[None], grid(kind, steps), method).latent for one in start])
    torch.testing.assert_close(inversion.latent, alone, rtol=1e-9, atol=1e-9)


def test_calls_go_where_the_residual_is() -> None:
    inversion = invert(Mixture(), x0(), grid("ve", 20), FixedPoint(8, 1e-4))
    assert min(inversion.calls) < 0.7 * max(inversion.calls)


def test_a_solved_item_changes_no_more() -> None:
    """Of a batch of an easy and a hard item, the easy one ends where it would have ended by itself."""
    hard = x0(1, 2, 8)
    easy = torch.full_like(hard, 0.3)
    method = FixedPoint(50, 1e-6)
    both = invert(Mixture(), torch.cat([easy, hard]), grid("ve", 5), method)
    alone = invert(Mixture(), easy, grid("ve", 5), method)
    assert sum(alone.calls) < sum(both.calls)
    torch.testing.assert_close(both.latent[:1], alone.latent, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("anderson", [0, 3])
def test_divergence_ends_finite_and_reported(anderson: int) -> None:
    """A denoiser with guidance 15 is no contraction: plain iteration blows up, this keeps the best iterate."""

    def guided(x, level):
        a, b = Mixture()(x, level), Gaussian(-2.0)(x, level)
        return b + 15 * (a - b)

    inversion = invert(guided, x0(), grid("ve", 8), FixedPoint(30, 1e-6, anderson=anderson))
    assert inversion.latent.isfinite().all()
    assert inversion.converged is False
    assert "did not converge" in inversion.report()
    assert "Lower cfg" in inversion.report()
    one = invert(guided, x0(), grid("ve", 8), FixedPoint(1, 1e-6))
    assert (inversion.residuals[0] <= one.residuals[0]).all()


def test_the_released_newton_code() -> None:
    """Elementwise: 4-step Euler-ancestral with fixed noise, inverted over the two cleaner steps with the sign step."""
    sigmas = REFERENCE["rnri_4_60.sigmas"][2:]
    timesteps = REFERENCE["rnri_4_60.timesteps"].flatten()
    timesteps = sorted((float(t) for t in timesteps), reverse=True)
    noise = REFERENCE["rnri_4_60.noise"][2:]
    noise = noise.reshape(2, *REFERENCE["z0"].shape)
    levels = Grid.from_sigmas(sigmas, "ve", timesteps, ancestral=True)
    method = GuidedNewton(2, 0.1, "sign", dimension=16384, start="state")
    inversion = invert(ve_denoiser, REFERENCE["z0"], levels, method, noise=noise)
    torch.testing.assert_close(inversion.trajectory[:, 0], REFERENCE["rnri_4_60.traj"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(inversion.latent, REFERENCE["rnri_4_60.z"], rtol=0, atol=TOLERANCE)
    back = sample(ve_denoiser, inversion.latent, levels, noise=noise)
    torch.testing.assert_close(back, REFERENCE["rnri_4_60.recon"], rtol=0, atol=TOLERANCE)


def linear_step(kind: str = "ve") -> tuple[ImplicitStep, torch.Tensor, float]:
    """A step small enough to write out: D(x) = c x, so F(p) = x + h (1 - c) / s p is linear with slope a."""
    c, low, high = 0.25, 0.5, 2.0
    levels = Grid.from_sigmas([high, low], "ve")
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    problem = ImplicitStep(lambda p, level: c * p, levels, x, levels.levels[1], levels.levels[0], 0, 1, x, x)
    return problem, x, (high - low) * (1 - c) / high


@pytest.mark.parametrize("gradient", ["autograd", "min-norm"])
@pytest.mark.parametrize("guidance", [0.0, 0.1])
def test_the_papers_newton_step_written_out(gradient: str, guidance: float) -> None:
    problem, x, a = linear_step()
    method = GuidedNewton(2, guidance, gradient)
    p = x * math.sqrt(1 + 4.0) / math.sqrt(1 + 0.25)  # the carried start
    image = x + a * p
    objective = (p - image).abs().sum()
    g = (p - image).sign() * (1 - a)  # d|p - F(p)| / dp
    # prior: |z' - gamma z| / beta with z the VP latents, gamma = alpha' / alpha, beta = 1 - gamma^2
    gamma = math.sqrt((1 + 0.25) / (1 + 4.0))
    distance = p / math.sqrt(5.0) - gamma * x / math.sqrt(1.25)
    objective = objective + guidance * distance.norm() / (1 - gamma**2)
    g = g + guidance * distance / distance.norm() / math.sqrt(5.0) / (1 - gamma**2)
    if gradient == "autograd":
        q = p - objective / (3 * (g + STABILISER * g.sign()))
    else:
        q = p - objective * g / g.square().sum()
    _, _, value, delta = method._newton(problem, p)
    torch.testing.assert_close(value, objective[None])
    torch.testing.assert_close(p + delta, q)
    result = method.step(problem)
    assert result.calls == 2
    candidates = [x + a * p, x + a * q]
    assert any(torch.allclose(result.x, candidate) for candidate in candidates)


def test_the_prior_of_each_family() -> None:
    problem, x, _ = linear_step()
    y = x * 3
    assert float(forward_prior(problem, y)) == pytest.approx(
        float((y - x).norm()) * math.sqrt(1 + 4.0) / (4.0 - 0.25), rel=1e-12
    )
    levels = Grid.from_sigmas([0.8, 0.5], "flow")
    flow = ImplicitStep(Gaussian(), levels, x, levels.levels[1], levels.levels[0], 0, 1, x, x)
    assert float(forward_prior(flow, y)) == pytest.approx(float((y - x * 0.4).norm()), rel=1e-12)


def test_newton_solves_a_linear_step_that_iteration_cannot() -> None:
    """|a| > 1: F is no contraction. Newton with the minimum-norm step converges on one coordinate in one step."""
    c, low, high = -3.0, 0.5, 2.0
    levels = Grid.from_sigmas([high, low], "ve")
    x = torch.tensor([[1.0]], dtype=torch.float64)
    method = GuidedNewton(2, 0.0, "min-norm", tolerance=1e-12)
    inversion = invert(lambda p, level: c * p, x, levels, method)
    assert inversion.converged
    torch.testing.assert_close(sample(lambda p, level: c * p, inversion.latent, levels), x)


@pytest.mark.parametrize("gradient", ["autograd", "min-norm"])
def test_a_denoiser_without_gradient_is_refused(gradient: str) -> None:
    @torch.no_grad()
    def frozen(x, level):
        return Gaussian()(x, level)

    with pytest.raises(InversionError, match="this one gives none"):
        invert(frozen, x0(), grid("ve", 3), GuidedNewton(2, 0.1, gradient))
    assert invert(frozen, x0(), grid("ve", 3), GuidedNewton(2, 0.1, "sign")).latent.isfinite().all()


@pytest.mark.parametrize(("gradient", "passes"), [("sign", 0), ("autograd", 2), ("min-norm", 2)])
def test_no_gradient_is_taken_where_no_step_follows(gradient: str, passes: int) -> None:
    recorded = []

    def denoiser(x: torch.Tensor, level: Level) -> torch.Tensor:
        recorded.append(x.requires_grad)
        return Gaussian()(x, level)

    invert(denoiser, x0(), grid("ve", 4), GuidedNewton(3, 0.1, gradient))
    assert recorded == [*[True] * passes, *[False] * (3 - passes)] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_rex_returns_to_machine_precision(kind: str) -> None:
    levels = grid(kind, 15)
    inversion = invert(Mixture(), x0(), levels, Rex())
    back = Rex().back(Mixture(), inversion.latent, inversion.partner, levels)
    torch.testing.assert_close(back, x0(), rtol=1e-12, atol=1e-12)
    # With one state only it is an approximation like the others.
    assert round_trip(Rex(), levels) > 1e-6


@pytest.mark.parametrize("kind", ["ve", "flow"])
def test_ancestral_grids_are_inverted_with_their_noise(kind: str) -> None:
    plain = grid(kind, 15)
    levels = Grid(plain.levels, kind, ancestral=True)
    noise = x0(15, 2, 3, 8, seed=5)
    method = FixedPoint(500, 1e-14, anderson=3)
    inversion = invert(Mixture(), x0(), levels, method, noise=noise)
    assert inversion.converged
    back = sample(Mixture(), inversion.latent, levels, noise=noise)
    torch.testing.assert_close(back, x0(), rtol=1e-9, atol=1e-9)
    with_record = sample(Mixture(), inversion.latent, levels, source=inversion)
    assert torch.equal(with_record, x0())
    for wrong, message in ((None, "held fixed"), (noise[:3], "15 tensors")):
        with pytest.raises(InversionError, match=message):
            sample(Mixture(), inversion.latent, levels, noise=wrong)
    with pytest.raises(InversionError, match="adds no noise"):
        sample(Mixture(), inversion.latent, plain, noise=noise)
    with pytest.raises(InversionError, match="ancestral form"):
        invert(Mixture(), x0(), levels, Rex(), noise=noise)


def test_ancestral_steps_add_the_right_amount_of_noise() -> None:
    """A step from s to s' leaves noise of standard deviation s' on x0: variances of what is kept and added add up."""
    for kind, upper, lower in (("ve", 3.0, 1.2), ("flow", 0.9, 0.6)):
        levels = Grid.from_sigmas([upper, lower], kind, ancestral=True)
        down, keep, added = levels.landing(*levels.levels)
        assert math.hypot(keep * down.sigma, added) == pytest.approx(lower)
        assert keep * down.alpha == pytest.approx(levels.levels[1].alpha)
    with pytest.raises(InversionError, match="'vp'"):
        Grid((Level(0.5, 0.8), Level(1.0, 0.0)), "vp", ancestral=True)


def test_files(tmp_path) -> None:
    levels = Grid(grid("flow", 4).levels, "flow", ancestral=True)
    noise = x0(4, 2, 3, 8, seed=1)
    inversion = invert(Mixture(), x0(), levels, FixedPoint(5, 1e-3), noise=noise)
    path = tmp_path / "inversion.safetensors"
    inversion.save(path)
    again = type(inversion).load(path)
    assert again.report() == inversion.report()
    assert again.grid == levels
    assert torch.equal(sample(Mixture(), again.latent, levels, source=again), x0())
    rex = invert(Mixture(), x0(), grid("ve", 3), Rex())
    rex.save(tmp_path / "rex.safetensors")
    assert torch.equal(type(rex).load(tmp_path / "rex.safetensors").partner, rex.partner)
    with pytest.raises(InversionError, match="exists already and is left as it is"):
        rex.save(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedPoint(0),
        lambda: FixedPoint(1, -1.0),
        lambda: FixedPoint(1, anderson=-1),
        lambda: FixedPoint(1, warm_start="first"),
        lambda: GuidedNewton(0),
        lambda: GuidedNewton(1, -0.1),
        lambda: GuidedNewton(1, 0.1, "finite"),
        lambda: GuidedNewton(1, dimension=0),
        lambda: GuidedNewton(1, start="zero"),
        lambda: Rex(0.0),
    ],
)
def test_settings_out_of_range(make) -> None:
    with pytest.raises(InversionError, match=r"got "):
        make()


def test_anderson_is_as_steady_in_single_precision() -> None:
    """Two changes that agree to five digits: their normal equations are singular to single precision's rounding."""
    random = torch.Generator().manual_seed(0)
    x, r, change, other = (torch.randn(2, 3, 8, 8, generator=random, dtype=torch.float64) for _ in range(4))
    residuals = [r + change + 1e-5 * other, r + change, r]
    images = [x + 2 * residual for residual in residuals]
    accepted = torch.ones(2, dtype=torch.bool)

    def next_point(dtype: torch.dtype) -> torch.Tensor:
        return _anderson([(g.to(dtype), f.to(dtype), accepted) for g, f in zip(images, residuals, strict=True)])

    exact, single = next_point(torch.float64), next_point(torch.float32)
    assert single.dtype == torch.float32
    assert float((single - exact).norm() / exact.norm()) <= 1e-2


def test_anderson_leaves_out_what_an_item_did_not_accept() -> None:
    random = torch.Generator().manual_seed(0)
    history = [(*torch.randn(2, 2, 3, 4, generator=random), torch.tensor([True, i != 1])) for i in range(3)]
    without = [history[0], history[2]]
    both, one = _anderson(history), _anderson(without)
    assert torch.allclose(both[1], one[1], rtol=1e-5)
    assert not torch.allclose(both[0], one[0], rtol=1e-2)
