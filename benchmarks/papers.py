"""What the two papers claim, measured on the demo models: `python scripts/benchmark.py papers`

The papers are EasyInv (arXiv 2408.05159) and Guided Newton-Raphson, GNRI (arXiv 2312.12540). Their models and pictures
are not here. So every row of their result tables has a question in its place that the few-step demo model can answer,
or the many-step one. Each part of this file is one of their tables:

- `reconstruction`: GNRI's figure of PSNR over time, in 1, 2 and 4 steps, with and without ancestral noise
- `steps`: which of the 4 steps wants more than 2 calls
- `ablation`: its weight of the prior (lambda), its iterations and its three gradients
- `edits`: its table of edits, and whether the prior makes better ones for as many calls
- `interactive`: what another prompt costs after an inversion, in a graph that the real server runs
- `rare`, `paths`: its rare objects and its interpolation
- `easyinv`: EasyInv's table of 50 steps, in full and in half precision

`--only PART` runs some parts, `--tables` none; what is finished is in `output/papers.json`. Writes `docs/papers.md`
(`_papers_page.py`), with the paper's number, what was measured, and whether the claim held. `--quick` takes few
pictures and writes to `output/quick/`.
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / folder) for folder in ("benchmarks", "scripts", "tests/host")]

import interpolation  # boots the host

# isort: split
import comfy.samplers
import comfy.utils
import edit_cases
import edits
import graphs
import numpy as np
import torch
from _papers_page import page
from _trips import Averaged, ForwardStep, Halved, Solved, Trips, methods
from client import Client, api_graph
from host import ensure
from torch import Tensor

from demo import scenes
from demo.judge import load as load_judge

SCHEDULER = "simple"  # the levels that the few-step model was distilled on
STEPS = (1, 2, 4)
TURBO = {
    "turbo-flow": False,
    "turbo-flow, ancestral": True,
    "turbo-ve, ancestral": True,
}
"""What is inverted -> whether the sampler is euler_ancestral, whose noise is then held fixed."""


def pictured(count: int) -> list[scenes.Scene]:
    """Scenes that training never had, each of another object."""
    random = np.random.default_rng(41)
    things = [str(name) for name in random.permutation(scenes.things()) if name not in scenes.index()["rare"]]
    walls = [str(random.choice([w for w in scenes.WALLS if not scenes.held_out(name, w)])) for name in things]
    return [scenes.unseen_scene(70_000 + i, *pair) for i, pair in enumerate(zip(things[:count], walls, strict=False))]


class Lab(interpolation.Lab):
    """A demo model with the papers' round trips; on few-step models at their own levels and in 4 steps."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.inversion = self.pack.inversion
        self.trips = Trips(self.pack, self.model, self.vae, load_judge())

    def unsaid(self, shown: list[scenes.Scene]) -> graphs.Bench:
        """Pictures under the empty prompt, as EasyInv inverts them."""
        latent = {"samples": self.vae.encode(edit_cases.pictures(shown))}
        return graphs.Bench(self.pack, self.model, self.empty, None, self.empty, latent)

    def inverted(self, shown: list[scenes.Scene], method: str, steps: int) -> tuple[dict, Tensor]:
        """`interpolation.Lab`'s in 4 steps at most."""
        how = edits.INVERSIONS[method]
        given = {"steps": min(4, steps), "scheduler": SCHEDULER, **how.inputs}
        latent, _, sigmas, _ = self.bench(shown).invert(how.node, **given)
        return latent, sigmas

    def levels(self, steps: int) -> Tensor:
        return self.host.scheduled_sigmas(self.model, steps, SCHEDULER, 1.0)


def few_step_labs(shown: list[scenes.Scene]) -> Iterator[tuple[str, bool, Lab, graphs.Bench]]:
    """(sampler, whether it is ancestral, its model's lab, these pictures on it)."""
    for name, ancestral in TURBO.items():
        lab = Lab(name.split(",")[0])
        yield name, ancestral, lab, lab.bench(shown)


# --- the parts --------------------------------------------------------------------------------------------------------

Found = dict[str, Any]


def reconstruction(quick: bool) -> Found:
    """Sampler -> steps -> method -> what a round trip shows."""
    found: Found = {}
    shown = pictured(4 if quick else 8)
    truth = edit_cases.pictures(shown)
    for name, ancestral, lab, bench in few_step_labs(shown):
        found["bound"] = lab.trips.bound(truth, bench)
        for steps in STEPS:
            rows = found.setdefault(name, {}).setdefault(str(steps), {})
            for label, method in methods(lab.inversion).items():
                rows[label] = lab.trips.round_trip(truth, bench, method, steps, ancestral, SCHEDULER)
                told(name, f"{steps} steps", label, rows[label])
    return found


LAMBDAS = (0.0, 0.1, 1.0, 10.0)
GRADIENTS = {"released code": "sign", "paper": "autograd", "minimum norm": "min-norm"}


def ablation(quick: bool) -> Found:
    """Sampler -> gradient -> "lambda, iterations" -> what a round trip in 4 steps shows."""
    found: Found = {}
    shown = pictured(4 if quick else 8)
    truth = edit_cases.pictures(shown)
    for name in ("turbo-flow", "turbo-ve, ancestral"):
        lab = Lab(name.split(",")[0])
        bench = lab.bench(shown)
        for label, gradient in GRADIENTS.items():
            rows = found.setdefault(name, {}).setdefault(label, {})
            for weight, iterations in [*((w, 2) for w in LAMBDAS), *((0.1, n) for n in (1, 3, 5))]:
                method = lab.inversion.GuidedNewton(iterations, weight, gradient)
                what = f"{weight:g}, {iterations}"
                rows[what] = lab.trips.round_trip(truth, bench, method, 4, TURBO[name], SCHEDULER)
                told(name, label, what, rows[what])
    return found


def edited(quick: bool) -> Found:
    """Sampler -> way -> what the edits of 4 steps at cfg 1 show. Ways that are finished are kept."""
    found: Found = stored(place(quick)).get("edits", {})
    asked = edit_cases.cases("final")[: 10 if quick else 50]
    for name, ancestral in {"turbo-flow": False, "turbo-ve, ancestral": True}.items():
        lab = Lab(name.split(",")[0])
        (batches, rows) = lab.batches(asked), found.setdefault(name, {})
        for label, edit in ways(lab, ancestral).items():
            if label in rows:
                continue
            before, parts = lab.evaluations.count, []
            for batch in batches:
                with torch.no_grad():
                    samples = edit(batch)
                    shown = [lab.vae.decode(x) for x in (samples, batch.bench.latent["samples"], batch.truth)]
                parts.append(edit_cases.judge(batch.cases, *shown) | {"distance": [lab.trips.distance(*shown[:2])]})
            scores = {key: [value for part in parts for value in part[key]] for key in parts[0]}
            rows[label] = {
                key: edits.mean(scores[key]) for key in ("success", "object", "look", "background PSNR", "distance")
            }
            rows[label]["calls"] = (lab.evaluations.count - before) / len(asked)
            told(name, label, rows[label])
    return found


def ways(lab: Lab, ancestral: bool) -> dict[str, Callable[[edits.Batch], Tensor]]:
    """Label -> batch -> the edited latents."""
    sampler, fixed, newton = (
        "euler_ancestral" if ancestral else "euler",
        lab.inversion.FixedPoint,
        lab.inversion.GuidedNewton,
    )

    def image_to_image(denoise: float) -> Callable[[edits.Batch], Tensor]:
        def edit(batch: edits.Batch) -> Tensor:
            b, steps = batch.bench, round(4 * denoise)  # the host takes the last steps of 4
            how = (batch.seed, steps, 1.0, sampler, SCHEDULER, b.other, b.negative, b.latent, denoise)
            return edits.nodes.KSampler().sample(b.model, *how)[0]["samples"]

        return edit

    def alone(method: Any) -> Callable[[edits.Batch], Tensor]:
        """From the inverted latent alone: what an inversion's noise is worth to an edit."""

        def edit(batch: edits.Batch) -> Tensor:
            def up(denoiser: Any, x0: Tensor, grid: Any, noise: Tensor | None) -> Any:
                return lab.inversion.invert(denoiser, x0, grid, method, noise=noise).latent

            def down(denoiser: Any, x: Tensor, grid: Any, noise: Tensor | None) -> Tensor:
                return lab.inversion.sample(denoiser, z, grid, noise=noise)

            z = lab.trips.walk(batch.bench, 4, ancestral, up, SCHEDULER)
            other = graphs.Bench(lab.pack, lab.model, batch.bench.other, None, lab.empty, batch.bench.latent)
            return lab.host.to_samples(lab.model, lab.trips.walk(other, 4, ancestral, down, SCHEDULER))

        return edit

    def with_record(node: str, strength: float, **inputs: Any) -> Callable[[edits.Batch], Tensor]:
        def edit(batch: edits.Batch) -> Tensor:
            bench = batch.bench
            latent, *_ = bench.invert(
                node, steps=4, scheduler=SCHEDULER, **inputs, **({"sampler": sampler} if ancestral else {})
            )
            return bench.edit(positive=bench.other, latent=latent, strength=strength)[0]["samples"]

        return edit

    return {
        "no edit": lambda batch: batch.bench.latent["samples"],
        "SDEdit (image to image), denoise 0.5": image_to_image(0.5),
        "SDEdit (image to image), denoise 0.75": image_to_image(0.75),
        "DDIM or Euler, latent alone": alone(lab.inversion.DDIM()),
        "plain fixed point 2, latent alone": alone(fixed(2, warm_start=False)),
        "ReNoise, averaged 5, latent alone": alone(Averaged(5)),
        "exact DPM inversion 20, latent alone": alone(ForwardStep(20)),
        **{f"GNRI, paper, lambda {w:g}, 2, latent alone": alone(newton(2, w, "autograd")) for w in LAMBDAS},
        "GNRI, released code, 2, latent alone": alone(newton(2, 0.1, "sign", start="state")),
        "ours: Guided NR's default, latent alone": alone(newton(2, 0.1, "sign", start="extrapolated")),
        "ours: Fixed Point's default, latent alone": alone(fixed(8, 1e-2, anderson=3)),
        "ours: Guided NR and its record, strength 1": with_record("GuidedNR", 1.0),
        "ours: Guided NR and its record, strength 2": with_record("GuidedNR", 2.0),
        "ours: Guided NR and its record, strength 4": with_record("GuidedNR", 4.0),
        "ours: DDIM and its record, strength 1": with_record("FixedPoint", 1.0, iterations=1, start="native"),
        "ours: Fixed Point and its record, strength 1": with_record("FixedPoint", 1.0),
        "ours: Guided NR, native, and its record, strength 1": with_record("GuidedNR", 1.0, start="native"),
    }


def interactive(quick: bool) -> Found:
    """What a new prompt runs in the template *Interactive edit*: nodes on a real server, network calls in process."""
    del quick
    graph = api_graph(json.loads((REPOSITORY / "workflows" / "interactive_edit.json").read_text(encoding="utf-8")))
    target = next(node for node in graph.values() if node["_meta"]["title"].startswith("Target prompt"))
    kinds = {name: node["class_type"] for name, node in graph.items()}
    executed: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder, ensure(edits.host_version).serve(Path(folder)) as server:
        client = Client(server.url)
        for text in (target["inputs"]["text"], "a fox, blue wall"):
            target["inputs"]["text"] = text
            before = set(json.loads(client.get("/history")))
            client.run(graph)
            (run,) = (run for key, run in json.loads(client.get("/history")).items() if key not in before)
            cached = {
                name for kind, data in run["status"]["messages"] if kind == "execution_cached" for name in data["nodes"]
            }
            executed.append(sorted(kinds[name] for name in graph if name not in cached))
    lab = Lab("turbo-flow")
    (batch,) = lab.batches(edit_cases.cases("final")[:1])
    counts = [lab.evaluations.count]
    latent, *_ = batch.bench.invert("GuidedNR", scheduler=SCHEDULER)
    counts.append(lab.evaluations.count)
    _, report = batch.bench.edit(positive=batch.bench.other, latent=latent, strength=1.0)
    counts.append(lab.evaluations.count)
    inversion, edit = (b - a for a, b in pairwise(counts))
    return {
        "first": executed[0],
        "again": executed[1],
        "inversion": inversion,
        "edit": edit,
        "report": report.splitlines()[0],
    }


def rare(quick: bool) -> Found:
    """`interpolation`'s table of seeds in 4 steps, and the frequent objects beside it."""
    del quick
    lab, seer = Lab("turbo-flow"), load_judge()
    shown, setting = pictured(80), edits.Setting(4, 1.0, 1.0)
    with torch.inference_mode():
        drawn = lab.drawn(
            shown, torch.randn(len(shown), 32, 16, 16, generator=torch.Generator().manual_seed(0)), setting
        )
        right = sum(a.thing == b.thing for a, b in zip(seer.see(drawn.movedim(-1, 1).clamp(0, 1)), shown, strict=True))
        lines, _ = interpolation.rare_objects(lab)
    return {"frequent": right / len(shown), "head": interpolation.SEED_HEADERS, "lines": lines}


def paths(quick: bool) -> Found:
    """`interpolation`'s table of paths in 4 steps."""
    del quick
    with torch.inference_mode():
        return {"head": interpolation.PATH_HEADERS, "lines": interpolation.paths(Lab("turbo-flow"))[0]}


def easyinv_methods(library: Any) -> dict[str, Any]:
    """Label -> method, for EasyInv's table."""
    return {
        "DDIM": library.DDIM(),
        "Fixed point (AIDI), averaged, 6": Halved(6),
        "plain fixed point, 3": library.FixedPoint(3, warm_start=False),
        "ReNoise, averaged, 4": Averaged(4),
        "EasyInv, SD1.x, as in the paper": library.EasyInv(),
        "EasyInv, SD1.x, as in the script": library.EasyInv(placement="before"),
        "EasyInv, SDXL": library.EasyInv(0.8, 0.85, 0.1),
    }


def easyinv(quick: bool) -> Found:
    """Precision -> method -> what a round trip in 50 steps shows, under the empty prompt as in the paper."""
    found: Found = {}
    shown = pictured(2 if quick else 8)
    truth = edit_cases.pictures(shown)
    for precision in ("single", "half"):
        lab = Lab("v-prediction")
        bench = lab.unsaid(shown)
        found["bound"] = lab.trips.bound(edit_cases.pictures(shown), bench)
        if precision == "half":
            in_half_precision(lab.model.model.diffusion_model)
        for label, method in easyinv_methods(lab.inversion).items():
            row = lab.trips.round_trip(truth, bench, method, 10 if quick else 50, False, "normal")
            found.setdefault(precision, {})[label] = row
            told(precision, label, row)
    lab = Lab("v-prediction")
    white = [
        scenes.unseen_scene(80_000 + i, thing, "white") for i, thing in enumerate(["fox", "pizza", "car", "house"])
    ]
    bench, found["white"] = lab.unsaid(white), {}
    found["white"]["bound"] = lab.trips.bound(edit_cases.pictures(white), bench)["picture"]
    for label in ("DDIM", "ReNoise, averaged, 4", "EasyInv, SD1.x, as in the paper"):
        method, truth = easyinv_methods(lab.inversion)[label], edit_cases.pictures(white)
        row = lab.trips.round_trip(truth, bench, method, 10 if quick else 50, False, "normal")
        found["white"][label] = row["picture"]
        told("white walls", label, {"picture": row["picture"]})
    found["edits"] = {}
    batches = lab.batches(edit_cases.cases("final")[: 5 if quick else 50])
    for method in ("DDIM", "EasyInv"):
        with torch.inference_mode():
            row, _ = lab.run(edits.from_latent(method, "default", {}), batches, edits.MAIN)
        found["edits"][method] = {name: edits.mean(row["scores"][name]) for name in ("success", "background PSNR")}
        told("edits", method, found["edits"][method])
    return found


def in_half_precision(network: torch.nn.Module) -> None:
    """Weights, and all that a layer takes and gives, rounded to float16; sums in float32, as on a GPU.

    Real float16 takes forty times as long on a CPU.
    """

    def rounded(value: Any) -> Any:
        return value.half().float() if isinstance(value, Tensor) and value.is_floating_point() else value

    for layer in network.modules():
        if not list(layer.children()):
            for weight in layer.parameters(recurse=False):
                weight.data = rounded(weight.data)
            layer.register_forward_pre_hook(lambda _, given: tuple(map(rounded, given)))
            layer.register_forward_hook(lambda *given: rounded(given[-1]))


def steps(quick: bool) -> Found:
    """Sampler -> which of 4 steps takes 2 calls, where the others are solved -> what the latent alone gives."""
    found: Found = {}
    shown = pictured(2 if quick else 3)
    truth = edit_cases.pictures(shown)
    for name, ancestral, lab, bench in few_step_labs(shown):
        for short in (None, 0, 1, 2, 3):
            row = lab.trips.round_trip(truth, bench, Solved(lab.inversion, short), 4, ancestral, SCHEDULER)
            found.setdefault(name, {})["none" if short is None else str(short + 1)] = row["latent"]
            told(name, short, {"latent": row["latent"]})
    return found


def told(*values: Any) -> None:
    *names, row = values
    print(*names, "  ".join(f"{key} {value:.3g}" for key, value in row.items()), sep="  ", flush=True)


PARTS: dict[str, Callable[[bool], Found]] = {
    "reconstruction": reconstruction,
    "steps": steps,
    "ablation": ablation,
    "edits": edited,
    "interactive": interactive,
    "rare": rare,
    "paths": paths,
    "easyinv": easyinv,
}


def place(quick: bool) -> Path:
    return REPOSITORY / "output" / ("quick" if quick else "") / "papers.json"


def stored(path: Path) -> Found:
    """What is finished, by whichever run."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(PARTS), default=[], help="this part; can be repeated")
    parser.add_argument("--tables", action="store_true", help="only write the page again")
    parser.add_argument("--quick", action="store_true", help="few pictures")
    options = parser.parse_args()
    comfy.utils.set_progress_bar_enabled(False)
    torch.set_num_threads(1)
    path = place(options.quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in [] if options.tables else options.only or list(PARTS):
        started = time.monotonic()
        part = PARTS[name](options.quick) | {"date": str(datetime.date.today())}
        path.write_text(json.dumps(stored(path) | {name: part}, indent=1), encoding="utf-8")
        print(f"{name}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    found = stored(path)
    if missing := [name for name in PARTS if name not in found]:
        return print(f"The page waits for {', '.join(missing)}.")
    target = (path.parent if options.quick else REPOSITORY / "docs") / "papers.md"
    made = f"torch {torch.__version__}, ComfyUI {edits.host_version}, CPU"
    target.write_text(page(found, made, options.quick), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
