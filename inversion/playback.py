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

LIMIT = 1000  # queries beyond which a sampler is not going to stop
TOLERANCE = 1e-3  # of linearity, in single precision
WORKING = "euler, dpmpp_2m, res_multistep, uni_pc, heun, er_sde or lcm"


@dataclass(frozen=True)
class Playback:
    """A sampler that can run on departures. Made by `prepare`.

    Arguments:
        sampler: the sampler.
        noise: what it adds by itself, as seen at each query and at its end: (B, C, ...), None where that is nothing.
    """

    sampler: Sampler
    noise: tuple[Tensor | None, ...]

    @property
    def queries(self) -> int:
        """How many estimates it asks for."""
        return len(self.noise) - 1

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
        sigmas, noise = _tried(sampler, torch.zeros_like(like), None, LIMIT, store)
        _check_linear(sampler, torch.zeros((2, 3, *[2] * (like.ndim - 2)), dtype=like.dtype), sigmas, name)
        return cls(sampler, tuple(n if n.any() else None for n in noise))

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
            estimate = departure(own(state), Level.of(value, kind))
            if show is not None:
                show(k, self.queries, state, estimate)
            k += 1
            return estimate

        end = self.sampler(model, e)
        return own(end)


def _tried(
    sampler: Sampler, start: Tensor, estimates: list[Tensor] | None, limit: int, store: torch.device | None = None
) -> tuple[list[float], list[Tensor]]:
    """Run a sampler on given estimates, or on zeros: the sigmas it asks at, and its states there and at its end."""
    sigmas: list[float] = []
    states: list[Tensor] = []

    def model(state: Tensor, sigma: Tensor) -> Tensor:
        if len(states) == limit:
            raise _TooManyError
        states.append(state.to(store, copy=True))
        sigmas.append(float(sigma.flatten()[0]))
        return torch.zeros_like(state) if estimates is None else estimates[len(states) - 1].to(state)

    states.append(sampler(model, start).to(store, copy=True))
    return sigmas, states


class _TooManyError(Exception):
    pass


def _check_linear(sampler: Sampler, start: Tensor, sigmas: list[float], name: str) -> None:
    """See that f(a + b) - f(0) = f(a) - f(0) + f(b) - f(0) for random estimates a and b, on a small tensor."""
    random = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(start.shape, generator=random).to(start) for _ in sigmas] for _ in range(2))
    both = [x + y for x, y in zip(a, b, strict=True)]
    try:
        runs = [_tried(sampler, start.clone(), estimates, len(sigmas)) for estimates in (None, a, b, both)]
    except _TooManyError:
        runs = []
    if not runs or any(asked != sigmas for asked, _ in runs):
        raise InversionError(
            f"{name} chooses its steps by what the model answers, so it cannot follow an inversion. Choose a sampler "
            f"with fixed steps, such as {WORKING}."
        )
    size = 0.0  # of the largest state so far: what rounding is relative to
    for none, one, other, sum_ in zip(*(states for _, states in runs), strict=True):
        size = max(size, *(float(x.abs().max()) for x in (none, one, other, sum_)))
        if not float((sum_ + none - one - other).abs().max()) <= TOLERANCE * size:
            raise InversionError(
                f"{name} is not linear in the model's estimates, so it cannot follow an inversion. Choose another "
                f"sampler, such as {WORKING}."
            )
