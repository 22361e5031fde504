"""Guided NR and Fixed Point as nodes, ancestral sampling with fixed noise, and the inverting SAMPLERs."""

import logging
from typing import Any

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, DualCFGGuider, SamplerCustomAdvanced
from comfy_extras.nodes_perpneg import PerpNegGuider
from graphs import METHODS, Bench, defaults, demo, node_of, relative

from nodes import ConditioningSetTimestepRange

CONVERGED = {"iterations": 80, "tolerance": 5e-6}


@pytest.fixture(scope="module", params=["v-prediction", "flow"])
def bench(request: pytest.FixtureRequest, pack) -> Bench:
    return demo(pack, request.param)


@pytest.fixture(scope="module")
def flow(pack) -> Bench:
    return demo(pack, "flow")


class Seed:
    """A NOISE as the host's Random Noise node makes it, of which inversion must only use the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, latent: dict) -> torch.Tensor:
        return torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(self.seed))


def guider(bench: Bench, cfg: float = 1.0) -> Any:
    made = comfy.samplers.CFGGuider(bench.model)
    made.set_conds(bench.positive, bench.negative)
    made.set_cfg(cfg)
    return made


def advanced(guide: Any, noise: Any, sampler: Any, sigmas: torch.Tensor, latent: dict) -> torch.Tensor:
    """SamplerCustomAdvanced; `sampler` is a SAMPLER or the name of one of the host's."""
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    with torch.inference_mode():
        return SamplerCustomAdvanced.execute(noise, guide, sampler, sigmas, latent).args[0]["samples"]


@pytest.mark.parametrize("method", ["GuidedNR", "FixedPoint"])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_same_prompt_gives_the_source_back_exactly(bench: Bench, method: str, sampler: str, cfg: float) -> None:
    latent, _, _, report = bench.invert(method, steps=4, sampler=sampler, cfg=cfg, negative=bench.negative)
    back, _ = bench.edit(latent=latent, cfg=cfg, negative=bench.negative)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-5
    assert "model calls" in report


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_converged_the_hosts_sampler_alone_comes_back(bench: Bench, sampler: str) -> None:
    """Ancestral too: the host draws the same noise, because NOISE carries the seed."""
    _, noise, sigmas, report = bench.invert("FixedPoint", steps=20, sampler=sampler, seed=12, **CONVERGED)
    assert report.startswith("Accurate")
    back = advanced(guider(bench), noise, sampler, sigmas, bench.latent)
    assert relative(back, bench.latent["samples"]) <= 1e-3
    if sampler == "euler_ancestral":
        noise.seed += 1
        assert relative(advanced(guider(bench), noise, sampler, sigmas, bench.latent), back) > 0.05


def test_newton_beats_ddim_at_four_steps(bench: Bench) -> None:
    def error(method: str, **inputs: Any) -> float:
        latent, _, sigmas, _ = bench.invert(method, steps=4, **inputs)
        back, _ = bench.edit(latent={"samples": latent["samples"]}, sigmas=sigmas)
        return relative(back["samples"], bench.latent["samples"])

    assert error("GuidedNR") < 0.7 * error("FixedPoint", iterations=1, start="native")


def test_one_native_iteration_is_ddim(bench: Bench) -> None:
    ddim, _, _, _ = bench.invert("EasyInv", steps=5, preset="custom", eta=1.0)
    ours, _, _, report = bench.invert("FixedPoint", steps=5, iterations=1, start="native")
    assert torch.equal(ours["samples"], ddim["samples"])
    assert "5 model calls" in report


@pytest.mark.once
@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("GuidedNR", {"iterations": 3}),
        ("GuidedNR", {"guidance": 2.0}),
        ("GuidedNR", {"tolerance": 0.5}),
        ("GuidedNR", {"gradient": "autograd"}),
        ("GuidedNR", {"gradient": "min-norm"}),
        ("GuidedNR", {"start": "native"}),
        ("GuidedNR", {"start": "state", "sampler": "euler_ancestral"}),
        ("GuidedNR", {"sampler": "euler_ancestral"}),
        ("GuidedNR", {"sampler": "euler_ancestral", "seed": 3}),
        ("FixedPoint", {"iterations": 2}),
        ("FixedPoint", {"tolerance": 0.5}),
        ("FixedPoint", {"start": "last slope"}),
        ("FixedPoint", {"start": "native"}),
        ("FixedPoint", {"anderson": 0}),
        ("FixedPoint", {"sampler": "euler_ancestral"}),
        ("FixedPoint", {"sampler": "euler_ancestral", "seed": 3}),
    ],
)
def test_every_widget_is_read(flow: Bench, method: str, change: dict) -> None:
    others = {name: value for name, value in change.items() if name == "sampler" and len(change) > 1}
    plain, _, _, _ = flow.invert(method, steps=4, **others)
    changed, _, _, _ = flow.invert(method, steps=4, **change)
    again, _, _, _ = flow.invert(method, steps=4, **change)
    assert relative(changed["samples"], plain["samples"]) > 1e-5
    assert torch.equal(again["samples"], changed["samples"])


def test_reports(flow: Bench) -> None:
    report = flow.invert("GuidedNR")[3]
    assert report.startswith("Rough: with its record the picture comes back exactly.")
    assert "4 steps" in report
    assert "8 model calls" in report
    assert "sign step (auto; at cfg 1" in report
    report = flow.invert("GuidedNR", cfg=3.0, negative=flow.negative)[3]
    assert "min-norm (auto), through the model; it agrees with a central difference" in report
    assert "MB for the backward pass" in report
    report = flow.invert("GuidedNR", gradient="sign", check=True)[3]
    assert report.startswith("Accurate: without its record the picture comes back almost exactly (checked: ")
    report = flow.invert("GuidedNR", cfg=9.0, negative=flow.negative, gradient="sign", check=True)[3]
    assert report.startswith("Inaccurate: ")


@pytest.mark.parametrize(
    ("method", "inputs", "message"),
    [
        ("GuidedNR", {"iterations": 0}, "iterations takes whole numbers from 1"),
        ("GuidedNR", {"guidance": -1.0}, "guidance takes numbers from 0"),
        ("FixedPoint", {"iterations": 0}, "iterations takes whole numbers from 1"),
        ("FixedPoint", {"anderson": -1}, "anderson takes whole numbers from 0"),
    ],
)
def test_bad_settings_are_named(flow: Bench, method: str, inputs: dict, message: str) -> None:
    with pytest.raises(flow.pack.inversion.InversionError, match=message):
        flow.invert(method, **inputs)


@pytest.mark.parametrize("method", METHODS)
def test_a_sampler_does_what_its_node_does(bench: Bench, method: str, caplog: pytest.LogCaptureFixture) -> None:
    steps = {"steps": 5, "cfg": 1.5, "negative": bench.negative}
    node, noise, sigmas, _ = bench.invert(method, **steps)
    sampler = bench.sampler(method)
    with caplog.at_level(logging.INFO):
        first, second = (advanced(guider(bench, 1.5), Seed(4), sampler, sigmas, bench.latent) for _ in range(2))
    assert torch.equal(first, second)
    assert relative(first, node["samples"]) <= 1e-6
    assert "Residual per step" in caplog.text
    with torch.inference_mode():
        from_latent = bench.pack.nodes.noise.NoiseFromLatent.execute(bench.model, {"samples": first}, sigmas, 7).args[0]
    assert from_latent.seed == 7
    assert relative(from_latent.generate_noise(bench.latent), noise.generate_noise(bench.latent)) <= 1e-4


@pytest.mark.parametrize("method", ["GuidedNR", "FixedPoint"])
def test_an_ancestral_sampler_takes_the_seed_of_the_noise(bench: Bench, method: str) -> None:
    node, _, sigmas, _ = bench.invert(method, steps=4, sampler="euler_ancestral", seed=9)
    sampler = bench.sampler(method, sampler="euler_ancestral")
    assert relative(advanced(guider(bench), Seed(9), sampler, sigmas, bench.latent), node["samples"]) <= 1e-6
    assert relative(advanced(guider(bench), Seed(8), sampler, sigmas, bench.latent), node["samples"]) > 1e-3


@pytest.mark.parametrize("kind", ["basic", "dual"])
def test_a_sampler_inverts_under_any_guider(bench: Bench, kind: str) -> None:
    with torch.inference_mode():
        if kind == "basic":
            guide = BasicGuider.execute(bench.model, bench.positive).args[0]
        else:
            dual = DualCFGGuider.execute
            guide = dual(bench.model, bench.positive, bench.other, bench.negative, 1.2, 1.1, "regular").args[0]
    sigmas = bench.pack.nodes.host.scheduled_sigmas(bench.model, 10, "normal", 0.7)
    inverted = advanced(guide, Seed(0), bench.sampler("FixedPoint", **CONVERGED), sigmas, bench.latent)
    noise = bench.pack.nodes.noise.NoiseFromLatent.execute(bench.model, {"samples": inverted}, sigmas, 0).args[0]
    assert relative(advanced(guide, noise, "euler", sigmas, bench.latent), bench.latent["samples"]) <= 1e-2


def guided_by(bench: Bench, kind: str, negative: Any) -> Any:
    """A guider with a rule of its own, whose `cfg`, where it has one, is not read or not all of it."""
    if kind == "dual":
        return DualCFGGuider.execute(bench.model, bench.positive, bench.other, negative, 1.5, 1.2, "regular").args[0]
    if kind == "perp-neg":
        return PerpNegGuider.execute(bench.model, bench.positive, negative, bench.negative, 1.0, 0.5).args[0]

    class Own(comfy.samplers.CFGGuider):
        def predict_noise(self, x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
            both = [
                comfy.samplers.sampling_function(self.inner_model, x, given[0], None, self.conds[name], 1.0, *given[1:])
                for name in ("positive", "negative")
            ]
            return 1.5 * both[0] - 0.5 * both[1]

    made = Own(bench.model)
    made.set_conds(bench.positive, negative)
    del made.cfg
    return made


@pytest.mark.parametrize("kind", ["dual", "perp-neg", "own"])
def test_guiders_with_a_rule_of_their_own_are_not_read_as_cfg_1(
    bench: Bench, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sigmas = bench.pack.nodes.host.scheduled_sigmas(bench.model, 3, "normal", 1.0)
    sampler = bench.sampler("GuidedNR")
    with torch.inference_mode(), caplog.at_level(logging.INFO):
        advanced(guided_by(bench, kind, bench.negative), Seed(0), sampler, sigmas, bench.latent)
        assert "Gradient: min-norm (auto)" in caplog.text
        late = ConditioningSetTimestepRange().set_range(bench.negative, 0.5, 1.0)[0]
        with pytest.raises(bench.pack.inversion.InversionError, match="no negative conditioning at sigma"):
            advanced(guided_by(bench, kind, late), Seed(0), sampler, sigmas, bench.latent)


def test_a_negative_that_only_the_source_asks_has_to_cover_every_level(flow: Bench) -> None:
    late = ConditioningSetTimestepRange().set_range(flow.negative, 0.5, 1.0)[0]
    run = flow.pack.nodes.flow_edit.FlowEdit.execute
    given = {"scheduler": "normal", "denoise": 1.0, "seed": 0, "negative": late}
    with torch.inference_mode(), pytest.raises(flow.pack.inversion.InversionError, match="no negative conditioning"):
        run(flow.model, flow.other, flow.positive, flow.latent, 3, 1.0, 1.5, **given)


@pytest.mark.parametrize("gradient", ["sign", "autograd"])
def test_an_interrupt_inside_an_iteration_stops_within_one_model_call(flow: Bench, gradient: str) -> None:
    management = comfy.model_management
    calls = 0

    def interrupt(apply_model: Any, given: dict) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            management.interrupt_current_processing()
        return apply_model(given["input"], given["timestep"], **given["c"])

    model = flow.model.clone()
    model.set_model_unet_function_wrapper(interrupt)
    try:
        with pytest.raises(management.InterruptProcessingException):
            flow.invert("GuidedNR", model=model, iterations=5, gradient=gradient)
    finally:
        management.interrupt_current_processing(False)
    assert calls == 6
    assert not getattr(management, "in_training", False)


def test_seeds_stay_as_they_were_set(pack) -> None:
    """A seed that changed by itself after each run would invert again and edit another picture every time."""
    for name in ("GuidedNR", "FixedPoint"):
        node = node_of(pack, f"INV_{name}")
        (seed,) = [i for i in node.define_schema().inputs if i.id == "seed"]
        assert seed.as_dict()["control_after_generate"] is False
        assert defaults(node)["seed"] == 0
