"""A new method is one class and one row; a host that has changed takes the demo nodes away, and no other."""

import logging
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from comfy_api.latest import io
from graphs import Bench, defaults, demo, relative

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def bench(pack) -> Bench:
    return demo(pack, "flow")


def toy_row(bench: Bench) -> Any:
    """Between plain DDIM inversion (share 0) and one fixed-point iteration more (share 1)."""
    library, methods = bench.pack.inversion, bench.pack.nodes.methods

    @dataclass(frozen=True)
    class Toy:
        share: float
        tolerance: float = 0.0

        def step(self, problem: Any, memory: Any) -> Any:
            first = library.DDIM().step(problem)
            point = torch.lerp(first.point, first.x, self.share)
            slope = problem.slope(point)
            x = problem.land(slope)
            return library.StepResult(x, point, slope, calls=2)

        def notes(self, count: int) -> list[str]:
            return [f"Toy method, share {self.share:g}."]

    return methods.Row(
        id="Toy",
        name="Toy",
        description="For a test.",
        aliases=("toy inversion",),
        inputs=lambda in_node: [io.Float.Input("share", default=1.0, tooltip="Of the way to the next guess.")],
        method=lambda model, given: (Toy(given["share"]), ["A remark."]),
        steps=6,
    )


def test_a_new_method_is_one_class_and_one_row(bench: Bench) -> None:
    node, sampler = bench.pack.nodes.invert.nodes_of(toy_row(bench))
    schema = node.GET_SCHEMA()
    assert (schema.node_id, schema.display_name) == ("INV_Toy", "Invert Image (Toy)")
    given = {"model": bench.model, "positive": bench.positive, "latent": bench.latent, **defaults(node)}
    assert given["steps"] == 6
    with torch.inference_mode():
        latent, _, sigmas, report = node.execute(**given).args
    assert "Toy method, share 1." in report
    assert "A remark." in report
    assert "12 model calls" in report
    back, _ = bench.edit(latent=latent)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-6
    assert latent["inversion"]["method"] == "Toy"

    from comfy_extras.nodes_custom_sampler import BasicGuider, DisableNoise, SamplerCustomAdvanced

    with torch.inference_mode():
        guider = BasicGuider.execute(bench.model, bench.positive).args[0]
        made = sampler.execute(**defaults(sampler)).args[0]
        noise = DisableNoise.execute().args[0]
        inverted = SamplerCustomAdvanced.execute(noise, guider, made, sigmas, bench.latent).args[0]
    assert relative(inverted["samples"], latent["samples"]) <= 1e-5


def test_without_what_the_demo_needs_all_other_nodes_stay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = bench.pack.nodes
    for name in [name for name in sys.modules if name.startswith(f"{nodes.__name__}.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(nodes, "demo")
    monkeypatch.setitem(sys.modules, "comfy.sd1_clip", None)  # as if the host had no such module any more
    with caplog.at_level(logging.WARNING):
        left = nodes.demo_nodes()
    assert "demo nodes do not work on this ComfyUI" in caplog.text
    schemas = [node.GET_SCHEMA() for node in left]
    assert [schema.node_id for schema in schemas] == ["INV_DemoModel", "INV_DemoPicture"]
    assert all("does not work on this ComfyUI" in schema.description for schema in schemas)
    with pytest.raises(bench.pack.inversion.InversionError, match="Load Demo Model does not work"):
        left[0].execute()
