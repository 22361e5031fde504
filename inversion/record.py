"""What an inversion leaves behind: the inverted latent, the way it came, and a verdict in plain words."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InversionError
from .levels import Grid, Kind, Level
from .verdict import of_residuals

FORMAT = 2
LARGEST_HEADER = 1 << 26  # bytes; a record of 1000 steps has about 60 thousand, a workflow beside it may have millions


@dataclass(frozen=True)
class Inversion:
    """An inversion of N steps.

    Arguments:
        grid: the levels, as the sampler that comes down gets them.
        trajectory: every state, clean first: (N + 1, B, C, ...).
        points: where step i took its slope, on the level of state i + 1: (N, B, C, ...).
        slopes: the slope it took there: (N, B, C, ...). Together with `points` this makes the way back exact at no
            extra model call (the idea of DirectEdit, arXiv 2605.02417, which keeps the points' distance from the
            states; with the slopes it holds for steps that are more than the slope, such as EasyInv's blend).
        residuals: relative residual of each step's implicit equation at the point where the slope was taken, the worst
            of the batch: (N,). 0 at the exact inverse.
        calls: model calls of each step.
        method: the method's name.
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
    tolerance: float = 0.0
    notes: tuple[str, ...] = ()
    noise: Tensor | None = None
    partner: Tensor | None = None

    @property
    def latent(self) -> Tensor:
        """The inverted latent x_T, (B, C, ...)."""
        return self.trajectory[-1]

    @property
    def converged(self) -> bool | None:
        """Whether every step met the tolerance that was asked for; None where none was."""
        return bool((self.residuals <= self.tolerance).all()) if self.tolerance > 0 else None

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
        grid, upper, lower = self.grid, self.grid.levels[-2 - step], self.grid.levels[-1 - step]
        if grid.time(upper) == grid.time(lower):
            return self.slopes[step].to(like)
        noise = None if self.noise is None else self.noise[-1 - step].to(like)
        state, level = grid.without_noise(self.trajectory[step].to(like), upper, lower, noise)
        rise = self.trajectory[step + 1].to(like) / grid.unit(upper) - state / grid.unit(level)
        return rise / (grid.time(upper) - grid.time(level))

    @property
    def verdict(self) -> str:
        """How well it went, in one sentence."""
        return of_residuals(float(self.residuals.max()))

    def report(self) -> str:
        """What was done: calls, residuals, and which steps are not solved; `verdict` sums it up."""
        steps, calls = self.grid.steps, sum(self.calls)
        worst = int(self.residuals.argmax())
        largest = float(self.residuals[worst])
        lines = [
            f"{self.method}: {steps} steps from sigma {self.grid.levels[-1].sigma:.4g} to "
            f"{self.grid.levels[0].sigma:.4g}, {calls} model calls.",
            *self.notes,
            f"Residual per step (0 = exact inverse): mean {float(self.residuals.mean()):.1e}, "
            f"worst {largest:.1e} at step {worst + 1}.",
        ]
        if self.converged:
            lines.append(f"Every step converged to {self.tolerance:.1e}.")
        elif self.converged is False:
            missed = int((self.residuals > self.tolerance).sum())
            lines.append(
                f"{missed} of {steps} steps did not converge to {self.tolerance:.1e} (residual {largest:.1e}): "
                "lower cfg toward 1, use more steps or iterations, or Anderson acceleration."
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary of tensors, numbers and strings, for `from_dict`."""
        levels = [[level.alpha, level.sigma, level.timestep] for level in self.grid.levels]
        record = {
            "format": FORMAT,
            "kind": self.grid.kind,
            "ancestral": self.grid.ancestral,
            "levels": levels,
            "trajectory": self.trajectory,
            "points": self.points,
            "slopes": self.slopes,
            "residuals": self.residuals,
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
            InversionError: the dictionary is of another format, or its parts do not fit one another.
        """
        if record.get("format") != FORMAT:
            raise InversionError(
                f"This inversion record has format {record.get('format')!r}; this version reads {FORMAT}. "
                "Invert the picture again."
            )
        if record.get("kind") not in get_args(Kind):
            raise InversionError(
                f"This inversion record is damaged: its kind is {record.get('kind')!r}, not one of "
                f"{', '.join(get_args(Kind))}. Invert the picture again."
            )
        try:
            inversion = cls(
                grid=Grid(
                    tuple(Level(*level) for level in record["levels"]), record["kind"], bool(record["ancestral"])
                ),
                trajectory=record["trajectory"],
                points=record["points"],
                slopes=record["slopes"],
                residuals=record["residuals"],
                calls=tuple(int(calls) for calls in record["calls"]),
                method=str(record["method"]),
                tolerance=float(record["tolerance"]),
                notes=tuple(str(note) for note in record["notes"]),
                noise=record.get("noise"),
                partner=record.get("partner"),
            )
            _check_shapes(inversion)
        except InversionError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise InversionError(f"This inversion record is damaged ({error!r}). Invert the picture again.") from error
        return inversion

    def save(self, path: str | Path) -> None:
        """Write the inversion as one safetensors file, see `write_record`."""
        write_record(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Inversion":
        """Read what `save` wrote.

        Raises:
            InversionError: anything else, with what was found.
        """
        return cls.from_dict(read_record(path))


def write_record(path: str | Path, record: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a record as one safetensors file: the tensors, and the rest as JSON under "inversion" in its header.

    Arguments:
        record: that of `Inversion.to_dict`, with any other tensors and plain values beside it.
        metadata: more text for the header.

    Raises:
        InversionError: the header would be larger than `read_record` takes.
    """
    rest = {name: value for name, value in record.items() if not isinstance(value, Tensor)}
    header = {**(metadata or {}), "inversion": json.dumps(rest)}
    size = len(json.dumps(header)) + 200 * len(record)  # a tensor's entry has its name, type, shape and place
    if size > LARGEST_HEADER:
        raise InversionError(
            f"What is to be written beside the tensors takes {size / 1e6:.0f} MB, more than the "
            f"{LARGEST_HEADER / 1e6:.0f} MB that are read back. Leave out some of {', '.join(metadata or {})}."
        )
    tensors: dict[str, Tensor] = {}
    for name, value in record.items():
        if isinstance(value, Tensor):
            value = value.contiguous().cpu()
            # The format has no views: two tensors on one memory, such as a state and a slice of the trajectory.
            held = {other.untyped_storage().data_ptr() for other in tensors.values()}
            tensors[name] = value.clone() if value.untyped_storage().data_ptr() in held else value
    save_file(tensors, path, header)


def read_record(path: str | Path) -> dict[str, Any]:
    """The record that `write_record` wrote, with what stood beside it; `Inversion.from_dict` checks its parts.

    Raises:
        InversionError: any other file, with what was found.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        if len(start) < 8 or struct.unpack("<Q", start)[0] > LARGEST_HEADER:
            raise InversionError(f"{path} is not an inversion: it does not start like one of this pack's files.")
        with safe_open(path, "pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if "inversion" not in metadata:
                raise InversionError(
                    f"{path} is a safetensors file, but not an inversion: it holds {_some(names)}, and in its header "
                    f"{_some(list(metadata))}. Give a file that Inversion.save wrote."
                )
            # Copies, because the file may be overwritten while its tensors, mapped from it, are still in use.
            return json.loads(metadata["inversion"]) | {name: file.get_tensor(name).clone() for name in names}
    except InversionError:
        raise
    except OSError as error:
        raise InversionError(f"{path} cannot be read: {error}") from error
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise InversionError(
            f"{path} cannot be read as an inversion, it may be cut off or damaged: {error}. Copy it again, or invert "
            "the picture again."
        ) from error


def _some(names: list[str]) -> str:
    """The first names of a list that may be long."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def record_memory(x: Tensor, steps: int, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
    """Empty trajectory, points and slopes for a state like `x`."""
    where = device or x.device
    shapes = [(steps + 1, *x.shape), (steps, *x.shape), (steps, *x.shape)]
    trajectory, points, slopes = (torch.empty(shape, dtype=x.dtype, device=where) for shape in shapes)
    return trajectory, points, slopes


def _check_shapes(inversion: Inversion) -> None:
    steps, state = inversion.grid.steps, tuple(inversion.trajectory.shape[1:])
    expected = {
        "trajectory": (steps + 1, *state),
        "points": (steps, *state),
        "slopes": (steps, *state),
        "residuals": (steps,),
    }
    if inversion.grid.ancestral:
        expected["noise"] = (steps, *state)
    if inversion.partner is not None:
        expected["partner"] = state
    for name, shape in expected.items():
        value = getattr(inversion, name)
        if tuple(value.shape) != shape or not value.is_floating_point() or value.element_size() < 2:
            raise InversionError(
                f"This inversion record is damaged: {name} is {value.dtype} of shape {tuple(value.shape)}, not "
                f"floating point of {shape} with 16 bits or more. Invert the picture again."
            )
    if len(inversion.calls) != steps or not math.isfinite(inversion.tolerance):
        raise InversionError(f"This inversion record is damaged: {len(inversion.calls)} call counts for {steps} steps.")
