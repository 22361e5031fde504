"""Makes the host's modules importable in the test process, on the CPU and with folders of its own.

From here on `import nodes` is the host's; the pack's own modules come through the `pack` fixture, as in the host.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = os.environ.get("COMFYUI_ROOT")
if not ROOT:
    raise pytest.UsageError("COMFYUI_ROOT names no ComfyUI: run `python scripts/test.py`")

sys.path.insert(0, ROOT)
FOLDERS = tempfile.TemporaryDirectory(prefix="comfyui-", ignore_cleanup_errors=True)

import comfy.options

comfy.options.enable_args_parsing()
arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", FOLDERS.name, "--disable-api-nodes"]
import comfy.cli_args  # it reads sys.argv now, and only now

sys.argv = arguments


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack as the host imports it: a package under another name, so `inversion` is `pack.inversion` in there."""
    name = "comfyui_inversion"
    spec = importlib.util.spec_from_file_location(
        name, REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    importlib.import_module(name + ".nodes")
    return module
