"""Inversion and edit together with what else the host can do to a model, a conditioning or a run.

Each thing either composes (it has an effect, and the same prompt still gives the source back) or is refused in words;
after every test the model's weights, options and sampling rule and the process's switches are those of before.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import comfy.cldm.cldm
import comfy.cli_args
import comfy.controlnet
import comfy.hooks
import comfy.model_management as mm
import comfy.model_patcher
import comfy.nested_tensor
import comfy.patcher_extension
import comfy.samplers
import comfy.utils
import folder_paths
import numpy as np
import pytest
import safetensors.torch
import torch
from comfy_extras import (
    nodes_context_windows,
    nodes_custom_sampler,
    nodes_differential_diffusion,
    nodes_easycache,
    nodes_freelunch,
    nodes_hooks,
    nodes_model_advanced,
    nodes_pag,
)
from families import FAMILIES
from graphs import Bench, demo, micro, relative
from torch import Tensor

import nodes

EXACT = 1e-5  # rounding of float32 over a few steps, as in test_invert_edit.py
SEEN = 1e-3  # a change far above rounding
STEPS = 5
RULE = comfy.patcher_extension.WrappersMP

# ---------------------------------------------------------------------------------------------------------------------
# What must be afterwards as it was before


def snapshot(value: Any) -> Any:
    """For `same` later: tensors by value, containers by content, a MODEL by what it carries, the rest by identity."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [snapshot(item) for item in value]
    if isinstance(value, comfy.model_patcher.ModelPatcher):
        carried = (
            "model_options",
            "patches",
            "object_patches",
            "weight_wrapper_patches",
            "wrappers",
            "callbacks",
            "injections",
            "attachments",
            "additional_models",
            "hook_patches",
            "hook_mode",
            "forced_hooks",
        )
        return {name: snapshot(getattr(value, name)) for name in carried}
    return value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a is b or a == b


def switches() -> dict[str, Any]:
    """The process's own state: random generators, gradient mode, and the host's globals."""
    return {
        "torch random": torch.get_rng_state(),
        "python random": random.getstate(),
        "numpy random": np.random.get_state()[1].tolist(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "memory": mm.vram_state,
        "training": getattr(mm, "in_training", None),
        "interrupt": mm.interrupt_processing,
        "progress": (comfy.utils.PROGRESS_BAR_ENABLED, comfy.utils.PROGRESS_BAR_HOOK),
        "options": {name: str(value) for name, value in vars(comfy.cli_args.args).items()},
    }


@contextlib.contextmanager
def nothing_changes(*given: Any) -> Iterator[None]:
    before = {**switches(), "given": snapshot(given)}
    try:
        yield
    finally:  # after an error too
        after = {**switches(), "given": snapshot(given)}
        assert [name for name in before if not same(before[name], after[name])] == []


def inside(model: Any) -> dict[str, Any]:
    """The host's BaseModel without anybody's patches: its weights and what object patches replace."""
    mm.unload_all_models()
    base = model.model
    return {
        "weights": {name: value.detach().clone() for name, value in base.state_dict().items()},
        "objects": [base.model_sampling, base.latent_format, base.manual_cast_dtype, base.diffusion_model],
        "patched": base.current_weight_patches_uuid,
    }


@pytest.fixture(scope="module")
def eps(pack) -> Bench:
    return micro(pack, "EPS")


@pytest.fixture(scope="module")
def flow(pack) -> Bench:
    return demo(pack, "flow")


@pytest.fixture(autouse=True)
def models_survive(eps: Bench, flow: Bench) -> Iterator[None]:
    benches = (eps, flow)
    before = [(inside(b.model), snapshot(b.model)) for b in benches]
    yield
    for bench, (model, carried) in zip(benches, before, strict=True):
        after = inside(bench.model)
        assert [part for part in model if not same(model[part], after[part])] == []
        assert same(carried, snapshot(bench.model))


# ---------------------------------------------------------------------------------------------------------------------
# Up, down and there and back


def up(bench: Bench, **inputs: Any) -> dict:
    """The inverted LATENT."""
    with nothing_changes(bench.latent, bench.positive, bench.negative, inputs):
        return bench.invert(**{"steps": STEPS, **inputs})[0]


def down(bench: Bench, latent: dict, **inputs: Any) -> Tensor:
    """The edited samples."""
    with nothing_changes(latent, bench.positive, bench.negative, inputs):
        return bench.edit(latent=latent, **inputs)[0]["samples"]


def both_ways(bench: Bench, **inputs: Any) -> tuple[Tensor, float]:
    """(the inverted samples, how far from the source the same inputs come back)."""
    latent = up(bench, **inputs)
    back = down(
        bench, latent, **{key: inputs[key] for key in ("model", "positive", "negative", "cfg") if key in inputs}
    )
    return latent["samples"], relative(back, inputs.get("latent", bench.latent)["samples"])


def composes(bench: Bench, **inputs: Any) -> Tensor:
    """The inverted samples, after showing that they come back exactly and are not those of the plain model."""
    inverted, error = both_ways(bench, **inputs)
    assert error <= EXACT
    plain = {key: value for key, value in inputs.items() if key not in ("model", "positive", "negative")}
    if "negative" in inputs:
        plain["negative"] = bench.negative
    assert relative(inverted, up(bench, **plain)["samples"]) > SEEN
    return inverted


def custom(bench: Bench, noise: Any, sampler: Any, sigmas: Tensor, **inputs: Any) -> Tensor:
    """What SamplerCustomAdvanced makes of the bench's picture at cfg 1."""
    guider = comfy.samplers.CFGGuider(inputs.get("model", bench.model))
    guider.set_conds(inputs.get("positive", bench.positive), bench.negative)
    with nothing_changes(bench.latent, sigmas, inputs), torch.inference_mode():
        output = nodes_custom_sampler.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, bench.latent)
    return output.args[0]["samples"]


def one(output: Any) -> Any:
    """What a node put out, whichever way this host has it written."""
    return getattr(output, "args", output)[0]


# ---------------------------------------------------------------------------------------------------------------------
# LoRA


@pytest.fixture(scope="module")
def lora(eps: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A rank-2 LoRA on every linear layer of the micro model's transformers, as a file that the host finds by name."""
    folder = tmp_path_factory.mktemp("loras")
    folder_paths.add_model_folder_path("loras", str(folder))
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, value in eps.model.model.state_dict().items():
        if "transformer_blocks" in name and value.ndim == 2:
            name = name.removesuffix(".weight")
            tensors[f"{name}.lora_up.weight"] = torch.randn(value.shape[0], 2, generator=generator)
            tensors[f"{name}.lora_down.weight"] = torch.randn(2, value.shape[1], generator=generator) / value.shape[1]
    assert tensors
    safetensors.torch.save_file(tensors, folder / "micro.safetensors")
    return "micro.safetensors"


def with_lora(model: Any, name: str, strength: float = 0.8) -> Any:
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]


def merged(pack: Any, name: str, strength: float = 0.8) -> Any:
    """Another micro model with the LoRA added to its weights by hand."""
    model = micro(pack, "EPS").model
    tensors = safetensors.torch.load_file(folder_paths.get_full_path("loras", name))
    weights = model.model.state_dict()
    for key, value in tensors.items():
        if key.endswith("lora_up.weight"):
            delta = value @ tensors[key.replace("lora_up", "lora_down")]
            weights[key.replace("lora_up.weight", "weight")] += strength * delta
    model.model.load_state_dict(weights)
    return model


def test_lora_on_both_sides(pack, eps: Bench, lora: str) -> None:
    inverted = composes(eps, model=with_lora(eps.model, lora))
    assert relative(inverted, up(eps, model=merged(pack, lora))["samples"]) <= EXACT


def test_lora_on_the_edit_only(pack, eps: Bench, lora: str) -> None:
    latent = up(eps)
    edited = down(eps, latent, model=with_lora(eps.model, lora))
    assert relative(edited, eps.latent["samples"]) > SEEN
    assert relative(edited, down(eps, latent, model=merged(pack, lora))) <= EXACT
    assert relative(down(eps, latent), eps.latent["samples"]) <= EXACT  # the LoRA is gone again


# ---------------------------------------------------------------------------------------------------------------------
# ControlNet


@pytest.fixture(scope="module")
def control(eps: Bench) -> comfy.controlnet.ControlNet:
    """A ControlNet with random weights for the micro model."""
    config = {key: value for key, value in eps.model.model.model_config.unet_config.items() if key != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(**config | {"hint_channels": 3, "operations": comfy.ops.disable_weight_init})
    generator = torch.Generator().manual_seed(2)
    for value in network.parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 1
        value.data = torch.randn(value.shape, generator=generator) * (0.5 if value.ndim > 1 else 0.02) * fan_in**-0.5
    device = mm.get_torch_device()
    return comfy.controlnet.ControlNet(network.eval(), load_device=device, manual_cast_dtype=None)


def controlled(bench: Bench, control: Any, start: float, end: float) -> dict[str, Any]:
    """The bench's prompts under control, as inputs of both nodes."""
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        bench.positive, bench.negative, control, hint, 1.0, start, end
    )
    return {"positive": positive, "negative": negative, "cfg": 2.0}


def test_controlnet(eps: Bench, control: comfy.controlnet.ControlNet) -> None:
    """Over all sigmas and over some; at the same sigmas up and down."""
    calls = []
    handle = control.control_model.register_forward_hook(lambda *_: calls.append(1))
    whole, part = (controlled(eps, control, *percents) for percents in ((0.0, 1.0), (0.25, 0.6)))
    try:
        inverted = composes(eps, **whole)
        of_whole = len(calls)
        composes(eps, **part)
    finally:
        handle.remove()
    sampling = eps.model.get_model_object("model_sampling")
    sigmas = eps.invert(steps=STEPS)[2][:-1]
    within = sum(sampling.percent_to_sigma(0.6) <= float(s) <= sampling.percent_to_sigma(0.25) for s in sigmas)
    assert 0 < within < STEPS
    assert of_whole == 2 * STEPS
    assert len(calls) - of_whole == 2 * within
    assert relative(up(eps, **part)["samples"], inverted) > SEEN


def test_controlnet_on_the_edit_only(eps: Bench, control: comfy.controlnet.ControlNet) -> None:
    latent = up(eps, cfg=2.0, negative=eps.negative)
    edited = down(eps, latent, **controlled(eps, control, 0.0, 1.0))
    assert relative(edited, eps.latent["samples"]) > SEEN
    assert relative(down(eps, latent, cfg=2.0, negative=eps.negative), eps.latent["samples"]) <= EXACT


# ---------------------------------------------------------------------------------------------------------------------
# Conditioning that holds for a part of the picture or of the steps


def halves(left: Any, right: Any) -> Any:
    area = nodes.ConditioningSetArea()
    parts = (area.append(cond, 32, 64, x, 0, 1.0)[0] for cond, x in ((left, 0), (right, 32)))
    return nodes.ConditioningCombine().combine(*parts)[0]


def test_areas(eps: Bench) -> None:
    """Areas are cut out of the latent, so a new prompt on the right leaves the left alone."""
    same_areas = halves(eps.positive, eps.positive)
    composes(eps, positive=same_areas, cfg=1.5, negative=eps.negative)
    latent = up(eps, positive=same_areas)
    difference = (down(eps, latent, positive=halves(eps.positive, eps.other)) - eps.latent["samples"]).abs()
    assert float(difference[..., :4].max()) <= EXACT
    assert float(difference[..., 4:].mean()) > SEEN


@pytest.mark.parametrize("bounds", ["default", "mask bounds"])
def test_masked_conditioning(eps: Bench, bounds: str) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[..., 24:] = 1
    masked = [
        nodes.ConditioningSetMask().append(cond, region, bounds, 1.0)[0]
        for cond, region in ((eps.positive, 1 - mask), (eps.other, mask))
    ]
    positive = nodes.ConditioningCombine().combine(*masked)[0]
    composes(eps, positive=positive, cfg=1.5, negative=eps.negative)
    assert relative(down(eps, up(eps), positive=positive), eps.latent["samples"]) > SEEN


def ranged(first: Any, second: Any, until: float = 0.5, start: float = 0.5) -> Any:
    between = nodes.ConditioningSetTimestepRange()
    parts = (between.set_range(first, 0.0, until)[0], between.set_range(second, start, 1.0)[0])
    return nodes.ConditioningCombine().combine(*parts)[0]


def test_timestep_ranges(eps: Bench) -> None:
    both = ranged(eps.positive, eps.positive)
    assert relative(up(eps, positive=both)["samples"], up(eps)["samples"]) <= EXACT
    inverted = composes(eps, positive=ranged(eps.positive, eps.other))
    assert relative(inverted, up(eps, positive=ranged(eps.other, eps.positive))["samples"]) > SEEN
    assert relative(down(eps, up(eps), positive=ranged(eps.positive, eps.other)), eps.latent["samples"]) > SEEN


def test_sigmas_without_any_conditioning_are_refused(eps: Bench) -> None:
    """The host's prediction there is all zeros, which is no picture and nothing to invert with."""
    hole = ranged(eps.positive, eps.other, 0.2, 0.8)
    error = eps.pack.inversion.InversionError
    with pytest.raises(error, match=r"no (positive )?conditioning"):
        up(eps, positive=hole)
    with pytest.raises(error, match=r"no (negative )?conditioning"):
        up(eps, negative=hole, cfg=2.0)
    latent = up(eps)
    with pytest.raises(error, match=r"no (positive )?conditioning"):
        down(eps, latent, positive=hole)
    both_ways(eps, negative=hole)  # at cfg 1 the host does not look at the negative
    filled = nodes_hooks.ConditioningSetDefaultAndCombine().set_default_and_combine(hole, eps.negative)[0]
    composes(eps, positive=filled)


# ---------------------------------------------------------------------------------------------------------------------
# Hooks


def hooked(cond: Any, lora: str, *keyframes: tuple[float, float], strength: float = 0.8) -> Any:
    """The prompt with a LoRA of its own, its strength scheduled by (factor, start percent) keyframes."""
    hooks = nodes_hooks.CreateHookLora().create_hook(lora, strength, 0.0)[0]
    group = None
    for factor, start in keyframes:
        group = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(factor, start, group)[0]
    hooks = nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, group)[0]
    return nodes_hooks.ConditioningSetProperties().set_properties(cond, 1.0, "default", hooks=hooks)[0]


def test_hook_lora(eps: Bench, lora: str) -> None:
    """On the only prompt it is the LoRA on the model; next to a bare negative it is not."""
    positive = hooked(eps.positive, lora)
    inverted = composes(eps, positive=positive)
    loaded = {"model": with_lora(eps.model, lora), "cfg": 2.0, "negative": eps.negative}
    assert relative(inverted, up(eps, model=loaded["model"])["samples"]) <= EXACT
    guided = composes(eps, positive=positive, cfg=2.0, negative=eps.negative)
    assert relative(guided, up(eps, **loaded)["samples"]) > SEEN
    edited = down(eps, up(eps), positive=positive)
    assert relative(edited, down(eps, up(eps), model=loaded["model"])) <= EXACT


SCHEDULES = {
    "one": [(0.5, 0.0)],
    "rising": [(0.0, 0.0), (0.5, 0.3), (1.0, 0.6)],
    "ends off": [(1.0, 0.0), (0.0, 0.5)],
    "late start": [(1.0, 0.4), (0.2, 0.8)],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_scheduled_hooks(eps: Bench, lora: str, schedule: str) -> None:
    """The strength at a sigma is the one that the host's sampler has there, though inversion walks upward."""
    positive = hooked(eps.positive, lora, *SCHEDULES[schedule])
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    tensors = safetensors.torch.load_file(folder_paths.get_full_path("loras", lora))
    delta = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    layer = eps.model.model.get_submodule(name)
    bare = layer.weight.detach().clone()

    def strengths(run: Callable[[Any], Any]) -> dict[float, float]:
        """{sigma: how much of the LoRA is in the weights}"""
        found = {}

        def note(executor: Callable, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            found[float(sigma[0])] = round(float(((layer.weight - bare) * delta).sum() / delta.square().sum()), 3)
            return executor(x, sigma, *args, **kwargs)

        model = eps.model.clone()
        model.add_wrapper_with_key(RULE.APPLY_MODEL, "test", note)
        run(model)
        return found

    def host(model: Any) -> None:
        sampler = nodes.KSampler()
        with torch.inference_mode():
            sampler.sample(model, 0, STEPS, 1.0, "euler", "normal", positive, eps.negative, eps.latent)

    plain = up(eps)
    expected = strengths(host)
    assert len(set(expected.values())) == len(SCHEDULES[schedule])
    assert strengths(lambda model: up(eps, model=model, positive=positive)) == expected
    assert strengths(lambda model: down(eps, plain, model=model, positive=positive)) == expected
    assert strengths(host) == expected  # nothing stays on the hooks
    composes(eps, positive=positive)
    composes(eps, positive=positive, cfg=2.0, negative=hooked(eps.negative, lora, *SCHEDULES["rising"]))


def test_scheduled_hooks_and_repeated_calls(eps: Bench, lora: str) -> None:
    """A solver calls the model often at one sigma; what it converges to is what the sampler alone comes back from."""
    positive = hooked(eps.positive, lora, *SCHEDULES["rising"], strength=3.0)
    solver = {"method": "FixedPoint", "iterations": 60, "tolerance": 5e-6, "anderson": 3}
    latent, _, sigmas, report = eps.invert(**solver, positive=positive, steps=10)
    assert float(latent["inversion"]["residuals"].max()) <= solver["tolerance"], report
    assert max(latent["inversion"]["calls"]) > 2
    back = down(eps, {"samples": latent["samples"]}, positive=positive, sigmas=sigmas)
    assert relative(back, eps.latent["samples"]) <= EXACT


# ---------------------------------------------------------------------------------------------------------------------
# Patches of attention


def extra_attention(bench: Bench, weight: float = 1.0, start: float = 1.0, end: float = 0.0) -> Any:
    """The model with a second cross-attention on an image's tokens, between two shares of the sigmas."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(1, 4, 32, generator=generator)
    sampling = bench.model.get_model_object("model_sampling")
    high, low = (float(sampling.percent_to_sigma(1 - share)) for share in (start, end))

    def replace(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        attend = comfy.ldm.modules.attention.optimized_attention
        out = attend(q, k, v, extra["n_heads"])
        if not low <= float(extra["sigmas"][0]) <= high:
            return out
        image = tokens.to(q).expand(q.shape[0], -1, -1)
        return out + weight * attend(q, image, image, extra["n_heads"])

    model = bench.model.clone()
    for block in (("input", 1, 0), ("middle", 0, 0), ("output", 0, 0)):
        model.set_model_patch_replace(replace, "attn2", *block)
    return model


def test_attention_patches(eps: Bench) -> None:
    """In the manner of IP-Adapter, over all sigmas and over some; and one that changes self-attention's inputs."""
    whole = composes(eps, model=extra_attention(eps), cfg=2.0, negative=eps.negative)
    part = composes(eps, model=extra_attention(eps, start=0.7, end=0.4), cfg=2.0, negative=eps.negative)
    assert relative(whole, part) > SEEN
    assert relative(down(eps, up(eps), model=extra_attention(eps)), eps.latent["samples"]) > SEEN

    model = eps.model.clone()
    model.set_model_attn1_patch(lambda n, context, value, extra: (n, context * 0.5, value * 1.5))
    composes(eps, model=model)


# ---------------------------------------------------------------------------------------------------------------------
# Masks and batches


def test_batch_of_three_with_masks(eps: Bench) -> None:
    generator = torch.Generator().manual_seed(5)
    samples = torch.randn(3, 4, 8, 8, generator=generator) * 4
    masks = torch.zeros(3, 1, 64, 64)
    for i, mask in enumerate(masks):
        mask[..., : 16 * (i + 1)] = 1
    source = {"samples": samples, "batch_index": [4, 7, 9], "noise_mask": masks}
    latent = up(eps, latent=source)
    assert same(latent["noise_mask"], masks)
    assert torch.equal(latent["samples"], up(eps, latent={"samples": samples})["samples"])  # all of it is inverted
    edited, report = eps.edit(latent=latent, positive=eps.other)
    assert edited["batch_index"] == [4, 7, 9]
    assert "50%" in report
    difference = (edited["samples"] - samples).abs()
    for i in range(3):
        edge = 2 * (i + 1)
        assert float(difference[i, ..., edge:].max()) <= EXACT * float(samples.abs().max())
        assert float(difference[i, ..., :edge].mean()) > SEEN
        one = {"samples": samples[i : i + 1], "noise_mask": masks[i : i + 1]}
        alone = down(eps, up(eps, latent=one), positive=eps.other)
        assert relative(edited["samples"][i : i + 1], alone) <= EXACT


def test_differential_diffusion(eps: Bench) -> None:
    """It turns the mask into thresholds inside the host's mask blend, which this edit does not use, so it says so."""
    model = one(nodes_differential_diffusion.DifferentialDiffusion.execute(eps.model))
    ramp = torch.linspace(0, 1, 64).expand(1, 64, 64)
    latent = {**up(eps), "noise_mask": ramp}
    plain, _ = eps.edit(latent=latent, positive=eps.other)
    edited, report = eps.edit(latent=latent, positive=eps.other, model=model)
    assert torch.equal(plain["samples"], edited["samples"])
    assert "Differential Diffusion" in report


# ---------------------------------------------------------------------------------------------------------------------
# Patches of the sampling rule and of guidance


def discrete(sampling: str, zsnr: bool) -> Callable[[Any], Any]:
    return lambda model: one(nodes_model_advanced.ModelSamplingDiscrete().patch(model, sampling, zsnr))


def edm(sampling: str, highest: float) -> Callable[[Any], Any]:
    return lambda model: nodes_model_advanced.ModelSamplingContinuousEDM().patch(model, sampling, highest, 0.02)[0]


RULES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "v": ("eps", discrete("v_prediction", False)),
    "v zsnr": ("eps", discrete("v_prediction", True)),
    "lcm": ("eps", discrete("lcm", False)),
    "x0": ("eps", discrete("x0", False)),
    "edm": ("eps", edm("edm", 80.0)),
    "edm v": ("eps", edm("v_prediction", 120.0)),
    "edm playground": ("eps", edm("edm_playground_v2.5", 80.0)),
    "cosmos": ("eps", edm("cosmos_rflow", 80.0)),
    "continuous v": (
        "eps",
        lambda model: nodes_model_advanced.ModelSamplingContinuousV().patch(model, "v_prediction", 500.0, 0.03)[0],
    ),
    "sd3 shift": ("flow", lambda model: nodes_model_advanced.ModelSamplingSD3().patch(model, 5.0)[0]),
    "flux shift": ("flow", lambda model: nodes_model_advanced.ModelSamplingFlux().patch(model, 1.15, 0.5, 512, 512)[0]),
}


@pytest.mark.parametrize("name", RULES)
def test_sampling_rules(request: pytest.FixtureRequest, name: str) -> None:
    """The same prompt comes back, and NOISE puts the host's own sampler where ours is."""
    fixture, patch = RULES[name]
    bench: Bench = request.getfixturevalue(fixture)
    model = patch(bench.model)
    composes(bench, model=model)
    latent, noise, sigmas, _ = bench.invert(model=model, steps=STEPS)
    mm.unload_all_models()  # so that the patches must be read from the MODEL, not found in the model
    theirs = custom(bench, noise, comfy.samplers.sampler_object("euler"), sigmas, model=model)
    ours = down(bench, {"samples": latent["samples"]}, model=model, sigmas=sigmas)
    assert relative(theirs, ours) <= 1e-4  # as in test_invert_edit.py
    mm.unload_all_models()
    again = one(bench.pack.nodes.noise.NoiseFromLatent.execute(model, latent, sigmas, 0))
    assert relative(again.generate_noise(bench.latent), noise.generate_noise(bench.latent)) <= EXACT
    assert relative(down(bench, latent, model=model), bench.latent["samples"]) <= EXACT


NOISELESS = [name for name in ("img_to_img", "img_to_img_flow") if hasattr(comfy.model_sampling, name.upper())]


@pytest.mark.parametrize("sampling", NOISELESS)
def test_sampling_rules_without_noise_are_refused(eps: Bench, sampling: str) -> None:
    with pytest.raises(eps.pack.inversion.InversionError, match="has no noise to invert to"):
        up(eps, model=discrete(sampling, False)(eps.model))


def rescaled(model: Any) -> Any:
    return nodes_model_advanced.RescaleCFG().patch(model, 0.7)[0]


def perturbed(model: Any) -> Any:
    return one(nodes_pag.PerturbedAttentionGuidance.execute(model, 3.0))


def cfg_function(model: Any) -> Any:
    def function(args: dict) -> Tensor:
        return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"] * 0.5

    model = model.clone()
    model.set_model_sampler_cfg_function(function)
    return model


def post_cfg_function(model: Any) -> Any:
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.8, disable_cfg1_optimization=True)
    return model


def free_u(model: Any) -> Any:
    """The node picks out layers of 2 and 4 times the model's base width; the micro model has only its base width."""
    node = nodes_freelunch.FreeU_V2
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.model.model_config.unet_config, "model_channels", 16)
        run = node.execute if hasattr(node, "execute") else node().patch
        return one(run(model, 1.3, 1.4, 0.9, 0.2))


def wrapped(model: Any) -> Any:
    def wrapper(apply: Callable, args: dict) -> Tensor:
        return apply(args["input"] * 0.9, args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


@pytest.mark.parametrize("patch", [rescaled, perturbed, cfg_function, post_cfg_function, free_u, wrapped])
def test_guidance_and_model_patches(eps: Bench, patch: Callable[[Any], Any]) -> None:
    composes(eps, model=patch(eps.model), cfg=2.0, negative=eps.negative)
    latent = up(eps, cfg=2.0, negative=eps.negative)
    edited = down(eps, latent, model=patch(eps.model), cfg=2.0, negative=eps.negative)
    assert relative(edited, eps.latent["samples"]) > SEEN


@pytest.mark.parametrize("node", [nodes_easycache.EasyCacheNode, nodes_easycache.LazyCacheNode])
def test_caches_of_earlier_steps_are_refused(eps: Bench, node: Any) -> None:
    """What they predict at a sigma depends on the calls before, so up and down are two different models."""
    model = one(node.execute(eps.model, 3.0, 0.0, 1.0, False))
    error = eps.pack.inversion.InversionError
    with pytest.raises(error, match=r"(Easy|Lazy)Cache"):
        up(eps, model=model)
    latent = up(eps)
    with pytest.raises(error, match=r"(Easy|Lazy)Cache"):
        down(eps, latent, model=model)


def test_the_same_through_the_hosts_sampler_nodes(eps: Bench, lora: str) -> None:
    sampler, noise = eps.sampler("EasyInv"), nodes_custom_sampler.DisableNoise.execute().args[0]
    sigmas = eps.invert(steps=STEPS)[2]
    for inputs in (
        {"model": with_lora(eps.model, lora)},
        {"positive": hooked(eps.positive, lora, *SCHEDULES["rising"])},
        {"positive": ranged(eps.positive, eps.other)},
        {"model": extra_attention(eps)},
    ):
        theirs = custom(eps, noise, sampler, sigmas, **inputs)
        assert relative(theirs, up(eps, **inputs)["samples"]) <= EXACT
    error = eps.pack.inversion.InversionError
    with pytest.raises(error, match=r"no (positive )?conditioning"):
        custom(eps, noise, sampler, sigmas, positive=ranged(eps.positive, eps.other, 0.2, 0.8))
    cached = one(nodes_easycache.EasyCacheNode.execute(eps.model, 3.0, 0.0, 1.0, False))
    with pytest.raises(error, match="EasyCache"):
        custom(eps, noise, sampler, sigmas, model=cached)


# ---------------------------------------------------------------------------------------------------------------------
# Context windows, on a small video model


@pytest.fixture(scope="module")
def video(pack) -> Bench:
    """Wan with nine frames of latent."""
    return FAMILIES["Wan 2.1"].bench(pack, sides=(9, 4, 4))


WINDOWS = nodes_context_windows.ContextWindowsManualNode
KNOWN = {item.id for item in WINDOWS.define_schema().inputs}  # 0.3.75 has no freenoise


def windowed(model: Any, schedule: str, freenoise: bool = False) -> Any:
    given = {"freenoise": freenoise, "closed_loop": False, "context_stride": 1, "fuse_method": "pyramid", "dim": 2}
    given |= {"context_length": 4, "context_overlap": 1, "context_schedule": schedule}
    return one(WINDOWS.execute(model, **{name: value for name, value in given.items() if name in KNOWN}))


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform"])
def test_context_windows(video: Bench, schedule: str) -> None:
    """The uniform schedules move the windows from step to step; each sigma has to get its own ones on both ways."""
    model = windowed(video.model, schedule)
    composes(video, model=model)
    composes(video, model=model, cfg=2.0, negative=video.negative)


@pytest.mark.skipif("freenoise" not in KNOWN, reason="this host's context windows have no FreeNoise")
def test_freenoise(video: Bench) -> None:
    """It shuffles the frames of a sampler's noise: the record has none, a NOISE would no longer be the inverted one."""
    model = windowed(video.model, "standard_static", freenoise=True)
    composes(video, model=model)
    with nothing_changes(model):
        _, noise, _, _ = video.invert(model=model, steps=STEPS)
    with pytest.raises(video.pack.inversion.InversionError, match=r"(?i)freenoise"):
        noise.generate_noise(video.latent)


# ---------------------------------------------------------------------------------------------------------------------
# Memory and precision


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The host loads models with room for a part of their weights only, as on a small GPU; whether it did, per load."""
    load = mm.LoadedModel.model_load
    partial = []

    def model_load(self: Any, lowvram_model_memory: float = 0, force_patch_weights: bool = False) -> Any:
        result = load(self, self.model.model_size() // 2, force_patch_weights)
        partial.append(self.model.model.model_lowvram)
        return result

    monkeypatch.setattr(mm.LoadedModel, "model_load", model_load)
    return partial


def test_partial_offload(eps: Bench, lora: str, request: pytest.FixtureRequest) -> None:
    """Weights and LoRA that stay behind and are streamed in give what a whole model gives."""
    guided = {"cfg": 2.0, "negative": eps.negative}
    patched = with_lora(eps.model, lora)

    def run() -> list[Tensor]:
        results = []
        for model in (eps.model, patched):
            mm.unload_all_models()  # or what is loaded already counts as room
            latent = up(eps, model=model, **guided)
            mm.unload_all_models()
            results += [latent["samples"], down(eps, latent, model=model, **guided)]
            mm.unload_all_models()
            results.append(down(eps, latent, model=model, positive=eps.other, **guided))
        return results

    whole = run()
    partial = request.getfixturevalue("little_memory")
    streamed = run()
    assert partial == [True] * 6
    for one_way, other in zip(whole, streamed, strict=True):
        assert relative(one_way, other) <= EXACT
    assert relative(streamed[1], eps.latent["samples"]) <= EXACT


@pytest.mark.parametrize("method", ["GuidedNR", "FixedPoint"])
def test_other_methods(eps: Bench, lora: str, method: str, request: pytest.FixtureRequest) -> None:
    """They call the model often at one sigma, and one of them may want gradients."""
    few = {"method": method, "steps": 3}
    composes(eps, **few, model=with_lora(eps.model, lora))
    composes(eps, **few, positive=hooked(eps.positive, lora, *SCHEDULES["rising"]))
    composes(eps, **few, positive=halves(eps.positive, eps.other), cfg=1.5, negative=eps.negative)
    composes(eps, **few, model=extra_attention(eps))
    partial = request.getfixturevalue("little_memory")
    mm.unload_all_models()
    up(eps, **few, model=with_lora(eps.model, lora))
    assert partial == [True]
    composes(eps, **few, model=with_lora(eps.model, lora))


def recast(bench: Bench, weights: torch.dtype, computing: torch.dtype | None) -> Bench:
    """The same model with its weights stored in one dtype and computed with in another."""
    old = bench.model.model
    config = type(old.model_config)(dict(old.model_config.unet_config))
    config.set_inference_dtype(weights, computing)
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict(old.diffusion_model.state_dict())
    model.to(weights)
    patcher = comfy.model_patcher.ModelPatcher(model, bench.model.load_device, bench.model.offload_device)
    return Bench(bench.pack, patcher, bench.positive, bench.other, bench.negative, bench.latent)


PRECISIONS = {
    "float16": (torch.float16, None),
    "bfloat16": (torch.bfloat16, None),
    "float16 in float32": (torch.float16, torch.float32),
    "float32 in bfloat16": (torch.float32, torch.bfloat16),
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_half_precision(eps: Bench, name: str) -> None:
    weights, computing = PRECISIONS[name]
    half = recast(eps, weights, computing)
    seen = []
    handle = half.model.model.diffusion_model.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    inverted, error = both_ways(half)
    handle.remove()
    assert set(seen) == {computing or weights}
    assert inverted.dtype == torch.float32
    assert error <= EXACT
    assert 0 < relative(inverted, up(eps)["samples"]) < 0.05


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("method", ["EasyInv", "FixedPoint", "GuidedNR"])
def test_half_precision_costs_the_record_nothing(flow: Bench, method: str, cfg: float) -> None:
    """Both ways evaluate at the same states to the last bit, so the network's rounding is the same too."""
    model = nodes_model_advanced.ModelComputeDtype().patch(flow.model, "bf16")[0]
    inputs = {"model": model, "cfg": cfg, "negative": flow.negative}
    # A forward pass that records a gradient rounds otherwise than one that does not.
    settings = {"gradient": "sign"} if method == "GuidedNR" else {}
    latent = flow.invert(method, steps=10, **inputs, **settings)[0]
    back, _ = flow.edit(latent=latent, **inputs)
    assert relative(back["samples"], flow.latent["samples"]) <= 1e-7  # the scale of the model's latents and back


def test_compute_dtype_node(eps: Bench) -> None:
    model = nodes_model_advanced.ModelComputeDtype().patch(eps.model, "bf16")[0]
    inverted, error = both_ways(eps, model=model)
    assert error <= EXACT
    assert 0 < relative(inverted, up(eps)["samples"]) < 0.05


def test_latents_rounded_to_half_on_the_way(flow: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --fp16-intermediates, where the host's nodes hand on half-precision latents."""
    if hasattr(comfy.cli_args.args, "fp16_intermediates"):
        monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
        assert mm.intermediate_dtype() == torch.float16
    source = {"samples": flow.latent["samples"].half()}
    latent = up(flow, latent=source)
    for samples in (latent["samples"], latent["samples"].half()):
        back, report = flow.edit(latent={**latent, "samples": samples})
        assert "Sampled on the record" in report
        assert relative(back["samples"], source["samples"]) <= EXACT


# ---------------------------------------------------------------------------------------------------------------------
# Nested latents and interrupts


def test_nested_latents_are_refused(eps: Bench) -> None:
    nested = {"samples": comfy.nested_tensor.NestedTensor([eps.latent["samples"], torch.ones(1, 8, 4)])}
    error = eps.pack.inversion.InversionError
    with pytest.raises(error, match="several latents"):
        up(eps, latent=nested)
    inverted = up(eps)
    with pytest.raises(error, match="several latents"):
        down(eps, {**inverted, **nested})
    node = eps.pack.nodes.guider.EditGuiderNode.execute(eps.model, eps.other, inverted, 1.0, 0.8)
    guider, _, noise, sigmas = node.args
    euler = comfy.samplers.sampler_object("euler")
    for given in (noise, nodes_custom_sampler.DisableNoise.execute().args[0]):
        with pytest.raises(error, match="several latents"):
            nodes_custom_sampler.SamplerCustomAdvanced.execute(given, guider, euler, sigmas, nested)


@pytest.mark.parametrize("method", ["EasyInv", "FixedPoint", "GuidedNR"])
def test_nested_latents_are_refused_by_inverting_samplers(eps: Bench, method: str) -> None:
    """Which get them packed into one row of numbers, before the host's callbacks (previews) see anything."""
    nested = comfy.nested_tensor.NestedTensor([eps.latent["samples"], torch.ones(1, 8, 4)])
    guider = comfy.samplers.CFGGuider(eps.model)
    guider.set_conds(eps.positive, eps.negative)
    noise, sigmas = nodes_custom_sampler.RandomNoise.execute(0).args[0], eps.pack.nodes.host.scheduled_sigmas
    with pytest.raises(eps.pack.inversion.InversionError, match="several latents"), torch.inference_mode():
        nodes_custom_sampler.SamplerCustomAdvanced.execute(
            noise, guider, eps.sampler(method), sigmas(eps.model, 2, "normal", 1.0), {"samples": nested}
        )


@pytest.mark.parametrize("way", ["up", "down"])
def test_an_interrupt_in_the_middle(eps: Bench, lora: str, way: str) -> None:
    """With a LoRA on the model and one on the prompt, which have to come off again."""
    calls = []

    def interrupt(executor: Callable, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            mm.interrupt_current_processing()
        return executor(*args, **kwargs)

    plain = up(eps)
    model = with_lora(eps.model, lora)
    model.add_wrapper_with_key(RULE.APPLY_MODEL, "test", interrupt)
    inputs = {"model": model, "positive": hooked(eps.positive, lora)}
    with pytest.raises(mm.InterruptProcessingException), nothing_changes(plain):
        up(eps, **inputs) if way == "up" else down(eps, plain, **inputs)
    assert len(calls) == 3
    assert not mm.interrupt_processing
    assert torch.equal(up(eps)["samples"], plain["samples"])
    assert relative(down(eps, plain), eps.latent["samples"]) <= EXACT


def test_the_checks_above_can_fail(eps: Bench) -> None:
    """What `nothing_changes` and `composes` rest on can tell a difference."""
    with pytest.raises(AssertionError), nothing_changes():
        torch.rand(1)
    with pytest.raises(AssertionError), nothing_changes(held := [torch.zeros(2)]):
        held[0] += 1
    with pytest.raises(AssertionError), nothing_changes(model := eps.model.clone()):
        model.set_model_sampler_cfg_function(print)
    with pytest.raises(AssertionError):
        composes(eps, model=eps.model.clone())
