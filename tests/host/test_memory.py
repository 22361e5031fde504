"""Nothing is kept: memory is flat over many runs of a node, and the model's weights are the host's own again."""

import gc
import os
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from families import FAMILIES
from graphs import Bench, defaults, demo

RUNS, WARM_UP = 20, 4
ALLOWED = 12 * 2**20  # bytes in all runs together; what Guided NR's gradient kept was 27 MB each


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensors() -> int:
    """How many tensors there are; the demo model's are too small to be seen in the process' memory."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.fixture(scope="module")
def bench(pack) -> Bench:
    return demo(pack, "flow")


def flow_edit(bench: Bench) -> Any:
    node, given = bench.pack.nodes.flow_edit.FlowEdit, {"steps": 2, "cfg": 3.0, "source_cfg": 1.5}
    inputs = {"scheduler": "normal", "denoise": 0.8, "seed": 0, "negative": bench.negative, **given}
    with torch.inference_mode():
        return node.execute(bench.model, bench.other, bench.positive, bench.latent, **inputs)


def edited(bench: Bench, **inputs: Any) -> Any:
    latent = bench.invert(steps=2)[0]
    return bench.edit(latent=latent, positive=bench.other, cfg=2.0, negative=bench.negative, **inputs)


def run(node: Any, **inputs: Any) -> Any:
    with torch.inference_mode():
        return node.execute(**{**defaults(node), **inputs}).args


def restored(bench: Bench) -> Any:
    with torch.inference_mode():
        picture = bench.pack.nodes.demo.load("flow")[2].decode(bench.latent["samples"])
    mask = torch.zeros(1, *picture.shape[1:3])
    mask[:, :, 32:] = 1
    given = {"original": picture, "edited": 1 - picture, "mask": mask}
    return run(bench.pack.nodes.background.RestoreBackground, **given)


def seeds(bench: Bench) -> Any:
    return run(bench.pack.nodes.seeds.Seeds, model=bench.model, latent=bench.invert(steps=2)[0], count=8)


def frames(bench: Bench) -> Any:
    latents = {f"latent_{side}": bench.invert(steps=2)[0] for side in ("from", "to")}
    prompts = {f"positive_{side}": bench.positive for side in ("from", "to")}
    return run(bench.pack.nodes.interpolate.Interpolate, model=bench.model, frames=8, **latents, **prompts)


def reported(bench: Bench) -> Any:
    vae = bench.pack.nodes.demo.load("flow")[2]
    given = {"model": bench.model, "positive": bench.positive, "latent": bench.invert(steps=2)[0], "vae": vae}
    return run(bench.pack.nodes.report.InversionReport, **given)


def guided(bench: Bench) -> Any:
    """Edit Guider, through the host's own sampler node."""
    given = {"model": bench.model, "positive": bench.other, "latent": bench.invert(steps=2)[0]}
    guider, latent, noise, sigmas = run(bench.pack.nodes.guider.EditGuiderNode, **given)
    sampler = comfy.samplers.sampler_object("dpmpp_2m")
    with torch.inference_mode():
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)


def from_noise(bench: Bench) -> Any:
    """An inverting SAMPLER, and Noise From Latent on what it made."""
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.inner_set_conds({"positive": bench.positive})
    sigmas = bench.pack.nodes.host.scheduled_sigmas(bench.model, 2, "normal", 1.0)
    with torch.inference_mode():
        none = RandomNoise.execute(0).args[0]
        up = SamplerCustomAdvanced.execute(none, guider, bench.sampler("EasyInv"), sigmas, bench.latent).args[0]
    return run(bench.pack.nodes.noise.NoiseFromLatent, model=bench.model, latent=up, sigmas=sigmas)


RUN = {
    "EasyInv": lambda bench: bench.invert(steps=2),
    "Fixed Point": lambda bench: bench.invert("FixedPoint", steps=2, iterations=3),
    "Fixed Point, ancestral": lambda bench: bench.invert(
        "FixedPoint", steps=2, iterations=3, sampler="euler_ancestral"
    ),
    "Guided NR": lambda bench: bench.invert("GuidedNR", steps=2),
    "Guided NR, gradient": lambda bench: bench.invert("GuidedNR", steps=2, cfg=2.0, negative=bench.negative),
    "Edit From Latent": edited,
    "Edit From Latent, structure": lambda bench: edited(bench, structure=0.5),
    "Edit From Latent, another sampler": lambda bench: edited(bench, sampler="dpmpp_2m"),
    "FlowEdit": flow_edit,
    "Restore Original Background": restored,
    "Seeds From Examples": seeds,
    "Interpolate Inversions": frames,
    "Inversion Report": reported,
    "Edit Guider": guided,
    "Save and Load Inversion": lambda bench: bench.load(bench.save(bench.invert(steps=2)[0])),
    "Inverting Sampler, Noise From Latent": from_noise,
}


@pytest.mark.once
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("what", RUN)
def test_memory_is_flat(bench: Bench, what: str) -> None:
    for _ in range(WARM_UP):
        RUN[what](bench)
    count, before = tensors(), resident()
    for _ in range(RUNS):
        RUN[what](bench)
    assert resident() - before <= ALLOWED
    assert tensors() <= count


def test_a_gradient_gives_the_hosts_own_weights_back(pack) -> None:
    """Not copies of them, and those that are one stay one while the gradient is taken."""
    with torch.inference_mode():
        bench = FAMILIES["SD1.5 eps"].bench(pack)
        network = bench.model.model.diffusion_model
        network.middle_block[0].in_layers[0].weight = network.middle_block[2].in_layers[0].weight
    weights = {name: id(weight) for name, weight in network.named_parameters(remove_duplicate=False)}
    assert len(set(weights.values())) < len(weights)
    seen = []

    def counting(apply_model: Any, given: dict) -> torch.Tensor:
        seen.append(len({id(weight) for _, weight in network.named_parameters(remove_duplicate=False)}))
        return apply_model(given["input"], given["timestep"], **given["c"])

    model = bench.model.clone()
    model.set_model_unet_function_wrapper(counting)
    report = bench.invert("GuidedNR", model=model, steps=2, gradient="min-norm")[3]
    assert "through the model" in report
    assert set(seen) == {len(set(weights.values()))}
    assert {name: id(weight) for name, weight in network.named_parameters(remove_duplicate=False)} == weights
