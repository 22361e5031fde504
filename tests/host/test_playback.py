"""The host's samplers on departures, beside their own runs on a problem whose estimates are known."""

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from graphs import relative
from problems import Mixture
from torch import Tensor

KINDS = ("ve", "flow")
PLAYABLE = [name for name in comfy.samplers.SAMPLER_NAMES if name != "dpm_adaptive" and not name.endswith("_cfg_pp")]
# Those that ask between the levels, where only the source's own denoiser can answer.
BETWEEN = {"dpm_2", "dpm_fast", "dpmpp_sde", "dpmpp_sde_gpu", "seeds_2", "seeds_3"}
SOURCE, EDIT = Mixture(), Mixture(means=(-1.5, 0.6, 1.4))

pytestmark = pytest.mark.filterwarnings("ignore:Should have t", "ignore:To copy construct", "ignore:__array_wrap__")


class Eps(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    pass


class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    pass


def guider(kind: str) -> Any:
    """What samplers look at in the host's guider."""
    sampling = Eps() if kind == "ve" else Flow()
    if kind == "flow":
        sampling.set_parameters(shift=3.0)
    model = SimpleNamespace(model_sampling=sampling)
    patcher = SimpleNamespace(model=model, get_model_object=lambda name: getattr(model, name))
    return SimpleNamespace(inner_model=model, model_patcher=patcher, cfg=1.0)


def latent(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (2, 4, 4, 6)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def precision(name: str) -> torch.dtype:
    """The highest that a sampler takes."""
    return torch.float32 if name.startswith("uni_pc") else torch.float64


class Case:
    """A record of the mixture, and a sampler of the host on its levels."""

    def __init__(
        self,
        pack: ModuleType,
        sampler: Any,
        kind: str,
        steps: int,
        x0: Tensor | None = None,
        seed: int = 5,
        end: int | None = None,
    ) -> None:
        self.pack, self.kind, self.guider = pack, kind, guider(kind)
        self.sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        self.options = {"model_options": {}, "seed": seed}
        self.x0 = latent() if x0 is None else x0
        self.sigmas = self.scheduled(steps)[:end]
        levels = pack.inversion.Grid.from_sigmas(self.sigmas, kind)
        self.record = pack.inversion.invert(SOURCE, self.x0, levels, pack.inversion.EasyInv())

    def scheduled(self, steps: int) -> Tensor:
        sigmas = comfy.samplers.calculate_sigmas(self.guider.inner_model.model_sampling, "simple", steps)
        return sigmas.to(self.x0.dtype)

    def prepare(self) -> Any:
        library, seam = (
            import_module(f"{self.pack.__name__}.{name}") for name in ("inversion.playback", "nodes.host.sampler")
        )
        denoiser = SimpleNamespace(guider=self.guider, options=self.options)
        return library.Playback.prepare(seam._playable(self.sampler, denoiser, self.sigmas, "it"), self.x0, "it")

    def edit(self, denoiser: Callable, beside: Callable | None = None) -> Tensor:
        """Of the record, down to its own last level."""
        self.departure = self.pack.inversion.Departure(denoiser, self.record, None, beside, between=beside is not None)
        e = self.prepare().run(self.departure, torch.zeros_like(self.x0), self.kind)
        return self.departure.end(e, self.record.grid.levels[-1])

    def run(self, model: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
        """The host's own run from `x`."""
        wrap = comfy.samplers.KSamplerX0Inpaint(lambda x, sigma, **_: model(x, sigma), self.sigmas)
        wrap.inner_model.inner_model = self.guider.inner_model  # a function takes attributes
        wrap.inner_model.model_patcher = self.guider.model_patcher
        given, levels = self.options | {"denoise_mask": None}, self.sigmas.clone()
        return self.sampler.sampler_function(
            wrap, x, levels, extra_args=given, callback=None, disable=True, **self.sampler.extra_options
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in PLAYABLE if name not in BETWEEN])
def test_it_is_the_hosts_own_run_on_estimates_that_take_it_down_the_record(pack, name: str, kind: str) -> None:
    """Made here from the sampler's coefficients, in double precision where it takes that."""
    dtype = precision(name)
    case = Case(pack, name, kind, 5, latent(torch.float64).to(dtype))
    record, start, grid = case.record, case.record.latent, case.record.grid
    places: list[tuple[int, bool]] = []  # the record's level of each question, and whether it is right there

    def visited(estimates: Callable[[int, Tensor], Tensor], x: Tensor) -> list[Tensor]:
        states: list[Tensor] = []
        places.clear()

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            value = float(sigma[0])
            states.append(x.clone())
            places.append(grid.nearest(pack.inversion.Level(1 - value if kind == "flow" else 1.0, value)))
            return estimates(len(states) - 1, x)

        states.append(case.run(model, x))
        return states

    calls = case.prepare().queries
    unit = torch.eye(calls + 1, dtype=dtype)[:, None, None]
    rest = visited(lambda _, x: torch.zeros_like(x), torch.zeros_like(unit[..., :1]))
    if not all(on_level for _, on_level in places):
        assert (name, kind) == ("dpmpp_2s_ancestral", "flow")
        return
    rows = visited(lambda k, _: unit[..., k + 1 : k + 2], unit[..., :1])
    matrix = torch.stack([row - none for row, none in zip(rows, rest, strict=True)]).flatten(1)
    noise = torch.stack(visited(lambda _, x: torch.zeros_like(x), torch.zeros_like(start))).flatten(1)
    wanted = torch.stack([*(record.trajectory[5 - k] for k, _ in places), record.trajectory[0]])
    known = matrix[1:, :1] * start.flatten() + noise[1:]
    estimates = torch.linalg.solve(matrix[1:, 1:], wanted[1:].flatten(1) - known).reshape(calls, *start.shape)

    def edited(asked: int, x: Tensor) -> Tensor:
        k = places[-1][0]
        level, point = grid.levels[k], record.points[4 - k]
        recorded = grid.denoised(point, record.slopes[4 - k], level)
        return estimates[asked] + EDIT(x + point - record.trajectory[5 - k], level) - recorded

    replayed = torch.stack(visited(lambda k, _: estimates[k], start))
    tolerance = 1e-6 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(replayed, wanted, rtol=0, atol=tolerance * float(start.std()))
    edit = case.edit(EDIT)
    assert relative(edit, case.x0) > 0.05
    torch.testing.assert_close(edit, visited(edited, start)[-1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLAYABLE)
def test_neither_the_seed_nor_the_precision_decides_the_edit(pack, name: str, kind: str) -> None:
    exact = Case(pack, name, kind, 10, latent(torch.float64).to(precision(name))).edit(EDIT, SOURCE)
    single = Case(pack, name, kind, 10, latent(torch.float64).float(), seed=6)
    assert relative(single.edit(EDIT, SOURCE), exact) < 1e-4
    assert bool(single.departure.source_calls) == (name in BETWEEN or (name, kind) == ("dpmpp_2s_ancestral", "flow"))
    assert torch.equal(single.edit(SOURCE, SOURCE), single.x0)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m_sde", "er_sde", "sa_solver", "uni_pc", "seeds_3"])
@pytest.mark.parametrize("shape", [(1, 4, 9), (1, 4, 3, 5, 7)])
def test_any_shape(pack, name: str, shape: tuple[int, ...]) -> None:
    case = Case(pack, name, "flow", 4, latent(shape=shape))
    assert torch.equal(case.edit(SOURCE), case.x0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "dpm_2"])
def test_on_other_levels_it_is_nearly_the_same_edit(pack, name: str, kind: str) -> None:
    same = Case(pack, name, kind, 8).edit(EDIT, SOURCE)
    case = Case(pack, name, kind, 8)
    case.sigmas = case.scheduled(5)
    for beside in (None, SOURCE):
        assert torch.equal(case.edit(SOURCE, beside), case.x0)
    assert relative(case.edit(EDIT, SOURCE), same) < 0.2
    assert case.departure.source_calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc", "er_sde"])
def test_levels_that_end_above_zero(pack, name: str, kind: str) -> None:
    """Where the host scales the end of a flow."""
    case = Case(pack, name, kind, 8, end=-2)
    assert torch.equal(case.edit(SOURCE), case.x0)
    if name == "euler":
        wanted = pack.inversion.sample(EDIT, case.record.latent, case.record.grid, source=case.record)
        torch.testing.assert_close(case.edit(EDIT), wanted, rtol=0, atol=1e-5)


class Restless(comfy.samplers.Sampler):
    """As other packs write them: no KSAMPLER, and with noise that no seed decides."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_: Any) -> Tensor:
        x = noise * sigmas[0] + latent_image
        for upper, lower in pairwise(sigmas):
            denoised = model_wrap(x, upper.expand(len(x)), seed=extra_args["seed"])
            x = denoised + (x - denoised) * lower / upper * 0.8 + 0.6 * lower * torch.randn_like(x)
        return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sampler", [Restless(), comfy.samplers.ksampler("heun", {"s_churn": 5.0})], ids=["other", "with options"]
)
def test_samplers_that_are_in_no_list(pack, sampler: Any, kind: str) -> None:
    edits = []
    for _ in range(2):
        case = Case(pack, sampler, kind, 6)
        assert any(noise is not None for noise in case.prepare().noise)
        assert torch.equal(case.edit(SOURCE, SOURCE), case.x0)
        edits.append(case.edit(EDIT, SOURCE))
        torch.rand(7)
    torch.testing.assert_close(*edits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", [comfy.samplers.sampler_object("euler"), Restless()], ids=["euler", "other"])
def test_hooks_that_the_model_has_already_are_no_reason_to_refuse(pack, sampler: Any) -> None:
    case = Case(pack, sampler, "ve", 4)
    case.options = {"model_options": {"sampler_post_cfg_function": [lambda given: given["denoised"]]}, "seed": 0}
    assert torch.equal(case.edit(SOURCE), case.x0)
