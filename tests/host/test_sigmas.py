"""SIGMAS as the host's schedulers and samplers leave them."""

from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_model_advanced
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced, SplitSigmas
from families import FAMILIES
from graphs import Bench, demo, relative

SCHEDULERS = list(comfy.samplers.SCHEDULER_NAMES)


@pytest.fixture(scope="module")
def bench(pack) -> Bench:
    return demo(pack, "flow")


@pytest.fixture(scope="module")
def sd3(pack) -> Any:
    return FAMILIES["SD3"].bench(pack).model


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_shift_gives_levels(pack, sd3: Any, scheduler: str) -> None:
    """Some begin at 1.0000001, which is 1 in single precision."""
    host, above = pack.nodes.host, 0
    for hundredths in range(50, 1251):
        model = nodes_model_advanced.ModelSamplingSD3().patch(sd3, hundredths / 100)[0]
        sigmas = host.scheduled_sigmas(model, 20, scheduler, 1.0)
        grid = host.grid_of(model, sigmas)
        above += bool(sigmas[0] > 1)
        assert 0 < grid.levels[0].sigma <= 1
        assert relative(grid.sigmas, sigmas) <= 1e-6
    assert above or scheduler not in ("simple", "beta"), "the schedules that this is about are not among these"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("steps", "denoise"), [(1, 1.0), (1, 0.01), (20, 0.01), (3, 0.5)])
def test_every_scheduler_inverts_at_its_edges(bench: Bench, scheduler: str, steps: int, denoise: float) -> None:
    """With denoise 0.01 the host spaces 2,000 steps over 1,000 levels, so that some come twice."""
    if scheduler == "kl_optimal" and int(steps / denoise) == 1:
        with pytest.raises(bench.pack.inversion.InversionError, match=r"kl_optimal.* 1 step"):
            bench.invert(steps=steps, scheduler=scheduler, denoise=denoise)
        return
    latent, _, sigmas, report = bench.invert(steps=steps, scheduler=scheduler, denoise=denoise)
    assert latent["samples"].isfinite().all()
    assert f"{len(sigmas) - 1} steps" in report
    back, _ = bench.edit(latent=latent)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-5


@pytest.mark.parametrize("sampler", ["uni_pc", "uni_pc_bh2"])
def test_sigmas_survive_a_sampler_that_writes_into_them(bench: Bench, sampler: str) -> None:
    """The host's uni_pc writes 0.001 in place of a last 0: on the CPU into the very tensor that it is given."""
    library = bench.pack.nodes
    latent, noise, sigmas, _ = bench.invert(steps=6)
    seeds = library.seeds.Seeds.execute(bench.model, latent, 1, 0.5, 0.0, 0)
    frames = library.interpolate.Interpolate.execute(
        bench.model, latent, bench.positive, latent, bench.positive, 2, "spherical", "embeddings"
    )
    given = [sigmas, seeds.args[2], frames.args[3], bench.load(bench.save(latent))[1]]
    before = [value.tolist() for value in given]
    for value in given:
        advanced(bench, comfy.samplers.sampler_object(sampler), value, noise)
        advanced(bench, comfy.samplers.sampler_object(sampler), SplitSigmas.execute(value, 2).args[1], noise)
    assert [value.tolist() for value in given] == before


def test_an_ancestral_sampler_with_a_level_twice_is_refused(bench: Bench) -> None:
    """The host draws noise for that step, and adds none of it."""
    sigmas = torch.tensor([0.9, 0.5, 0.5, 0.0])
    assert bench.invert("FixedPoint", sigmas=sigmas, sampler="euler_ancestral")[0]["samples"].isfinite().all()
    with pytest.raises(bench.pack.inversion.InversionError, match="comes twice"):
        advanced(bench, bench.sampler("FixedPoint", sampler="euler_ancestral"), sigmas)


def advanced(bench: Bench, sampler: Any, sigmas: torch.Tensor, noise: Any = None) -> torch.Tensor:
    """SamplerCustomAdvanced at cfg 1."""
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.set_conds(bench.positive, bench.negative)
    with torch.inference_mode():
        noise = noise or bench.invert(steps=2)[1]
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, bench.latent).args[0]["samples"]


@pytest.mark.parametrize("last", [[0.5, 0.25, 0.0], [0.5, 0.0005, 0.0], [0.5, float("nan"), 0.0]])
def test_sigmas_that_uni_pc_has_written_into_name_it(bench: Bench, last: list[float]) -> None:
    """Those of the host's own nodes: they end at 0.001 then, and where the level before is lower they rise."""
    sigmas = torch.tensor([0.9, *last])
    assert "uni_pc" not in bench.invert(sigmas=torch.tensor([0.9, 0.5, 0.25, 0.0]))[3]
    noise = bench.invert(steps=2)[1]
    advanced(bench, comfy.samplers.sampler_object("uni_pc"), sigmas, noise)
    assert sigmas[-1] == torch.tensor(0.001), "the host's uni_pc leaves SIGMAS alone by now"
    if last[1] > 0.001:
        assert "uni_pc in this graph" in bench.invert(sigmas=sigmas)[3]
        return
    with pytest.raises(bench.pack.inversion.InversionError, match="uni_pc in this graph"):
        bench.invert(sigmas=sigmas)
