"""Nothing is kept: memory is flat over many runs of a node, and the model's weights are the host's own again."""

import gc
import os
from typing import Any

import pytest
import torch
from families import FAMILIES
from graphs import Bench, demo

RUNS, WARM_UP = 20, 4
ALLOWED = 12 * 2**20  # bytes in all runs together; what Guided NR's gradient kept was 27 MB each


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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


RUN = {
    "EasyInv": lambda bench: bench.invert(steps=2),
    "Fixed Point": lambda bench: bench.invert("FixedPoint", steps=2, iterations=3),
    "Fixed Point, ancestral": lambda bench: bench.invert(
        "FixedPoint", steps=2, iterations=3, sampler="euler_ancestral"
    ),
    "Guided NR": lambda bench: bench.invert("GuidedNR", steps=2),
    "Guided NR, gradient": lambda bench: bench.invert("GuidedNR", steps=2, cfg=2.0, negative=bench.negative),
    "Edit From Latent": edited,
    "Edit From Latent, structure": lambda bench: edited(bench, control="advanced", structure=0.5),
    "Edit From Latent, another sampler": lambda bench: edited(bench, sampler="dpmpp_2m"),
    "FlowEdit": flow_edit,
}


@pytest.mark.once
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("what", RUN)
def test_memory_is_flat(bench: Bench, what: str) -> None:
    for _ in range(WARM_UP):
        RUN[what](bench)
    before = resident()
    for _ in range(RUNS):
        RUN[what](bench)
    assert resident() - before <= ALLOWED


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
