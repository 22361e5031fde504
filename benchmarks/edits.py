"""How good are edits, and what do they cost? `python scripts/benchmark.py edits [--quick] [--model eps|flow|both]`

224 cases (`edit_cases.py`) on each demo model: a picture is inverted at cfg 1 with its own caption and comes down under
the caption of the picture asked for, or goes through the host's own image to image. Metrics in the spirit of PIE-Bench
(arXiv 2310.01506), but against the exact truth: how well the rest of the picture is kept, how near the whole is to the
truth, how far the structure moved, and whether the nearest of all pictures is the one asked for. The rows that matter
most run on all cases at 10 steps and cfg 1, all rows on every 8th case, and four rows at four other settings too.

Each model gets a process with one thread. What is finished is in `output/edits-MODEL.json`; `--resume` runs only the
rows that are not there yet, `--tables` none. Writes `docs/edits-tables.md` and `docs/edits.png`. With `--quick` (every
8th case, one setting) everything goes to `output/quick/`.
"""

import argparse
import datetime
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
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
import graphs
import numpy as np
import torch
from _pool import MODELS, for_each
from comfyui_version import __version__ as host_version
from edit_cases import CAP, KINDS, LEAST_KEPT, LOOKS, SUBSET, Case, cases, changed, judge, sources, truths
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import nodes
from demo import pictures

BATCH = 32


@dataclass(frozen=True)
class Setting:
    steps: int
    cfg: float

    def __str__(self) -> str:
        return f"{self.steps} steps, cfg {self.cfg:g}"


MAIN = Setting(10, 1.0)
SETTINGS = [Setting(4, 1.0), MAIN, Setting(10, 1.5), Setting(10, 3.0), Setting(20, 1.0)]


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
        region: where sources and truths differ, a MASK (B, 64, 64).
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
        per_step: network evaluations per step, beside the inversion's, for the estimate of the time.
        method: the inversion it starts from; "" for none.
        needs: inputs that Edit From Latent has to have.
        everywhere: whether it runs at all settings, not only at the main one.
        every_case: whether it runs on all cases at the main setting, not only on every 8th.
    """

    label: str
    edit: Edit
    role: Role = "edit"
    per_step: float = 2
    method: str = ""
    needs: frozenset[str] = frozenset()
    everywhere: bool = False
    every_case: bool = False


PLAIN = "DDIM, plain"
REGION = "in a row's inputs: the region that truly changes"


def from_latent(method: str, way: str, inputs: dict[str, Any] | None) -> Row:
    """A row through Edit From Latent: `inputs` over its defaults, or without the inversion's record if None."""

    def edit(batch: Batch, setting: Setting) -> Tensor:
        bench = batch.bench
        latent, sigmas, _ = batch.inverted(method, setting.steps)
        plain = {"latent": {"samples": latent["samples"]}, "sigmas": sigmas}
        source = plain if inputs is None else {"latent": latent}
        prompts = {"positive": bench.other, "negative": bench.negative, "cfg": setting.cfg}
        given = {name: batch.region if value is REGION else value for name, value in (inputs or {}).items()}
        return bench.edit(**source | prompts | given)[0]["samples"]

    label, told = f"{method}, {way}", REGION in (inputs or {}).values()
    role: Role = "told" if told else "baseline" if label == PLAIN else "edit"
    per_step = 2 + 2 * (inputs or {}).get("structure", 0)  # of a borrowing step the source is evaluated too
    return Row(label, edit, role, per_step, method, frozenset(inputs or {}), label in EVERYWHERE, label in EVERY_CASE)


def img2img(denoise: float) -> Row:
    """A row through the host's KSampler."""

    def edit(batch: Batch, setting: Setting) -> Tensor:
        b, sampler = batch.bench, (batch.seed, setting.steps, setting.cfg, "euler", "normal")
        return nodes.KSampler().sample(b.model, *sampler, b.other, b.negative, b.latent, denoise)[0]["samples"]

    label = f"img2img, denoise {denoise:g}"
    return Row(label, edit, "baseline", everywhere=label in EVERYWHERE, every_case=label in EVERY_CASE)


def flow_edit(batch: Batch, setting: Setting) -> Tensor:
    """The node's defaults, at the setting's steps and cfg; of the source's guidance no more than that."""
    b, node = batch.bench, batch.bench.pack.nodes.flow_edit.FlowEdit
    prompts = {"positive": b.other, "source_positive": b.positive, "negative": b.negative}
    given = {"model": b.model, "latent": b.latent, "steps": setting.steps, "cfg": setting.cfg, "seed": batch.seed}
    given["source_cfg"] = min(1.5, setting.cfg)
    return node.execute(**graphs.defaults(node) | prompts | given).args[0]["samples"]


WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "default": {},
    "anchored": {"anchor": 1.0, "anchor_end": 1.0, "background": 0.0, "structure": 0.0},
    "structure": {"structure": 0.5},
    "masked": {"mask": REGION},
}
EVERYWHERE = {"img2img, denoise 0.7", PLAIN, "DDIM, default", "FlowEdit"}
EVERY_CASE = {"img2img, denoise 0.5", PLAIN, "DDIM, default", "EasyInv, default", "FlowEdit"}
ROWS = [
    Row("no edit", lambda batch, _: batch.bench.latent["samples"], "reference", 0, every_case=True),
    Row("truth, through the codec", lambda batch, _: batch.truth, "reference", 0, every_case=True),
    *map(img2img, (0.4, 0.5, 0.7, 0.9)),
    *(from_latent(method, way, inputs) for method in INVERSIONS for way, inputs in WAYS.items()),
    *(from_latent("DDIM", f"preserve {preserve:g}", {"preserve": preserve}) for preserve in (0.5, 1.0)),
    *(from_latent("DDIM", f"default, {name}", {"sampler": name}) for name in ("dpmpp_2m", "er_sde", "heun")),
    Row("FlowEdit", flow_edit, per_step=2, everywhere=True, every_case=True),
]
SHOWN = (PLAIN, "DDIM, default", "Fixed Point, default", "Fixed Point, structure", "Fixed Point, masked", "FlowEdit")
EDITS_SHOWN = 24


class Lab:
    """A demo model and what it takes to run rows on it."""

    def __init__(self, version: str) -> None:
        self.pack = inprocess.load_pack()
        self.model, self.clip, self.vae = self.pack.nodes.demo.load(version)
        comfy.model_management.load_models_gpu([self.model])
        self.evaluations = Counter(self.model.model.diffusion_model)

    def rows(self) -> list[Row]:
        """Those that can run; says why the others cannot."""
        known = {given.id for given in self.pack.nodes.edit.EditFromLatent.define_schema().inputs}
        for row in ROWS:
            if missing := row.needs - known:
                print(f"Left out: {row.label}. Edit From Latent has no {', '.join(sorted(missing))}.", flush=True)
        return [row for row in ROWS if row.needs <= known]

    def batches(self, asked: list[Case]) -> list[Batch]:
        return [self._batch(asked[i : i + BATCH], i // BATCH) for i in range(0, len(asked), BATCH)]

    def _batch(self, asked: list[Case], seed: int) -> Batch:
        wanted = [case.source for case in asked], [case.target for case in asked]
        positive, other = (self._prompt([pictures.caption(*pair) for pair in pairs]) for pairs in wanted)
        latent, truth = {"samples": self.vae.encode(sources(asked))}, self.vae.encode(truths(asked))
        bench = graphs.Bench(self.pack, self.model, positive, other, self._prompt([""]), latent)
        return Batch(bench, asked, seed, truth, changed(asked), self.evaluations)

    def _prompt(self, texts: list[str]) -> list:
        encoded = [self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True) for text in texts]
        context, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return [[context, {"pooled_output": pooled}]]

    def run(self, row: Row, batches: list[Batch], setting: Setting) -> tuple[dict[str, Any], Tensor]:
        """What the tables need of a row, and its pictures."""
        spent, parts, shown = 0, [], []
        for batch in batches:
            spent += batch.inverted(row.method, setting.steps)[2] if row.method else 0
            before = self.evaluations.count
            edited = row.edit(batch, setting)
            spent += self.evaluations.count - before
            latents = edited, batch.bench.latent["samples"], batch.truth
            edited, source, truth = (self.vae.decode(samples) for samples in latents)
            parts.append(judge(batch.cases, edited, source, truth))
            shown.append(edited)
        scores = {name: [value for part in parts for value in part[name]] for name in parts[0]}
        return {"evaluations": spent / len(scores["success"]), "scores": scores}, torch.cat(shown)

    def pace(self, batch: Batch) -> float:
        """Seconds for one network evaluation of one picture; the first run warms up."""
        edit, seconds = img2img(0.5).edit, math.inf
        for _ in range(3):
            before, started = self.evaluations.count, time.perf_counter()
            edit(batch, Setting(1, 3.0))
            seconds = min(seconds, (time.perf_counter() - started) / (self.evaluations.count - before))
        return seconds


def planned(jobs: list["Job"]) -> float:
    """About how many network evaluations the jobs take; settings of equal steps and cases share their inversions."""
    edits = sum(row.per_step * job.setting.steps * len(job.asked) for job in jobs for row in job.rows)
    shared = {(row.method, job.setting.steps, len(job.asked)) for job in jobs for row in job.rows if row.method}
    return edits + sum(INVERSIONS[method].per_step * steps * count for method, steps, count in shared)


def stored(version: str, quick: bool, ending: str) -> Path:
    return REPOSITORY / "output" / ("quick" if quick else "") / f"edits-{version}.{ending}"


@dataclass
class Job:
    """Rows to run on some cases at one setting."""

    setting: Setting
    asked: list[Case]
    rows: list[Row]


@torch.inference_mode()
def measure(version: str, quick: bool, resume: bool) -> None:
    """Run one model's rows and store what there is after each."""
    comfy.utils.set_progress_bar_enabled(False)
    path, sheet = stored(version, quick, "json"), stored(version, quick, "npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    resume = resume and path.exists() and sheet.exists()
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if resume else {}
    shown = dict(np.load(sheet)) if resume else {}
    made = {"date": str(datetime.date.today()), "torch": torch.__version__, "host": host_version}

    lab = Lab(version)
    runnable, few = lab.rows(), cases()[::SUBSET]
    jobs = [Job(MAIN, few, [row for row in runnable if quick or not row.every_case])]
    if not quick:
        jobs.insert(0, Job(MAIN, cases(), [row for row in runnable if row.every_case]))
        others = [setting for setting in SETTINGS if setting != MAIN]
        jobs += [Job(setting, few, [row for row in runnable if row.everywhere]) for setting in others]
    for job in jobs:
        finished = results.setdefault(str(job.setting), {})
        job.rows = [row for row in job.rows if row.label not in finished]
    subset, total = lab.batches(few), planned(jobs)
    pace = lab.pace(subset[0])
    cost = f"{total:.0f} network evaluations of a picture, {1000 * pace:.1f} ms each"
    print(f"{version:4}  {cost}: about {total * pace / 60:.0f} minutes", flush=True)

    started, before = time.perf_counter(), lab.evaluations.count
    for job in jobs:
        batches = subset if job.asked is few else lab.batches(job.asked)
        for row in job.rows:
            result, edited = lab.run(row, batches, job.setting)
            results[str(job.setting)][row.label] = result
            if job.setting == MAIN:
                stride = SUBSET if len(edited) == len(cases()) else 1
                shown[row.label] = edited[::stride][:EDITS_SHOWN].mul(255).round().byte().numpy()
                np.savez_compressed(sheet, **shown)
            path.write_text(json.dumps({"made": made, "results": results}), encoding="utf-8")
            done = lab.evaluations.count - before
            left = max(0, total - done) * ((time.perf_counter() - started) / done if done else pace) / 60
            figures = "  ".join(f"{name} {cell}" for name, cell in zip(HEADERS, cells(result), strict=True))
            print(f"{version:4}  {job.setting!s:17} {row.label:24}  {figures}  ({left:.0f} min left)", flush=True)


COLUMNS = {
    "background PSNR": (1, ".1f"),
    "background SSIM": (1, ".3f"),
    "background MSE": (1e4, ".1f"),
    "PSNR": (1, ".1f"),
    "structure": (1e3, ".1f"),
    "emoji": (100, ".0f"),
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


def cells(result: dict[str, Any]) -> list[str]:
    """A row's figures, in the order of HEADERS."""
    figures = [format(scale * mean(result["scores"][name]), form) for name, (scale, form) in COLUMNS.items()]
    return [f"{result['evaluations']:.0f}", *figures]


def table(headers: Iterable[str], lines: Iterable[list[str]]) -> list[str]:
    headers = list(headers)
    return [f"| {' | '.join(line)} |" for line in (headers, ["---"] * len(headers), *lines)] + [""]


def on_few(result: dict[str, Any]) -> dict[str, Any]:
    """A row's result on every 8th case."""
    if len(result["scores"]["success"]) < len(cases()):
        return result
    return result | {"scores": {name: values[::SUBSET] for name, values in result["scores"].items()}}


def main_tables(results: Results, quick: bool) -> list[str]:
    """All figures at the main setting, and the successes by kind of case: on all cases, then all rows on every 8th."""
    present = [row for row in ROWS if row.label in results]
    few = {label: on_few(result) for label, result in results.items()}
    lines = [] if quick else main_table([row for row in present if row.every_case], results, cases())
    return lines + main_table(present, few, cases()[::SUBSET])


def main_table(rows: list[Row], results: Results, asked: list[Case]) -> list[str]:
    shown = {row.label: row.label + " (told the region)" * (row.role == "told") for row in rows}
    kinds, looks = [case.kind for case in asked], [case.look for case in asked]
    figures = [[shown[label], *cells(results[label])] for label in shown]
    groups = [
        [shown[label], *by_group(results[label], KINDS, kinds), *by_group(results[label], LOOKS, looks)]
        for label in shown
    ]
    lines = [f"{len(asked)} cases:", "", *table(["", *HEADERS], figures)]
    return [*lines, "Success in % by what changes, and by look:", "", *table(["", *KINDS, *LOOKS], groups)]


def by_group(result: dict[str, Any], names: Iterable[str], of: list[str]) -> list[str]:
    """The share of successes in each group of cases; `of` names the group of every case."""
    mine = list(zip(result["scores"]["success"], of, strict=True))
    return [f"{100 * mean(value for value, group in mine if group == name):.0f}" for name in names]


def settings_table(everything: dict[str, Results]) -> list[str]:
    """Success and background PSNR of every 8th case at every setting."""

    def cell(label: str, setting: Setting) -> str:
        result = everything.get(str(setting), {}).get(label)
        if result is None:
            return ""
        success, background = (mean(on_few(result)["scores"][name]) for name in ("success", "background PSNR"))
        return f"{100 * success:.0f} / {background:.1f}"

    labels = [row.label for row in ROWS if row.everywhere and any(row.label in rows for rows in everything.values())]
    return table(["", *map(str, SETTINGS)], [[label, *(cell(label, s) for s in SETTINGS)] for label in labels])


def beats(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """On background PSNR and on success at once, on the cases that both ran on."""
    if len(ours["scores"]["success"]) != len(theirs["scores"]["success"]):
        ours, theirs = on_few(ours), on_few(theirs)
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
            told = " (told the region)" if row.role == "told" else ""
            verdict = "yes" if all(len(won) == len(found) for won in wins) else "no"
            lines.append([row.label + told, *(", ".join(won) or "-" for won in wins), verdict])
    return table(["", *baselines, "all of them"], lines)


def write_tables(quick: bool) -> None:
    """The documents, from what is stored."""
    loaded = {v: json.loads(stored(v, quick, "json").read_text()) for v in MODELS if stored(v, quick, "json").exists()}
    if not loaded:
        raise SystemExit(
            f"Nothing to make tables of: there is no {stored('MODEL', quick, 'json')}. Run without --tables."
        )
    found = {version: results["results"][str(MAIN)] for version, results in loaded.items()}
    count = len(cases()[:: SUBSET if quick else 1])
    made = sorted(
        {f"on {m['date']}, torch {m['torch']}, ComfyUI {m['host']}" for m in (r["made"] for r in loaded.values())}
    )
    conclusion = verdict(found)
    lines = [
        f"Made by `python scripts/benchmark.py edits{' --quick' * quick}` {'; '.join(made)}, CPU.",
        "",
        f"{count} edits with a known right answer on each model at {MAIN}, inverted at cfg 1. Everything is decoded; "
        "pictures are compared with the codec's round trip of the truth (success: with the pictures themselves). A "
        f"quarter of the cases are pictures as trained; in the others source and truth are {', '.join(LOOKS[1:])}, "
        "which no caption says and training never showed, so the edit has to take it over. Means over cases.",
        "",
        "- (told the region): knows which region truly changes, so an upper bound",
        "- evaluations: of the network, for one edit; a step at cfg 1 is one, a guided step two",
        "- background PSNR (dB), SSIM, MSE (x 10^-4): outside the region where source and truth differ, grown by a "
        f"pixel, in cases where that is {LEAST_KEPT:.0%} of the picture or more; PSNR counts up to {CAP:g} dB",
        "- PSNR (dB): the whole picture to the truth",
        "- structure (x 10^-3): mean squared difference of the self-similarities of edge features between the edited "
        "picture and the source; the truth's own shows how much the edits ask for",
        "- emoji, colour, look, success (%): the nearest of 4928 pictures (308 emoji on 8 backgrounds, with the case's "
        "look and as trained) has the right emoji, background, look, all of them; a success rate's standard error is "
        f"up to {50 / math.sqrt(count):.1f}",
        "",
    ]
    for version, results in found.items():
        lines += [f"## {version} demo model, {MAIN}", "", *main_tables(results, quick)]
    if not quick:
        every = len(cases()[::SUBSET])
        for version, results in loaded.items():
            title = f"## {version} demo model, other settings: success in % / background PSNR in dB, {every} cases"
            lines += [title, "", *settings_table(results["results"])]
    title = f"## Which rows beat image to image and plain DDIM at {MAIN}"
    meaning = "On background PSNR and on success at once, on the cases that both ran on, on the models named."
    lines += [title, "", meaning, "", *conclusion]
    folder = stored("", quick, "").parent if quick else REPOSITORY / "docs"
    (folder / "edits-tables.md").write_text("\n".join(lines), encoding="utf-8")
    contact_sheet(found, quick).save(folder / "edits.png", optimize=True)
    print("\n".join([title, "", *conclusion, str(folder / "edits-tables.md"), str(folder / "edits.png")]))


TILE, GAP, LINE = 192, 6, 22


def contact_sheet(found: dict[str, Results], quick: bool) -> Image.Image:
    """Edits line by line, the models taking turns; a green frame around successes, a red one around the others."""
    asked = cases()[::SUBSET][:EDITS_SHOWN]
    stored_pictures = {version: dict(np.load(stored(version, quick, "npz"))) for version in found}
    columns = {version: sheet_columns(results) for version, results in found.items()}
    width = max(len(labels) for labels in columns.values()) + 2
    image = Image.new("RGB", (width * (TILE + GAP) + GAP, EDITS_SHOWN * (TILE + LINE + GAP) + 3 * LINE * len(found)))
    image.paste("white", (0, 0, *image.size))
    draw = ImageDraw.Draw(image)
    text = partial(draw.text, fill="black", font=ImageFont.load_default(15))

    def tile(x: int, y: int, picture: np.ndarray, frame: str) -> None:
        draw.rectangle((x - 3, y - 3, x + TILE + 2, y + TILE + 2), fill=frame)
        image.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST), (x, y))

    y = GAP
    for turn, version in enumerate(found):
        text((GAP, y), f"{version} demo model, {MAIN}", font=ImageFont.load_default(20))
        y += int(1.5 * LINE)
        for i, label in enumerate(("source", "truth", *columns[version])):
            text((GAP + i * (TILE + GAP), y), label)
        y += LINE
        for k in range(turn, EDITS_SHOWN, len(found)):
            case = asked[k]
            text((GAP, y), f"{case}  ({case.kind})", fill="dimgrey")
            y += LINE
            for i, picture in enumerate(torch.cat([sources([case]), truths([case])]).mul(255).byte().numpy()):
                tile(GAP + i * (TILE + GAP), y, picture, "white")
            for i, label in enumerate(columns[version], 2):
                success = on_few(found[version][label])["scores"]["success"][k]
                frame = "limegreen" if success else "crimson"
                tile(GAP + i * (TILE + GAP), y, stored_pictures[version][label][k], frame)
            y += TILE + GAP
    return image


def sheet_columns(results: Results) -> list[str]:
    """The img2img row with the most successes (if several, with the best background), then what there is of SHOWN."""

    def merit(label: str) -> list[float]:
        return [mean(on_few(results[label])["scores"][name]) for name in ("success", "background PSNR")]

    best = sorted((label for label in results if label.startswith("img2img")), key=merit)[-1:]
    return best + [label for label in SHOWN if label in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every 8th case, the main setting only")
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are finished")
    parser.add_argument("--tables", action="store_true", help="only write the documents again")
    options = parser.parse_args()
    chosen = MODELS if options.model == "both" else (options.model,)
    if not options.tables:
        for_each(partial(measure, quick=options.quick, resume=options.resume), chosen)
    write_tables(options.quick)


if __name__ == "__main__":
    main()
