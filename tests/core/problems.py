"""Problems whose answers are known: tests compare with these, not with earlier outputs."""

import math
from dataclasses import dataclass

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from inversion import Grid, Level

KINDS = ("ve", "vp", "flow")


def grid(kind: str, steps: int, noisiest: float = 10.0, clean: float = 0.0) -> Grid:
    """A smooth grid of `steps` steps; `noisiest` and `clean` are noise-to-signal ratios (flow: s/(1-s))."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ratio = (noisiest ** (1 / 3) * (1 - t) + clean ** (1 / 3) * t) ** 3
    if kind == "ve":
        return Grid.from_sigmas(ratio, "ve")
    if kind == "flow":
        return Grid.from_sigmas(ratio / (1 + ratio), "flow")
    return Grid(tuple(Level(1 / math.hypot(1, r), r / math.hypot(1, r)) for r in ratio.tolist()), "vp")


@dataclass(frozen=True)
class Gaussian:
    """Data x0 ~ N(mean, deviation^2) in every coordinate."""

    mean: float = 0.3
    deviation: float = 0.7

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        variance = (level.alpha * self.deviation) ** 2 + level.sigma**2
        gain = level.alpha * self.deviation**2 / variance
        return self.mean + gain * (x - level.alpha * self.mean)

    def carried(self, x: Tensor, start: Level, end: Level) -> Tensor:
        """The probability-flow ODE's exact solution: the standardised coordinate is constant."""

        def spread(level: Level) -> float:
            return math.hypot(level.alpha * self.deviation, level.sigma)

        return end.alpha * self.mean + (x - start.alpha * self.mean) * (spread(end) / spread(start))


@dataclass(frozen=True)
class Mixture:
    """Equal parts of Gaussians of one deviation around several means, independent in every coordinate."""

    means: tuple[float, ...] = (-1.5, 0.0, 1.2)
    deviation: float = 0.4

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        means = torch.tensor(self.means, dtype=x.dtype)
        variance = (level.alpha * self.deviation) ** 2 + level.sigma**2
        distance = x.unsqueeze(-1) - level.alpha * means
        weights = torch.softmax(-(distance**2) / (2 * variance), -1)
        return (weights * (means + level.alpha * self.deviation**2 / variance * distance)).sum(-1)

    def carried(self, x: Tensor, start: float, end: float) -> Tensor:
        """A reference solution in variance-exploding coordinates, by an 8th-order Runge-Kutta method."""

        def slope(sigma: float, state):
            point = torch.from_numpy(state)
            return ((point - self(point, Level(1.0, sigma))) / sigma).numpy()

        solution = solve_ivp(slope, (start, end), x.flatten().numpy(), "DOP853", rtol=1e-11, atol=1e-12)
        return torch.from_numpy(solution.y[:, -1]).reshape(x.shape)
