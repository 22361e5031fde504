"""Many pictures on Ray beside a plain loop: `python scripts/benchmark.py many [--rounds 3] [--quick]`

A Stable Diffusion pipeline with random weights, large enough that the network is what takes the time, inverts pictures
in a plain loop, in two plain loops side by side, and by `inversion.many` with one and two workers; one thread each. A
rate is pictures a second from a worker's first shard on, so without the start, which is told apart. Runs take turns,
and medians of the rounds count. Beside the clock's rate stands the one that a free core would give: pictures a second
of the processor's time, less the share of time that a worker waited for its next shard. On a machine with other work
that is the one to compare. Then 1,000 small pictures with records, for the memory. Writes `docs/many-tables.md`; with
`--quick`, little of everything, to `output/quick/`.
"""

import argparse
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY), str(REPOSITORY / "tests" / "adapters")]
os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}  # as the loops have; Ray's own niceness is 15

import ray
import tiny_pipelines
import torch
from PIL import Image

from inversion import FixedPoint, invert
from inversion.adapters import diffusers as adapter
from inversion.many import Job, Settings, Workers, run
from inversion.many.inputs import Picture, decoded
from inversion.many.model import inspect, load
from inversion.many.plan import laid_out, with_prompts
from inversion.many.worker import Done, png
from inversion.many.worker import memory as memory_now

PROMPT = "a red heart"
SHARD = 8
OVERHEAD_BAR, SPEEDUP_BAR = 1.10, 1.7
STEPS = 5


@dataclass(frozen=True)
class Rate:
    """Of one run.

    Arguments:
        clock: pictures a second.
        free: pictures a second that a free core for each worker would give.
        waiting: share of the time between two shards' ends in which a worker had none.
        start: seconds before the first shard was begun.
    """

    clock: float
    free: float
    waiting: float = 0.0
    start: float = 0.0


# --- the plain loop, in a process of its own --------------------------------------------------------------------------


def plain(pipeline: str, pictures: str, count: int) -> None:
    """What one would write without inversion.many; prints its times. The first shard's worth is to warm up."""
    torch.set_num_threads(1)
    settings = Settings("invert", STEPS)
    pipe = load(pipeline, settings, torch.device("cpu"))
    clock, spent = 0.0, 0.0
    for i, path in enumerate(sorted(Path(pictures).glob("*.png"))[: count + SHARD]):
        if i == SHARD:
            clock, spent = time.monotonic(), time.process_time()
        x0 = adapter.encode(pipe, Image.open(path).convert("RGB"))
        invert(adapter.denoiser(pipe, PROMPT), x0, adapter.grid(pipe, STEPS, like=x0), FixedPoint())
    print(json.dumps([count / (time.monotonic() - clock), count / (time.process_time() - spent)]))


def loops(pipeline: Path, pictures: Path, count: int, together: int) -> Rate:
    """Plain loops side by side."""
    command = [sys.executable, __file__, "plain", str(pipeline), str(pictures), str(count)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(together)]
    rates = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return Rate(sum(clock for clock, _ in rates), sum(free for _, free in rates))


# --- inversion.many ---------------------------------------------------------------------------------------------------


def workers(pipeline: Path, pictures: Path, count: int) -> Rate:
    """A run with `count` workers."""
    seen: dict[str, list[Done]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(pictures, Path(folder) / "out", pipeline, Settings("invert", STEPS, shard=SHARD), prompt=PROMPT)
        started = time.time()
        run(job, Workers(count=count), lambda done: seen[done.worker].append(done))
    clock, free, waits = 0.0, 0.0, []
    for first, *others in seen.values():
        made = sum(done.pictures for done in others)
        between = others[-1].ended - first.ended
        waits.append(1 - sum(done.seconds for done in others) / between)
        clock += made / between
        free += made / (others[-1].processor - first.processor) * (1 - waits[-1])
    start = min(first.ended - first.seconds for first, *_ in seen.values()) - started
    return Rate(clock, free, statistics.mean(waits), start)


def memory(pipeline: Path, pictures: Path) -> list[int]:
    """Bytes of one worker after each of its shards."""
    found: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings("invert", 5, shard=20, records=True)
        run(
            Job(pictures, Path(folder) / "out", pipeline, settings, prompt=PROMPT),
            Workers(1),
            lambda d: found.append(d.memory),
        )
    return found


# --- models, pictures, tables -----------------------------------------------------------------------------------------


def save_pipeline(folder: Path, large: bool) -> Path:
    pipe = tiny_pipelines.build("sd")
    if large:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe.unet = tiny_pipelines.unet(block_out_channels=(64, 128), layers_per_block=2, norm_num_groups=32)
    pipe.save_pretrained(folder)
    return folder


def save_pictures(folder: Path, count: int, side: int) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        noise = torch.randn(side, side, 3, generator=generator)
        Image.fromarray((noise * 60 + 128).clamp(0, 255).byte().numpy()).save(folder / f"{i:04}.png")
    return folder


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    made = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)] + [""]
    print("\n".join(made), flush=True)
    return made


def met(ok: bool) -> str:
    return "yes" if ok else "**no**"


def rates(root: Path, rounds: int, count: int) -> list[str]:
    pipeline, pictures = (
        save_pipeline(root / "large", True),
        save_pictures(root / "pictures", 2 * (count + SHARD), 64),
    )
    once = save_pictures(root / "once", count + SHARD, 64)
    kinds: dict[str, Callable[[], Rate]] = {
        "plain loop": lambda: loops(pipeline, once, count, 1),
        "1 worker": lambda: workers(pipeline, once, 1),
        "2 plain loops": lambda: loops(pipeline, once, count, 2),
        "2 workers": lambda: workers(pipeline, pictures, 2),
    }
    found: dict[str, list[Rate]] = {kind: [] for kind in kinds}
    for i in range(rounds):
        for kind, measure in list(kinds.items())[:: 1 if i % 2 == 0 else -1]:
            found[kind].append(measure())
            print(f"round {i + 1}, {kind}: {found[kind][-1]}; load {os.getloadavg()[0]:.1f}", flush=True)

    def middle(kind: str, name: str) -> float:
        return statistics.median(getattr(rate, name) for rate in found[kind])

    lines = [
        [
            kind,
            f"{middle(kind, 'clock'):.3f}",
            f"{middle(kind, 'free'):.3f}",
            f"{middle(kind, 'waiting'):.1%}" if "worker" in kind else "",
            f"{middle(kind, 'start'):.0f}" if "worker" in kind else "",
        ]
        for kind in kinds
    ]
    made = table(["", "by the clock", "on free cores", "waiting", "start, s"], lines)
    ratios = []
    for name, said in (("clock", "by the clock"), ("free", "on free cores")):
        overhead = middle("plain loop", name) / middle("1 worker", name)
        speedup = middle("2 workers", name) / middle("1 worker", name)
        machine = middle("2 plain loops", name) / middle("plain loop", name)
        ratios.append(
            [
                said,
                f"{overhead:.3f}",
                met(overhead <= OVERHEAD_BAR),
                f"{speedup:.2f}",
                met(speedup >= SPEEDUP_BAR),
                f"{machine:.2f}",
            ]
        )
    head = ["", "plain loop / 1 worker", "bar met", "2 workers / 1 worker", "bar met", "2 plain loops / 1"]
    return [*made, *table(head, ratios)]


def flatness(root: Path, count: int) -> list[str]:
    found = memory(save_pipeline(root / "small", False), save_pictures(root / "small pictures", count, 16))
    tenth = max(1, len(found) // 10)
    ends = [statistics.mean(part) / 1e6 for part in (found[tenth : 2 * tenth], found[-tenth:])]
    head = ["pictures", "MB in the second tenth", "MB in the last tenth", "MB more for a picture"]
    grown = (ends[1] - ends[0]) / (0.85 * count)
    return table(head, [[f"{count:,}", f"{ends[0]:.1f}", f"{ends[1]:.1f}", f"{grown:.4f}"]])


def parts(root: Path) -> list[str]:
    """What docs/many.md reckons with, beside the model."""
    noise = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1, 4)[0] * 200 + noise[0] * 2 + 128
    image = Image.fromarray(smooth.clamp(0, 255).byte().permute(1, 2, 0).numpy())
    data, many, pictures = png(image), os.urandom(1 << 28), 100_000
    model = inspect(save_pipeline(root / "any", False))

    def spent(work: Callable[[], object]) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    before = memory_now()
    prompt = "a photo of a thing, told in some more words"
    found = [
        Picture(f"some/folder/{i:07}.png", f"/share/some/folder/{i:07}.png", 0, 0, prompt, None, f"{i:064}", 1024, 1024)
        for i in range(pictures)
    ]
    made, _ = with_prompts(found, Job("", "", "", Settings("invert")), {})
    plan = laid_out(made, model, {}, 0, 32)
    held = memory_now() - before
    lines = [
        ["decode a picture of 1024 x 1024", f"{spent(lambda: decoded(data)):.3f} s"],
        ["write it as PNG", f"{spent(lambda: png(image)):.3f} s, {len(data) / 1e6:.1f} MB"],
        ["digest of a file", f"{(1 << 28) / 1e9 / spent(lambda: hashlib.sha256(many)):.2f} GB/s"],
        ["a picture in the plan, in memory", f"{held / pictures / 1e3:.1f} kB"],
        ["a picture in the plan, through Ray", f"{plan.nbytes / pictures:.0f} bytes"],
    ]
    return table(["", ""], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    rounds, count, many = (1, SHARD, 100) if asked.quick else (asked.rounds, 2 * SHARD, 1000)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    with tempfile.TemporaryDirectory() as folder:
        made = [
            f"Made by `python scripts/benchmark.py many` on {datetime.date.today()}, torch {torch.__version__}, Ray "
            f"{ray.__version__}, {os.cpu_count()} CPUs, one thread for each worker and loop.",
            "",
            f"## Pictures a second, {STEPS} steps of FixedPoint, median of {rounds}",
            "",
            *rates(Path(folder), rounds, count),
            "The bars: up to 1.10 and 1.7 or more. What two plain loops reach is what the machine has to give.",
            "",
            "## Memory of a worker, small model, with records",
            "",
            *flatness(Path(folder), many),
            "## Other parts, seconds of the processor",
            "",
            *parts(Path(folder)),
        ]
    path = REPOSITORY / ("output/quick" if asked.quick else "docs") / "many-tables.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(made).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        plain(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
