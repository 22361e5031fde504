"""What an inversion leaves behind: the inverted latent, the way it came, and a verdict in plain words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from . import compact as small
from . import fields
from .errors import InversionError
from .files import read_record, write_record
from .levels import Grid, Kind, Level
from .metrics import relative_difference
from .verdict import UNSTEADY, of_risk

FORMAT = 3
COMPACT = 4  # points and slopes by `compact.packed`
READ = (2, FORMAT, COMPACT)  # format 2 has one residual for a step, the worst of the batch
MOST_STEPS = 10_000
MOST_CALLS = 1_000_000  # of one step
LARGEST = 1e9  # of the numbers of a level


@dataclass(frozen=True, eq=False, repr=False)
class Inversion:
    """An inversion of N steps.

    Arguments:
        grid: the levels, as the sampler that comes down gets them.
        trajectory: every state, clean first: (N + 1, B, C, ...).
        points: where step i took its slope, on the level of state i + 1: (N, B, C, ...).
        slopes: the slope it took there: (N, B, C, ...). Together with `points` this makes the way back exact at no
            extra model call (the idea of DirectEdit, arXiv 2605.02417, which keeps the points' distance from the
            states; with the slopes it holds for steps that are more than the slope, such as EasyInv's blend).
        residuals: how far each stored state is from the point where its step took the slope, relative, for each
            picture: (N, B). 0 at the exact inverse.
        calls: model calls of each step.
        method: the method's name.
        drift: how far the steps moved the states off their own slopes, relative, added up, for each picture: (B,). 0
            but for methods that do more than follow the slope, such as EasyInv's blend. The sampler alone undoes none
            of it.
        tolerance: the residual that was asked for; 0 where none was.
        notes: what the method has to say about this run.
        noise: the fixed noise of an ancestral grid, in sampling order: (N, B, C, ...).
        partner: the second state of a two-state method at the noisy end, (B, C, ...).
    """

    grid: Grid
    trajectory: Tensor
    points: Tensor
    slopes: Tensor
    residuals: Tensor
    calls: tuple[int, ...]
    method: str
    drift: Tensor
    tolerance: float = 0.0
    notes: tuple[str, ...] = ()
    noise: Tensor | None = None
    partner: Tensor | None = None

    @property
    def latent(self) -> Tensor:
        """The inverted latent x_T, (B, C, ...)."""
        return self.trajectory[-1]

    @property
    def worst(self) -> Tensor:
        """The largest residual of the batch at each step, (N,)."""
        return self.residuals.amax(1)

    @property
    def risk(self) -> Tensor:
        """What stands against the sampler alone, without the record, for each picture: (B,). See `verdict`."""
        return self.residuals.amax(0) + self.drift

    def __repr__(self) -> str:
        levels, latent = self.grid.levels, self.latent
        return (
            f"Inversion({self.method}, {self.grid.steps} steps of {self.grid.kind!r} up to sigma {levels[0].sigma:.4g}"
            f", {latent.dtype} {tuple(latent.shape)}, residual up to {float(self.residuals.max()):.1e})"
        )

    @property
    def converged(self) -> bool | None:
        """Whether every step met the tolerance that was asked for; None where none was."""
        return bool((self.residuals <= self.tolerance).all()) if self.tolerance > 0 else None

    def pick(self, places: Sequence[int]) -> "Inversion":
        """The inversion of these pictures of its batch, in this order; one may come several times."""

        def of(x: Tensor | None, axis: int) -> Tensor | None:
            return None if x is None else x.index_select(axis, torch.tensor(places, device=x.device))

        second = ("trajectory", "points", "slopes", "residuals", "noise")
        parts: dict[str, Any] = {name: of(getattr(self, name), 1) for name in second}
        parts |= {name: of(getattr(self, name), 0) for name in ("drift", "partner")}
        return replace(self, **parts)

    def state(self, level: Level, like: Tensor) -> Tensor:
        """The state at `level`, (B, C, ...); between two levels on the straight line from one state to the other.

        On the device and in the dtype of `like`.
        """
        grid, last = self.grid, self.grid.steps
        k, on_it = grid.nearest(level)
        if on_it:
            return self.trajectory[last - k].to(like)
        times, wanted = [grid.time(known) for known in grid.levels], grid.time(level)
        k = next((k for k in range(1, last) if times[k] <= wanted), last)
        upper, lower = (self.trajectory[last - j].to(like) / grid.unit(grid.levels[j]) for j in (k - 1, k))
        share = min(1.0, max(0.0, (wanted - times[k]) / ((times[k - 1] - times[k]) or 1.0)))
        return torch.lerp(lower, upper, share) * grid.unit(level)

    def secant(self, step: int, like: Tensor) -> Tensor:
        """The slope along which Euler's method goes exactly from state `step` + 1 to state `step`, (B, C, ...).

        That of `slopes`, unless the step was more than its slope (or did not move). On the device and in the dtype of
        `like`.
        """
        rise = self.rise(step, like)
        return self.slopes[step].to(like) if rise is None else rise

    def rise(self, step: int, like: Tensor) -> Tensor | None:
        """`secant` from the states alone; None where the step did not move."""
        grid, upper, lower = self.grid, self.grid.levels[-2 - step], self.grid.levels[-1 - step]
        if grid.time(upper) == grid.time(lower):
            return None
        noise = None if self.noise is None else self.noise[-1 - step].to(like)
        state, level = grid.without_noise(self.trajectory[step].to(like), upper, lower, noise)
        rise = self.trajectory[step + 1].to(like) / grid.unit(upper) - state / grid.unit(level)
        return rise / (grid.time(upper) - grid.time(level))

    def measured_drift(self) -> Tensor:
        """`drift`, from the states and slopes."""
        drift = torch.zeros(self.latent.shape[0])
        for step, (lower, upper) in enumerate(self.grid.upward()):
            y, noise = self.trajectory[step + 1], None if self.noise is None else self.noise[-1 - step]
            known, level = self.grid.without_noise(self.trajectory[step], upper, lower, noise)
            drift += relative_difference(y, self.grid.move(known, level, upper, self.slopes[step])).float()
        return drift

    @property
    def verdict(self) -> str:
        """How well it went, in a sentence or two."""
        if any(note.startswith(UNSTEADY) for note in self.notes):
            return f"{UNSTEADY}. So no picture comes back exactly."
        return of_risk(float(self.risk.max()))

    def report(self) -> str:
        """What was done: calls, residuals, and which steps are not solved; `verdict` sums it up."""
        steps, calls, pictures = self.grid.steps, sum(self.calls), self.residuals.shape[1]
        largest, (worst, item) = float(self.residuals.max()), divmod(int(self.residuals.argmax()), pictures)
        where = f"step {worst + 1}" + (f" of picture {item + 1} of {pictures}" if pictures > 1 else "")
        lines = [
            f"{self.method}: {steps} steps from sigma {self.grid.levels[-1].sigma:.4g} to "
            f"{self.grid.levels[0].sigma:.4g}, {calls} model calls.",
            *self.notes,
            f"Residual per step (its error; 0 is exact): mean {float(self.residuals.mean()):.1e}, "
            f"worst {largest:.1e} at {where}.",
        ]
        if float(self.drift.max()) > 0.01:
            lines.append(
                f"The blend moved the states by {float(self.drift.max()):.0%}. Without the record this change stays."
            )
        if pictures > 1:
            lines.append(f"Of the {pictures} pictures, picture {int(self.risk.argmax()) + 1} is the least accurate.")
        if self.converged:
            lines.append(f"Every step converged to {self.tolerance:.1e}.")
        elif self.converged is False:
            missed = int((self.worst > self.tolerance).sum())
            lines.append(
                f"{missed} of {steps} steps did not converge to {self.tolerance:.1e} (residual {largest:.1e}). "
                "Lower cfg toward 1, or use more steps, more iterations or Anderson acceleration."
            )
        return "\n".join(lines)

    def to_dict(self, compact: bool = False) -> dict[str, Any]:
        """A plain dictionary of tensors, numbers and strings, for `from_dict`.

        Arguments:
            compact: in about half the memory: the same prompt then gives the clean latent back to rounding, and not
                to the last bit.
        """
        levels = [[level.alpha, level.sigma, level.timestep] for level in self.grid.levels]
        record = {
            "format": COMPACT if compact else FORMAT,
            "kind": self.grid.kind,
            "ancestral": self.grid.ancestral,
            "levels": levels,
            "trajectory": self.trajectory,
            **(small.packed(self) if compact else {"points": self.points, "slopes": self.slopes}),
            "residuals": self.residuals,
            "drift": self.drift,
            "calls": list(self.calls),
            "method": self.method,
            "tolerance": self.tolerance,
            "notes": list(self.notes),
        }
        optional = {"noise": self.noise, "partner": self.partner}
        return record | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Inversion":
        """The inverse of `to_dict`.

        Raises:
            InversionError: the dictionary is of another format, or one of its parts is not what it has to be; says
                which, what came and what fits.
        """
        form = record.get("format")
        if type(form) is not int or form not in READ:
            came = "no format" if form is None else f"format {fields.shown(form)}"
            raise InversionError(
                f"This inversion record has {came}; this version reads {', '.join(map(str, READ))}. {fields.ANEW}"
            )
        kind = record.get("kind")
        if not isinstance(kind, str) or kind not in get_args(Kind):
            raise fields.damaged("its kind", kind, f"one of {', '.join(get_args(Kind))}")
        levels = fields.items("levels", record.get("levels"), 0, MOST_STEPS + 1)
        grid = _grid(
            tuple(_level(f"level {i + 1}", level) for i, level in enumerate(levels)),
            cast(Kind, kind),
            fields.flag("ancestral", record.get("ancestral")),
        )
        steps, trajectory = grid.steps, record.get("trajectory")
        if not isinstance(trajectory, Tensor) or not 3 <= trajectory.ndim <= 8:
            raise fields.damaged("trajectory", trajectory, f"floating point of shape ({steps + 1}, B, C, ...)")
        state, dtype = tuple(trajectory.shape[1:]), trajectory.dtype
        residuals = record.get("residuals")
        if form == 2:
            residuals = fields.floats("residuals", residuals, (steps,))[:, None].repeat(1, state[0])
        residuals = fields.floats("residuals", residuals, (steps, state[0]))
        if float(residuals.min()) < 0:
            raise fields.damaged("the least residual", float(residuals.min()), "0 or more")
        if not grid.ancestral and record.get("noise") is not None:
            raise fields.damaged("noise", record["noise"], "absent, as it is without ancestral steps")
        noise = fields.floats("noise", record.get("noise"), (steps, *state), dtype) if grid.ancestral else None
        partner = record.get("partner")
        found = cls(
            grid=grid,
            trajectory=fields.floats("trajectory", trajectory, (steps + 1, *state)),
            points=_part("points", record, (steps, *state), dtype),
            slopes=_part("slopes", record, (steps, *state), dtype),
            residuals=residuals,
            calls=tuple(
                fields.whole(f"call count {i + 1}", calls, MOST_CALLS)
                for i, calls in enumerate(fields.items("calls", record.get("calls"), steps, steps))
            ),
            method=fields.title("method", record.get("method")),
            tolerance=fields.number("tolerance", record.get("tolerance"), 0, LARGEST),
            notes=tuple(
                fields.text(f"note {i + 1}", note, 2000)
                for i, note in enumerate(fields.items("notes", record.get("notes"), 0, 100))
            ),
            noise=noise,
            partner=None if partner is None else fields.floats("partner", partner, state, dtype),
            drift=torch.zeros(state[0]) if form == 2 else fields.floats("drift", record.get("drift"), (state[0],)),
        )
        if form == COMPACT:
            points, slopes = small.unpacked(found, record)
            return replace(found, points=points, slopes=slopes)
        return replace(found, drift=found.measured_drift()) if form == 2 else found

    def save(self, path: str | Path) -> None:
        """Write the inversion as one safetensors file.

        Raises:
            InversionError: it cannot be written, or there is such a file, which is left as it is; see `write_record`.
        """
        write_record(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Inversion":
        """Read what `save` wrote.

        Raises:
            InversionError: anything else, with what was found.
        """
        return cls.from_dict(read_record(path))


def record_bytes(x: Tensor, steps: int, ancestral: bool = False) -> int:
    """What the record of a state like `x` takes in memory."""
    return ((4 if ancestral else 3) * steps + 1) * x.numel() * x.element_size()


def record_memory(x: Tensor, steps: int, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
    """Empty trajectory, points and slopes for a state like `x`.

    Raises:
        InversionError: the CPU has no room for them.
    """
    where = device or x.device
    shapes = [(steps + 1, *x.shape), (steps, *x.shape), (steps, *x.shape)]
    try:
        trajectory, points, slopes = (torch.empty(shape, dtype=x.dtype, device=where) for shape in shapes)
    except RuntimeError as error:
        if where.type != "cpu":
            raise
        raise InversionError(no_room(record_bytes(x, steps), x, steps)) from error
    return trajectory, points, slopes


def no_room(size: int, x: Tensor, steps: int, free: int | None = None) -> str:
    """What to say where a record of `size` bytes does not fit."""
    there = "more than there is" if free is None else f"and {in_words(free)} are free"
    return (
        f"The record of {steps} steps of {tuple(x.shape)} takes {in_words(size)} of memory, {there}. Use fewer steps, "
        "a smaller picture, fewer pictures or frames at a time, or close other programs."
    )


def in_words(size: int) -> str:
    """A number of bytes as people say it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _part(name: str, record: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The points or the slopes; nothing in their place where the record is compact."""
    return torch.empty(0) if record["format"] == COMPACT else fields.floats(name, record.get(name), shape, dtype)


def _level(name: str, level: Any) -> Level:
    alpha, sigma, timestep = fields.items(name, level, 3, 3)
    return Level(
        fields.number(f"{name}'s alpha", alpha, 0, LARGEST),
        fields.number(f"{name}'s sigma", sigma, 0, LARGEST),
        None if timestep is None else fields.number(f"{name}'s timestep", timestep, -LARGEST, LARGEST),
    )


def _grid(levels: tuple[Level, ...], kind: Kind, ancestral: bool) -> Grid:
    """A grid that every step can be taken on."""
    try:
        grid = Grid(levels, kind, ancestral)
        numbers = [grid.time(level) for level in levels[:-1]]
        numbers += [n for lower, upper in grid.upward() for n in grid.landing(upper, lower)[1:]]
    except (ArithmeticError, ValueError) as error:
        if isinstance(error, InversionError):
            raise
        numbers = [math.inf]
    if not all(map(math.isfinite, numbers)):
        raise InversionError(
            f"This inversion record is damaged: its levels are not those of kind {kind!r}. {fields.ANEW}"
        )
    return grid
