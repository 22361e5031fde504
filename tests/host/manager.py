"""How people get the pack: the registry's packer, its HTTP answers, and ComfyUI-Manager's command line.

The packer (of comfy-cli) and the Manager are the published packages, in a folder of their own. The registry is a server
on this machine, which answers the Manager's questions about one pack and hands out its zip and its git repository;
every other address is out of reach.
"""

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from host import PACK, REPOSITORY, Host, folder, install_beside

REQUIREMENTS = REPOSITORY / "tests" / "requirements-manager.txt"
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens

# sys.argv: the ComfyUI, the base directory, the two folders to import from, the registry, then cm-cli's own.
CM_CLI = """
import runpy, sys
root, base, scripts, packages, registry = sys.argv[1:6]
del sys.argv[1:6]
sys.path += [scripts, packages]
import inprocess
inprocess.boot(root, "--base-directory", base)
from comfyui_manager.common import cnr_utils
cnr_utils.base_url = registry
runpy.run_module("cm_cli", run_name="__main__", alter_sys=True)
"""

# sys.argv: the folder to import from, the zip to write. What `comfy node pack` does, without its telemetry.
PACKER = """
import dataclasses, json, sys
packages, archive = sys.argv[1:]
sys.path.append(packages)
from comfy_cli.file_utils import zip_files
from comfy_cli.registry.config_parser import extract_node_configuration
configuration = extract_node_configuration()
zip_files(archive, includes=configuration.tool_comfy.includes)
print(json.dumps(dataclasses.asdict(configuration)))
"""


def install(host: Host) -> Path:
    """The folder with the Manager and the packer, which are installed if they are not there."""
    place = folder() / "manager"
    install_beside(host, REQUIREMENTS, place, "up to 10 MB to download, 45 MB on disk")
    return place


def git(*arguments: str, at: Path) -> str:
    settings = ("user.name=test", "user.email=test@localhost", "commit.gpgsign=false")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), *arguments]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def checkout(place: Path) -> Path:
    """A repository in `place` with one commit: all that git tracks here, and what it would track."""
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard", at=REPOSITORY).split("\0")[:-1]:
        if (REPOSITORY / name).exists():  # not what is deleted and still tracked
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, place / name)
    git("init", "--quiet", at=place)
    git("add", ".", at=place)
    git("commit", "--quiet", "--message", "all", at=place)
    return place


def pack(host: Host, packages: Path, repository: Path, archive: Path) -> tuple[dict[str, Any], str]:
    """Pack as the registry's publishing command does; returns how it read pyproject.toml, and what it said."""
    home = {"HOME": str(archive.parent)}  # it makes a folder of settings there
    command = [str(host.python), "-P", "-c", PACKER, str(packages), str(archive)]
    done = subprocess.run(command, cwd=repository, env={**os.environ, **home}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, _, read = done.stdout.strip().rpartition("\n")
    return json.loads(read), said + done.stderr


class Answers(SimpleHTTPRequestHandler):
    """The registry's API for one pack; any other path is a file of `directory`."""

    def __init__(self, *arguments: Any, entry: dict[str, Any], **options: Any) -> None:
        self.entry = entry
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/nodes":
            self.answer({"nodes": [self.entry], "totalPages": 1})
        elif path == f"/nodes/{self.entry['id']}/install":
            self.answer(self.entry["latest_version"])
        else:
            super().do_GET()

    def copyfile(self, *arguments: Any) -> None:
        with contextlib.suppress(ConnectionError):  # the Manager opens an address once just to see where it leads
            super().copyfile(*arguments)

    def answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass  # the test's output is no server's log


@contextlib.contextmanager
def registry(published: Path, project: dict[str, Any]) -> Iterator[str]:
    """The address of a registry with one pack: the files in `published`, `pack.zip` and PACK.git among them."""
    version = {"id": "1", "version": project["version"], "downloadUrl": ""}
    entry = {
        "id": project["name"],
        "name": PACK,
        "description": project["description"],
        "publisher": {"id": "test", "name": "test"},
        "latest_version": version,
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answers, entry=entry, directory=str(published)))
    address = f"http://127.0.0.1:{server.server_port}"
    version["downloadUrl"] = f"{address}/pack.zip"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class Manager:
    """ComfyUI-Manager's `cm-cli` for the folders of `base`."""

    host: Host
    packages: Path
    base: Path
    registry: str

    def __call__(self, *arguments: str) -> str:
        """Run a command; returns what it printed."""
        places = map(str, (self.host.root, self.base, REPOSITORY / "scripts", self.packages))
        command = [str(self.host.python), "-c", CM_CLI, *places, self.registry, *arguments]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def environment(self) -> dict[str, str]:
        proxies = {name: NOWHERE for name in ("http_proxy", "https_proxy", "all_proxy")} | {"no_proxy": "127.0.0.1"}
        proxies |= {name.upper(): value for name, value in proxies.items()}
        # pip may list packages, but has none to install.
        return {**self.host.environment(), **proxies, "COMFYUI_PATH": str(self.host.root), "PIP_NO_INDEX": "1"}


def distributions(host: Host) -> list[str]:
    """The Python packages the host's Python has, by name and version."""
    code = "from importlib.metadata import distributions as all; print(*(f'{d.name}=={d.version}' for d in all()))"
    done = subprocess.run([str(host.python), "-P", "-c", code], capture_output=True, text=True, check=True)
    return sorted(done.stdout.split())
