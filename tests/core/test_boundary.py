"""The library stands alone: it knows neither ComfyUI nor diffusers nor Ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = REPOSITORY / "inversion"
# inversion/many is a program that uses the library: it loads pipelines and runs on Ray.
SOURCES = sorted(path for path in LIBRARY.rglob("*.py") if not path.is_relative_to(LIBRARY / "many"))


def is_foreign(module: str) -> bool:
    top = module.split(".")[0]
    return top.startswith("comfy") or top in {"folder_paths", "nodes", "diffusers", "ray"}


def imported(source: str) -> list[str]:
    """The modules that a source imports by name, wherever in it; its relative imports stay in the library."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def test_the_check_sees_foreign_imports() -> None:
    source = "import comfy.ops\ndef f():\n    from nodes import x\n    from .nodes import y\n    import torch\n"
    assert [name for name in imported(source) if is_foreign(name)] == ["comfy.ops", "nodes"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_source_imports_nothing_foreign(path: Path) -> None:
    assert not [name for name in imported(path.read_text(encoding="utf-8")) if is_foreign(name)]


def test_importing_the_library_and_its_adapters_loads_nothing_foreign() -> None:
    code = (
        f"import sys; sys.path.append({str(REPOSITORY)!r}); before = set(sys.modules); "
        "import inversion, inversion.adapters.diffusers; "
        "print('\\n'.join(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "inversion" in loaded.split()
    assert not [name for name in loaded.split() if is_foreign(name)]
