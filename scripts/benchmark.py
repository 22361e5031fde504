#!/usr/bin/env python3
"""Runs a benchmark in the real host: `python scripts/benchmark.py NAME`, a file of `benchmarks/` without its .py.

`python scripts/benchmark.py all` makes every table and plot of `docs/` again, one after the other. They
run with ComfyUI 0.30.0 if `--comfyui` names no other; `samplers` runs with both versions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time

import tools
from host import DEFAULT, PACKAGES, REPOSITORY, Host, command_line, ensure, folder, say

ALL = (
    "edits", "masks", "solvers", "few_steps", "papers", "peers", "interpolation", "verdict", "cost", "compact", "many",
    "samplers",
)  # fmt: skip
IN_BOTH = ("samplers",)


def main() -> int:
    names = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("[!_]*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["all", *names])
    parser.add_argument("--comfyui", choices=tuple(PACKAGES), help=f"default: {DEFAULT}")
    chosen, arguments = parser.parse_known_args()
    failed = []
    for name in ALL if chosen.name == "all" else [chosen.name]:
        both = name in IN_BOTH and chosen.comfyui is None and not os.environ.get("COMFYUI_ROOT")
        for version in PACKAGES if both else [chosen.comfyui or DEFAULT]:
            host = ensure(version)
            tools.install(host)
            if run(host, name, arguments):
                failed.append(f"{name} with ComfyUI {host.version}")
    say(f"Failed: {', '.join(failed)}" if failed else "All is made.")
    return bool(failed)


def run(host: Host, name: str, arguments: list[str]) -> int:
    environment = host.environment()
    # Last on the path, like the tools: the host's own packages and `nodes` come first.
    own = [REPOSITORY, *(REPOSITORY / name for name in ("benchmarks", "scripts", "tests/core", "tests/host"))]
    environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(map(str, [*own, folder() / "tools"]))
    started = time.monotonic()
    script = [str(host.python), str(REPOSITORY / "benchmarks" / f"{name}.py"), *arguments]
    code = subprocess.run(script, env=environment).returncode
    say(f"{name} with ComfyUI {host.version}: {(time.monotonic() - started) / 60:.1f} minutes")
    return code


if __name__ == "__main__":
    command_line(main)
