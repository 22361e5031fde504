"""What an inversion leaves behind: the inverted latent, the way it came, and a verdict in plain words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import InversionError
from .schedule import Grid, Level

FORMAT = 1


@dataclass(frozen=True)
class Inversion:
    """An inversion of N steps.

    Arguments:
        grid: the levels, as the sampler that comes down gets them.
        trajectory: every state, clean first: (N + 1, B, C, ...).
        offsets: where step i took its slope, relative to the state it arrived at: (N, B, C, ...).
        corrections: what the sampler's step from state i + 1 along that slope misses state i by: (N, B, C, ...).
            Together with `offsets` this makes the way back exact at no extra model call (the idea of DirectEdit,
            arXiv 2605.02417, extended by the correction, which EasyInv's blend needs).
        residuals: relative residual of each step's implicit equation at the point where the slope was taken, the worst
            of the batch: (N,). 0 at the exact inverse.
        calls: model calls of each step.
        method: the method's name.
        notes: what the method has to say about this run.
        converged: whether every step met the tolerance that was asked for; None where none was asked for.
    """

    grid: Grid
    trajectory: Tensor
    offsets: Tensor
    corrections: Tensor
    residuals: Tensor
    calls: tuple[int, ...]
    method: str
    notes: tuple[str, ...] = ()
    converged: bool | None = None

    @property
    def latent(self) -> Tensor:
        """The inverted latent x_T, (B, C, ...)."""
        return self.trajectory[-1]

    def report(self) -> str:
        """What was done and how well it went, in plain words."""
        steps, worst = self.grid.steps, int(self.residuals.argmax())
        lines = [
            f"{self.method}: {steps} steps from sigma {self.grid.levels[-1].sigma:.4g} to "
            f"{self.grid.levels[0].sigma:.4g}, {sum(self.calls)} model calls.",
            *self.notes,
            f"Residual per step (0 = exact inverse): mean {float(self.residuals.mean()):.1e}, "
            f"worst {float(self.residuals[worst]):.1e} at step {worst + 1}.",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary of tensors, numbers and strings, for `from_dict`."""
        levels = [(level.alpha, level.sigma, level.timestep) for level in self.grid.levels]
        return {
            "format": FORMAT,
            "kind": self.grid.kind,
            "levels": levels,
            "trajectory": self.trajectory,
            "offsets": self.offsets,
            "corrections": self.corrections,
            "residuals": self.residuals,
            "calls": list(self.calls),
            "method": self.method,
            "notes": list(self.notes),
            "converged": self.converged,
        }

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
        try:
            inversion = cls(
                grid=Grid(tuple(Level(*level) for level in record["levels"]), record["kind"]),
                trajectory=record["trajectory"],
                offsets=record["offsets"],
                corrections=record["corrections"],
                residuals=record["residuals"],
                calls=tuple(record["calls"]),
                method=record["method"],
                notes=tuple(record["notes"]),
                converged=record["converged"],
            )
            steps, state = inversion.grid.steps, inversion.trajectory.shape[1:]
            expected = {"trajectory": (steps + 1, *state), "offsets": (steps, *state), "corrections": (steps, *state)}
            for name, shape in (expected | {"residuals": (steps,)}).items():
                came = tuple(getattr(inversion, name).shape)
                if came != shape or not getattr(inversion, name).is_floating_point():
                    raise InversionError(f"This inversion record is damaged: {name} has shape {came}, not {shape}.")
        except (KeyError, TypeError, AttributeError) as error:
            raise InversionError(f"This inversion record is damaged ({error!r}). Invert the picture again.") from error
        return inversion


def record_memory(x: Tensor, steps: int, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
    """Empty trajectory, offsets and corrections for a state like `x`."""
    where = device or x.device
    shapes = [(steps + 1, *x.shape), (steps, *x.shape), (steps, *x.shape)]
    trajectory, offsets, corrections = (torch.empty(shape, dtype=x.dtype, device=where) for shape in shapes)
    return trajectory, offsets, corrections
