"""What people invert with today, beside ours: `python scripts/benchmark.py peers [--quick]`

The round trip of a latent and what it costs, for the host's own nodes, the Unsampler, the solvers of the papers on flow
models and the methods of this library: the same pictures, model, prompts and noise levels, in one run. On the demo
models (three pictures) the host's rows run the host's own nodes and sampler; on the mixture of Gaussians of
`tests/core/problems.py`, which knows no host, their formulas. Each demo model gets a process with one thread. Writes
`docs/peers-tables.md`; with `--quick`, 4 steps only, to `output/quick/`.

The peers' formulas are written from their papers over `Ode`, in which every model, eps or flow, is one slope
dx/ds = (x - D) / s; `tests/core/test_peers.py` holds them against known answers.
"""

import argparse
import datetime
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / folder) for folder in ("scripts", "benchmarks")]

import torch
from _pool import MODELS, for_each
from torch import Tensor

from inversion import DDIM, Denoiser, EasyInv, FixedPoint, Grid, GuidedNewton, Level, Method, Rex, invert, psnr, sample

MIXTURE = "mixture of Gaussians"
STEPS = {1.0: (4, 10, 20), 3.0: (4, 10)}
"""cfg -> numbers of steps"""
CLEAN = 1e-4  # where the host's FlipSigmas puts sigma 0, and what its Unsampler adds to every sigma
EXACT = 150.0  # dB; nearer is rounding
BACKWARD = 2  # a backward pass costs about as much as two model calls


@dataclass
class Ode:
    """A model as dx/ds = (x - D) / s, the slope of the samplers' own states, which counts its calls.

    Arguments:
        denoiser: the model with its conditioning.
        grid: the sampler's levels, of kind "ve" or "flow".
        calls: model calls so far; one with a backward pass counts for three.
    """

    denoiser: Denoiser
    grid: Grid
    calls: int = 0

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The denoiser, counted."""
        self.calls += 1 + BACKWARD * x.requires_grad
        return self.denoiser(x, level)

    def slope(self, x: Tensor, sigma: float) -> Tensor:
        """dx/ds at the state (B, C, ...); at the clean end, where it is undefined, as if the state were at `CLEAN`."""
        level = self.level(max(sigma, CLEAN))
        return self.grid.slope(x, self(x, level), level)

    def level(self, sigma: float) -> Level:
        return Level(self.alpha(sigma), sigma)

    def alpha(self, sigma: float) -> float:
        """The picture's share of a state; the host divides by it after a sampler and multiplies with it before one."""
        return 1 - sigma if self.grid.kind == "flow" else 1.0

    @property
    def falling(self) -> list[float]:
        return [level.sigma for level in self.grid.levels]

    @property
    def rising(self) -> list[float]:
        return self.falling[::-1]


def drawn(x: Tensor) -> Tensor:
    """Gaussian noise of the state's shape, the same each time; not of seed 0, from which the mixture's x0 is drawn."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype)


# --- the peers --------------------------------------------------------------------------------------------------------
# Each takes (ode, state, sigmas in the order of the walk) to the state at the last sigma, (B, C, ...).


def euler(ode: Ode, x: Tensor, sigmas: list[float]) -> Tensor:
    """x' = x + h d(x, s): the host's `euler`, and DDIM; on the way up, the slope at the level being left."""
    for a, b in pairwise(sigmas):
        x = x + (b - a) * ode.slope(x, a)
    return x


def midpoint(ode: Ode, x: Tensor, sigmas: list[float]) -> Tensor:
    """RF-Solver (arXiv 2411.04746): x' = x + h d(x + h/2 d(x, s), s + h/2). 2 calls a step.

    The paper's second-order Taylor step, with the slope's derivative taken by a difference over half a step.
    """
    for a, b in pairwise(sigmas):
        x = x + (b - a) * ode.slope(x + (b - a) / 2 * ode.slope(x, a), (a + b) / 2)
    return x


def fire_flow(ode: Ode, x: Tensor, sigmas: list[float]) -> Tensor:
    """FireFlow (arXiv 2412.07517): `midpoint`, whose half step takes the slope of the midpoint before. N + 1 calls."""
    slope = ode.slope(x, sigmas[0])
    for a, b in pairwise(sigmas):
        slope = ode.slope(x + (b - a) / 2 * slope, (a + b) / 2)
        x = x + (b - a) * slope
    return x


def uni_inv(ode: Ode, x: Tensor, sigmas: list[float]) -> Tensor:
    """Uni-Inv (arXiv 2504.13109), upward: x' = x + h d(x + h d', s'), d' the slope of the step before. N + 1 calls."""
    slope = ode.slope(x, sigmas[0])
    for a, b in pairwise(sigmas):
        slope = ode.slope(x + (b - a) * slope, b)
        x = x + (b - a) * slope
    return x


def renoise(ode: Ode, x: Tensor, sigmas: list[float], extra: int = 4) -> Tensor:
    """ReNoise (arXiv 2403.14602), upward, without its edit losses and noise correction. 1 + `extra` calls a step.

    y_0 = x in the model's native scale, y_k+1 = x + h d(y_k, s'); x' = x + h mean of d(y_k, s') over k = 1 .. extra.
    """
    for a, b in pairwise(sigmas):
        y = x * (ode.grid.native(ode.level(b)) / ode.grid.native(ode.level(a)))
        slopes = []
        for _ in range(1 + extra):
            slopes.append(ode.slope(y, b))
            y = x + (b - a) * slopes[-1]
        x = x + (b - a) * torch.stack(slopes[1:]).mean(0)
    return x


def rf_inversion(ode: Ode, x: Tensor, sigmas: list[float], gamma: float = 0.5) -> Tensor:
    """RF-Inversion (arXiv 2410.10792), upward, flow models only: d + gamma ((n - x) / (1 - s) - d), n drawn once."""
    noise = drawn(x)
    for a, b in pairwise(sigmas):
        x = x + (b - a) * torch.lerp(ode.slope(x, a), (noise - x) / (1 - a), gamma)
    return x


def rf_controlled(ode: Ode, x: Tensor, sigmas: list[float], picture: Tensor, eta: float, share: float) -> Tensor:
    """RF-Inversion, downward: d + eta ((x - picture) / s - d) in the first `share` of the steps, then d."""
    for i, (a, b) in enumerate(pairwise(sigmas)):
        pull = eta * (i < share * (len(sigmas) - 1))
        x = x + (b - a) * torch.lerp(ode.slope(x, a), (x - picture) / a, pull)
    return x


def flip_sigmas(ode: Ode, x: Tensor) -> Tensor:
    """The host's FlipSigmas and SamplerCustom: Euler from `CLEAN` up, then the host's division by 1 - s (flow)."""
    return euler(ode, x, [max(CLEAN, s) for s in ode.rising]) / ode.alpha(ode.falling[0])


def unsampler(ode: Ode, x: Tensor) -> Tensor:
    """The Unsampler of ComfyUI_Noise: as `flip_sigmas`, but every sigma is `CLEAN` higher."""
    shifted = [s + CLEAN for s in ode.rising]
    return euler(ode, x, shifted) / ode.alpha(shifted[-1])


def normalised(x: Tensor, sigma: float) -> Tensor:
    """The Unsampler's normalize, mean 0 and deviation 1 over the whole batch, used as the noise of level `sigma`."""
    return sigma * (x - x.mean()) / x.std()


def as_latent(ode: Ode, x: Tensor) -> Tensor:
    """Down again by the host's `euler` on a LATENT, which the host first multiplies by 1 - s (flow)."""
    return euler(ode, x * ode.alpha(ode.falling[0]), ode.falling)


# --- the rows ---------------------------------------------------------------------------------------------------------

LATENT, NOTHING = "latent", "nothing"


@dataclass(frozen=True)
class Row:
    """A line of the tables. What walks is an `Ode` for formulas, `Nodes` for the host's own nodes.

    Arguments:
        up: (what walks, the picture's state) -> what is handed on.
        down: (what walks, what was handed on) -> the picture's state again.
        needs: what is handed on, beside prompt and noise levels.
    """

    up: Callable[[Any, Tensor], Any]
    down: Callable[[Any, Any], Tensor]
    needs: str = LATENT


def rising(walk: Callable[[Ode, Tensor, list[float]], Tensor]) -> Callable[[Ode, Tensor], Tensor]:
    return lambda ode, x: walk(ode, x, ode.rising)


def falling(walk: Callable[[Ode, Tensor, list[float]], Tensor]) -> Callable[[Ode, Tensor], Tensor]:
    return lambda ode, x: walk(ode, x, ode.falling)


def ours(method: Method) -> Row:
    """A method of the library; the sampler comes back from its latent alone."""
    return Row(lambda ode, x: invert(ode, x, ode.grid, method).latent, lambda ode, x: sample(ode, x, ode.grid))


def with_record(method: Method) -> Row:
    return Row(
        lambda ode, x: invert(ode, x, ode.grid, method),
        lambda ode, inversion: sample(ode, inversion.latent, ode.grid, source=inversion),
        "record",
    )


def rex() -> Row:
    return Row(
        lambda ode, x: invert(ode, x, ode.grid, Rex()),
        lambda ode, inversion: Rex().back(ode, inversion.latent, inversion.partner, ode.grid),
        "two states",
    )


def pulled_back(eta: float, share: float) -> Row:
    """RF-Inversion with its controller on the way down too, which has to know the picture."""
    return Row(
        lambda ode, x: (rf_inversion(ode, x, ode.rising), x),
        lambda ode, handed: rf_controlled(ode, handed[0], ode.falling, handed[1], eta, share),
        "latent, picture",
    )


def rows(kind: str, cfg: float) -> dict[str, Row]:
    """Label -> row, of what a model of this kind takes."""
    on_flow = {
        "RF-Inversion, eta 0": Row(rising(rf_inversion), falling(euler)),
        "RF-Inversion, eta 0.9 in the first quarter": pulled_back(0.9, 0.25),
    }
    # As its node's *auto* chooses: the sign step at cfg 1, the minimum norm with guidance.
    newton = GuidedNewton(2, 0.1, "sign" if cfg == 1 else "min-norm", start="extrapolated")
    return {
        "no inversion, other noise": Row(lambda ode, x: ode.falling[0] * drawn(x), falling(euler), NOTHING),
        **(on_flow if kind == "flow" else {}),
        "ReNoise, 4 extra, averaged": Row(rising(renoise), falling(euler)),
        "RF-Solver": Row(rising(midpoint), falling(midpoint)),
        "FireFlow": Row(rising(fire_flow), falling(fire_flow)),
        "Uni-Inv": Row(rising(uni_inv), falling(euler)),
        "ours: DDIM": ours(DDIM()),
        "ours: EasyInv, its node's default": ours(EasyInv()),
        "ours: Fixed Point, 1": ours(FixedPoint(1)),
        "ours: Fixed Point, 2, Anderson": ours(FixedPoint(2, anderson=3)),
        "ours: Fixed Point, its node's default": ours(FixedPoint(8, 1e-2, anderson=3)),
        "ours: Fixed Point, up to 20, to 1e-5": ours(FixedPoint(20, 1e-5, anderson=3)),
        "ours: Guided NR, its node's default": ours(newton),
        "ours: Rex": rex(),
        "ours: DDIM and its record": with_record(DDIM()),
    }


# --- the host's own nodes ---------------------------------------------------------------------------------------------


@dataclass
class Nodes:
    """The host's nodes on a demo model, as people wire them: no noise added, `euler`, scheduler `normal`, every step.

    States come and go in the model's state space, like those of an `Ode`.

    Arguments:
        lab: the demo model of `edits.py`, which counts what its network evaluates.
        bench: what the nodes take.
    """

    lab: Any
    bench: Any
    steps: int
    cfg: float

    def __post_init__(self) -> None:
        from comfy.samplers import KSampler

        model = self.bench.model
        self.format = model.get_model_object("latent_format")
        self.sampler = KSampler(model, self.steps, model.load_device, "euler", "normal", 1.0, model.model_options)
        self.before = self.lab.evaluations.count

    @property
    def calls(self) -> int:
        prompts = 1 if self.cfg == 1 else 2
        return (self.lab.evaluations.count - self.before) // (prompts * len(self.bench.latent["samples"]))

    @property
    def picture(self) -> Tensor:
        return self.format.process_in(self.bench.latent["samples"])

    def flip_sigmas(self, x: Tensor) -> Tensor:
        """FlipSigmas into SamplerCustom."""
        from comfy_extras.nodes_custom_sampler import FlipSigmas

        return self._custom(x, FlipSigmas.execute(self.sampler.sigmas).args[0])

    def sampler_custom(self, x: Tensor) -> Tensor:
        return self._custom(x, self.sampler.sigmas)

    def unsampler(self, x: Tensor) -> Tensor:
        """What the Unsampler has the host's sampler do: no noise, the sigmas flipped and `CLEAN` higher."""
        sigmas, noise = self.sampler.sigmas.flip(0) + CLEAN, torch.zeros_like(x)
        prompts = self.bench.positive, self.bench.negative, self.cfg
        samples = self.format.process_out(x)
        return self.format.process_in(self.sampler.sample(noise, *prompts, samples, sigmas=sigmas, disable_pbar=True))

    def normalised(self, x: Tensor) -> Tensor:
        return normalised(self.unsampler(x), float(self.sampler.sigmas[0]))

    def ksampler_advanced(self, x: Tensor) -> Tensor:
        from nodes import KSamplerAdvanced

        latent, prompts = {"samples": self.format.process_out(x)}, (self.bench.positive, self.bench.negative)
        how = self.steps, self.cfg, "euler", "normal", *prompts, latent, 0, self.steps, "disable"
        return self.format.process_in(KSamplerAdvanced().sample(self.bench.model, "disable", 0, *how)[0]["samples"])

    def _custom(self, x: Tensor, sigmas: Tensor) -> Tensor:
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import SamplerCustom

        how = self.cfg, self.bench.positive, self.bench.negative, sampler_object("euler"), sigmas
        out = SamplerCustom.execute(self.bench.model, False, 0, *how, {"samples": self.format.process_out(x)}).args[0]
        return self.format.process_in(out["samples"])


HOST_NODES = {
    "FlipSigmas + SamplerCustom": Row(Nodes.flip_sigmas, Nodes.sampler_custom),
    "Unsampler": Row(Nodes.unsampler, Nodes.ksampler_advanced),
    "Unsampler, normalize": Row(Nodes.normalised, Nodes.ksampler_advanced),
}
HOST_FORMULAS = {
    "FlipSigmas + SamplerCustom": Row(flip_sigmas, as_latent),
    "Unsampler": Row(unsampler, as_latent),
    "Unsampler, normalize": Row(lambda ode, x: normalised(unsampler(ode, x), ode.falling[0]), as_latent),
}
"""What these nodes compute, for problems that know no host."""


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Model calls each way, and the PSNR of the round trip in dB: NaN where it is not finite, at most `EXACT`."""

    up: int
    down: int
    decibels: float

    @property
    def calls(self) -> int:
        return self.up + self.down


def measure(row: Row, walks: Ode | Nodes, x0: Tensor) -> Result:
    with torch.no_grad():  # a method that wants a gradient asks for it
        handed = row.up(walks, x0)
        up = walks.calls
        back = row.down(walks, handed)
    decibels = min(EXACT, psnr(x0, back)) if back.isfinite().all() else math.nan
    return Result(up, walks.calls - up, decibels)


Results = dict[str, dict[int, Result]]
"""Label -> number of steps -> what came out."""


def formulas(problem: Any, chosen: dict[str, Row], steps: Sequence[int], cfg: float) -> Results:
    """Rows on a problem of `solvers.py`."""

    def result(row: Row, n: int) -> Result:
        return problem(n, cfg, lambda denoiser, x0, grid: measure(row, Ode(denoiser, grid), x0))

    return {label: {n: result(row, n) for n in steps} for label, row in chosen.items()}


def on_flow(problem: Any) -> Any:
    """The same problem on a flow model's whole schedule, for denoisers that know every level."""

    def run(steps: int, cfg: float, work: Callable) -> Any:
        grid = Grid.from_sigmas(torch.linspace(1, 0, steps + 1), "flow")
        return problem(steps, cfg, lambda denoiser, x0, _: work(denoiser, x0, grid))

    return run


def mixture_tables(steps: Mapping[float, Sequence[int]]) -> list[str]:
    import solvers

    lines, mixture = [], solvers.mixture_problem()
    for title, kind, problem in (("eps", "ve", mixture), ("flow", "flow", on_flow(mixture))):
        for cfg, counts in steps.items():
            chosen = HOST_FORMULAS | rows(kind, cfg)
            lines += table(f"{MIXTURE}, {title}, cfg {cfg:g}", chosen, formulas(problem, chosen, counts, cfg))
    return lines


def demo_tables(version: str, steps: Mapping[float, Sequence[int]]) -> list[str]:
    import edits  # this and the next boot the host
    import solvers

    edits.comfy.utils.set_progress_bar_enabled(False)
    lab = edits.Lab(version)
    (batch,) = lab.batches([edits.Case("", scene, scene) for scene in solvers.PICTURES])
    problem = solvers.demo_problem(lab.pack, version)
    kind = lab.pack.nodes.host.model_kind(lab.model)
    lines = []
    for cfg, counts in steps.items():
        found: Results = {label: {} for label in HOST_NODES}
        for (label, row), n in product(HOST_NODES.items(), counts):
            walks = Nodes(lab, batch.bench, n, cfg)
            found[label][n] = measure(row, walks, walks.picture)
        chosen = rows(kind, cfg)
        found |= formulas(problem, chosen, counts, cfg)
        lines += table(f"{version}, cfg {cfg:g}", HOST_NODES | chosen, found)
    return lines


def tables(title: str, steps: Mapping[float, Sequence[int]]) -> list[str]:
    return mixture_tables(steps) if title == MIXTURE else demo_tables(title, steps)


# --- the tables -------------------------------------------------------------------------------------------------------


def front(results: dict[str, Result]) -> set[str]:
    """The Pareto front: labels that no other beats in calls or decibels without losing in the other."""
    finite = {label: r for label, r in results.items() if not math.isnan(r.decibels)}

    def beaten(r: Result) -> bool:
        as_good = [o for o in finite.values() if o.calls <= r.calls and o.decibels >= r.decibels]
        return any((o.calls, o.decibels) != (r.calls, r.decibels) for o in as_good)

    return {label for label, r in finite.items() if not beaten(r)}


def table(title: str, chosen: dict[str, Row], results: Results) -> list[str]:
    """Printed too, as soon as it is there."""
    steps = list(next(iter(results.values())))
    head = ["method", "needs", *(f"{n} steps: {what}" for n in steps for what in ("up", "down", "dB"))]
    lines = [[label, chosen[label].needs] for label in results]
    for n in steps:
        here = {label: found[n] for label, found in results.items() if chosen[label].needs != NOTHING}
        of_all = front(here)
        of_latents = front({label: r for label, r in here.items() if chosen[label].needs == LATENT})
        for line, (label, found) in zip(lines, results.items(), strict=True):
            shown = f"{found[n].decibels:.1f}".replace("nan", "NaN")
            shown = f"**{shown}**" if label in of_latents else shown
            line += [str(found[n].up), str(found[n].down), shown + "†" * (label in of_all)]
    lines = [f"## {title}", "", *(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)), ""]
    print("\n".join(lines), flush=True)
    return lines


NOTES = f"""\
Model calls to invert ("up") and to sample ("down"), and the PSNR of the latent's round trip in dB. A call with a
backward pass counts as {1 + BACKWARD}. More dB are better, 6 dB more are half the error, and {EXACT:.0f} is exact
to rounding. NaN is what a user gets.

- **bold**: no other row has more dB for as few calls at this number of steps, among rows that keep the latent only
- †: the same among all rows. "needs" says what a row keeps beside prompt and noise levels
- no inversion: what the prompt alone gives, from other noise. It is not compared for bold and †
- FlipSigmas + SamplerCustom, Unsampler (of ComfyUI_Noise): ComfyUI's own nodes and sampler on the demo models, their
  formulas on the mixture. On flow models ComfyUI divides by 1 - s at the top, which gives NaN. With the Unsampler's
  shifted sigmas it gives x -10000. Before it samples, ComfyUI multiplies by 0, so it then starts from zeros
- *normalize*: the result is used as the noise of the top level
- RF-Solver, FireFlow and Rex sample with their own steps. The latents of all others are for ComfyUI's `euler`
- RF-Inversion (gamma 0.5) is defined for flow models only. It gets the same prompt as the others
- where a formula asks for the slope at sigma 0, which no denoiser has, it is taken at {CLEAN:g}, as FlipSigmas does
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 steps only")
    quick = parser.parse_args().quick
    steps = {cfg: counts[: 1 if quick else None] for cfg, counts in STEPS.items()}
    made_of = for_each(partial(tables, steps=steps), (*MODELS, MIXTURE))
    from comfyui_version import __version__ as host_version

    made = f"{datetime.date.today()}, torch {torch.__version__}, ComfyUI {host_version}, CPU"
    command = f"python scripts/benchmark.py peers{' --quick' * quick}"
    lines = [f"Made by `{command}` on {made}.", "", NOTES, *chain.from_iterable(made_of)]
    folder = REPOSITORY / ("output/quick" if quick else "docs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers-tables.md").write_text("\n".join(lines), encoding="utf-8")
    print(folder / "peers-tables.md")


if __name__ == "__main__":
    main()
