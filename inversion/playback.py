r"""Any sampler, run on a departure (see `edit`).

A sampler that visits fixed levels is an affine map: its queries and its end are sums of its initial state, of the
estimates that it was given, and of its own noise. So it may be run on what an edit departs from its source, from 0,
with the departure's estimates in place of the model's. Its noise is the source's and has to be taken off: a run on
zeros shows it, because there is nothing else in its states. Neither needs the model, so `Playback.prepare` tries the
sampler before the first model call.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .edit import Departure
from .errors import InversionError
from .levels import Kind, Level
from .problem import Callback

Model = Callable[[Tensor, Tensor], Tensor]
"""(state (B, C, ...), sigma (B,)) -> estimate of the clean latent."""

Sampler = Callable[[Model, Tensor], Tensor]
"""A sampler with its levels and its seed chosen: (model, initial state) -> end. Two runs draw the same noise."""

LIMIT = 10000  # queries beyond which a sampler is not going to stop
TOLERANCE = 1e-3  # of linearity, in single precision
WORKING = "euler, dpmpp_2m, res_multistep, uni_pc, heun, er_sde or lcm"


@dataclass(frozen=True)
class Playback:
    """A sampler that can run on departures. Made by `prepare`.

    Arguments:
        sampler: the sampler.
        sigmas: where it asks.
        noise: what it adds by itself, as seen at each query and at its end: (B, C, ...), None where that is nothing.
    """

    sampler: Sampler
    sigmas: tuple[float, ...]
    noise: tuple[Tensor | None, ...]

    @property
    def queries(self) -> int:
        """How many estimates it asks for."""
        return len(self.sigmas)

    @classmethod
    def prepare(cls, sampler: Sampler, like: Tensor, name: str, store: torch.device | None = None) -> "Playback":
        """Try a sampler without a model.

        Arguments:
            sampler: the sampler.
            like: of the shape and dtype and on the device of the run to come: noise is drawn for these.
            name: what to call it in messages.
            store: where to keep its noise; default where `like` is.

        Raises:
            InversionError: its queries or its noise depend on the estimates, or it is not linear in them.
        """
        try:
            sigmas, noise = _tried(sampler, torch.zeros_like(like), None, LIMIT, store)
            linear = _is_linear(sampler, torch.zeros((2, 3, *[2] * (like.ndim - 2)), dtype=like.dtype), sigmas)
        except _OtherStepsError:
            raise InversionError(
                f"{name} chooses its steps by what the model answers, so it cannot follow an inversion. Choose a "
                f"sampler with fixed steps, such as {WORKING}."
            ) from None
        if not linear:
            raise InversionError(
                f"{name} is not linear in the model's estimates, so it cannot follow an inversion. Choose another "
                f"sampler, such as {WORKING}."
            )
        return cls(sampler, tuple(sigmas), tuple(noise))

    def run(self, departure: Departure, e: Tensor, kind: Kind, callback: Callback | None = None) -> Tensor:
        """The departure's clean latent, from `e` (B, C, ...) at the sampler's first level.

        Arguments:
            kind: "ve" or "flow", what the sampler's sigmas mean.
            callback: called after each query, with the edit's own state and estimate.
        """
        show, k = departure.showing(callback), 0

        def own(state: Tensor) -> Tensor:
            noise = self.noise[k]
            return state if noise is None else state - noise.to(state)

        def model(state: Tensor, sigma: Tensor) -> Tensor:
            nonlocal k
            value = float(sigma.flatten()[0])
            ahead = k + 1 < self.queries and self.sigmas[k + 1] >= value  # it will ask here again, or go back up
            level = Level.of(min(value, 1.0) if kind == "flow" else value, kind)  # some ask above the top
            estimate = departure(own(state), level, ahead)
            if show is not None:
                show(k, self.queries, state, estimate)
            k += 1
            return estimate

        end = self.sampler(model, e)
        return own(end)


def _tried(
    sampler: Sampler, start: Tensor, estimates: list[Tensor] | None, limit: int, store: torch.device | None = None
) -> tuple[list[float], list[Tensor | None]]:
    """Run a sampler on given estimates, or on zeros: the sigmas it asks at, and its states there and at its end.

    None stands for a state of zeros.

    Raises:
        _OtherStepsError: it asks more often than `limit`.
    """
    sigmas: list[float] = []
    states: list[Tensor | None] = []

    def keep(state: Tensor) -> None:
        states.append(state.to(store, copy=True) if state.any() else None)

    def model(state: Tensor, sigma: Tensor) -> Tensor:
        if len(sigmas) == limit:
            raise _OtherStepsError
        keep(state)
        sigmas.append(float(sigma.flatten()[0]))
        return torch.zeros_like(state) if estimates is None else estimates[len(sigmas) - 1].to(state)

    keep(sampler(model, start))
    return sigmas, states


class _OtherStepsError(Exception):
    """A sampler's questions are not those of its first run."""


def _is_linear(sampler: Sampler, start: Tensor, sigmas: list[float]) -> bool:
    """Whether f(2a - b) = 2 f(a) - f(b) for random estimates a and b, on a small tensor, as for an affine f.

    Raises:
        _OtherStepsError: it does not ask at `sigmas`.
    """
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn((2, len(sigmas), *start.shape), generator=random).to(start)
    found = []
    for estimates in (a, b, 2 * a - b):
        asked, states = _tried(sampler, start.clone(), list(estimates), len(sigmas))
        if asked != sigmas:
            raise _OtherStepsError
        found.append([start if state is None else state for state in states])
    size = 0.0  # of the largest state so far: what rounding is relative to
    for one, other, both in zip(*found, strict=True):
        size = max(size, *(float(x.abs().max()) for x in (one, other, both)))
        if not float((both - 2 * one + other).abs().max()) <= TOLERANCE * size:
            return False
    return True
