"""The host's modules and this pack in the current process, for tests, benchmarks and measurements on the CPU.

The process needs the host's Python: `python scripts/host.py run SCRIPT` starts one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "comfyui_inversion"
_folders = tempfile.TemporaryDirectory(prefix="comfyui-", ignore_cleanup_errors=True)


def boot(root: str | None = None, *options: str, cpu: bool = True) -> None:
    """Have the host read its options (it does so once, from sys.argv); `root` is put on the path if given.

    From here on `import nodes` is the host's, so its folder has to come before this repository's.
    """
    if root:
        sys.path.insert(0, root)
    import comfy.options

    comfy.options.enable_args_parsing()
    arguments = [
        "main.py",
        *(["--cpu"] if cpu else []),
        "--base-directory",
        _folders.name,
        "--disable-api-nodes",
        *options,
    ]
    kept, sys.argv = sys.argv, arguments
    try:
        import comfy.cli_args
    finally:
        sys.argv = kept


def load_pack() -> ModuleType:
    """The pack as the host imports it: a package under another name, so its library is `pack.inversion`."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
        )
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
        importlib.import_module(f"{NAME}.nodes").demo_nodes()
    return sys.modules[NAME]
