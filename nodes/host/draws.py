"""Models that do not answer the same question the same way twice, as far as that can be helped, and said.

Some patches, such as token merging and HyperTile, draw random numbers in every call. The record is exact only if the
model of the way down is that of the way up, so here what they draw depends on the noise level alone. What else differs
from call to call shows in one repeated call.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...inversion import Grid
from ...inversion.metrics import relative_difference
from ...inversion.verdict import UNSTEADY

# What rounding may do to a repeated answer: kernels that add up in no fixed order, in single and in half precision.
ROUNDING, ROUNDING_IN_HALF_PRECISION = 1e-4, 2e-2


@dataclass
class Draws:
    """The random numbers that a model draws by itself in one run.

    Arguments:
        seen: whether it has drawn any.
    """

    seen: bool = False

    @contextmanager
    def fixed(self, sigma: float, device: torch.device) -> Iterator[None]:
        """Torch's generators as the level decides, and as they were afterwards."""
        (seed,) = struct.unpack("<I", struct.pack("<f", sigma))
        with seeded(seed, device) as generators:
            begun = [generator.get_state() for generator in generators]
            yield
            after = [generator.get_state() for generator in generators]
            self.seen |= not all(map(torch.equal, begun, after))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[list[torch.Generator]]:
    """Torch's own generators from `seed` on, for code that asks for no other, and as they were afterwards."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    before = [generator.get_state() for generator in generators]
    try:
        yield [generator.manual_seed(seed) for generator in generators]
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def findings(denoiser: Any, grid: Grid, point: Tensor, slope: Tensor) -> list[str]:
    """What a user should know of a model with patches, in sentences. One model call if it has any.

    Arguments:
        denoiser: the host's, after an inversion.
        point: where the inversion took its slope at the grid's first level, (B, C, ...).
        slope: what it found there.
    """
    if not _calls_others(denoiser.options["model_options"]):
        return []
    level, model = grid.levels[0], denoiser.guider.inner_model
    before, again = grid.denoised(point, slope, level), denoiser(point, level)
    difference = float(relative_difference(before, again).max())
    half = (model.manual_cast_dtype or model.get_dtype()).itemsize < 4
    if not difference <= (ROUNDING_IN_HALF_PRECISION if half else ROUNDING):
        return [
            f"{UNSTEADY} (the second answer differs by {difference:.0e}). So no picture comes back exactly, and the "
            "automatic mask is not reliable. Remove the patch that causes this, or edit with a mask of your own."
        ]
    if denoiser.draws.seen:
        return [
            "The model draws random numbers as it runs, as token merging and HyperTile do. Here they are the same each "
            "time at the same noise level. ComfyUI's own samplers draw others, and so are less accurate."
        ]
    return []


def _calls_others(options: Any) -> bool:
    """Whether there is a function among a model's options: a patch, a wrapper, a hook of a sampler."""
    if isinstance(options, dict):
        return any(map(_calls_others, options.values()))
    if isinstance(options, list | tuple | set):
        return any(map(_calls_others, options))
    return callable(options)
