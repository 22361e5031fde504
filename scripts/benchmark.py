#!/usr/bin/env python3
"""Runs a benchmark in the real host: `python scripts/benchmark.py NAME`, a file of `benchmarks/` without its .py."""

from __future__ import annotations

import argparse
import os
import subprocess

import tools
from host import REPOSITORY, command_line, ensure, folder


def main() -> int:
    names = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=names)
    name, arguments = parser.parse_known_args()
    host = ensure()
    tools.install(host)
    environment = host.environment()
    # Last on the path, like the tools: the host's own packages and `nodes` come first.
    environment["PYTHONPATH"] += os.pathsep + os.pathsep.join([str(REPOSITORY), str(folder() / "tools")])
    script = REPOSITORY / "benchmarks" / f"{name.name}.py"
    return subprocess.run([str(host.python), str(script), *arguments], env=environment).returncode


if __name__ == "__main__":
    command_line(main)
