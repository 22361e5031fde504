"""What an inversion costs beside the host's own sampler: `python scripts/benchmark.py cost [--quick]`

Invert Image (EasyInv) against the host's KSampler (`euler`) at equal model calls: seconds, how they grow with steps,
pixels, pictures and frames, and peak memory; also the size of a saved record, and what the pack adds to the host's
start. On the demo models, with one thread; the frames are those of a random-weight Wan of `tests/host/families.py`.
Times are the processor's and compared in pairs that alternate, so that what else the machine does disturbs little and
falls on both; memory and sizes are counted. Writes `docs/cost-tables.md`; with `--quick`, little of everything, to
`output/quick/`.
"""

import argparse
import asyncio
import compileall
import datetime
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / folder) for folder in ("scripts", "tests/host")]

import inprocess

inprocess.boot()
import comfy.utils
import torch
from comfyui_version import __version__ as host_version
from families import FAMILIES
from graphs import Bench, demo
from torch.profiler import ProfilerActivity, profile

import nodes

Work = Callable[[], Any]

TIME_BAR, MEMORY_BAR, IMPORT_BAR = 1.02, 1.05, 0.1  # ratio, ratio, seconds
PIXELS = 128  # side of a demo picture
LARGE = 16  # times its pixels, for the memory


@dataclass(frozen=True)
class Extent:
    """How much is measured; the default takes 4 minutes.

    Arguments:
        pairs: of runs of `steps` steps on one picture, for the ratio of times.
        processes: for the time of the import.
        repeats: runs of each size, of which the shortest counts, for the growth.
        growth: what grows -> its sizes; of pixels, times those of a demo picture.
        records: (steps, pixels as above) of the records that are saved.
    """

    pairs: int = 15
    steps: int = 10
    processes: int = 3
    repeats: int = 3
    growth: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "steps": (5, 10, 20),
            "pixels": (1, 4, 9, 16),
            "pictures": (1, 2, 4, 8),
            "frames": (1, 3, 5, 9),
        }
    )
    records: tuple[tuple[int, int], ...] = ((4, 1), (20, 1), (50, 1), (20, 4), (20, 16))


QUICK = Extent(
    pairs=3,
    steps=4,
    processes=1,
    repeats=1,
    growth={"steps": (2, 4), "pixels": (1, 4), "pictures": (1, 2), "frames": (1, 2)},
    records=((4, 1), (4, 4)),
)


def sized(bench: Bench, pixels: int = 1, pictures: int = 1) -> Bench:
    """The bench with the picture repeated, in itself (`pixels`, a square number) and as a batch."""
    side = math.isqrt(pixels)
    return replace(bench, latent={"samples": bench.latent["samples"].repeat(pictures, 1, side, side)})


def both(bench: Bench, steps: int, cfg: float = 1.0) -> tuple[Work, Work]:
    """An inversion and the KSampler with as many model calls."""

    def invert() -> dict:
        return bench.invert(steps=steps, cfg=cfg, negative=bench.negative)[0]

    def sample() -> dict:
        sampling = (0, steps, cfg, "euler", "normal", bench.positive, bench.negative, bench.latent, 1.0)
        with torch.inference_mode():
            return nodes.KSampler().sample(bench.model, *sampling)[0]

    return invert, sample


@dataclass(frozen=True)
class Spent:
    """Seconds of the processor: with one thread, what the clock would show on a machine with nothing else to do."""

    network: float
    beside: float

    @property
    def seconds(self) -> float:
        return self.network + self.beside


class Stopwatch:
    """Times works, and how much of each is the network's own."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = self._entered = 0.0
        self._hooks = network.register_forward_pre_hook(self._enter), network.register_forward_hook(self._leave)

    def __enter__(self) -> "Stopwatch":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: object) -> None:
        self._entered = time.process_time()

    def _leave(self, *_: object) -> None:
        self._network += time.process_time() - self._entered

    def spent(self, work: Work) -> Spent:
        self._network, started = 0.0, time.process_time()
        work()
        return Spent(self._network, time.process_time() - started - self._network)


def pairs(bench: Bench, count: int, steps: int, cfg: float = 1.0) -> list[tuple[Spent, Spent]]:
    """An inversion and the KSampler `count` times, taking turns at who goes first; after a run of each to warm up."""
    works = both(bench, steps, cfg)
    for work in works:
        work()
    found = []
    with Stopwatch(bench.model.model.diffusion_model) as watch:
        for i in range(count):
            spent = {work: watch.spent(work) for work in (works if i % 2 else works[::-1])}
            found.append((spent[works[0]], spent[works[1]]))
    return found


def together(
    found: list[tuple[Spent, Spent]], typical: Callable[[Iterable[float]], float]
) -> tuple[float, float, float]:
    """Seconds of the network, and beside it of each side.

    Of the same network evaluations the time is one, whoever asks for them: only what is done beside differs. The ratio
    of whole runs says the same with the network's own scatter on top, which is larger than the difference.
    """
    ours, theirs = (typical([side.beside for side in sides]) for sides in zip(*found, strict=True))
    return typical([side.network for pair in found for side in pair]), ours, theirs


def met(ok: bool) -> str:
    return "yes" if ok else "**no**"


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """Printed too, as soon as it is there."""
    head = list(head)
    made = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)] + [""]
    print("\n".join(made), flush=True)
    return made


# --- time -------------------------------------------------------------------------------------------------------------


def overhead(benches: dict[str, Bench], extent: Extent) -> list[str]:
    lines = []
    for version, bench in benches.items():
        for cfg in (1.0, 3.0):
            found = pairs(bench, extent.pairs, extent.steps, cfg)
            network, ours, theirs = together(found, statistics.median)
            ratio = (network + ours) / (network + theirs)
            whole = sorted(inversion.seconds / sampler.seconds for inversion, sampler in found)
            out = max(0, int((len(whole) - 1.96 * math.sqrt(len(whole))) / 2))  # of the binomial order statistics
            interval = f"{statistics.median(whole):.3f} ({whole[out]:.3f} to {whole[-1 - out]:.3f})"
            per_step = [f"{1000 * t / extent.steps:.2f}" for t in (network, ours, theirs)]
            lines.append([version, f"{cfg:g}", *per_step, f"{ratio:.3f}", interval, met(ratio <= TIME_BAR)])
    return [
        f"## Time: inversion / KSampler, {extent.steps} steps, one picture, {extent.pairs} pairs",
        "",
        "Processor time at equal model calls, medians in ms per step. The network takes the same time on both sides. "
        "So the overhead is (network + inversion) / (network + KSampler), and 1.00 is free. The column of whole runs "
        "has the same ratio for runs in pairs, with the median's 95 % interval in brackets. The network is small, so "
        f"the work beside it has more weight here than with real models. Bar: up to {TIME_BAR}.",
        "",
        *table(
            ("model", "cfg", "network", "inversion", "KSampler", "overhead", "whole runs", "bar met"),
            lines,
        ),
    ]


def growth(pack: Any, bench: Bench, extent: Extent) -> list[str]:
    """Exponents of the time, from the line through the logarithms."""
    wan = FAMILIES["Wan 2.1"]
    steps = extent.growth["steps"][0]
    sizes: dict[str, Callable[[int], tuple[Bench, int]]] = {
        "steps": lambda n: (bench, n),
        "pixels": lambda n: (sized(bench, pixels=n), steps),
        "pictures": lambda n: (sized(bench, pictures=n), steps),
        "frames": lambda n: (wan.bench(pack, sides=(n, 32, 32)), steps),
    }
    lines = []
    for what, grown in extent.growth.items():
        times = []
        for n in grown:
            size, taken = sizes[what](n)
            network, ours, theirs = together(pairs(size, extent.repeats, taken), min)
            times.append([network + ours, network + theirs])
        logs = [[math.log(t) for t in side] for side in zip(*times, strict=True)]
        slopes = [statistics.linear_regression([math.log(n) for n in grown], side).slope for side in logs]
        ratios = ", ".join(f"{inversion / sampler:.2f}" for inversion, sampler in times)
        lines.append([what, ", ".join(map(str, grown)), *(f"{slope:.2f}" for slope in slopes), ratios])
    return [
        "## Growth",
        "",
        f"Exponent p of time ~ size^p at cfg 1, the shortest of {extent.repeats} runs: 1 is proportional. The two "
        "columns should agree. If the inversion cost more and more, the ratio would rise with the size. Pixels are "
        f"multiples of {PIXELS} x {PIXELS}. The other rows have {steps} steps. Frames: latent frames of 32 x 32 in a "
        "Wan 2.1 of random weights, whose attention is over all of them.",
        "",
        *table(("what grows", "sizes", "p, inversion", "p, KSampler", "inversion / KSampler at each size"), lines),
    ]


# --- memory and size --------------------------------------------------------------------------------------------------


def peak(work: Work) -> int:
    """Bytes of CPU tensors at most alive at once during `work`, above those before it; counted, so always the same."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        work()
    level = highest = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            highest = max(highest, level)
    return highest


def memory(benches: dict[str, Bench], extent: Extent) -> list[str]:
    lines = []
    for version, bench in benches.items():
        large = sized(bench, pixels=LARGE)
        works = both(large, extent.steps)
        for work in works:
            work()  # warm up, so that what is loaded once is not counted
        inversion, sampler = (peak(work) for work in works)
        state = large.latent["samples"].nbytes
        trajectory, record = ((times * extent.steps + 1) * state for times in (1, 3))
        figures = [f"{size / 1e6:.2f}" for size in (sampler, inversion, trajectory, record)]
        ratio = (inversion - record) / sampler
        lines.append([version, *figures, f"{ratio:.3f}", met(inversion <= MEMORY_BAR * sampler + record)])
    side = PIXELS * math.isqrt(LARGE)
    return [
        f"## Memory: peak above what was there before, {side} x {side} pixels, {extent.steps} steps",
        "",
        "MB of tensors, after a run of each to warm up. The record is the trajectory (steps + 1 states), and a point "
        f"and a slope for each step. The record is in main memory, wherever the model is. Bar: up to {MEMORY_BAR} x "
        "KSampler + record.",
        "",
        *table(
            ("model", "KSampler", "inversion", "trajectory", "record", "(inversion - record) / KSampler", "bar met"),
            lines,
        ),
    ]


def record_bytes(steps: int, values: int) -> int:
    """Of a record's tensors in float32: trajectory, points, slopes, and a residual for each step.

    Arguments:
        values: numbers in the latent, B x C x H x W.
    """
    return 4 * ((3 * steps + 1) * values + steps)


def records(pack: Any, bench: Bench, extent: Extent) -> list[str]:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.safetensors"
        for steps, pixels in extent.records:
            grown = sized(bench, pixels=pixels)
            latent = both(grown, steps)[0]()
            path.unlink(missing_ok=True)
            pack.inversion.Inversion.from_dict(latent[pack.nodes.host.record.KEY]).save(path)
            size, formula = path.stat().st_size, record_bytes(steps, grown.latent["samples"].numel())
            side = PIXELS * math.isqrt(pixels)
            lines.append([str(steps), f"{side} x {side}", f"{size:,}", f"{formula:,}", f"{size - formula:,}"])
    examples = {"SD 1.5 at 512 x 512": 4 * 64**2, "SDXL at 1024 x 1024": 4 * 128**2, "Flux at 1024 x 1024": 16 * 128**2}
    shown = ", ".join(f"{name} {record_bytes(20, values) / 1e6:.1f} MB" for name, values in examples.items())
    return [
        "## Size of a saved record",
        "",
        "Bytes of the file that `Inversion.save` writes, for one picture. Formula for the tensors: "
        "4 ((3 N + 1) B C H W + N), with N steps and a latent of B x C x H x W. The rest is the header. Ancestral "
        f"noise adds N states, and Rex adds one. By the formula, for 20 steps: {shown}.",
        "",
        *table(("steps", "pixels", "file", "formula", "header"), lines),
    ]


# --- the host's start -------------------------------------------------------------------------------------------------


def import_seconds() -> tuple[float, float]:
    """Seconds of the clock and of the processor for the host's own loading of the pack, its nodes' schemas included.

    Compiled first, as a host has it from its second start on; and after a pack without nodes, because with the first
    pack the host imports what it reads `pyproject.toml` with.
    """
    with tempfile.TemporaryDirectory() as folder:
        sys.pycache_prefix = folder
        for place in ("inversion", "nodes", "demo"):
            compileall.compile_dir(REPOSITORY / place, quiet=1)
        compileall.compile_file(REPOSITORY / "__init__.py", quiet=1)
        empty = Path(folder) / "empty"
        empty.mkdir()
        (empty / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
        (empty / "pyproject.toml").write_text('[project]\nname = "empty"')
        asyncio.run(nodes.load_custom_node(str(empty)))
        clock, processor = time.perf_counter(), time.process_time()
        loaded = asyncio.run(nodes.load_custom_node(str(REPOSITORY)))
        spent = time.perf_counter() - clock, time.process_time() - processor
    if not loaded:
        raise SystemExit("The host could not load the pack; it says why above.")
    return spent


def imports(extent: Extent) -> list[str]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        times = [fresh.submit(import_seconds).result() for _ in range(extent.processes)]
    clock, processor = (sorted(kind) for kind in zip(*times, strict=True))
    median = statistics.median(clock)
    figures = (median, clock[0], clock[-1], statistics.median(processor))
    return [
        f"## What the pack adds to the host's start, {extent.processes} fresh processes",
        "",
        "Seconds until ComfyUI has the nodes and their schemas, from compiled bytecode. On a machine without other "
        f"work the processor time would be left. Bar: a median up to {IMPORT_BAR}.",
        "",
        *table(
            ("median", "least", "most", "processor, median", "bar met"),
            [[*(f"{figure:.3f}" for figure in figures), met(median <= IMPORT_BAR)]],
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little of everything; its times say nothing")
    quick = parser.parse_args().quick
    extent = QUICK if quick else Extent()
    torch.set_num_threads(1)
    comfy.utils.set_progress_bar_enabled(False)
    pack = inprocess.load_pack()
    benches = {version: demo(pack, version) for version in pack.nodes.demo.VERSIONS}
    bench = next(iter(benches.values()))
    sections = [
        *overhead(benches, extent),
        *growth(pack, bench, extent),
        *memory(benches, extent),
        *records(pack, bench, extent),
        *imports(extent),
    ]
    made = f"{datetime.date.today()}, torch {torch.__version__}, ComfyUI {host_version}, CPU, one thread"
    lines = [f"Made by `python scripts/benchmark.py cost{' --quick' * quick}` on {made}.", "", *sections]
    folder = REPOSITORY / ("output/quick" if quick else "docs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cost-tables.md").write_text("\n".join(lines), encoding="utf-8")
    print(folder / "cost-tables.md")


if __name__ == "__main__":
    main()
