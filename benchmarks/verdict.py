"""Does the verdict say what a round trip shows? `python scripts/benchmark.py verdict`

Inverts pictures by many methods at 4, 10 and 20 steps, cfg 1 and 3, on both demo models, and comes back by the sampler
alone. An inversion's *risk* is its largest residual plus its drift; `inversion/verdict.py` has its bounds from here.
The bounds were read off the pictures of TUNING; those of HELD_OUT check them. Writes `docs/verdict-tables.md`.
"""

import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import inprocess
import solvers  # boots the host
import torch
from _pool import for_each
from torch import Tensor

from demo import scenes

REPOSITORY = Path(__file__).resolve().parents[1]
TUNING = [
    scenes.unseen_scene(i, *what)
    for i, what in enumerate(
        [
            ("red heart", "blue"),
            ("panda", "green"),
            ("pizza", "purple"),
            ("fox", "white", "hat"),
        ]
    )
]
HELD_OUT = [
    scenes.unseen_scene(100 + i, *what)
    for i, what in enumerate([("blue heart", "white"), ("house", "orange"), ("thumbs up dark skin", "red")])
]
STEPS, GUIDANCE = (4, 10, 20), (1.0, 3.0)
BOUNDS = (0.0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, float("inf"))


def methods(library: Any) -> list[Any]:
    blends = [library.EasyInv(eta, 0, 1) for eta in (0.0, 0.3, 0.7, 0.9)]
    papers = [
        library.EasyInv(0.5, 0.05, 0.2),
        library.EasyInv(0.8, 0.85, 0.1),
        library.EasyInv(0.5, 0.05, 0.5, "before"),
    ]
    fixed = [library.FixedPoint(1), *(library.FixedPoint(n, anderson=3) for n in (2, 5, 20))]
    newton = [library.GuidedNewton(2, start="extrapolated"), library.GuidedNewton(4, 1.0), library.GuidedNewton(1)]
    return [library.DDIM(), *blends, *papers, *fixed, *newton]


def found(version: str) -> list[tuple[bool, float, float]]:
    """(held out, risk, dB) of every inversion of every picture."""
    pack = inprocess.load_pack()
    library, results = pack.inversion, []
    problem = solvers.demo_problem(pack, version, TUNING + HELD_OUT)
    for steps in STEPS:
        for cfg in GUIDANCE:
            for method in methods(library):

                def work(denoiser: Any, x: Tensor, grid: Any, method: Any = method) -> Any:
                    inversion = library.invert(denoiser, x, grid, method)
                    back = library.sample(denoiser, inversion.latent, grid)
                    return inversion.risk.tolist(), library.metrics.psnr_each(x, back)

                rows = zip(*problem(steps, cfg, work), strict=True)
                results += [(i >= len(TUNING), risk, decibels) for i, (risk, decibels) in enumerate(rows)]
            print(version, steps, cfg, len(results), flush=True)
    return results


def main() -> None:
    both = [row for rows in for_each(found) for row in rows]
    lines = [
        f"Made by `python scripts/benchmark.py verdict` on {datetime.date.today()}, torch {torch.__version__}, "
        f"ComfyUI {solvers.host_version}, CPU.",
        "PSNR of the latent's round trip by the sampler alone in dB, by the inversion's risk, on both demo models.",
    ]
    for title, wanted in (("Pictures that the bounds were read off", False), ("Held-out pictures", True)):
        lines += [
            "",
            f"## {title}",
            "",
            "| risk | inversions | lowest dB | median | highest |",
            "|---|---|---|---|---|",
        ]
        for low, high in pairwise(BOUNDS):
            values = sorted(psnr for held, risk, psnr in both if held == wanted and low <= risk < high)
            if values:
                middle = values[len(values) // 2]
                figures = f"{len(values)} | {values[0]:.1f} | {middle:.1f} | {values[-1]:.1f}"
                lines.append(f"| {low:g} to {high:g} | {figures} |")
    (REPOSITORY / "docs" / "verdict-tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
