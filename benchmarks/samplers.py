"""The host's samplers on an inversion: `python scripts/benchmark.py samplers [--comfyui VERSION] [--quick]`

Which samplers can edit an inverted picture, how exactly the same prompt brings it back, what they ask, and how good
their edits are: on 10 cases of `edit_cases.py`, both versions of the demo model and both hosts, by Edit From Latent as
it comes. With the newer host also: edits on other levels than the inversion's, and what the dry runs cost that take a
sampler's own noise off. What is finished is in `output/samplers-VERSION-MODEL.json`; `--resume` runs
only the rows that are not there yet, `--tables` none. Writes `docs/samplers-tables.md`; with `--quick`, little of
everything, to `output/quick/`.
"""

import argparse
import datetime
import json
import math
import re
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import edits  # boots the host
import inprocess
import torch
from _pool import MODELS, for_each
from edit_cases import Case, few
from edits import Batch, Lab, Row, Setting, mean, table
from host import DEFAULT, PACKAGES
from torch import Tensor

DRY = "dry runs"
STEPS, STRENGTH = 10, 8.0
METHOD = "EasyInv"  # the first workflow's
EXACT = 4  # pictures that come back under their own prompt
QUICK = {"euler", "dpm_2", "dpm_adaptive", "er_sde"}
SHAPE, DRY_STEPS = (1, 4, 128, 128), 50  # SDXL's latent of a picture of 1024 x 1024


@dataclass(frozen=True)
class Levels:
    """An edit on some levels.

    Arguments:
        label: of the table's row.
        record: steps of the inversion.
        steps: steps of the edit; None for the inversion's own levels.
        scheduler: of the edit.
        left_out: how many of the inversion's own levels are left out, from the noisy end.
    """

    label: str
    record: int
    steps: int | None = None
    scheduler: str = "normal"
    left_out: int = 0

    def sigmas(self, host: Any, model: Any, own: Tensor) -> Tensor:
        return (
            own[self.left_out :]
            if self.steps is None
            else host.scheduled_sigmas(model, self.steps, self.scheduler, 1.0)
        )


OWN = [Levels(f"{n} steps, its own levels", n) for n in (5, 10, 20, 30)]
OTHER = [
    *(Levels(f"20 steps, edit at {n}", 20, n) for n in (5, 10, 30)),
    *(Levels(f"10 steps, edit at {n}", 10, n) for n in (5, 20)),
    Levels("10 steps, edit at 10, karras", 10, 10, "karras"),
]
LOWER = [Levels(f"10 steps, without the first {n} levels (denoise {1 - n / 10:g})", 10, left_out=n) for n in (1, 2, 3)]
ON_LEVELS = (("euler", False), ("euler", True), ("dpmpp_2m", False))  # (sampler, with `source`)


class Rows:
    """One model's rows."""

    def __init__(self, version: str, quick: bool) -> None:
        edits.comfy.utils.set_progress_bar_enabled(False)
        self.version, self.lab = version, Lab(version)
        self.batches = self.lab.batches(asked(quick))
        self.few = self.lab.batches(asked(quick)[:EXACT])[0]

    def edited(self, label: str, record: int, source: bool = False, **inputs: Any) -> dict[str, Any]:
        """Scores of an edit by Edit From Latent, and its model calls, as its report tells them."""
        reports = []

        def edit(batch: Batch, setting: Setting) -> Tensor:
            given = {"positive": batch.bench.other, "strength": setting.strength}
            given |= {"source": batch.bench.positive if source else None}
            out, report = batch.bench.edit(latent=batch.inverted(METHOD, setting.steps)[0], **given, **inputs)
            reports.append(report)
            return out["samples"]

        scores = self.lab.run(Row(label, edit, method=METHOD), self.batches, Setting(record, 1.0, STRENGTH))[0][
            "scores"
        ]
        names = {"background": "background PSNR", "whole": "PSNR", "success": "success"}
        found = {short: mean(scores[name]) for short, name in names.items()} | told(reports[0])
        print(f"{self.version:4}  {label:50}  {shown(found)}  {found['calls']} calls", flush=True)
        return found

    def sampler(self, name: str) -> dict[str, Any]:
        try:
            latent = self.few.inverted(METHOD, STEPS)[0]
            back = self.few.bench.edit(latent=latent, sampler=name)[0]["samples"]
        except self.lab.pack.inversion.InversionError as error:
            return {"refused": re.split(r", so |, and ", str(error).removeprefix(f"{name} "))[0]}
        found = {"same": edits.graphs.relative(back, self.few.bench.latent["samples"])}
        if name.endswith("_gpu"):  # only its noise is drawn elsewhere
            return found
        found["edit"] = self.edited(name, STEPS, sampler=name)
        if found["edit"]["between"]:
            found["with source"] = self.edited(way_of(name, True), STEPS, True, sampler=name)
        return found

    def on_levels(self, levels: Levels) -> dict[str, Any]:
        own = self.batches[0].inverted(METHOD, levels.record)[1]
        given = {"sigmas": levels.sigmas(self.lab.pack.nodes.host, self.lab.model, own)}
        found = {}
        for name, source in ON_LEVELS:
            if levels in OTHER or not source:  # on levels of the inversion's own it is not read
                way = way_of(name, source)
                found[way] = self.edited(f"{levels.label}, {way}", levels.record, source, sampler=name, **given)
        return found


def way_of(name: str, source: bool) -> str:
    return f"{name}, source" if source else name


def told(report: str) -> dict[str, int]:
    """What the report says about model calls."""

    def number(pattern: str) -> int:
        found = re.search(pattern, report)
        return int(found[1]) if found else 0

    return {"calls": number(r"(\d+) model calls"), "between": number(r"asked (\d+) times between")}


@torch.inference_mode()
def measure(what: str, quick: bool, resume: bool) -> None:
    """A model's rows, or the dry runs': stored after each."""
    import comfy.samplers

    warnings.simplefilter("ignore")  # of the host's samplers
    path = stored(quick, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text(encoding="utf-8")) if resume and path.exists() else {"samplers": {}, "levels": {}}
    made = {"date": str(datetime.date.today()), "torch": torch.__version__, "host": edits.host_version}
    names = [name for name in comfy.samplers.SAMPLER_NAMES if not quick or name in QUICK]
    levels = [] if not newest() else [OWN[1], OTHER[0], LOWER[0]] if quick else [*OWN, *OTHER, *LOWER]
    if what == DRY:
        jobs = [("samplers", name, partial(DryRuns().seconds, name)) for name in names]
    else:
        rows = Rows(what, quick)
        jobs = [("levels", one.label, partial(rows.on_levels, one)) for one in levels]
        jobs += [("samplers", name, partial(rows.sampler, name)) for name in ("as inverted", *names)]
    for part, label, work in jobs:
        if label not in kept[part]:
            kept[part][label] = work()
            path.write_text(json.dumps(made | {"cases": len(asked(quick))} | kept), encoding="utf-8")


def asked(quick: bool) -> list[Case]:
    return few()[: 5 if quick else None]


def newest() -> bool:
    return edits.host_version == DEFAULT


class DryRuns:
    """What runs without a model cost, at the size of SDXL's latent."""

    def __init__(self) -> None:
        self.pack = inprocess.load_pack()
        model = self.pack.nodes.demo.load("v-prediction")[0]
        self.sigmas = self.pack.nodes.host.scheduled_sigmas(model, DRY_STEPS, "normal", 1.0)
        guider = SimpleNamespace(inner_model=model.model, model_patcher=model, cfg=1.0)
        self.denoiser = SimpleNamespace(guider=guider, options={"model_options": {}, "seed": 1})

    def seconds(self, name: str) -> dict[str, Any]:
        """Of the dry runs, and of what the sampler itself computes in one run; and the bytes of noise that are kept."""
        import comfy.samplers

        seam = import_module(f"{self.pack.__name__}.nodes.host.sampler")
        playable = seam._playable(comfy.samplers.sampler_object(name), self.denoiser, self.sigmas, name)
        like = torch.zeros(SHAPE)
        prepare = partial(seam.Playback.prepare, playable, like, name)
        try:
            kept = sum(noise.nbytes for noise in prepare().noise if noise is not None)
        except self.pack.inversion.InversionError:
            return {"refused": True}
        own = seconds(lambda: playable(lambda x, _: torch.zeros_like(x), like.clone()))
        found = {"dry": seconds(prepare), "own": own, "noise": kept}
        print(f"{DRY}  {name:30}  {found}", flush=True)
        return found


def seconds(work: Callable[[], Any]) -> float:
    """The median of three."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def shown(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{found['background']:.1f} / {found['whole']:.1f} / {100 * found['success']:.0f}"


def samplers_table(found: dict[str, Any]) -> list[str]:
    by_model = [found[version]["samplers"] for version in MODELS]

    def each(name: str, what: str) -> str:
        """One figure where the models agree."""
        return " / ".join(dict.fromkeys(str(samplers[name]["edit"][what]) for samplers in by_model))

    lines = []
    for name in by_model[0]:
        if any(name not in samplers for samplers in by_model):
            continue
        if "refused" in by_model[0][name]:
            lines.append([name, f"refused: {by_model[0][name]['refused']}", *[""] * 7])
            continue
        figures = [f"{samplers[name]['same']:.0e}" for samplers in by_model]
        if "edit" in by_model[0][name]:
            figures += [each(name, "calls"), each(name, "between")]
            figures += [shown(samplers[name].get(way)) for way in ("edit", "with source") for samplers in by_model]
        else:
            figures += [f"as {name.removesuffix('_gpu')}", *[""] * 5]
        lines.append([name, *figures])
    ways = [f"{what}, {version}" for what in ("edit", "edit with source") for version in MODELS]
    return table(["sampler", *(f"same prompt, {version}" for version in MODELS), "calls", "between", *ways], lines)


def levels_table(found: dict[str, Any]) -> list[str]:
    ways = [way_of(*one) for one in ON_LEVELS]
    rows = found["levels"].items()
    lines = [[label, *(shown(row.get(way)) for way in ways), str(row["euler"]["between"])] for label, row in rows]
    return table(["inversion and levels", *ways, "between"], lines)


def dry_table(found: dict[str, Any]) -> list[str]:
    lines = [
        [name, f"{row['dry']:.2f}", f"{row['own']:.2f}", f"{row['dry'] / row['own']:.1f}", f"{row['noise'] / 1e6:.1f}"]
        for name, row in found["samplers"].items()
        if "refused" not in row
    ]
    return table(["sampler", "dry runs, s", "the sampler itself, s", "ratio", "noise kept, MB"], lines)


def stored(quick: bool, what: str, host: str = edits.host_version) -> Path:
    name = f"samplers-{host}-{what.replace(' ', '-')}.json"
    return edits.REPOSITORY / "output" / ("quick" if quick else "") / name


def write_tables(quick: bool) -> None:
    """The document, from what is stored of every host."""
    hosts = {}
    for host in PACKAGES:
        paths = {what: stored(quick, what, host) for what in (*MODELS, DRY)}
        found = {what: json.loads(path.read_text(encoding="utf-8")) for what, path in paths.items() if path.exists()}
        if all(version in found for version in MODELS):
            hosts[host] = found
    if not hosts:
        raise SystemExit("Nothing to make tables of: no host has rows of both models yet. Run without --tables.")
    everything = [one for found in hosts.values() for one in found.values()]
    made = "; ".join(sorted({f"on {m['date']}, torch {m['torch']}, ComfyUI {m['host']}" for m in everything}))
    state, count = 4 * math.prod(SHAPE), everything[0]["cases"]
    lines = [
        f"Made by `python scripts/benchmark.py samplers{' --quick' * quick}` {made}, CPU.",
        "",
        f"Pictures are inverted at cfg 1 by {METHOD} and edited by Edit From Latent at strength {STRENGTH:g}: {count} "
        "cases, means. An edit's figures are background PSNR (dB) / PSNR of the whole picture (dB) / success (%), see "
        "[edits-tables.md](edits-tables.md). The standard error of a success rate is up to "
        f"{50 / math.sqrt(count):.0f} points.",
        "",
    ]
    for host, found in hosts.items():
        lines += [
            f"## Every sampler of ComfyUI {host}, {STEPS} steps",
            "",
            "- same prompt: relative error of the latent under the inversion's own prompt",
            "- calls: model calls of an edit without `source`, for one picture",
            "- between: how many of them are between the inversion's levels. Without `source` they are answered at the "
            "closest level. With `source` each costs one more call",
            "- as ...: a sampler whose noise is drawn on the GPU. The noise is subtracted, so the edit is the same",
            "",
            *samplers_table(found),
        ]
    for host, found in hosts.items():
        if any(found[version]["levels"] for version in MODELS):
            lines += [
                f"## Other levels than the inversion's, ComfyUI {host}",
                "",
                "Cells as above. The first rows are edits on the inversion's own levels. between: of euler's calls.",
                "",
            ]
            for version in MODELS:
                lines += [f"{version}:", "", *levels_table(found[version])]
        if DRY in found:
            lines += [
                f"## What the dry runs cost, ComfyUI {host}",
                "",
                "Before an edit the sampler runs without a model: once on zeros at full size, which shows its noise, "
                "and three times on a tiny tensor, to see whether it is linear. Seconds of the processor, median of "
                f"three, one thread, {DRY_STEPS} steps at {' x '.join(map(str, SHAPE))}, the latent of an SDXL "
                "picture. The next column is what the sampler itself computes in a run, without the model. The noise "
                f"is kept for the run. The inversion's record has {(3 * DRY_STEPS + 1) * state / 1e6:.1f} MB at that "
                "size.",
                "",
                *dry_table(found[DRY]),
            ]
    folder = edits.REPOSITORY / ("output/quick" if quick else "docs")
    (folder / "samplers-tables.md").write_text("\n".join(lines), encoding="utf-8")
    print(folder / "samplers-tables.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few cases, few samplers")
    parser.add_argument("--only", choices=(*MODELS, DRY), help="one of the parts, default: all")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are finished")
    parser.add_argument("--tables", action="store_true", help="only write the document again")
    options = parser.parse_args()
    if not options.tables:
        everything = (*MODELS, DRY) if newest() else MODELS
        what = [part for part in everything if options.only in (None, part)]
        for_each(partial(measure, quick=options.quick, resume=options.resume), what)
    write_tables(options.quick)


if __name__ == "__main__":
    main()
