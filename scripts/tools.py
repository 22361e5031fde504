"""The tools of the tests and checks, in a folder of their own: no ComfyUI's Python ever gets them installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

from host import REPOSITORY, Host, folder, pip, read_marker, say, write_marker

REQUIREMENTS = REPOSITORY / "tests" / "requirements.txt"

# The folder is last on the path, so that the host's packages stay the ones it runs with.
LAUNCH = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), {}, '__main__', True)"


def install(host: Host) -> None:
    """Have what tests/requirements.txt says for this host's Python; again only when one of the two has changed."""
    tag = [str(host.python), "-c", "import sys; print(sys.implementation.cache_tag)"]
    facts = {
        "tests/requirements.txt": hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest(),
        "python": subprocess.run(tag, capture_output=True, text=True, check=True).stdout.strip(),
    }
    tools = folder() / "tools"
    marker = tools / "installed.json"
    if read_marker(marker) == facts:
        return
    say(f"Installing the test tools in {tools}: up to 85 MB to download, 250 MB on disk.")
    if tools.exists():
        shutil.rmtree(tools)
    tools.mkdir(parents=True)
    options = ["--no-deps", "--target", str(tools), "--requirement", str(REQUIREMENTS)]
    pip(host.python, "install", *options, doing="installing the test tools of tests/requirements.txt")
    write_marker(marker, facts)


def command(host: Host, module: str, *arguments: str) -> list[str]:
    """`python -m MODULE ARGUMENTS` with the host's Python and the tools; the current folder is not on the path."""
    return [str(host.python), "-P", "-c", LAUNCH, str(folder() / "tools"), module, *arguments]
