"""SAMPLER: the host's samplers, and those of any pack, run on a departure or on a state as it stands."""

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...inversion import Callback, Departure, Grid, InversionError
from ...inversion.playback import WORKING, Model, Playback, Sampler
from .draws import seeded
from .guider import HostDenoiser, WalkSampler
from .latents import kind

AS_INVERTED = "as inverted"
# By these a sampler looks into the guidance: CFG++ samplers want the unconditional estimate beside the guided one.
HOOKS = (
    "sampler_pre_cfg_function",
    "sampler_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)


def sampler_names() -> list[str]:
    return list(comfy.samplers.SAMPLER_NAMES)


def sampler_object(name: str) -> Any:
    return comfy.samplers.sampler_object(name)


def name_of(sampler: Any) -> str:
    """What the host's lists call a SAMPLER, as far as it tells."""
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__)
    return name.removeprefix("sample_").removesuffix("_function")


def play(
    sampler: Any,
    departure: Departure,
    denoiser: HostDenoiser,
    e: Tensor,
    grid: Grid,
    callback: Callback,
    name: str = "",
) -> Tensor:
    """The departure at the grid's last level, from `e` at the first, by a SAMPLER.

    Arguments:
        name: what to call the sampler in messages; default what it calls itself.

    Raises:
        InversionError: the sampler cannot follow an inversion; no model call has been made then.
    """
    _check_descends(sampler)
    name = name or name_of(sampler)
    playable = _playable(sampler, denoiser, grid.sigmas, name)
    playback = Playback.prepare(playable, e, name, departure.source.trajectory.device)
    e = departure.head_start(e, grid.levels[0])
    return playback.run(departure, e, kind(denoiser.guider.inner_model.model_sampling), callback)


def play_plain(sampler: Any, denoiser: HostDenoiser, x: Tensor, grid: Grid, callback: Callback) -> tuple[Tensor, int]:
    """(the clean latent, model calls), from the state `x` at the grid's first level, by a sampler of the host.

    Raises:
        InversionError: the sampler is one of this pack's, which invert.
    """
    _check_descends(sampler)
    calls = 0

    class Counted(comfy.samplers.KSamplerX0Inpaint):
        def __call__(self, *args: Any, **options: Any) -> Tensor:
            nonlocal calls
            calls += 1
            return self.inner_model(*args, **{name: value for name, value in options.items() if name != "denoise_mask"})

    def show(step: dict) -> None:
        callback(step["i"], grid.steps, step["x"], step["denoised"])

    levels = grid.sigmas.to(x.device, copy=True)  # uni_pc writes into them
    model = Counted(denoiser.guider, levels)
    given = {"extra_args": dict(denoiser.options), "callback": show, "disable": True}
    return sampler.sampler_function(model, x, levels, **given, **sampler.extra_options), calls


def _check_descends(sampler: Any) -> None:
    if isinstance(sampler, WalkSampler):
        raise InversionError(
            "This SAMPLER inverts: it goes up to the noise, and an edit comes down from it. Connect one that samples, "
            "such as KSamplerSelect."
        )


class _StandIn:
    """What a sampler takes for the host's guider: the guider in all but its answers.

    Arguments:
        answer: who answers instead.
        name: the sampler's, if it is not to look into the guidance, whose answer is none of the model's.
    """

    def __init__(self, denoiser: HostDenoiser, answer: Model, name: str) -> None:
        self._guider, self._answer, self._name = denoiser.guider, answer, name
        self._options = denoiser.options["model_options"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def __call__(self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: Any = None) -> Tensor:
        if model_options and any(model_options.get(hook) != self._options.get(hook) for hook in HOOKS):
            raise InversionError(
                f"{self._name} looks into the guidance, as CFG++ samplers do, and of that an inversion keeps nothing. "
                f"Choose another sampler, such as {WORKING}."
            )
        return self._answer(x, timestep)


def _playable(sampler: Any, denoiser: HostDenoiser, sigmas: Tensor, name: str) -> Sampler:
    """A SAMPLER as the library runs it: on states as they stand."""
    rule = denoiser.guider.inner_model.model_sampling
    flow = kind(rule) == "flow"

    def run(model: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
        stand_in = _StandIn(denoiser, model, name)
        levels = sigmas.to(start.device, copy=True)  # uni_pc writes into them
        top, end = float(sigmas[0]), float(sigmas[-1])
        # The host takes a flow's latent times 1 - sigma for its start, and its end over 1 - sigma for a latent.
        # At sigma 1 it takes none of the latent, so there the start goes as noise.
        none = torch.zeros_like(start)
        latent, noise = (none, start) if flow and top == 1 else (start / (1 - top) if flow else start, none)
        with seeded(denoiser.options.get("seed") or 0, start.device):  # for samplers that draw without a seed
            done = sampler.sample(stand_in, levels, {**denoiser.options}, None, noise, latent, None, True)
        return (done * (1 - end) if flow else done).to(start.dtype)

    return run
