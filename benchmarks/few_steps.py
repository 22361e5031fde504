"""Guided Newton-Raphson at few steps: `python scripts/benchmark.py few_steps`

What `GuidedNewton`'s first guess and gradient are worth at 4 and 8 steps, where it is meant to shine, beside what it
competes with at two model calls a step: the round trip of the latent by the sampler alone in dB, as in `solvers.py`, on
the demo models. A backward pass is not a model call, but costs about two. Writes `docs/few-steps-tables.md`.
"""

import datetime
from pathlib import Path
from typing import Any

import inprocess
import solvers  # boots the host
import torch
from _pool import MODELS, for_each

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS, GUIDANCE = (4, 8), (1.0, 3.0, 7.0)


def methods(library: Any) -> dict[str, Any]:
    """Label -> method."""
    newton, fixed = library.GuidedNewton, library.FixedPoint
    rows = {"DDIM": library.DDIM(), "extrapolated slope, 1 call": fixed(1)}
    for gradient in ("sign", "autograd", "min-norm"):
        for start in ("native", "extrapolated"):
            rows[f"Newton, {gradient}, {start} start, 2"] = newton(2, 0.1, gradient, start=start)
    return rows | {
        "Newton, min-norm, extrapolated start, 3": newton(3, 0.1, "min-norm", start="extrapolated"),
        "extrapolated + Anderson, 2": fixed(2, anderson=3),
        "extrapolated + Anderson, up to 8, to 1e-2": fixed(8, 1e-2, anderson=3),
    }


def backward(library: Any, method: Any) -> int:
    """Passes per step: from the last iterate of a step none is taken."""
    through = isinstance(method, library.GuidedNewton) and method.gradient != "sign"
    return method.iterations - 1 if through else 0


SETTINGS = [(n, cfg) for cfg in GUIDANCE for n in STEPS]


def rows(version: str) -> list[str]:
    """The lines of one model's table."""
    pack = inprocess.load_pack()
    problem, lines = solvers.demo_problem(pack, version), []
    for label, method in methods(pack.inversion).items():
        found = [problem(n, cfg, solvers.measure(pack.inversion, method)).decibels for n, cfg in SETTINGS]
        cells = [label, f"{backward(pack.inversion, method)} a step", *(f"{value:.1f}" for value in found)]
        lines.append(f"| {' | '.join(cells)} |")
        print(version, lines[-1], flush=True)
    return lines


def main() -> None:
    lines = [
        f"Made by `python scripts/benchmark.py few_steps` on {datetime.date.today()}, torch {torch.__version__}, "
        f"ComfyUI {solvers.host_version}, CPU.",
        "PSNR of the latent's round trip in dB. The latent alone is sampled, without its record.",
    ]
    for version, found in zip(MODELS, for_each(rows), strict=True):
        lines += ["", f"## {version}", ""]
        lines += ["| method | backward passes | " + " | ".join(f"{n} steps, cfg {cfg:g}" for n, cfg in SETTINGS) + " |"]
        lines += ["|---|---|" + "---|" * len(SETTINGS), *found]
    (REPOSITORY / "docs" / "few-steps-tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
