"""Every sampler of the host, through Edit From Latent and SamplerCustomAdvanced: exact, and at its own calls."""

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


@pytest.fixture(scope="module", params=["v-prediction", "flow"])
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
    guider, clean, noise, own = bench.edit_guider(latent=latent, **inputs)
    with torch.inference_mode():
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
        guider.sample(torch.ones_like(x), x, comfy.samplers.sampler_object(name), sigmas.clone(), seed=1)
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


@pytest.mark.once
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "er_sde", "heun", "dpm_2", "uni_pc"])
def test_a_guider_edits_as_the_node_does(bench: Bench, records: dict[int, dict], name: str) -> None:
    prompts = {"positive": bench.other, "source": bench.positive, "strength": 5.0}
    inputs = prompts | {"mask": torch.cat([torch.ones(1, 128, 64), torch.zeros(1, 128, 64)], -1)}
    for given in (prompts, inputs):
        node, _ = bench.edit(latent=records[4], sampler=name, **given)
        guided = by_guider(bench, records[4], name, **given)
        assert relative(guided, node["samples"]) <= 1e-6
        assert relative(guided, bench.latent["samples"]) > 0.03


@pytest.mark.once
def test_between_levels_the_source_is_asked_where_its_prompt_is_known(bench: Bench, records: dict[int, dict]) -> None:
    counts = {}
    for source in (None, bench.positive):
        _, report = bench.edit(latent=records[10], sampler="dpm_2", positive=bench.other, source=source)
        counts[source is None] = int(report.split(" model calls")[0].split()[-1])
        assert ("Connect `source`" in report) == (source is None)
        assert ("evaluate the original" in report) == (source is not None)
        back, _ = bench.edit(latent=records[10], sampler="dpm_2", source=source)
        assert relative(back["samples"], bench.latent["samples"]) <= 1e-6
    assert counts == {True: 19, False: 28}


@pytest.mark.once
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_split_sigmas_go_on_where_the_first_part_left_off(bench: Bench, records: dict[int, dict], name: str) -> None:
    """Exactly for a sampler that remembers nothing of the steps before, and for any other under the same prompt."""
    from comfy_extras.nodes_custom_sampler import DisableNoise

    sampler = comfy.samplers.sampler_object(name)
    for positive in (bench.positive, bench.other):
        with torch.inference_mode():
            guider, clean, noise, sigmas = bench.edit_guider(
                positive=positive, latent=records[10], background=0.0, strength=5.0
            )
            whole = sampled(guider, clean, noise, sigmas, sampler)
            half = sampled(guider, clean, noise, sigmas[:6], sampler)
            assert relative(half, whole) > 0.03
            rest = sampled(guider, {"samples": half}, DisableNoise.execute().args[0], sigmas[5:], sampler)
        if positive is bench.positive or name == "euler":
            assert relative(rest, whole) <= 2e-5
        else:
            assert relative(rest, whole) <= 0.3


@pytest.mark.once
def test_other_sigmas_serve_too_and_a_lower_start_changes_less(bench: Bench, records: dict[int, dict]) -> None:
    host, source = bench.pack.nodes.host, bench.latent["samples"]
    changes = []
    for denoise in (1.0, 0.8, 0.6):
        sigmas = host.scheduled_sigmas(bench.model, 7, "simple", denoise)
        back, report = bench.edit(latent=records[10], sigmas=sigmas)
        assert relative(back["samples"], source) <= 1e-6
        assert "Sampled on the connected SIGMAS" in report
        out, _ = bench.edit(latent=records[10], sigmas=sigmas, positive=bench.other)
        changes.append(relative(out["samples"], source))
        assert relative(by_guider(bench, records[10], "euler", sigmas, positive=bench.other), out["samples"]) <= 1e-6
    assert changes == sorted(changes, reverse=True)
    latent, _, _, _ = bench.invert(steps=4, denoise=0.5)
    with pytest.raises(bench.pack.inversion.InversionError, match=r"begin at .* inverted up to"):
        bench.edit(latent=latent, sigmas=sigmas)


@pytest.mark.once
def test_a_guider_serves_again_and_after_an_interrupt(bench: Bench, records: dict[int, dict]) -> None:
    import comfy.model_management as management

    calls, stop_at = 0, 0

    def interrupting(apply_model: Any, given: dict) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            management.interrupt_current_processing()
        return apply_model(given["input"], given["timestep"], **given["c"])

    model = bench.model.clone()
    model.set_model_unet_function_wrapper(interrupting)
    guider, clean, noise, sigmas = bench.edit_guider(model=model, positive=bench.other, latent=records[10])
    first = sampled(guider, clean, noise, sigmas, comfy.samplers.sampler_object("dpmpp_2m"))
    calls, stop_at = 0, 3
    try:
        with pytest.raises(management.InterruptProcessingException):
            sampled(guider, clean, noise, sigmas, comfy.samplers.sampler_object("er_sde"))
    finally:
        management.interrupt_current_processing(False)
    with pytest.raises(bench.pack.inversion.InversionError, match="guidance"):
        sampled(guider, clean, noise, sigmas, comfy.samplers.sampler_object("euler_cfg_pp"))
    assert torch.equal(sampled(guider, clean, noise, sigmas, comfy.samplers.sampler_object("dpmpp_2m")), first)
    assert sampled(guider, clean, noise, sigmas[:0], comfy.samplers.sampler_object("euler")) is not None


@pytest.mark.once
def test_a_noise_mask_set_beside_the_guider_counts(bench: Bench, records: dict[int, dict]) -> None:
    half = torch.cat([torch.ones(1, 128, 64), torch.zeros(1, 128, 64)], -1)
    guider, clean, noise, sigmas = bench.edit_guider(positive=bench.other, latent=records[10], strength=5.0)
    out = sampled(guider, {**clean, "noise_mask": half}, noise, sigmas, comfy.samplers.sampler_object("er_sde"))
    assert relative(out[..., 8:], bench.latent["samples"][..., 8:]) <= 1e-6
    assert relative(out[..., :8], bench.latent["samples"][..., :8]) > 0.03


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "EDM", "FLOW"])
def test_any_number_of_steps(pack, kind: str) -> None:
    bench = micro(pack, kind)
    for steps in (1, 2, 4, 20):
        latent, _, _, _ = bench.invert(steps=steps)
        for name in AFFINE:
            if steps < 3 and name == "dpm_fast":
                continue  # it needs a level below its first, other than 0
            back, _ = bench.edit(latent=latent, sampler=name)
            assert relative(back["samples"], bench.latent["samples"]) <= 1e-5, (name, steps)
            assert relative(by_guider(bench, latent, name), bench.latent["samples"]) <= 1e-5, (name, steps)
