"""After an inversion another prompt costs the sampler's calls and no more, in nodes that run and in network calls."""

import json
import re
from types import ModuleType
from typing import Any

import torch
from client import Client, Graph, api_graph
from graphs import demo
from host import Server

from workflows import WORKFLOWS

CALLS = re.compile(r"(\d+) model calls")


def ran(client: Client, graph: Graph) -> tuple[set[str], dict[str, Any]]:
    """The types of the nodes that were not in the cache, and what the outputs gave."""
    before = set(json.loads(client.get("/history")))
    outputs = client.run(graph)
    (run,) = (run for key, run in json.loads(client.get("/history")).items() if key not in before)
    cached = {name for kind, data in run["status"]["messages"] if kind == "execution_cached" for name in data["nodes"]}
    return {node["class_type"] for name, node in graph.items() if name not in cached}, outputs


def test_another_prompt_runs_the_prompt_the_edit_and_what_shows_it(server: Server) -> None:
    client = Client(server.url)
    graph = api_graph(json.loads((WORKFLOWS / "interactive_edit.json").read_text(encoding="utf-8")))
    named = {node["_meta"]["title"] or node["class_type"]: name for name, node in graph.items()}
    target = graph[named["Target prompt: type here"]]["inputs"]
    target["text"] = "a dog, green wall"  # no run before had it
    assert "INV_GuidedNR" in ran(client, graph)[0]

    target["text"] = "a dog, red wall"
    nodes, outputs = ran(client, graph)
    assert nodes == {"CLIPTextEncode", "INV_Edit", "VAEDecode", "PreviewImage", "PreviewAny"}
    (report,) = outputs[named["Report of the edit"]]["text"]
    assert CALLS.search(report)
    assert CALLS.search(report)[1] == "4"  # type: ignore[index]


def test_an_edit_asks_the_network_once_a_step(pack: ModuleType) -> None:
    bench, asked = demo(pack, "turbo-flow"), []
    network = bench.model.model.diffusion_model
    hook = network.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    try:
        inverted = bench.invert("GuidedNR", scheduler="simple")[0]
        assert sum(asked) == 8  # two a step
        asked.clear()
        with torch.inference_mode():
            _, report = bench.edit(positive=bench.other, latent=inverted, strength=1.0)
        assert sum(asked) == 4
        assert CALLS.search(report)[1] == "4"  # type: ignore[index]
        asked.clear()
        _, report = bench.edit(positive=bench.other, latent=inverted, strength=2.0)
        assert sum(asked) == int(CALLS.search(report)[1]) == 8  # type: ignore[index]
    finally:
        hook.remove()
