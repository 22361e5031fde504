"""Which inversion method is worth its model calls: `python scripts/benchmark.py solvers`

Every method inverts the same pictures on the same noise levels, and the sampler alone (no record) comes back; the round
trip's PSNR says how near. Columns: model calls per step, PSNR in dB at 4, 10 and 20 steps, and at 20 steps whether
the inverted latent still looks like Gaussian noise (standard deviation over the expected one, correlation of
neighbours, excess kurtosis), because a prompt can only steer what is noise. Once for cfg 1 and 7 each (`peers.py` and
`few_steps.py` have cfg 3), on the two demo models (three pictures, in the host) and on a mixture of Gaussians with a
known denoiser. Writes `docs/solvers-tables.md` and `docs/solvers.png`.
"""

import datetime
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests" / "core")]

import inprocess

inprocess.boot(None, "--use-pytorch-cross-attention")  # faster than the host's default on CPUs
import comfy.model_management
import torch
from _pool import MODELS, for_each
from comfyui_version import __version__ as host_version
from edit_cases import pictures
from torch import Tensor

from demo import scenes

GUIDANCE = (1.0, 7.0)
STEPS = (4, 10, 20)
CALLS = (4, 10, 20, 40, 80)  # on the axis of the plot
MIXTURE = "mixture of Gaussians"
PICTURES = [
    scenes.unseen_scene(i, *what)
    for i, what in enumerate([("red heart", "blue"), ("panda", "green", "crown"), ("thumbs up dark skin", "yellow")])
]


def methods(library: Any) -> dict[str, Any]:
    """Label -> method, cheapest first."""
    fixed, newton = library.FixedPoint, library.GuidedNewton
    return {
        "DDIM": library.DDIM(),
        "EasyInv, SD1.x setting": library.EasyInv(),
        "last slope (Uni-Inv)": fixed(1, warm_start="last"),
        "extrapolated slope": fixed(1),
        "plain fixed point, 2": fixed(2, warm_start=False),
        "Newton, sign step (released code), 2": newton(2, 0.1, "sign"),
        "Newton, autograd (paper), 2": newton(2, 0.1, "autograd"),
        "Newton, minimum norm, 2": newton(2, 0.1, "min-norm"),
        "extrapolated + Anderson, 2": fixed(2, anderson=3),
        "extrapolated + Anderson, up to 3, to 3e-2": fixed(3, 3e-2, anderson=3),
        "extrapolated + Anderson, up to 8, to 1e-2": fixed(8, 1e-2, anderson=3),
        "Rex (two states)": library.Rex(),
    }


@dataclass
class Row:
    calls: float
    decibels: float
    spread: float
    neighbours: float
    kurtosis: float


Problem = Callable[[int, float, Callable[[Any, Tensor, Any], Row]], Row]
"""Runs a function (denoiser, x0, grid) -> Row at a number of steps and a guidance scale."""


def demo_problem(pack: Any, version: str, chosen: Sequence[scenes.Scene] = PICTURES) -> Problem:
    """The demo model in the host, through its guider, on some scenes."""
    nodes = pack.nodes
    model, clip, vae = nodes.demo.load(version)
    latent = {"samples": vae.encode(pictures(chosen))}
    encoded = [clip.encode_from_tokens(clip.tokenize(scenes.caption(s)), return_pooled=True) for s in chosen]
    context, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    empty, empty_pooled = clip.encode_from_tokens(clip.tokenize(""), return_pooled=True)
    positive, negative = [[context, {"pooled_output": pooled}]], [[empty, {"pooled_output": empty_pooled}]]
    comfy.model_management.load_models_gpu([model])

    def run(steps: int, cfg: float, work: Callable) -> Row:
        def walk(denoiser: Any, x: Tensor, grid: Any, callback: Any) -> tuple[Tensor, Row]:
            del callback
            return x, work(denoiser, x, grid)

        guider = nodes.host.guider_for(model, positive, negative, cfg)
        grid = nodes.host.chosen_grid(model, None, steps, "normal", 1.0)
        return nodes.host.run(guider, latent["samples"], grid, walk, steps)[1]

    return run


def mixture_problem() -> Problem:
    """Three Gaussians in every coordinate, float64, variance exploding; guidance is away from a wide Gaussian."""
    from problems import Gaussian, Mixture, grid

    x0 = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(steps: int, cfg: float, work: Callable) -> Row:
        def denoiser(x: Tensor, level: Any) -> Tensor:
            negative = Gaussian(0.0, 1.2)(x, level)
            return negative + cfg * (Mixture()(x, level) - negative)

        return work(denoiser, x0, grid("ve", steps, 14.6))

    return run


def measure(library: Any, method: Any) -> Callable[[Any, Tensor, Any], Row]:
    def work(denoiser: Any, x0: Tensor, grid: Any) -> Row:
        inversion = library.invert(denoiser, x0, grid, method)
        if isinstance(method, library.Rex):
            back = method.back(denoiser, inversion.latent, inversion.partner, grid)
        else:
            back = library.sample(denoiser, inversion.latent, grid)
        # PSNR of the mean error over pictures; a round trip that is exact to rounding counts as 150 dB.
        decibels = min(150.0, library.psnr(x0, back) if back.isfinite().all() else math.nan)
        top = grid.levels[0]
        z = (inversion.latent - top.alpha * x0 * (grid.kind == "ve")) / top.sigma
        z = z - z.mean()
        spread = float(z.std())
        neighbours = float((z[..., 1:] * z[..., :-1]).mean() / z.square().mean())
        kurtosis = float(z.pow(4).mean() / z.square().mean() ** 2 - 3)
        return Row(sum(inversion.calls) / grid.steps, decibels, spread, neighbours, kurtosis)

    return work


def table(title: str, found: dict[str, dict[tuple[int, float], Row]]) -> list[str]:
    lines = [f"## {title}", ""]
    for cfg in GUIDANCE:
        lines += [
            f"cfg {cfg:g}",
            "",
            "| method | calls per step at 20 steps | " + " | ".join(f"{n} steps" for n in STEPS) + " | spread "
            "| neighbours | kurtosis |",
            "|---|---|" + "---|" * (len(STEPS) + 3),
        ]
        for label, rows in found.items():
            mid = rows[20, cfg]
            cells = " | ".join(f"{rows[n, cfg].decibels:.1f}" for n in STEPS)
            noise = f"{mid.spread:.2f} | {mid.neighbours:+.2f} | {mid.kurtosis:+.1f}"
            lines.append(f"| {label} | {mid.calls:.2f} | {cells} | {noise} |")
        lines.append("")
    return lines


def plot(everything: dict[str, dict[str, dict[tuple[int, float], Row]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours, markers = pyplot.get_cmap("tab20"), "os^Dv"
    figure, axes = pyplot.subplots(1, len(everything), figsize=(15, 4.6), sharey=True, layout="constrained")
    for axis, (title, found) in zip(axes, everything.items(), strict=True):
        for i, (label, rows) in enumerate(found.items()):
            shown = [rows[n, 1.0] for n in STEPS]
            calls = [row.calls * n for row, n in zip(shown, STEPS, strict=True)]
            style = {"color": colours(i), "marker": markers[i % len(markers)], "alpha": 0.85, "markersize": 5}
            axis.plot(calls, [r.decibels for r in shown], label=label, **style)
        axis.set(title=f"{title}, cfg 1", xlabel="model calls of the inversion")
        axis.set_xscale("log", base=2)
        axis.set_xticks(CALLS, labels=map(str, CALLS))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("round trip without the record, PSNR (dB)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def results(title: str) -> dict[str, dict[tuple[int, float], Row]]:
    """Label -> (steps, cfg) -> row, on a demo model or on the mixture."""
    if title == MIXTURE:
        import inversion as library  # what tests/core/problems.py uses; the pack's copy has classes of its own

        problem = mixture_problem()
    else:
        pack = inprocess.load_pack()
        library, problem = pack.inversion, demo_problem(pack, title)
    found: dict[str, dict[tuple[int, float], Row]] = {}
    for label, method in methods(library).items():
        found[label] = {(n, cfg): problem(n, cfg, measure(library, method)) for cfg in GUIDANCE for n in STEPS}
        figures = "  ".join(f"{found[label][n, 1.0].decibels:6.1f}" for n in STEPS)
        print(f"{title:22} {label:44} {found[label][20, 1.0].calls:.2f} calls  {figures}", flush=True)
    return found


def main() -> None:
    titles = (*MODELS, MIXTURE)
    everything = {title: found for title, found in zip(titles, for_each(results, titles), strict=True)}
    lines = [
        f"Made by `python scripts/benchmark.py solvers` on {datetime.date.today()}, torch {torch.__version__}, "
        f"ComfyUI {host_version}, CPU.",
        "PSNR of the latent's round trip in dB: 150 is exact to rounding. The latent alone is sampled, without its "
        "record.",
        "",
    ]
    for title, found in everything.items():
        lines += table(title, found)
    docs = REPOSITORY / "docs"
    (docs / "solvers-tables.md").write_text("\n".join(lines), encoding="utf-8")
    plot(everything, docs / "solvers.png")
    print(f"{docs / 'solvers-tables.md'}\n{docs / 'solvers.png'}")


if __name__ == "__main__":
    main()
