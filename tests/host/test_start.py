"""The real server starts with the pack in it."""

import asyncio
import dataclasses
import json
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest
from client import Client, QueueError, api_graph
from host import PACK, REPOSITORY, Host, Server

# What people type into the node search -> the nodes that they should find.
INVERT_NODES = {"INV_EasyInv", "INV_GuidedNR", "INV_FixedPoint"}
SOUGHT = {
    "unsampler": INVERT_NODES,
    "unsample": INVERT_NODES,
    "noise inversion": INVERT_NODES,
    "image inversion": INVERT_NODES,
    "real image editing": {*INVERT_NODES, "INV_FlowEdit"},
    "rf inversion": INVERT_NODES,
    "null-text inversion": INVERT_NODES,
    "reconstruct": INVERT_NODES,
    "ddim inversion": {"INV_EasyInv", "INV_FixedPoint"},
    "flip sigmas": {"INV_EasyInv"},
    "renoise": {"INV_GuidedNR", "INV_FixedPoint"},
    "guided newton-raphson": {"INV_GuidedNR"},
    "easyinv": {"INV_EasyInv"},
    "fixed point": {"INV_FixedPoint"},
    "uni-inv": {"INV_FixedPoint"},
    "flowedit": {"INV_FlowEdit"},
    "slerp": {"INV_Interpolate"},
    "rare concepts": {"INV_Seeds"},
}


def nodes_of(pack: ModuleType) -> list:
    return asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())


def test_in_process_the_host_comes_first(host: Host, pack: ModuleType) -> None:
    import nodes

    assert Path(nodes.__file__).parent == host.root
    assert nodes_of(pack)


def test_the_server_offers_the_packs_nodes(server: Server, pack: ModuleType) -> None:
    with urllib.request.urlopen(f"{server.url}/object_info", timeout=60) as answer:
        offered = json.load(answer)
    ours = {name for name, node in offered.items() if node["python_module"] == f"custom_nodes.{PACK}"}
    assert ours == {node.GET_SCHEMA().node_id for node in nodes_of(pack)}, server.log.read_text(encoding="utf-8")


def test_the_words_that_people_search_for_find_the_nodes(server: Server, host: Host) -> None:
    offered = Client(server.url).object_info()
    if host.version == "0.3.75":  # has a search by title only
        assert not any("search_aliases" in node for node in offered.values())
        return
    found = {
        name: " | ".join([node["display_name"], *(node["search_aliases"] or [])]).lower()
        for name, node in offered.items()
        if node["python_module"] == f"custom_nodes.{PACK}"
    }
    missed = {(sought, name) for sought, names in SOUGHT.items() for name in names if sought not in found[name]}
    assert not missed


def test_the_host_lists_the_essentials(pack: ModuleType) -> None:
    from comfy_api.latest import io

    fields = {field.name for field in dataclasses.fields(io.Schema)}
    schemas = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in nodes_of(pack)}
    if "essentials_category" in fields:
        essential = {name for name, schema in schemas.items() if schema.essentials_category == "Image Tools"}
        assert essential == {"INV_EasyInv", "INV_Edit", "INV_RestoreBackground"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "Value 0 smaller than min of 1"),
        ({"eta": 1.5}, "Value 1.5 bigger than max"),
        ({"latent": "vae"}, "Return type mismatch"),
        ({"cfg": 3.0}, "`negative` is not connected"),
    ],
)
def test_a_wrong_number_or_wire_is_refused_with_a_message(server: Server, wrong: dict, message: str) -> None:
    graph = api_graph(json.loads((REPOSITORY / "workflows" / "first_edit.json").read_text(encoding="utf-8")))
    of = {content["class_type"]: node for node, content in graph.items()}
    if "latent" in wrong:
        wrong = {"latent": [of["INV_DemoModel"], 2]}
    graph[of["INV_EasyInv"]]["inputs"] |= wrong
    with pytest.raises(QueueError, match=message):
        Client(server.url).run(graph)
