"""Every sampler of the host, through Edit From Latent and through SamplerCustomAdvanced: exact, and at its own calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from graphs import Bench, demo, micro, relative
from torch import Tensor

REFUSED = {"dpm_adaptive": "chooses its steps"} | {
    name: "looks into the guidance" for name in comfy.samplers.SAMPLER_NAMES if name.endswith("_cfg_pp")
}
AFFINE = [name for name in comfy.samplers.SAMPLER_NAMES if name not in REFUSED]


@pytest.fixture(scope="module", params=["eps", "flow"])
def bench(request: pytest.FixtureRequest, pack) -> Bench:
    return demo(pack, request.param)


@pytest.fixture(scope="module")
def records(bench: Bench) -> dict[int, dict]:
    return {steps: bench.invert(steps=steps)[0] for steps in (4, 10, 20)}


@contextmanager
def counted(bench: Bench) -> Iterator[list[int]]:
    """How many calls of the network, and with how many pictures each."""
    calls: list[int] = []
    network = bench.model.model.diffusion_model
    hook = network.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        yield calls
    finally:
        hook.remove()


def by_guider(bench: Bench, latent: dict, sampler: Any, sigmas: Tensor | None = None, **inputs: Any) -> Tensor:
    """The edit by SamplerCustomAdvanced with an Edit Guider."""
    node = bench.pack.nodes.guider.EditGuiderNode
    given = {"model": bench.model, "positive": bench.positive, "cfg": 1.0, "preserve": 0.8, **inputs}
    with torch.inference_mode():
        guider, clean, noise, own = node.execute(latent=latent, **given).args
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        return sampled(guider, clean, noise, own if sigmas is None else sigmas, sampler)


def sampled(guider: Any, clean: dict, noise: Any, sigmas: Tensor, sampler: Any) -> Tensor:
    with torch.inference_mode():
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, clean).args[0]["samples"]


def own_calls(bench: Bench, name: str, sigmas: Tensor) -> int:
    """How many model calls the host's own run of a sampler makes."""
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.inner_set_conds({"positive": bench.positive})
    guider.set_cfg(1.0)
    x = torch.zeros_like(bench.latent["samples"])
    with counted(bench) as calls, torch.inference_mode():
        guider.sample(torch.randn(x.shape), x, comfy.samplers.sampler_object(name), sigmas.clone(), seed=1)
    return len(calls)


@pytest.mark.parametrize("name", AFFINE)
def test_the_same_prompt_is_exact_with_every_sampler_at_its_own_calls(
    bench: Bench, records: dict[int, dict], name: str
) -> None:
    for steps in (10,) if name in ("dpm_fast",) else (4, 10, 20) if name in ("euler", "dpmpp_2m", "er_sde") else (10,):
        latent = records[steps]
        with counted(bench) as calls:
            back, report = bench.edit(latent=latent, sampler=name)
        assert relative(back["samples"], bench.latent["samples"]) <= 1e-5
        sigmas = bench.pack.inversion.Inversion.from_dict(latent["inversion"]).grid.sigmas
        assert len(calls) == own_calls(bench, name, sigmas)
        assert f"{len(calls)} model calls" in report
        assert f"with {name} " in report
        with counted(bench) as again:
            assert relative(by_guider(bench, latent, name), bench.latent["samples"]) <= 1e-5
        assert again == calls


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_by_name_before_any_model_call(
    bench: Bench, records: dict[int, dict], name: str
) -> None:
    for run in (lambda: bench.edit(latent=records[4], sampler=name), lambda: by_guider(bench, records[4], name)):
        with counted(bench) as calls, pytest.raises(bench.pack.inversion.InversionError, match=REFUSED[name]):
            run()
        assert not calls
