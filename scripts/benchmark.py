#!/usr/bin/env python3
"""Runs a benchmark in the real host: `python scripts/benchmark.py NAME`, a file of `benchmarks/` without its .py.

`python scripts/benchmark.py all` makes every table and plot of `docs/` again, one after the other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time

import tools
from host import REPOSITORY, Host, command_line, ensure, folder, say

ALL = ("edits", "solvers", "few_steps", "peers", "interpolation", "cost")


def main() -> int:
    names = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("[!_]*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["all", *names])
    chosen, arguments = parser.parse_known_args()
    host = ensure()
    tools.install(host)
    if chosen.name != "all":
        return run(host, chosen.name, arguments)
    failed = [name for name in ALL if run(host, name, arguments)]
    say(f"Failed: {', '.join(failed)}" if failed else "All tables and plots are made.")
    return bool(failed)


def run(host: Host, name: str, arguments: list[str]) -> int:
    environment = host.environment()
    # Last on the path, like the tools: the host's own packages and `nodes` come first.
    own = [REPOSITORY, *(REPOSITORY / name for name in ("benchmarks", "scripts", "tests/core", "tests/host"))]
    environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(map(str, [*own, folder() / "tools"]))
    started = time.monotonic()
    script = [str(host.python), str(REPOSITORY / "benchmarks" / f"{name}.py"), *arguments]
    code = subprocess.run(script, env=environment).returncode
    say(f"{name}: {(time.monotonic() - started) / 60:.1f} minutes")
    return code


if __name__ == "__main__":
    command_line(main)
