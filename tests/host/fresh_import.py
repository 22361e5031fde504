"""A script: imports a pack into a host that has loaded its own modules, and prints as JSON what that did.

`python fresh_import.py FOLDER`, with the host's folder and this repository's scripts on the path.
"""

import asyncio
import contextlib
import io
import json
import logging
import sys
from typing import Any

import inprocess

inprocess.boot()
import comfy.model_management
import torch

import nodes

DEVICE = ("is_available", "device_count", "_lazy_init"), ("get_torch_device", "unet_offload_device", "load_models_gpu")
OUTSIDE = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "subprocess.Popen", "os.system")


def main(folder: str) -> dict[str, Any]:
    asyncio.run(nodes.init_builtin_extra_nodes())
    before, known = set(sys.modules), set(nodes.NODE_CLASS_MAPPINGS)
    reached: list[str] = []
    for module, names in zip((torch.cuda, comfy.model_management), DEVICE, strict=True):
        for name in names:
            setattr(module, name, noting(f"{module.__name__}.{name}", getattr(module, name), reached))
    sys.addaudithook(lambda event, _: reached.append(event) if event in OUTSIDE else None)
    said = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(said))
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        loaded = asyncio.run(nodes.load_custom_node(folder))
    imported = (name for name in set(sys.modules) - before if not name.startswith(module_of(folder)))
    return {
        "loaded": loaded,
        "nodes": sorted(set(nodes.NODE_CLASS_MAPPINGS) - known),
        "imported": sorted(name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names),
        "reached": reached,
        "said": said.getvalue(),
    }


def module_of(folder: str) -> str:
    """The name under which the host imports a folder."""
    return folder.replace(".", "_x_")


def noting(name: str, function: Any, reached: list[str]) -> Any:
    def noted(*arguments: Any, **options: Any) -> Any:
        reached.append(name)
        return function(*arguments, **options)

    return noted


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
