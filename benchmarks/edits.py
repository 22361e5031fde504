"""How good are edits, and what do they cost? `python scripts/benchmark.py edits [--quick] [--model VERSION]`

A case (`edit_cases.py`) is a scene and the same scene edited. On each version of the demo model a picture is inverted
at cfg 1 with its own caption and comes down under the caption of the picture asked for, or goes through the host's own
image to image, or through FlowEdit. Metrics in the spirit of PIE-Bench (arXiv 2310.01506), but against the exact truth:
how well the rest of the picture is kept, how near the whole is to the truth, how far the structure moved, and whether
the nearest of all candidate pictures is the one asked for. All rows run on the 125 held-out cases, which `--quick`
never sees; the default and its dials run on the 275 tuning cases too, and some rows on 75 of the held-out cases at
other settings.

Each version gets a process with one thread. What is finished is in `output/edits-VERSION.json`; `--resume` runs only
the rows that are not there yet, `--tables` none. Writes `docs/edits-tables.md`, `docs/edits.png` and
`docs/edit-curves.png`.

To tune: `--quick` takes every 4th tuning case, one setting and the rows that matter most, and writes to
`output/quick/`. `--try '{"background": 0.5}'` adds a row with these inputs of Edit From Latent and Edit Settings; in it
"source" as the value of an input is the source's caption, "empty" the empty prompt, "region" where source and truth
differ, "lower start" the SIGMAS of denoise 0.9. `--only TEXT` runs the rows whose label has TEXT in it; without
`--resume` that, too, writes to `output/quick/`. `--steps`,
`--cfg` and `--strength` choose the setting, `--weights FOLDER` the model's weights.
"""

import argparse
import datetime
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / folder) for folder in ("benchmarks", "scripts", "tests/host")]

import inprocess

inprocess.boot(None, "--use-pytorch-cross-attention")  # faster than the host's default on CPUs
import comfy.model_management
import comfy.utils
import edit_cases
import graphs
import numpy as np
import torch
from _pool import MODELS, for_each
from comfyui_version import __version__ as host_version
from edit_cases import CAP, KINDS, LEAST_KEPT, Case, cases, changed, judge, sources, truths
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import nodes
from demo import scenes

BATCH = 25


@dataclass(frozen=True)
class Setting:
    """`cfg` is the guidance of KSampler and FlowEdit, `strength` that of Edit From Latent."""

    steps: int
    cfg: float
    strength: float

    def __str__(self) -> str:
        return f"{self.steps} steps, cfg {self.cfg:g}, strength {self.strength:g}"


MAIN = Setting(10, 3.0, 8.0)
SETTINGS = [MAIN, Setting(4, 3.0, 8.0), Setting(20, 3.0, 8.0)]
FEW = 75  # of the held-out cases, for the other settings


@dataclass(frozen=True)
class Inversion:
    """An Invert node (what follows INV_ in its id), its inputs over its defaults, network evaluations per step."""

    node: str
    per_step: float
    inputs: dict[str, Any] = field(default_factory=dict)


INVERSIONS = {
    "DDIM": Inversion("FixedPoint", 1, {"iterations": 1, "start": "native"}),
    "EasyInv": Inversion("EasyInv", 1),
    "Guided NR": Inversion("GuidedNR", 2),
    "Fixed Point": Inversion("FixedPoint", 2.5),
}


class Counter:
    """Counts what a network evaluates: a picture under one prompt is one, so guidance makes two of it."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.count = 0
        network.register_forward_pre_hook(self)

    def __call__(self, network: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.count += len(inputs[0])


@dataclass
class Batch:
    """Some cases on one model.

    Arguments:
        bench: the nodes' inputs; `positive` are the sources' captions, `other` the targets'.
        cases: the cases.
        seed: of the noise, for rows that start from noise.
        truth: the targets' latents.
        region: where sources and truths differ, a MASK (B, 128, 128).
        evaluations: the model's counter.
    """

    bench: graphs.Bench
    cases: list[Case]
    seed: int
    truth: Tensor
    region: Tensor
    evaluations: Counter
    _inverted: dict[tuple[str, int], tuple[dict, Tensor, int]] = field(default_factory=dict)

    def inverted(self, method: str, steps: int) -> tuple[dict, Tensor, int]:
        """LATENT, SIGMAS and the network evaluations they took; made once for all rows."""
        if (method, steps) not in self._inverted:
            before, how = self.evaluations.count, INVERSIONS[method]
            latent, _, sigmas, _ = self.bench.invert(how.node, steps=steps, cfg=1.0, **how.inputs)
            self._inverted[method, steps] = latent, sigmas, self.evaluations.count - before
        return self._inverted[method, steps]


Edit = Callable[[Batch, Setting], Tensor]
"""(batch, setting) -> the edited latents."""
Role = Literal["reference", "baseline", "edit", "told"]


@dataclass(frozen=True)
class Row:
    """A line of the tables.

    Arguments:
        label: its name.
        edit: what it runs.
        role: reference: no edit. baseline: what the others are held against. told: it knows the region that truly
            changes.
        per_step: network evaluations per step at cfg 1, beside the inversion's, for the estimate of the time.
        method: the inversion it starts from; "" for none.
        everywhere: whether it runs at all settings, on `FEW` held-out cases, not only at the main one.
        quick: whether `--quick` runs it.
        tuning: whether it runs on the tuning cases, too.
    """

    label: str
    edit: Edit
    role: Role = "edit"
    per_step: float = 1
    method: str = ""
    everywhere: bool = False
    quick: bool = False
    tuning: bool = False


PLAIN = "DDIM, plain"
REGION, SOURCE, EMPTY, LOWER = "region", "source", "empty", "lower start"
TUNING = "tuning cases"


def from_latent(method: str, way: str, inputs: dict[str, Any] | None, **flags: bool) -> Row:
    """A row through Edit From Latent: `inputs`, those of Edit Settings too, over the defaults.

    None for `inputs` takes the inverted latent without its record. Then the guidance is from an empty negative prompt.
    """

    def edit(batch: Batch, setting: Setting) -> Tensor:
        bench = batch.bench
        latent, sigmas, _ = batch.inverted(method, setting.steps)
        if inputs is None:
            plain = {"negative": bench.negative, "cfg": setting.cfg, "sigmas": sigmas}
            return bench.edit(positive=bench.other, latent={"samples": latent["samples"]}, **plain)[0]["samples"]
        special = {REGION: batch.region, SOURCE: bench.positive, EMPTY: bench.negative}
        special[LOWER] = bench.pack.nodes.host.scheduled_sigmas(bench.model, setting.steps, "normal", 0.9)
        named = {name: special.get(value, value) for name, value in inputs.items()}
        return bench.edit(**{"positive": bench.other, "latent": latent, "strength": setting.strength} | named)[0][
            "samples"
        ]

    label, told = f"{method}, {way}", REGION in (inputs or {}).values()
    role: Role = "told" if told else "baseline" if label == PLAIN else "edit"
    return Row(label, edit, role, 1, method, **flags)


def img2img(denoise: float, **flags: bool) -> Row:
    """A row through the host's KSampler."""

    def edit(batch: Batch, setting: Setting) -> Tensor:
        b, sampler = batch.bench, (batch.seed, setting.steps, setting.cfg, "euler", "normal")
        return nodes.KSampler().sample(b.model, *sampler, b.other, b.negative, b.latent, denoise)[0]["samples"]

    return Row(f"img2img, denoise {denoise:g}", edit, "baseline", **flags)


def flow_edit(denoise: float, source_cfg: float, **flags: bool) -> Row:
    """A row through Edit Without Inversion, the target at the setting's cfg and the source at no more than that."""

    def edit(batch: Batch, setting: Setting) -> Tensor:
        b, node = batch.bench, batch.bench.pack.nodes.flow_edit.FlowEdit
        prompts = {"positive": b.other, "source_positive": b.positive, "negative": b.negative}
        given = {"model": b.model, "latent": b.latent, "steps": setting.steps, "cfg": setting.cfg, "seed": batch.seed}
        given |= {"source_cfg": min(source_cfg, setting.cfg), "denoise": denoise}
        return node.execute(**graphs.defaults(node) | prompts | given).args[0]["samples"]

    return Row(f"FlowEdit, denoise {denoise:g}, source cfg {source_cfg:g}", edit, per_step=2, **flags)


ROWS = [
    Row("no edit", lambda batch, _: batch.bench.latent["samples"], "reference", 0, quick=True),
    Row("truth, through the codec", lambda batch, _: batch.truth, "reference", 0, quick=True),
    img2img(0.4),
    img2img(0.5),
    img2img(0.7, quick=True, everywhere=True),
    img2img(0.9),
    from_latent("DDIM", "plain", None, quick=True),
    from_latent("EasyInv", "default", {}, quick=True, everywhere=True, tuning=True),
    *(from_latent("EasyInv", f"strength {w:g}", {"strength": w}) for w in (1.0, 2.0)),
    *(from_latent("EasyInv", f"strength {w:g}", {"strength": w}, tuning=True) for w in (4.0, 6.0, 10.0, 12.0)),
    from_latent("EasyInv", "limit 0", {"limit": 0.0}, quick=True, tuning=True),
    from_latent("EasyInv", "head_start 0", {"head_start": 0.0}, quick=True, tuning=True),
    from_latent("EasyInv", "head_start 0.05", {"head_start": 0.05}),
    from_latent("EasyInv", "head_start 0.2", {"head_start": 0.2}),
    from_latent("EasyInv", "limit and head_start 0", {"limit": 0.0, "head_start": 0.0}, quick=True),
    from_latent("EasyInv", "limit and head_start 0, strength 4", {"limit": 0.0, "head_start": 0.0, "strength": 4.0}),
    *(from_latent("EasyInv", f"threshold {t:g}", {"threshold": t}, tuning=True) for t in (0.3, 0.5)),
    from_latent("EasyInv", "anchor 0", {"anchor": 0.0}),
    from_latent("EasyInv", "cfg 3 for strength", {"strength": 1.0, "cfg": 3.0, "negative": EMPTY}, quick=True),
    from_latent("EasyInv", "background 0", {"background": 0.0}),
    from_latent("EasyInv", "structure 0.3", {"structure": 0.3}),
    from_latent("EasyInv", "start at 0.9", {"sigmas": LOWER}),
    from_latent("DDIM", "default", {}),
    from_latent("DDIM", "strength 4", {"strength": 4.0}),
    from_latent("Guided NR", "strength 2", {"strength": 2.0}),
    from_latent("Guided NR", "default", {}),
    from_latent("Fixed Point", "strength 2", {"strength": 2.0}),
    from_latent("Fixed Point", "default", {}),
    flow_edit(0.7, 1.0),
    flow_edit(0.85, 1.5, quick=True, everywhere=True),
    flow_edit(0.85, 1.0),
    flow_edit(1.0, 3.0, quick=True, everywhere=True),
    from_latent("EasyInv", "default, told the region", {"mask": REGION}, quick=True),
]
SHOWN = (PLAIN, "EasyInv, default", "FlowEdit, denoise 0.85, source cfg 1.5", "EasyInv, default, told the region")
EDITS_SHOWN = 20


class Lab:
    """A version of the demo model and what it takes to run rows on it."""

    def __init__(self, version: str, weights: Path | None = None) -> None:
        self.pack = inprocess.load_pack()
        where = {"folder": weights} if weights else {}
        self.model, self.clip, self.vae = self.pack.nodes.demo.load(version, **where)
        comfy.model_management.load_models_gpu([self.model])
        self.evaluations = Counter(self.model.model.diffusion_model)

    def batches(self, asked: Sequence[Case]) -> list[Batch]:
        return [self._batch(list(asked[i : i + BATCH]), i // BATCH) for i in range(0, len(asked), BATCH)]

    def _batch(self, asked: list[Case], seed: int) -> Batch:
        positive = self._prompt([scenes.caption(case.source) for case in asked])
        other = self._prompt([scenes.caption(case.target) for case in asked])
        latent, truth = {"samples": self.vae.encode(sources(asked))}, self.vae.encode(truths(asked))
        bench = graphs.Bench(self.pack, self.model, positive, other, self._prompt([""]), latent)
        return Batch(bench, asked, seed, truth, changed(asked), self.evaluations)

    def _prompt(self, texts: list[str]) -> list:
        encoded = [self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True) for text in texts]
        context, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return [[context, {"pooled_output": pooled}]]

    def run(self, row: Row, batches: list[Batch], setting: Setting) -> tuple[dict[str, Any], Tensor]:
        """What the tables need of a row, and its pictures."""
        spent, found, shown = 0, [], []
        for batch in batches:
            spent += batch.inverted(row.method, setting.steps)[2] if row.method else 0
            before = self.evaluations.count
            edited = row.edit(batch, setting)
            spent += self.evaluations.count - before
            latents = edited, batch.bench.latent["samples"], batch.truth
            edited, source, truth = (self.vae.decode(samples) for samples in latents)
            found.append(judge(batch.cases, edited, source, truth))
            shown.append(edited)
        scores = {name: [value for part in found for value in part[name]] for name in found[0]}
        return {"evaluations": spent / len(scores["success"]), "scores": scores}, torch.cat(shown)

    def pace(self, batch: Batch) -> float:
        """Seconds for one network evaluation of one picture; the first run warms up."""
        edit, seconds = img2img(0.5).edit, math.inf
        for _ in range(2):
            before, started = self.evaluations.count, time.perf_counter()
            edit(batch, Setting(1, 3.0, 1.0))
            seconds = min(seconds, (time.perf_counter() - started) / (self.evaluations.count - before))
        return seconds


@dataclass
class Job:
    """Rows to run on some cases at one setting."""

    setting: Setting
    asked: Sequence[Case]
    rows: list[Row]
    kept_as: str = ""

    @property
    def name(self) -> str:
        """What its results are stored under."""
        return self.kept_as or str(self.setting)

    def evaluations(self) -> float:
        """About how many network evaluations of a picture it takes."""
        guided = 1 if self.setting.cfg == 1 else 2
        each = sum(row.per_step * guided for row in self.rows)
        each += sum(INVERSIONS[method].per_step for method in {row.method for row in self.rows if row.method})
        return each * self.setting.steps * len(self.asked)


@dataclass(frozen=True)
class Plan:
    """What to run, and where its results go.

    Arguments:
        quick: a quarter of the tuning cases, one setting, few rows.
        setting: the main one.
        weights: a folder with the model's weights; None for those of the pack.
        only: rows whose label has one of these in it; all if empty.
        tried: inputs of Edit From Latent and Edit Settings as JSON, a row for each.
        resume: keep the rows that are finished.
    """

    quick: bool
    setting: Setting = MAIN
    weights: Path | None = None
    only: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    resume: bool = False

    def rows(self) -> list[Row]:
        chosen = [row for row in ROWS if row.quick or not self.quick or self.only]
        chosen = [row for row in chosen if not self.only or any(text in row.label for text in self.only)]
        return chosen + [from_latent("EasyInv", text, json.loads(text)) for text in self.tried]

    def jobs(self) -> list[Job]:
        if self.quick:
            return [Job(self.setting, edit_cases.quick(), self.rows())]
        others = [setting for setting in SETTINGS if setting != self.setting]
        everywhere = [row for row in self.rows() if row.everywhere]
        tuned = [row for row in self.rows() if row.tuning]
        jobs = [Job(setting, cases("final")[:FEW], everywhere) for setting in others]
        return [Job(self.setting, cases("final"), self.rows()), Job(self.setting, cases(), tuned, TUNING), *jobs]

    def stored(self, version: str, ending: str) -> Path:
        return REPOSITORY / "output" / ("quick" if self.aside else "") / f"edits-{version}.{ending}"

    @property
    def aside(self) -> bool:
        """Whether the rows are too few for the documents."""
        return self.quick or bool(self.only and not self.resume)


@torch.inference_mode()
def measure(version: str, plan: Plan) -> None:
    """Run one model's rows and store what there is after each."""
    comfy.utils.set_progress_bar_enabled(False)
    path, sheet = plan.stored(version, "json"), plan.stored(version, "npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    resume = plan.resume and path.exists() and sheet.exists()
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if resume else {}
    shown = dict(np.load(sheet)) if resume else {}
    made = {"date": str(datetime.date.today()), "torch": torch.__version__, "host": host_version}

    lab, jobs = Lab(version, plan.weights), plan.jobs()
    for job in jobs:
        finished = results.setdefault(job.name, {})
        job.rows = [row for row in job.rows if row.label not in finished]
    pace, total = lab.pace(lab.batches(jobs[0].asked[:BATCH])[0]), sum(job.evaluations() for job in jobs)
    cost = f"{total:.0f} network evaluations of a picture, {1000 * pace:.1f} ms each"
    print(f"{version}  {cost}: about {total * pace / 60:.0f} minutes and the judge's", flush=True)
    for job in jobs:
        batches = lab.batches(job.asked) if job.rows else []
        for row in job.rows:
            started = time.perf_counter()
            result, edited = lab.run(row, batches, job.setting)
            results[job.name][row.label] = result
            if job.name == str(plan.setting):
                shown[row.label] = edited[:EDITS_SHOWN].mul(255).round().clamp(0, 255).byte().numpy()
                np.savez_compressed(sheet, **shown)
            path.write_text(json.dumps({"made": made, "results": results}), encoding="utf-8")
            figures = "  ".join(f"{name} {cell}" for name, cell in zip(HEADERS, cells(result), strict=True))
            took = f"{time.perf_counter() - started:.0f} s"
            print(f"{version}  {job.name:16} {row.label:38}  {figures}  ({took})", flush=True)


COLUMNS = {
    "background PSNR": (1, ".1f"),
    "background SSIM": (1, ".3f"),
    "structure": (1e3, ".1f"),
    "PSNR": (1, ".1f"),
    "object": (100, ".0f"),
    "attribute": (100, ".0f"),
    "colour": (100, ".0f"),
    "look": (100, ".0f"),
    "success": (100, ".1f"),
}
"""Metric of `judge` -> factor and format."""
HEADERS = ("evaluations", *COLUMNS)

Results = dict[str, dict[str, Any]]
"""Label -> what `Lab.run` found, at one setting."""


def mean(values: Iterable[float]) -> float:
    return statistics.fmean([value for value in values if not math.isnan(value)] or [math.nan])


def error(values: Iterable[float]) -> float:
    """The standard error of the mean."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else math.nan


def cells(result: dict[str, Any]) -> list[str]:
    """A row's figures with their standard errors, in the order of HEADERS."""
    figures = [f"{result['evaluations']:.0f}"]
    for name, (scale, form) in COLUMNS.items():
        values = [scale * value for value in result["scores"][name]]
        figures.append(f"{mean(values):{form}} ±{error(values):{form}}")
    return figures


def table(headers: Iterable[str], lines: Iterable[list[str]]) -> list[str]:
    headers = list(headers)
    return [f"| {' | '.join(line)} |" for line in (headers, ["---"] * len(headers), *lines)] + [""]


def main_tables(results: Results, tuned: Results, quick: bool) -> list[str]:
    """All figures at the main setting, and the successes by kind of case."""
    asked, what = (edit_cases.quick(), "tuning") if quick else (cases("final"), "held-out")
    lines = [f"{len(asked)} {what} cases:", ""]
    lines += table(["", *HEADERS], [[label, *cells(result)] for label, result in results.items()])
    if tuned:
        lines += [f"The {len(cases())} tuning cases:", ""]
        lines += table(["", *HEADERS], [[label, *cells(result)] for label, result in tuned.items()])
    groups = [[label, *by_kind(result, asked)] for label, result in results.items()]
    lines += [f"Success in % of the {what} cases, by what changes:", ""]
    return [*lines, *table(["", *KINDS, "pair never trained"], groups)]


def by_kind(result: dict[str, Any], asked: Sequence[Case]) -> list[str]:
    """The share of successes in each kind of case, and in those whose target training never showed."""
    mine = list(zip(result["scores"]["success"], asked, strict=True))
    shares = [mean(value for value, case in mine if case.kind == kind) for kind in KINDS]
    shares.append(mean(value for value, case in mine if case.unseen))
    return [f"{100 * share:.0f}" for share in shares]


def settings_table(everything: dict[str, Results]) -> list[str]:
    """Success and background PSNR of some held-out cases at every setting."""

    def cell(label: str, setting: Setting) -> str:
        result = everything.get(str(setting), {}).get(label)
        if result is None:
            return ""
        success, kept = (mean(result["scores"][name][:FEW]) for name in ("success", "background PSNR"))
        return f"{100 * success:.0f} / {kept:.1f}"

    labels = [row.label for row in ROWS if row.everywhere and any(row.label in rows for rows in everything.values())]
    return table(["", *map(str, SETTINGS)], [[label, *(cell(label, s) for s in SETTINGS)] for label in labels])


def beats(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """On background PSNR and on success at once."""
    pairs = [[mean(result["scores"][name]) for result in (ours, theirs)] for name in ("background PSNR", "success")]
    return all(a > b for a, b in pairs)


def verdict(found: dict[str, Results]) -> list[str]:
    """On which models each row beats each baseline, and whether it beats all of them on all models."""
    rows = [row for row in ROWS if all(row.label in results for results in found.values())]
    baselines = [row.label for row in rows if row.role == "baseline"]
    lines = []
    for row in rows:
        if row.role in ("edit", "told"):
            wins = [[v for v, results in found.items() if beats(results[row.label], results[b])] for b in baselines]
            verdict = "yes" if all(len(won) == len(found) for won in wins) else "no"
            lines.append([row.label, *(", ".join(won) or "-" for won in wins), verdict])
    return table(["", *baselines, "all of them"], lines)


def figure_of(result: dict[str, Any]) -> tuple[float, float]:
    """A row in the plot: background PSNR in dB, success in %."""
    return mean(result["scores"]["background PSNR"]), 100 * mean(result["scores"]["success"])


def front(results: Results) -> list[str]:
    """The rows that no other row beats in one of background PSNR and success without losing in the other."""
    asked = {row.label: figure_of(results[row.label]) for row in ROWS if row.role != "told" and row.label in results}
    asked = {label: found for label, found in asked.items() if results[label]["evaluations"]}  # not: no edit, truth
    better = lambda a, b: a != b and all(x >= y for x, y in zip(a, b, strict=True))  # noqa: E731
    best = [label for label, found in asked.items() if not any(better(other, found) for other in asked.values())]
    return sorted(best, key=lambda label: asked[label])


def curves() -> dict[str, list[str]]:
    """What the plot joins by a line: name -> labels in the dial's order."""
    strengths = [
        f"EasyInv, {dial}"
        for dial in [*(f"strength {w}" for w in (1, 2, 4, 6)), "default", "strength 10", "strength 12"]
    ]
    starts = [f"EasyInv, {dial}" for dial in ("head_start 0", "head_start 0.05", "default", "head_start 0.2")]
    thresholds = [f"EasyInv, {dial}" for dial in ("threshold 0.3", "default", "threshold 0.5")]
    guided = ["Guided NR, strength 2", "Guided NR, default"]
    img2img = [row.label for row in ROWS if row.label.startswith("img2img")]
    flow_edit = [row.label for row in ROWS if row.label.startswith("FlowEdit")]
    return {
        f"strength 1 to 12 ({MAIN.strength:g}: the default)": strengths,
        "head_start 0 to 0.2": starts,
        "threshold 0.3 to 0.5": thresholds,
        f"Guided NR, strength 2 and {MAIN.strength:g}": guided,
        "image to image, denoise 0.4 to 0.9": img2img,
        "FlowEdit": flow_edit,
    }


def plot(found: dict[str, Results], path: Path) -> None:
    """Success over background PSNR, with the dials as curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(13, 5.2), sharey=True, layout="constrained", squeeze=False)
    for axis, (version, results) in zip(axes[0], found.items(), strict=True):
        joined = curves()
        for i, (name, labels) in enumerate(joined.items()):
            points = [figure_of(results[label]) for label in labels if label in results]
            if not points:
                continue
            line = "none" if name == "FlowEdit" else "-"  # its settings are not one dial
            axis.plot(*zip(*points, strict=True), linestyle=line, marker="o", color=f"C{i}", label=name)
        known = {label for labels in joined.values() for label in labels}
        for label, result in results.items():
            if label not in known and result["evaluations"]:
                axis.plot(*figure_of(result), marker="x", color="dimgrey")
                axis.annotate(label, figure_of(result), fontsize=7, xytext=(3, 3), textcoords="offset points")
        axis.set_title(f"{version}, {MAIN.steps} steps")
        axis.set_xlabel("background PSNR, dB")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("success, %")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=90)


def write_tables(plan: Plan) -> None:
    """The documents, from what is stored."""
    loaded = {v: json.loads(plan.stored(v, "json").read_text()) for v in MODELS if plan.stored(v, "json").exists()}
    if not loaded:
        raise SystemExit(f"Nothing to make tables of: there is no {plan.stored('VERSION', 'json')}.")
    found = {v: results["results"].get(str(plan.setting), {}) for v, results in loaded.items()}
    found = {v: results for v, results in found.items() if results}
    of = sorted(
        {f"on {m['date']}, torch {m['torch']}, ComfyUI {m['host']}" for m in (r["made"] for r in loaded.values())}
    )
    conclusion = verdict(found)
    lines = [
        f"Made by `python scripts/benchmark.py edits{' --quick' * plan.quick}` {'; '.join(of)}, CPU.",
        "",
        "Edits with a known right answer on each version of the demo model, inverted at cfg 1 with the source's "
        "caption. Source and truth differ in what the edit asks for and in nothing else. Everything is decoded; "
        "pictures are compared with the codec's round trip of the truth (success: with the pictures themselves). Means "
        "over cases, each with its standard error.",
        "",
        "- held-out cases: no setting was chosen by them. Tuning cases: the others",
        "- told the region: knows which region truly changes, so an upper bound",
        "- cfg: of image to image, plain sampling and FlowEdit; strength: of Edit From Latent",
        "- evaluations: of the network, for one edit; a step at cfg 1 is one, a guided step two",
        "- background PSNR (dB) and SSIM: outside the region where source and truth differ, grown by a pixel, in cases "
        f"where that is {LEAST_KEPT:.0%} of the picture or more; PSNR counts up to {CAP:g} dB",
        "- structure (x 10^-3): mean squared difference of the self-similarities of edge features between the edited "
        "picture and the source; the truth's own shows how much the edits ask for",
        "- PSNR (dB): the whole picture to the truth",
        "- object, attribute (a heart's colour, a skin, a hat), colour (of the wall), look (%): the nearest candidate "
        "has the right one. Candidates are, with the case's own look, all objects, walls and hats, and source and "
        "target with looks that are wrong in one way. success: the nearest candidate is the truth",
        "",
    ]
    for version, results in found.items():
        tuned = {} if plan.quick else loaded[version]["results"].get(TUNING, {})
        lines += [f"## {version}, {plan.setting}", "", *main_tables(results, tuned, plan.quick)]
    if not plan.quick:
        for version, stored in loaded.items():
            title = f"## {version}, other settings: success in % / background PSNR in dB, {FEW} held-out cases"
            lines += [title, "", *settings_table(stored["results"])]
    lines += ["## The best rows", "", "No other row keeps more of the background at equal or more successes:", ""]
    lines += [f"- {version}: {'; '.join(front(results))}" for version, results in found.items()] + [""]
    title = f"## Which rows beat image to image and plain DDIM at {plan.setting}"
    meaning = "On background PSNR and on success at once, on the versions named."
    lines += [title, "", meaning, "", *conclusion]
    folder = plan.stored("", "").parent if plan.aside else REPOSITORY / "docs"
    (folder / "edits-tables.md").write_text("\n".join(lines), encoding="utf-8")
    contact_sheet(found, plan).save(folder / "edits.png", optimize=True)
    plot(found, folder / "edit-curves.png")
    print("\n".join([title, "", *conclusion, str(folder / "edits-tables.md"), str(folder / "edits.png")]))


TILE, GAP, LINE = 160, 6, 22


def contact_sheet(found: dict[str, Results], plan: Plan) -> Image.Image:
    """Edits line by line, the models taking turns; a green frame around successes, a red one around the others."""
    asked = (edit_cases.quick() if plan.quick else cases("final"))[:EDITS_SHOWN]
    stored = {version: dict(np.load(plan.stored(version, "npz"))) for version in found}
    columns = {version: sheet_columns(results) for version, results in found.items()}
    width = max(len(labels) for labels in columns.values()) + 2
    image = Image.new("RGB", (width * (TILE + GAP) + GAP, len(asked) * (TILE + LINE + GAP) + 3 * LINE * len(found)))
    image.paste("white", (0, 0, *image.size))
    draw = ImageDraw.Draw(image)
    text = partial(draw.text, fill="black", font=ImageFont.load_default(13))

    def tile(x: int, y: int, picture: np.ndarray, frame: str) -> None:
        draw.rectangle((x - 3, y - 3, x + TILE + 2, y + TILE + 2), fill=frame)
        image.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))

    y = GAP
    for turn, version in enumerate(found):
        text((GAP, y), f"{version}, {plan.setting}", font=ImageFont.load_default(20))
        y += int(1.5 * LINE)
        for i, label in enumerate(("source", "truth", *columns[version])):
            text((GAP + i * (TILE + GAP), y), label.replace("denoise", "").replace("source cfg", "")[:26])
        y += LINE
        for k in range(turn, len(asked), len(found)):
            case = asked[k]
            text((GAP, y), f"{case}  ({case.kind})", fill="dimgrey")
            y += LINE
            for i, picture in enumerate(torch.cat([sources([case]), truths([case])]).mul(255).byte().numpy()):
                tile(GAP + i * (TILE + GAP), y, picture, "white")
            for i, label in enumerate(columns[version], 2):
                frame = "limegreen" if found[version][label]["scores"]["success"][k] else "crimson"
                tile(GAP + i * (TILE + GAP), y, stored[version][label][k], frame)
            y += TILE + GAP
    return image


def sheet_columns(results: Results) -> list[str]:
    """The img2img row with the most successes (if several, with the best background), then what there is of SHOWN."""

    def merit(label: str) -> list[float]:
        return [mean(results[label]["scores"][name]) for name in ("success", "background PSNR")]

    best = sorted((label for label in results if label.startswith("img2img")), key=merit)[-1:]
    tried = [label for label in results if "{" in label]
    return best + [label for label in SHOWN if label in results] + tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every 4th tuning case, one setting, few rows")
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both")
    parser.add_argument("--weights", type=Path, help="a folder with the model's weights (default: the pack's)")
    parser.add_argument("--steps", type=int, default=MAIN.steps, help="with --quick")
    parser.add_argument("--cfg", type=float, default=MAIN.cfg, help="with --quick")
    parser.add_argument("--strength", type=float, default=MAIN.strength, help="with --quick")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows with TEXT in their label")
    parser.add_argument("--try", action="append", default=[], dest="tried", metavar="JSON", help="a row of its own")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are finished")
    parser.add_argument("--tables", action="store_true", help="only write the documents again")
    options = parser.parse_args()
    setting = Setting(options.steps, options.cfg, options.strength)
    if setting != MAIN and not options.quick:
        parser.error("--steps, --cfg and --strength choose the setting of --quick")
    plan = Plan(options.quick, setting, options.weights, tuple(options.only), tuple(options.tried), options.resume)
    chosen = MODELS if options.model == "both" else (options.model,)
    if not options.tables:
        for_each(partial(measure, plan=plan), chosen)
    write_tables(plan)


if __name__ == "__main__":
    main()
