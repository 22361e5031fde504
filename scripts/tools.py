"""The tools of the tests and checks, in a folder of their own: no ComfyUI's Python ever gets them installed."""

from __future__ import annotations

from host import REPOSITORY, Host, folder, install_beside

REQUIREMENTS = REPOSITORY / "tests" / "requirements.txt"

# The folder is last on the path, so that the host's packages stay the ones it runs with.
LAUNCH = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), {}, '__main__', True)"


def install(host: Host) -> None:
    """Have what tests/requirements.txt says for this host's Python."""
    install_beside(host, REQUIREMENTS, folder() / "tools", "up to 240 MB to download, 920 MB on disk")


def command(host: Host, module: str, *arguments: str) -> list[str]:
    """`python -m MODULE ARGUMENTS` with the host's Python and the tools; the current folder is not on the path."""
    return [str(host.python), "-P", "-c", LAUNCH, str(folder() / "tools"), module, *arguments]
