#!/usr/bin/env python3
"""Gives Load Inversion damaged and forged files: `python scripts/fuzz.py [--count 10000] [--seed 0]`

Each is a mutant of a file that Save Inversion wrote (see tests/core/mutants.py), half of them of one with a compact
record. It has to be refused with a message of
this pack's own, or to work: to load, with finite tensors, and to come down to a finite latent or say at which step it
does not. Anything else is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from host import DEFAULT, PACKAGES, REPOSITORY, command_line, ensure, say


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--comfyui", choices=tuple(PACKAGES), default=DEFAULT, help=f"default: {DEFAULT}")
    options = parser.parse_args()
    host = ensure(options.comfyui)
    if Path(sys.executable) != host.python:
        environment = host.environment()
        environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(
            str(REPOSITORY / folder) for folder in ("scripts", "tests/core", "tests/host")
        )
        return subprocess.run([str(host.python), __file__, *sys.argv[1:]], env=environment).returncode
    return run(options.count, options.seed)


def run(count: int, seed: int) -> int:
    import inprocess

    inprocess.boot()
    pack = inprocess.load_pack()

    import folder_paths
    from graphs import demo
    from mutants import Outcome, tried

    library = pack.inversion
    with tempfile.TemporaryDirectory(prefix="inversion-fuzz-") as folder:
        for name in ("input", "output"):
            (Path(folder) / name).mkdir()
            setattr(folder_paths, f"{name}_directory", str(Path(folder) / name))
        bench = demo(pack, "flow")
        files = [bench.save(bench.invert(steps=4, compact=compact)[0]) for compact in (False, True)]
        originals = [Path(folder_paths.get_annotated_filepath(file)).read_bytes() for file in files]

        def use(path: Path) -> None:
            latent, _, _ = bench.load(path.name)
            record = pack.nodes.host.record.require(latent, "").inversion
            came = library.sample(lambda x, level: x / 2, record.latent, record.grid, source=record)
            assert all(bool(tensor.isfinite().all()) for tensor in (latent["samples"], came))

        started = time.monotonic()
        path = Path(folder) / "input" / "mutant.inversion.safetensors"
        outcome = Outcome()
        for which, saved in enumerate(originals):
            outcome.add(tried(saved, count // 2, seed + which, library.files, path, use, library.InversionError))
    sizes = " and ".join(f"{len(saved):,}" for saved in originals)
    say(f"{count} mutants of files of {sizes} bytes, seed {seed}, {time.monotonic() - started:.0f} seconds:")
    for kind in sorted(outcome.refused | outcome.worked):
        say(f"  {kind}: {outcome.refused[kind]} refused, {outcome.worked[kind]} worked")
    refused, worked = outcome.refused.total(), outcome.worked.total()
    say(f"In all {refused} refused, {worked} worked, {len(outcome.other)} did something else.")
    say(f"The most memory that one took beside its own size: {outcome.memory / 1e6:.1f} MB ({outcome.costliest}).")
    for what in outcome.other[:20]:
        say(f"\n{what}")
    return bool(outcome.other)


if __name__ == "__main__":
    command_line(main)
