#!/usr/bin/env python3
"""Runs the tests: with ComfyUI 0.30.0 all of them, then with 0.3.75 those in tests/host.

    python scripts/test.py [--comfyui 0.30.0|0.3.75|both] [pytest's arguments]

Tests marked `once` look at what no version of the host changes; a whole run has them with 0.30.0 only, and those
marked `slow` not at all: name their file, or give `-m slow`. Both hosts are installed first if they are not there (see
host.py). With COMFYUI_ROOT set, all tests run once, with that one. pytest gets the host in COMFYUI_ROOT and
COMFYUI_PYTHON either way, so a fixture's `ensure()` finds it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import tools
from host import DEFAULT, PACKAGES, REPOSITORY, Host, command_line, ensure, say

TESTS = REPOSITORY / "tests"
HOST_TESTS = TESTS / "host"
NOTHING_COLLECTED = 5  # pytest's exit code
# A whole run shares its files among processes, in the order of tests/conftest.py. Each has a host of its own in memory,
# so there are not many.
WORKERS = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", choices=(*PACKAGES, "both"), default="both")
    options, arguments = parser.parse_known_args()
    given = bool(os.environ.get("COMFYUI_ROOT"))
    versions = tuple(PACKAGES) if options.comfyui == "both" and not given else (options.comfyui,)

    hosts = [ensure(version) for version in versions]
    code = 0
    for host in hosts:
        tools.install(host)
        again = not given and host.version != DEFAULT
        chosen = only_host_tests(arguments) if again else arguments
        if chosen is None:
            say(f"ComfyUI {host.version}: none of the tests named is in tests/host, so there is nothing to run.")
            continue
        whole = [] if any(map(test_path, arguments)) else [*WORKERS, "-m", "not once" if again else "not slow"]
        result = run(host, [*whole, *chosen])
        if result == NOTHING_COLLECTED and arguments:  # as with -k, which need not select in both
            continue
        code = code or result
    return code


def run(host: Host, arguments: list[str]) -> int:
    say(f"\nThe tests with ComfyUI {host.version} in {host.root}")
    # One thread each: the models are tiny, and threads that wait for one another are slow beside other work.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    environment |= {"COMFYUI_ROOT": str(host.root), "COMFYUI_PYTHON": str(host.python)}
    return subprocess.run(tools.command(host, "pytest", *arguments), cwd=REPOSITORY, env=environment).returncode


def only_host_tests(arguments: list[str]) -> list[str] | None:
    """The arguments with all tests narrowed to those in tests/host; None if they name others only."""
    named = {argument: path for argument in arguments if (path := test_path(argument))}
    within = [argument for argument, path in named.items() if path.is_relative_to(HOST_TESTS)]
    whole = any(HOST_TESTS.is_relative_to(path) for path in named.values())
    if named and not within and not whole:
        return None
    rest = [argument for argument in arguments if argument not in named]
    return [*rest, *(within if within and not whole else [str(HOST_TESTS)])]


def test_path(argument: str) -> Path | None:
    path = (REPOSITORY / argument.split("::")[0]).resolve()
    return path if path.is_relative_to(TESTS) and path.exists() else None


if __name__ == "__main__":
    command_line(main)
