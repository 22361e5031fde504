"""What all tests share: the library on the path, the ComfyUI under test, a browser.

`scripts/test.py` starts pytest with the host's Python and names the host in COMFYUI_ROOT and COMFYUI_PYTHON.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# At the end: the host and this repository both have a `nodes`, and the host's is the one that `import nodes` means.
sys.path += [str(REPOSITORY), str(REPOSITORY / "scripts")]

from host import Host, Server, ensure  # noqa: E402


def find_chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


LONGEST = ("test_browser.py", "test_install.py")  # minutes each: first, so that no process ends with them alone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if find_chromium() is None:
        reason = "no Chromium: CHROMIUM names none, and neither chromium, chromium-browser nor google-chrome is on PATH"
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI under test; a bare pytest does not get to download one."""
    if not os.environ.get("COMFYUI_ROOT"):
        pytest.fail("COMFYUI_ROOT names no ComfyUI: run `python scripts/test.py`, which takes pytest's arguments.")
    return ensure()


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server with this pack in it, on the CPU; it takes half a minute, so all tests share one."""
    with host.serve(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program, for tests marked `browser`, which are skipped where there is none."""
    found = find_chromium()
    assert found
    return found
