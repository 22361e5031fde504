"""Where do two prompts differ? `python scripts/benchmark.py masks [--quick] [--model VERSION]`

The edit's automatic mask against rules from papers, on the cases of `edit_cases.py`. A picture is inverted at cfg 1,
and at each step's recorded point the model is asked under the edit's caption. A rule makes a map of the differences of
the clean estimates; the mask is where the map is above a threshold. The threshold is chosen on 55 tuning cases, and the
masks are compared with the regions that truly change on 75 held-out cases. Writes `docs/masks-tables.md`.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "benchmarks"))

import edits  # starts the host, so it comes first
import torch
from _pool import MODELS, for_each
from edit_cases import cases
from torch import Tensor

STEPS, CELL = 10, 8  # a latent cell is 8 x 8 pixels
TUNING, HELD_OUT = 55, 75
THRESHOLDS = [share / 20 for share in range(2, 18)]
WINDOWS = {"first half": (0.0, 0.5), "middle half": (0.25, 0.75), "second half": (0.5, 1.0), "all": (0.0, 1.0)}


def rms(differences: Tensor) -> Tensor:
    """The root mean square over steps and channels: (N, B, C, h, w) -> (B, 1, h, w)."""
    return differences.square().mean((0, 2)).unsqueeze(1).sqrt()


def vectors(differences: Tensor) -> Tensor:
    """The norm over channels of the sum over steps, as DecFlowEdit."""
    return differences.sum(0).square().mean(1, keepdim=True).sqrt()


def by_largest(size: Tensor) -> Tensor:
    """As a share of the largest value of a picture."""
    return size / size.flatten(1).amax(1)[:, None, None, None]


def by_quantiles(size: Tensor) -> Tensor:
    """0 at the first tenth of a picture's values, 1 at the last, as DecFlowEdit."""
    low, high = (size.flatten(1).quantile(q, 1)[:, None, None, None] for q in (0.1, 0.9))
    return ((size - low) / (high - low)).clamp(0, 1)


def rules(pack: ModuleType) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> (differences of all steps, (N, B, C, h, w)) -> map, (B, 1, h, w)."""

    def own(differences: Tensor) -> Tensor:
        found = pack.inversion.masks.DifferenceMask(pack.inversion.Keep.threshold, 0)
        return [found.add(difference) for difference in differences][-1]

    def rule(window: tuple[float, float], combine: Callable, scale: Callable) -> Callable[[Tensor], Tensor]:
        def of(differences: Tensor) -> Tensor:
            first, last = (round(share * len(differences)) for share in window)
            size = combine(differences[first:last])
            return scale(torch.nn.functional.avg_pool2d(size, 3, 1, 1, count_include_pad=False))

        return of

    named = {"mean square": rms, "sum of vectors": vectors}
    scales = {"largest": by_largest, "quantiles": by_quantiles}
    found = {
        f"{window}, {how}, {scale}": rule(WINDOWS[window], named[how], scales[scale])
        for window in WINDOWS
        for how in named
        for scale in scales
    }
    firsts = {f"first {n}, mean square, largest": rule((0, n / STEPS), rms, by_largest) for n in (1, 2)}
    return {"all, as the edit's mask": own} | firsts | found


def overlap(mask: Tensor, region: Tensor) -> Tensor:
    """Intersection over union, (B,)."""
    both, either = mask * region, ((mask + region) > 0).float()
    return both.sum((1, 2, 3)) / either.sum((1, 2, 3)).clamp(min=1)


def seen(lab: edits.Lab, asked: list) -> tuple[Tensor, Tensor]:
    """(differences of all steps, noisiest first; regions that truly change, at the size of the latent)."""
    found, regions = [], []
    for batch in lab.batches(asked):
        latent, sigmas, _ = batch.inverted("DDIM", STEPS)
        source = lab.pack.inversion.Inversion.from_dict(latent["inversion"])

        def walk(denoiser, x, grid, callback, source=source):
            differences = []
            for k, level in enumerate(grid.levels[:-1]):
                point, slope = (part[grid.steps - 1 - k].to(x) for part in (source.points, source.slopes))
                differences.append(denoiser(point, level) - grid.denoised(point, slope, level))
            return x, torch.stack(differences)

        found.append(batch.bench.through(walk, sigmas, positive=batch.bench.other)[1])
        regions.append(torch.nn.functional.max_pool2d(batch.region.unsqueeze(1), CELL))
    return torch.cat(found, 1), torch.cat(regions)


@torch.inference_mode()
def measure(version: str, quick: bool) -> dict[str, tuple[float, float, float]]:
    """Rule -> (threshold, mean overlap on the held-out cases, its standard error)."""
    lab, share = edits.Lab(version), 4 if quick else 1
    tuning, tuning_regions = seen(lab, cases("tuning")[: TUNING // share])
    differences, regions = seen(lab, cases("final")[: HELD_OUT // share])
    found = {}
    for name, rule in rules(lab.pack).items():
        known = rule(tuning)
        threshold = max(THRESHOLDS, key=lambda t: float(overlap((known > t).float(), tuning_regions).mean()))
        values = overlap((rule(differences) > threshold).float(), regions)
        found[name] = threshold, float(values.mean()), float(values.std() / len(values) ** 0.5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the cases; writes to output/quick/")
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both")
    options = parser.parse_args()
    chosen = MODELS if options.model == "both" else (options.model,)
    found = dict(zip(chosen, for_each(partial(measure, quick=options.quick), chosen), strict=True))
    lines = [
        f"Made by `python scripts/benchmark.py masks{' --quick' * options.quick}`.",
        "",
        "Overlap (intersection over union) of masks with the regions that truly change: mean and standard error, and "
        f"the threshold that the tuning cases chose. {STEPS} steps, inverted by DDIM at cfg 1. The edit's mask is "
        "*all, mean square, largest*, spread between the means of Otsu's two classes.",
        "",
        "| steps, how they are put together, scale | " + " | ".join(chosen) + " |",
        "|---" * (1 + len(chosen)) + "|",
    ]
    for name in next(iter(found.values())):
        cells = [f"{m:.2f} ± {e:.2f} (above {t:.2f})" for t, m, e in (found[v][name] for v in chosen)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    folder = REPOSITORY / ("output/quick" if options.quick else "docs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "masks-tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
