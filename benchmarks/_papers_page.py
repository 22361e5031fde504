"""`docs/papers.md`, from what `papers.py` found. Nothing here is a measurement or a judgement by hand."""

import math
from collections.abc import Sequence
from typing import Any

Found = dict[str, Any]
Rows = dict[str, dict[str, float]]
"""Label -> measure -> value."""

GNRI, RELEASED, OURS = "GNRI, paper, 2", "GNRI, released code, 2", "ours: Fixed Point, node's default"
DDIM, RENOISE, EXACT_DPM = "DDIM or Euler", "ReNoise, averaged, 9", "exact DPM inversion, 50"
LATENT_ALONE = "GNRI, paper, lambda {}, 2, latent alone"
BAR = 40.0  # dB
FLAT = 1.0  # dB that are no gain
CLOSER = 1.0  # standard deviations of a norm that count
COLUMNS = {
    "cost": ("calls a step", ".1f"),
    "latent": ("latent, dB", ".1f"),
    "picture": ("picture, dB", ".1f"),
    "ssim": ("SSIM", ".3f"),
    "distance": ("distance", ".2f"),
    "norm": ("norm", "+.0f"),
    "low": ("low", ".2f"),
    "high": ("high", ".2f"),
    "neighbours": ("neighbours", "+.2f"),
}
EDITED = {
    "calls": ("calls", ".0f"),
    "success": ("right", ".0%"),
    "object": ("object", ".0%"),
    "look": ("look", ".0%"),
    "background PSNR": ("background, dB", ".1f"),
    "distance": ("distance", ".2f"),
}
"""Measure -> title and format."""

PAGE = """\
# What the papers claim, and what held

Two papers are behind the Invert nodes: [EasyInv](https://arxiv.org/abs/2408.05159) and
[Guided Newton-Raphson](https://arxiv.org/abs/2312.12540) (GNRI). Their checkpoints and pictures are not in this
repository. So each of their results is asked again on [the demo models](../demo/README.md). A claim that fails on the
demo models can still be true of the papers' models.
"""
WAY = """\
What stands in the way: a model of few steps decides the picture in the noisier steps, where a small error grows. In
the next table all steps are solved to rounding, except one, which takes two calls. Step 1 is the cleanest. The table
has the dB of the latent.
"""
NOTES = """\
## How to read the tables

- *turbo-flow* and *turbo-ve* are the few-step versions of the demo model. *turbo-flow* stands in for Flux-schnell.
  *turbo-ve* with euler_ancestral stands in for SDXL-Turbo. Its noise is held fixed, as in the paper.
- Reconstruction and ablation: 8 pictures that training never had. Edits: 50 held-out cases, so a
  share of them has a standard error of up to 7 points. EasyInv: 8 pictures.
- *calls a step*: model calls of the inversion. A backward pass counts as two.
- *latent*: what the sampler makes of the inverted latent alone, without its record.
- *picture*: the same, decoded, against the picture itself. *bound*: what the codec alone gives.
- *distance*: made as LPIPS is, from the features of the demo model's judge. Less is better.
- *norm*: by how many standard deviations the noise's length is wrong. It is 0 for Gaussian noise.
- *low*, *high*: the noise's power in the lowest and the highest third of its spectrum. It is 1 for Gaussian noise.
- *neighbours*: correlation of numbers side by side. It is 0 for Gaussian noise.
- *calls* of edits: the network's, for inversion and edit together, without backward passes.
- *right*: of all the pictures that could be meant, the result is most like the one that was asked for.
"""


def verdict(parts: Sequence[bool]) -> str:
    """A claim of several parts holds if all do."""
    return "**held**" if all(parts) else "**failed**" if not any(parts) else "**held in part**"


def line(claim: str, paper: str, measured: str, parts: Sequence[bool]) -> list[str]:
    """A row of the page: no parts for what cannot be measured here."""
    return [claim, paper, measured, verdict(parts) if parts else "not measured"]


def samplers(part: Found) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in part.items() if name not in ("date", "bound")]


def competitors(rows: Rows) -> Rows:
    return {label: row for label, row in rows.items() if "GNRI" not in label and "ours" not in label}


def reconstruction(found: Found) -> list[list[str]]:
    """The paper's figure of PSNR over time: the most accurate, and the fastest to its accuracy."""
    part, lines = found["reconstruction"], []
    bound = part["bound"]["picture"]
    for model, numbers, faster, name in (
        (
            "SDXL-Turbo",
            "bound 26.0, GNRI 23.9, exact DPM inversion 20.0, ReNoise 18.1, DDIM 12.3 dB",
            "2 to 40 times",
            "turbo-ve, ancestral",
        ),
        (
            "Flux-schnell",
            "bound 26, GNRI 24.4, ReNoise 20.4, exact DPM inversion 16.1, Euler 10.4 dB",
            "10 to 40 times",
            "turbo-flow",
        ),
    ):
        rows: Rows = part[name]["4"]
        mine = rows[max((GNRI, RELEASED), key=lambda label: rows[label]["picture"])]
        named = {"exact DPM inversion": EXACT_DPM, "ReNoise": RENOISE, "DDIM": DDIM}
        shown = ", ".join(f"{who} {rows[label]['picture']:.1f}" for who, label in named.items())
        measured = f"{name}: bound {bound:.1f}, GNRI {mine['picture']:.1f}, {shown} dB"
        better = [mine["picture"] > rows[label]["picture"] for label in (EXACT_DPM, RENOISE, DDIM)]
        lines.append(line(f"The most accurate reconstruction in 4 steps, {model}", numbers, measured, better))
        as_good = [
            (row["cost"], label) for label, row in competitors(rows).items() if row["picture"] >= mine["picture"]
        ]
        cheapest = min(as_good, default=(math.inf, "no other"))
        measured = f"{name}: GNRI takes {mine['cost']:.0f} calls a step. As accurate: {cheapest[1]}"
        lines.append(line(f"The fastest to its accuracy, {model}", faster, measured, [cheapest[0] >= 2 * mine["cost"]]))
    return lines


def ablation(found: Found) -> list[list[str]]:
    """What its text says of iterations and of the prior."""
    plateau, likely, flat, drawn = [], [], [], []
    for name, forms in samplers(found["ablation"]):
        for label, rows in forms.items():
            figures = " ".join(f"{rows[f'0.1, {n}']['latent']:.1f}" for n in (1, 2, 3, 5))
            plateau.append(f"{name}, {label}: {figures}")
            flat.append(rows["0.1, 5"]["latent"] - rows["0.1, 2"]["latent"] < FLAT)
        norms = {weight: forms["paper"][f"{weight}, 2"]["norm"] for weight in ("0", "0.1", "1", "10")}
        likely.append(f"{name}: " + ", ".join(f"lambda {weight} {norm:+.1f}" for weight, norm in norms.items()))
        drawn.append(abs(norms["0.1"]) < abs(norms["0"]) - CLOSER)
    return [
        line(
            "More than two iterations gain nothing",
            "the residual is flat after 2",
            f"dB of the latent after 1, 2, 3 and 5 iterations. {'. '.join(plateau)}",
            flat,
        ),
        line(
            "The prior keeps the noise likely",
            "without the prior the latent leaves the distribution",
            f"norm of the noise. {'. '.join(likely)}",
            drawn,
        ),
    ]


def edits(found: Found) -> list[list[str]]:
    """Its table of edits, and what it says of the prior."""
    helped, figures, lines = [], [], []
    for name, rows in samplers(found["edits"]):
        right = {weight: rows[LATENT_ALONE.format(weight)]["success"] for weight in ("0", "0.1", "1", "10")}
        figures.append(f"{name}: " + ", ".join(f"lambda {weight} {share:.0%}" for weight, share in right.items()))
        helped.append(right["0.1"] > right["0"])
    claim = "The prior makes better edits for as many calls"
    lines.append(line(claim, "shown in pictures", f"right edits. {'. '.join(figures)}", helped))
    for model, numbers, name in (
        (
            "SDXL-Turbo",
            "CLIP/LPIPS: GNRI .30/.18, ReNoise .26/.22, exact DPM inversion .26/.26, SDEdit .21/.35",
            "turbo-ve, ancestral",
        ),
        (
            "Flux-schnell",
            "CLIP/LPIPS: GNRI .32/.13, ReNoise .28/.32, exact DPM inversion .23/.277, SDEdit .21/.38",
            "turbo-flow",
        ),
    ):
        rows = found["edits"][name]
        named = {
            "GNRI": LATENT_ALONE.format(0.1),
            "ReNoise": "ReNoise, averaged 5, latent alone",
            "exact DPM inversion": "exact DPM inversion 20, latent alone",
            "SDEdit": "SDEdit (image to image), denoise 0.75",
            "ours, with the record": "ours: Guided NR and its record, strength 1",
        }
        mine, *others = (rows[label] for label in named.values())
        shown = (f"{who} {rows[label]['success']:.0%}/{rows[label]['distance']:.2f}" for who, label in named.items())
        parts = [mine["success"] >= other["success"] for other in others[:3]]
        parts += [mine["distance"] <= other["distance"] for other in others[:3]]
        claim = f"Edits follow the prompt and keep the picture, {model}"
        lines.append(line(claim, numbers, f"{name}, right edits/distance. {', '.join(shown)}", parts))
    part = found["interactive"]
    measured = (
        f"The inversion takes {part['inversion']} network calls. Another prompt then runs {', '.join(part['again'])}, "
        f"with {part['edit']} network calls. The report says: {', '.join(part['report'].split(', ')[:2])}"
    )
    alone = not any("INV_GuidedNR" in kind for kind in part["again"])
    lines.append(
        line("Editing is interactive", "one inversion, then 4 steps an edit", measured, [alone, part["edit"] == 4])
    )
    return lines


def others(found: Found) -> list[list[str]]:
    """Its tables of rare objects and interpolation, and what needs a GPU or people."""
    right = {}
    for setting, label, share, *_ in found["rare"]["lines"]:
        count, of = map(int, share.split("/"))
        right[setting, label] = count / of
    random, newton = (right["4 steps, cfg 1", label] for label in ("random noise", "Guided NR, default"))
    ways = {label: [float(cell or "nan") for cell in cells] for label, *cells in found["paths"]["lines"]}
    (_, step, _, error), (_, plain_step, _, plain_error) = ways["Guided NR, spherical"], ways["DDIM, spherical"]
    return [
        line(
            "Seeds from inverted examples draw rare objects",
            "right: frequent 98.6 %, rarer 97.9 %, rare 89.1 %",
            f"random noise: frequent objects {found['rare']['frequent']:.0%}, rare ones {random:.0%}; "
            f"seeds by Guided NR: rare ones {newton:.0%}",
            [newton > random],
        ),
        line(
            "Interpolation is better than with DDIM",
            "shown in pictures",
            f"largest step over the mean one {step:.2f}, DDIM {plain_step:.2f}; denoising error of the frames "
            f"{error:.1f}, DDIM {plain_error:.1f}",
            [step < plain_step, error < plain_error],
        ),
        line(
            "An inversion and an edit take 0.4 s",
            "on an A100",
            "`python scripts/benchmark.py large_models` on a GPU",
            [],
        ),
        line("People prefer its edits", "71.6 %", "needs people", []),
        line("TurboEdit of Wu: 22.0 dB", "a trained encoder", "no weights are public", []),
    ]


def easyinv(found: Found) -> list[list[str]]:
    """Its tables: 50 steps, precision, PIE-Bench; and what its text says."""
    part = found["easyinv"]
    single, half, white, told = part["single"], part["half"], part["white"], part["edits"]
    paper = "EasyInv, SD1.x, as in the paper"
    named = {"DDIM": "DDIM", "ReNoise": "ReNoise, averaged, 4", "fixed point": "Fixed point (AIDI), averaged, 6"}
    rows = {who: single[label] for who, label in (named | {"EasyInv": paper}).items()}
    mine, ddim, fixed = rows["EasyInv"], rows["DDIM"], rows["fixed point"]

    def every(key: str, form: str) -> str:
        return ", ".join(f"{who} {row[key]:{form}}" for who, row in rows.items())

    ours = {label.removeprefix("EasyInv, "): row["picture"] for label, row in single.items() if "EasyInv" in label}
    lost = {label: single[label]["picture"] - half[label]["picture"] for label in single}
    worst, a, b = max(lost, key=lambda label: lost[label]), told["DDIM"], told["EasyInv"]
    return [
        line(
            "More PSNR than DDIM and fixed point",
            "DDIM 29.717, ReNoise 31.025, fixed point 29.107, EasyInv 30.189 dB",
            f"bound {part['bound']['picture']:.1f}, {every('picture', '.1f')} dB",
            [mine["picture"] > ddim["picture"], mine["picture"] > fixed["picture"]],
        ),
        line(
            "The best SSIM",
            "DDIM .621, ReNoise .641, fixed point .563, EasyInv .646",
            every("ssim", ".3f"),
            [all(mine["ssim"] >= row["ssim"] for row in rows.values())],
        ),
        line(
            "Less LPIPS than DDIM and fixed point",
            "DDIM .328, ReNoise .316, fixed point .373, EasyInv .321",
            f"distance: {every('distance', '.3f')}",
            [mine["distance"] < ddim["distance"], mine["distance"] < fixed["distance"]],
        ),
        line(
            "It needs no iteration",
            "DDIM 5, EasyInv 5, fixed point 14, ReNoise 16 s",
            f"calls a step: {every('calls', '.0f')}",
            [mine["calls"] == ddim["calls"]],
        ),
        line(
            "Each of its settings is better than DDIM",
            "SD1.x in the paper and in the script, SDXL",
            f"DDIM {ddim['picture']:.1f}, {', '.join(f'{label} {value:.1f}' for label, value in ours.items())} dB",
            [value > ddim["picture"] for value in ours.values()],
        ),
        line(
            "Half precision is as good as single",
            "30.184 dB in single, 30.189 dB in half",
            f"lost in half precision: EasyInv {lost[paper]:+.3f} dB, at most {lost[worst]:+.3f} dB ({worst})",
            [lost[paper] < 0.1],
        ),
        line(
            "ReNoise fails on white backgrounds",
            "pictures turn black",
            f"white walls: bound {white['bound']:.1f}, DDIM {white['DDIM']:.1f}, ReNoise "
            f"{white['ReNoise, averaged, 4']:.1f}, EasyInv {white[paper]:.1f} dB",
            [white["ReNoise, averaged, 4"] < white["DDIM"]],
        ),
        line(
            "On top of direct inversion it keeps more of the background",
            "background 27.22 dB, with EasyInv 27.30 dB",
            f"10 steps with the record: DDIM {a['success']:.0%} right, background {a['background PSNR']:.1f} dB; "
            f"EasyInv {b['success']:.0%}, {b['background PSNR']:.1f} dB",
            [b["background PSNR"] > a["background PSNR"]],
        ),
    ]


def four_steps(found: Found) -> list[str]:
    """Whether the single latent of 4 steps returns above 40 dB for at most 2 calls a step."""
    lines = []
    for name, by_steps in samplers(found["reconstruction"]):
        rows: Rows = by_steps["4"]
        label = max((label for label in rows if rows[label]["cost"] <= 2), key=lambda label: rows[label]["latent"])
        enough = min((row["cost"] for row in rows.values() if row["latent"] > BAR), default=math.nan)
        said = f"The best is *{label}* with {rows[label]['latent']:.1f} dB."
        more = "No method here reaches" if math.isnan(enough) else f"{enough:.1f} calls a step reach"
        lines.append(f"- {name}: {said} {more} {BAR:.0f} dB.")
    return lines


def in_the_way(found: Found) -> list[str]:
    """The table of which step wants more calls."""
    rows = samplers(found["steps"])
    hardest = {name: min(list(row)[1:], key=lambda step, row=row: row[step]) for name, row in rows}
    said = "The hardest: " + ", ".join(f"step {step} of {name}" for name, step in hardest.items()) + "."
    head = ["", "no step", *(f"step {n}" for n in (1, 2, 3, 4))]
    return [said, "", *table(head, [[name, *(f"{value:.1f} dB" for value in row.values())] for name, row in rows])]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)] + [""]


def detail(title: str, rows: Rows, columns: dict[str, tuple[str, str]] = COLUMNS) -> list[str]:
    head = ["", *(name for name, _ in columns.values())]
    cells = [[label, *(f"{row[key]:{form}}" for key, (_, form) in columns.items())] for label, row in rows.items()]
    return [f"### {title}", "", *table(head, cells)]


def page(found: Found, made: str, quick: bool) -> str:
    """The page as Markdown."""
    days = ", ".join(sorted({part["date"] for part in found.values()}))
    head = ["claim", "the paper", "measured here", "verdict"]
    lines = [PAGE, f"Made by `python scripts/benchmark.py papers{' --quick' * quick}` on {days}, {made}.", ""]
    claims = [*reconstruction(found), *ablation(found), *edits(found), *others(found)]
    lines += ["## Guided Newton-Raphson", "", *table(head, claims), "## EasyInv", "", *table(head, easyinv(found))]
    lines += ["## Four steps for two calls a step", "", "The goal: the latent alone returns above 40 dB.", ""]
    lines += [*four_steps(found), "", WAY, *in_the_way(found), NOTES, "## Reconstruction", ""]
    for name, by_steps in samplers(found["reconstruction"]):
        for steps, rows in by_steps.items():
            lines += detail(f"{name}, {steps} step{'s' * (steps != '1')}", rows)
    lines += ["## Weight of the prior, iterations, gradients", ""]
    for name, forms in samplers(found["ablation"]):
        named = {
            f"{form}: lambda {what.replace(', ', ', iterations ')}": row
            for form, rows in forms.items()
            for what, row in rows.items()
        }
        lines += detail(f"{name}, 4 steps", named)
    lines += ["## Edits in 4 steps", ""]
    for name, rows in samplers(found["edits"]):
        lines += detail(name, rows, EDITED)
    lines += ["## Rare objects in 4 steps", "", *table(found["rare"]["head"], found["rare"]["lines"])]
    lines += ["## Interpolation in 4 steps", "", *table(found["paths"]["head"], found["paths"]["lines"])]
    lines += ["## EasyInv in 50 steps, under the empty prompt", ""]
    for precision in ("single", "half"):
        lines += detail(f"{precision} precision", found["easyinv"][precision])
    return "\n".join(lines)
