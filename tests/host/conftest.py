"""Makes the host's modules importable in the test process, on the CPU and with folders of its own.

From here on `import nodes` is the host's; the pack's own modules come through the `pack` fixture, as in the host.
"""

import os
from types import ModuleType

import inprocess
import pytest

ROOT = os.environ.get("COMFYUI_ROOT")
if not ROOT:
    raise pytest.UsageError("COMFYUI_ROOT names no ComfyUI: run `python scripts/test.py`")

inprocess.boot(ROOT)


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack as the host imports it: a package under another name, so `inversion` is `pack.inversion` in there."""
    return inprocess.load_pack()
