"""The seam: MODEL, CONDITIONING, LATENT and SIGMAS as a `Denoiser` on a `Grid`, run by the host's own guider.

Because the guider runs it, conditioning, areas, ControlNet, LoRA, hooks, wrappers, offload, previews, progress and
interrupts are the host's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..inversion import Callback, Grid, InversionError, Level
from ..inversion.levels import Kind
from .hooks import HookSchedules


@dataclass(frozen=True)
class HostDenoiser:
    """The host's guider as a `Denoiser`.

    Arguments:
        guider: what the host gives a sampler; its model is loaded and its conditioning prepared.
        options: what the host wants passed on with each call: this run's own copy of the model options, and the seed.
        hooks: this run's scheduled hooks.
    """

    guider: Any
    options: dict[str, Any]
    hooks: HookSchedules

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.hooks.prepare(level.sigma, self.options["model_options"])
        return self.guider(x, x.new_full((x.shape[0],), level.sigma), **self.options)


def check_run(guider: Any, sigmas: Tensor, model_options: dict) -> None:
    """Look for what makes the way up and the way down two different models.

    Raises:
        InversionError: a cache of earlier steps on the model, or a sigma without conditioning, where the host predicts
            zeros.
    """
    cache = model_options["transformer_options"].get("easycache")
    if cache is not None:
        raise InversionError(
            f"{cache.name} predicts from the steps before, which on the way up are others than on the way down. "
            "Connect the model without it."
        )
    one_prompt = math.isclose(getattr(guider, "cfg", 0.0), 1.0) and not model_options.get("disable_cfg1_optimization")
    for name, conds in guider.conds.items():
        active = torch.full_like(sigmas[:-1], name == "negative" and one_prompt, dtype=torch.bool)
        for cond in conds:
            start, end = cond.get("timestep_start", math.inf), cond.get("timestep_end", -math.inf)
            active |= (sigmas[:-1] <= start) & (sigmas[:-1] >= end)
        if not active.all():
            without = ", ".join(f"{sigma:g}" for sigma in sigmas[:-1][~active].tolist())
            raise InversionError(
                f"There is no {name} conditioning at sigma {without}. A prompt with a timestep range "
                "(ConditioningSetTimestepRange) needs others that cover the rest; combine them."
            )


Walk = Callable[[HostDenoiser, Tensor, Grid, Callback], Tensor]
"""What runs in place of a sampler function: (denoiser, x, grid, callback) -> x, all in the model's state space."""


def kind(model_sampling: Any) -> Kind:
    """The family of a model's state space.

    Raises:
        InversionError: a model whose state is neither x0 + sigma n nor (1 - sigma) x0 + sigma n.
    """
    rules = comfy.model_sampling
    without_noise = (rules.IMG_TO_IMG, getattr(rules, "IMG_TO_IMG_FLOW", rules.IMG_TO_IMG))  # the latter: newer hosts
    if not isinstance(model_sampling, without_noise):
        if isinstance(model_sampling, rules.CONST):
            return "flow"
        if isinstance(model_sampling, (rules.EPS, rules.COSMOS_RFLOW)):
            return "ve"
    names = [c.__name__ for c in type(model_sampling).__mro__ if c not in (object, torch.nn.Module)]
    raise InversionError(
        f"This model's sampling ({', '.join(names)}) is neither of the noise (eps, v, EDM) nor of the flow family, "
        "so it has no noise to invert to. Use a text-to-image or text-to-video model."
    )


def model_kind(model: Any) -> Kind:
    return kind(model.get_model_object("model_sampling"))


class WalkSampler(comfy.samplers.KSAMPLER):
    """A host sampler that runs a `Walk` on the latent as it stands.

    The host's own wrapping is skipped on purpose: its noise scaling would multiply a flow latent by 1 - sigma = 0, its
    inverse would divide by it, and its mask blend would show the model the clean picture where noise belongs.

    Arguments:
        walk: what to run.
        ancestral: whether its grid has ancestral steps.
    """

    def __init__(self, walk: Walk, ancestral: bool = False) -> None:
        super().__init__(walk)
        self.ancestral = ancestral

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Callable | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        family = kind(model_wrap.inner_model.model_sampling)
        check_run(model_wrap, sigmas, extra_args["model_options"])
        grid = Grid.from_sigmas(sigmas.tolist(), family, ancestral=self.ancestral)

        def report(index: int, total: int, x: Tensor, denoised: Tensor) -> None:
            if callback is not None:
                callback(index, denoised, x, total)

        denoiser = HostDenoiser(model_wrap, extra_args, HookSchedules(model_wrap, sigmas))
        return self.sampler_function(denoiser, latent_image, grid, report)


def fixed_noise(denoiser: HostDenoiser, x: Tensor, grid: Grid) -> Tensor | None:
    """What the host's `euler_ancestral` adds at each step with this run's seed, (N, B, C, ...); None on other grids."""
    if not grid.ancestral:
        return None
    draw = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=denoiser.options["seed"])
    scale = getattr(denoiser.guider.inner_model.model_sampling, "noise_scale", 1.0)  # newer hosts' flow models
    return torch.stack([draw(upper.sigma, lower.sigma) * scale for upper, lower in pairwise(grid.levels)])


def run(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    samples: Tensor,
    sigmas: Tensor,
    walk: Walk,
    calls: int,
    ancestral: bool = False,
    seed: int = 0,
    *,
    preview: bool = True,
) -> Tensor:
    """`run_guider` with the host's CFGGuider. `negative` may be None at cfg 1, where the host does not evaluate it."""
    guider = comfy.samplers.CFGGuider(model)
    if negative is None:
        if not math.isclose(cfg, 1.0):
            raise InversionError(
                f"cfg {cfg:g} compares the positive with a negative prompt, but `negative` is not connected. "
                "Connect it (an empty CLIP Text Encode will do), or set cfg to 1."
            )
        guider.inner_set_conds({"positive": positive})
    else:
        guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return run_guider(guider, samples, sigmas, walk, calls, ancestral, seed, preview=preview)


def run_guider(
    guider: Any,
    samples: Tensor,
    sigmas: Tensor,
    walk: Walk,
    calls: int,
    ancestral: bool = False,
    seed: int = 0,
    *,
    preview: bool = True,
) -> Tensor:
    """Run `walk` through one of the host's guiders on a LATENT's samples; returns samples in the same (VAE) space.

    Arguments:
        calls: how many times the walk will report progress.
        ancestral: whether the walk's grid has ancestral steps; `seed` is then that of their noise.
        preview: whether the steps are shown on the node, as the user has set it. The page keeps the last one there,
            over a picture that the node itself shows.
    """
    samples = samples.float()  # older hosts would start in the half precision that a LATENT may come in
    callback = latent_preview.prepare_callback(guider.model_patcher, calls) if preview else _bar(calls)
    quiet = not comfy.utils.PROGRESS_BAR_ENABLED
    noise = torch.zeros_like(samples)
    sampler = WalkSampler(walk, ancestral)
    return guider.sample(noise, samples, sampler, sigmas, callback=callback, disable_pbar=quiet, seed=seed)


def _bar(calls: int) -> Callable[[int, Tensor, Tensor, int], None]:
    bar = comfy.utils.ProgressBar(calls)
    return lambda step, _clean, _state, total: bar.update_absolute(step + 1, total)


def samples_for(model: Any, latent: dict) -> Tensor:
    """The LATENT's samples in the number of dimensions that the model wants.

    Raises:
        InversionError: nested (audio-video), empty or misshapen latents, with what to do.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise InversionError("This LATENT holds several latents (video with sound). Separate them and use the video's.")
    wanted = model.get_model_object("latent_format")
    dimensions = 2 + wanted.latent_dimensions
    came = f"got {samples.shape[1]} channels, shape {tuple(samples.shape)}"
    if samples.ndim == 4 and dimensions == 5:
        samples = samples.unsqueeze(2)  # one frame, as the host does for still images in video latents
    if samples.ndim != dimensions:
        medium = {3: "an audio or 1-D", 4: "an image", 5: "a video"}
        raise InversionError(
            f"This is {medium.get(samples.ndim, 'another')} latent in {medium.get(dimensions, 'another')} model: "
            f"{came}, but the model takes {dimensions} dimensions. Use the VAE that belongs to the model."
        )
    if samples.shape[1] != wanted.latent_channels:
        raise InversionError(
            f"The model takes latents of {wanted.latent_channels} channels, {came}. "
            "Encode the picture with the VAE that belongs to this model."
        )
    if not samples.any():
        raise InversionError(
            "The latent is empty (all zeros). Connect a picture's latent, from VAE Encode, not an Empty Latent Image."
        )
    return samples


def scheduled_sigmas(model: Any, steps: int, scheduler: str, denoise: float) -> Tensor:
    """The host's schedule for this model, descending; `denoise` < 1 keeps the cleaner end of a longer one."""
    if steps < 1 or not 0 < denoise <= 1:
        raise InversionError(
            f"Ask for 1 step or more and a denoise above 0 and up to 1, got steps {steps} and denoise {denoise:g}."
        )
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, int(steps / denoise))[-(steps + 1) :]


def checked_sigmas(model: Any, sigmas: Tensor) -> Tensor:
    """`sigmas` on the CPU.

    Raises:
        InversionError: fewer than two values, or values that do not descend or are not the model's.
    """
    sigmas = sigmas.detach().float().cpu().flatten()
    if len(sigmas) < 2:
        raise InversionError(
            f"SIGMAS with {len(sigmas)} value(s) make no step; two or more are needed. "
            "Check the scheduler node: denoise 0 and Split Sigmas at the end give empty SIGMAS."
        )
    Grid.from_sigmas(sigmas.tolist(), model_kind(model))  # says what is wrong before the model is loaded
    return sigmas


class InvertedNoise:
    """A NOISE that puts any host sampler at the inverted latent, in eps and flow models, at sigma 1 too.

    The host mixes noise and `latent_image` by the model's own rule before the first step; this solves that rule for the
    noise. (A LATENT cannot do it for flow models: the host multiplies it by 1 - sigma, which is 0.)

    Arguments:
        model: the MODEL that was inverted; its sampling rule is read when the noise is asked for.
        x: the inverted latent in the model's state space, (B, C, ...).
        sigma: the level of `x`.
        seed: what the host's sampler gets for a seed, which decides the noise that `euler_ancestral` adds.
    """

    def __init__(self, model: Any, x: Tensor, sigma: float, seed: int = 0) -> None:
        self.model, self.x, self.sigma, self.seed = model, x.float().cpu(), sigma, seed

    def generate_noise(self, latent: dict) -> Tensor:
        if getattr(self.model.model_options.get("context_handler"), "freenoise", False):
            raise InversionError(
                "FreeNoise, an option of the context windows on this model, shuffles the frames of every NOISE, also "
                "of an inverted one. Turn freenoise off, or come down with Edit From Latent."
            )
        samples = latent["samples"].float().cpu()
        if samples.ndim == self.x.ndim - 1:
            samples = samples.unsqueeze(2)
        if samples.shape != self.x.shape:
            raise InversionError(
                f"This NOISE was inverted from a latent of shape {tuple(self.x.shape)}, but the sampler works on "
                f"{tuple(samples.shape)}. Connect the original latent, or one of its size and batch, as latent_image."
            )
        if samples.any():  # the host leaves all-zero latents as they are
            samples = self.model.get_model_object("latent_format").process_in(samples)
        sampling = self.model.get_model_object("model_sampling")
        sigma_max = float(sampling.sigma_max)
        full = math.isclose(sigma_max, self.sigma, rel_tol=1e-5) or self.sigma > sigma_max  # the host's own test
        sigma = torch.tensor(self.sigma)
        base = sampling.noise_scaling(sigma, torch.zeros_like(samples), samples, full)
        gain = sampling.noise_scaling(sigma, torch.ones_like(samples), torch.zeros_like(samples), full)
        return (self.x - base) / gain
