#!/usr/bin/env python3
"""Puts a real ComfyUI on a bare machine and starts it on the CPU.

    python scripts/host.py install [--comfyui 0.30.0|0.3.75]
    python scripts/host.py start [--comfyui ...] [--port 8188] [--base FOLDER] [ComfyUI's own options]
    python scripts/host.py run [--comfyui ...] SCRIPT [ARGUMENTS]

Other scripts use `ensure(version)`, which returns a `Host`, and `Host.serve(folder)`.

Environment variables:

    COMFYUI_ROOT        use this ComfyUI; nothing is downloaded or installed, there or elsewhere
    COMFYUI_PYTHON      the Python of that ComfyUI; by default its venv, else the Python that runs this script
    INVERSION_HOST_DIR  where `install` puts things; by default `.host` in this repository

What `install` leaves in that folder:

    venv/                   torch and what ComfyUI 0.30.0 requires
    0.30.0/ComfyUI/         the copy; it is renamed into place once whole, so where it exists it is complete
    0.30.0/installed.json   written last: without it, or where it says something else, the next run repairs
    0.3.75/...              the same, with a small venv/ of its own for the packages it wants in another version

Only the standard library is used. pip does all the downloading, under the configuration it has on the machine.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

# For the other scripts, which have all of the host from here.
from host_install import DEFAULT, PACKAGES, ensure, folder, install_beside
from host_server import PACK, REPOSITORY, Host, HostError, Server, link, prepare, say

__all__ = [
    "DEFAULT", "PACK", "PACKAGES", "REPOSITORY", "Host", "HostError", "Server", "command_line", "ensure", "folder",
    "install_beside", "link", "prepare", "say",
]  # fmt: skip


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="install|start|run")
    install = commands.add_parser("install", help="install a ComfyUI, or see that it is complete")
    start = commands.add_parser("start", help="start it on the CPU until Ctrl-C; further options go to ComfyUI")
    start.add_argument("--port", type=int, default=8188)
    start.add_argument("--base", type=Path, metavar="FOLDER", help="models, input, output (default: .host/base)")
    run = commands.add_parser("run", help="run a Python script in which the host's modules can be imported")
    for command in (install, start, run):
        command.add_argument("--comfyui", choices=tuple(PACKAGES), default=DEFAULT, help=f"default: {DEFAULT}")
    run.add_argument("script", type=Path)
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    options, others = parser.parse_known_args()
    if others and options.command != "start":
        parser.error(f"unknown: {' '.join(others)}")

    host = ensure(options.comfyui)
    if options.command == "install":
        print(f"ComfyUI {host.version}: {host.root}\nPython: {host.python}")
    elif options.command == "run":
        if not options.script.is_file():
            raise HostError(f"There is no script {options.script}.")
        script = [str(host.python), str(options.script), *options.arguments]
        return subprocess.run(script, env=host.environment()).returncode
    else:
        base = options.base or folder() / "base"
        say(f"ComfyUI {host.version} starts with the folders of {base}; this takes about half a minute.")
        with host.serve(base, port=options.port, arguments=others) as server:
            print(f"{server.url} answers; its log is {server.log}. Ctrl-C ends it.", flush=True)
            return server.process.wait()
    return 0


def command_line(main: object) -> None:
    """Run a script's `main`: a HostError becomes its message and exit code 1."""
    assert callable(main)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that blocks end, and with them what they started
    try:
        sys.exit(main())
    except HostError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    command_line(_main)
