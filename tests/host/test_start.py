"""The real server starts with the pack in it."""

import asyncio
import json
import urllib.request
from pathlib import Path
from types import ModuleType

from host import PACK, Host, Server


def test_in_process_the_host_comes_first(host: Host, pack: ModuleType) -> None:
    import nodes

    assert Path(nodes.__file__).parent == host.root
    assert asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())


def test_the_server_offers_the_packs_nodes(server: Server, pack: ModuleType) -> None:
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    with urllib.request.urlopen(f"{server.url}/object_info", timeout=60) as answer:
        offered = json.load(answer)
    ours = {name for name, node in offered.items() if node["python_module"] == f"custom_nodes.{PACK}"}
    assert ours == {node.GET_SCHEMA().node_id for node in nodes}, server.log.read_text(encoding="utf-8")
