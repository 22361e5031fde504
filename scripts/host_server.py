"""A ComfyUI on this machine, and its server: started with this repository as a pack, ended with all that it started.

Only the standard library is used.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACK = "inversion-edit"  # the name of the repository's link in custom_nodes


class HostError(Exception):
    """Something that the person at the keyboard can act on; the message says what."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class Server:
    """A ComfyUI that answers."""

    url: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Host:
    """A ComfyUI on this machine and the Python that runs it."""

    root: Path
    python: Path
    version: str

    def environment(self) -> dict[str, str]:
        """For a Python script that imports the host's modules.

        The host's folder comes before everything else and the script's own folder is not on the path: this repository
        has a `nodes` too.
        """
        path = os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}

    @contextlib.contextmanager
    def serve(
        self,
        base: Path,
        *,
        arguments: Sequence[str] = (),
        port: int | None = None,
        patience: float = 180,
        with_pack: bool = True,
    ) -> Iterator[Server]:
        """Run the server with the folders of `base` (models, input, output, custom_nodes) until the block ends.

        `with_pack` links this repository into custom_nodes; without, the server has the packs that are there.
        """
        prepare(base, with_pack=with_pack)
        port = free_port(port)
        log = base / "server.log"
        command = [str(self.python), "main.py", "--cpu", "--port", str(port), "--base-directory", str(base.resolve())]
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes", *arguments]
        with log.open("wb") as output:  # a group of its own, so that what it starts can be ended with it
            process = subprocess.Popen(
                command,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(url=f"http://127.0.0.1:{port}", port=port, log=log, process=process)
        try:
            _wait_until_it_answers(server, patience)
            yield server
        finally:
            _stop(process)


def free_port(port: int | None = None) -> int:
    """`port` if nothing listens on it, without one any that is free."""
    with socket.socket() as listener:
        if os.name != "nt":  # a port whose last connections are still being closed is free; Windows means more by this
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise HostError(f"Port {port} cannot be used ({error.strerror}): give another with --port.") from error
        return int(listener.getsockname()[1])


def prepare(base: Path, *, with_pack: bool = True) -> None:
    """Make `base` a base directory of ComfyUI, in which this repository is a custom node pack if `with_pack`."""
    for name in ("custom_nodes", "input", "output", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    if with_pack:
        link(base / "custom_nodes" / PACK)


def link(place: Path) -> None:
    """Make `place` a link to this repository."""
    if place.exists() and place.resolve() == REPOSITORY:
        return
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        raise HostError(f"{place} is not a link to this repository: remove it, or choose another folder.")
    try:
        place.symlink_to(REPOSITORY, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        # Windows lets only some people make links; a junction is for everyone.
        junction = ["cmd", "/c", "mklink", "/J", str(place), str(REPOSITORY)]
        subprocess.run(junction, check=True, stdout=subprocess.DEVNULL)


def _wait_until_it_answers(server: Server, patience: float) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this machine itself
    end = time.monotonic() + patience
    while True:
        if server.process.poll() is not None:
            raise HostError(f"ComfyUI ended with code {server.process.returncode} as it started.\n{_log(server)}")
        try:
            direct.open(f"{server.url}/system_stats", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise HostError(f"ComfyUI did not answer within {patience:.0f} s.\n{_log(server)}") from None
        time.sleep(0.3)


def _log(server: Server) -> str:
    text = server.log.read_text(encoding="utf-8", errors="replace")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[-25:]  # without colours
    return f"The last lines of {server.log}:\n" + "\n".join(f"  | {line}" for line in lines)


def _stop(process: subprocess.Popen[bytes]) -> None:
    def tell(*, firmly: bool) -> None:
        if os.name == "nt":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL if firmly else signal.SIGTERM)

    tell(firmly=False)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    tell(firmly=True)  # also what the server had started and left behind
    process.wait()
