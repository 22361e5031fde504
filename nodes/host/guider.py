"""MODEL and CONDITIONING as a `Denoiser` on a `Grid`, run by the host's own guider.

Because the guider runs it, conditioning, areas, ControlNet, LoRA, hooks, wrappers, offload, previews, progress and
interrupts are the host's.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...inversion import Callback, Grid, InversionError, Level
from .draws import Draws
from .hooks import HookSchedules
from .latents import check_fits, kind


class Guider(comfy.samplers.CFGGuider):
    """The host's CFGGuider, with the source's prompt and cfg beside the edit's: one of them is asked at a time."""

    source_cfg = 1.0
    asks_source = False

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: Any = None) -> Tensor:
        positive = self.conds["source" if self.asks_source else "positive"]
        cfg = self.source_cfg if self.asks_source else self.cfg
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds.get("negative"), positive, cfg, model_options or {}, seed
        )

    @contextmanager
    def asking_source(self) -> Iterator[None]:
        self.asks_source = True
        try:
            yield
        finally:
            self.asks_source = False


def guider_for(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    source: Any = None,
    source_cfg: float = 1.0,
    *,
    connect: str = "Connect it: an empty CLIP Text Encode will do.",
    kind: Any = Guider,
) -> Any:
    """A guider for these prompts. `negative` may be None where the host does not evaluate it.

    Arguments:
        kind: its class, `Guider` or one made of it.
        connect: what to do about a `negative` that is missing.

    Raises:
        InversionError: `negative` is missing.
    """
    cfgs = {"cfg": cfg} if source is None else {"cfg": cfg, "source_cfg": source_cfg}
    guided = " and ".join(f"{name} {value:g}" for name, value in cfgs.items() if not math.isclose(value, 1.0))
    if negative is None and guided:
        raise InversionError(
            f"Guidance ({guided}) compares with a negative prompt, but `negative` is not connected. {connect}"
        )
    if negative is None and model.model_options.get("disable_cfg1_optimization"):
        raise InversionError(
            "A patch on this model (such as Self-Attention Guidance) uses the negative prompt even at cfg 1, but "
            f"`negative` is not connected. {connect} Or remove the patch."
        )
    guider = kind(model)
    prompts = {"positive": positive, "negative": negative, "source": source}
    guider.inner_set_conds({name: prompt for name, prompt in prompts.items() if prompt is not None})
    guider.set_cfg(cfg)
    guider.source_cfg = source_cfg
    return guider


def on_cpu(model: Any) -> bool:
    """Whether the host runs a model on the CPU."""
    return model.load_device.type == "cpu"


@dataclass(frozen=True)
class HostDenoiser:
    """The host's guider as a `Denoiser`.

    Arguments:
        guider: what the host gives a sampler; its model is loaded and its conditioning prepared.
        options: what the host wants passed on with each call: this run's own copy of the model options, and the seed.
        hooks: this run's scheduled hooks.
        draws: the random numbers that the model draws by itself.
    """

    guider: Any
    options: dict[str, Any]
    hooks: HookSchedules
    draws: Draws = field(default_factory=Draws)

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.hooks.prepare(level.sigma, self.options["model_options"])
        x = x.contiguous()  # as the record holds it, so that the model computes with the same kernels both ways
        with self.draws.fixed(level.sigma, x.device):
            return self.guider(x, x.new_full((x.shape[0],), level.sigma), **self.options)

    def of_source(self, x: Tensor, level: Level) -> Tensor:
        """The same with the source's prompt, for a `Guider` that has it."""
        with self.guider.asking_source():
            return self(x, level)


Walk = Callable[[HostDenoiser, Tensor, Grid, Callback], tuple[Tensor, Any]]
"""What runs in place of a sampler function: (denoiser, x, grid, callback) -> (state, what else there is to tell).

All states are in the model's state space.
"""


class WalkSampler(comfy.samplers.KSAMPLER):
    """A host sampler that runs a `Walk` on the latent as it stands.

    The host's own wrapping is skipped on purpose: its noise scaling would multiply a flow latent by 1 - sigma = 0, its
    inverse would divide by it, and its mask blend would show the model the clean picture where noise belongs.

    Arguments:
        walk: what to run.
        grid: the levels; None for those of the sigmas that the host passes.
        ancestral: whether levels from the host's sigmas have ancestral steps.
    """

    def __init__(self, walk: Walk, grid: Grid | None = None, ancestral: bool = False) -> None:
        super().__init__(walk)
        self.grid, self.ancestral = grid, ancestral
        self.told: Any = None

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
        check_run(model_wrap, sigmas, extra_args["model_options"])
        if latent_image is not None:
            check_fits(latent_image, model_wrap.model_patcher.get_model_object("latent_format"))
        grid = self.grid
        if grid is None:
            family = kind(model_wrap.inner_model.model_sampling)
            grid = Grid.from_sigmas(sigmas.tolist(), family, ancestral=self.ancestral)
            if self.ancestral and grid.steps < len(sigmas) - 1:
                raise InversionError(
                    "A sigma comes twice in these SIGMAS. There euler_ancestral draws noise that it does not add, "
                    "which an inversion cannot follow. Use fewer steps, another scheduler or a higher denoise."
                )

        def report(index: int, total: int, x: Tensor, denoised: Tensor) -> None:
            if callback is not None:
                callback(index, denoised, x, total)

        denoiser = HostDenoiser(model_wrap, extra_args, HookSchedules(model_wrap, sigmas))
        state, self.told = self.sampler_function(denoiser, latent_image, grid, report)
        return state


def check_run(guider: Any, sigmas: Tensor, model_options: dict) -> None:
    """Look for what makes the inversion and the sampling two different models.

    Raises:
        InversionError: a cache of earlier steps on the model, or a sigma without conditioning, where the host predicts
            zeros.
    """
    cache = model_options["transformer_options"].get("easycache")
    if cache is not None:
        raise InversionError(
            f"{cache.name} guesses a step from the steps before it, and an inversion goes through the steps in the "
            f"other order. Connect the model without {cache.name}."
        )
    conditioning = getattr(guider, "conds", {})
    if model_options.get("disable_cfg1_optimization") and "negative" not in conditioning:
        raise InversionError(
            "A patch on this model (such as Self-Attention Guidance) uses the negative prompt even at cfg 1, but the "
            "guider has none. Use a CFG Guider with a negative prompt (an empty one will do), or remove the patch."
        )
    one_prompt = asks_one_prompt(guider, model_options)
    for name, conds in conditioning.items():
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


def asks_one_prompt(guider: Any, model_options: dict) -> bool:
    """Whether a guider asks the model about the positive prompt only, as far as is known: cfg 1, or no other prompt.

    Other guiders than the host's plain one have a rule of their own, and a `cfg` that they do not read.
    """
    conditioning = getattr(guider, "conds", {})
    if set(conditioning) == {"positive"}:
        return True
    plain = (comfy.samplers.CFGGuider.predict_noise, Guider.predict_noise)
    if getattr(type(guider), "predict_noise", None) not in plain or model_options.get("disable_cfg1_optimization"):
        return False
    return math.isclose(guider.cfg, 1.0) and ("source" not in conditioning or math.isclose(guider.source_cfg, 1.0))


def check_prompts(guider: Any, samples: Tensor) -> None:
    """See that the prompts' ranges and areas are some that the host can compute with.

    Raises:
        InversionError: a timestep range is not a number, or an area begins beyond the picture.
    """
    for name, conds in guider.original_conds.items():
        for cond in conds:
            limits = [cond.get(key) for key in ("start_percent", "end_percent", "strength")]
            if any(limit is not None and not math.isfinite(limit) for limit in limits):
                raise InversionError(
                    f"A range or strength of the {name} conditioning is not a number. Check the node that set it."
                )
            area = cond.get("area")
            if area is None or area[0] == "percentage":
                continue
            starts, sides = area[len(area) // 2 :], samples.shape[-(len(area) // 2) :]
            if any(start >= side for start, side in zip(starts, sides, strict=True)):
                raise InversionError(
                    f"An area of the {name} conditioning begins beyond the picture (at {tuple(starts)} of a latent of "
                    f"{tuple(sides)}, rows first). Move it with Conditioning Set Area, or take a larger picture."
                )


def run(
    guider: Any,
    samples: Tensor,
    grid: Grid,
    walk: Walk,
    calls: int,
    seed: int = 0,
    *,
    preview: bool = True,
) -> tuple[Tensor, Any]:
    """Run `walk` on a LATENT's samples through one of the host's guiders.

    Arguments:
        calls: how many times the walk will report progress.
        seed: of the noise of ancestral steps.
        preview: whether the steps are shown on the node, as the user has set it. The page keeps the last one there,
            over a picture that the node itself shows.

    Returns:
        (samples in the same (VAE) space, what the walk told beside its state).
    """
    check_prompts(guider, samples)
    samples = samples.float()  # older hosts would start in the half precision that a LATENT may come in
    callback = latent_preview.prepare_callback(guider.model_patcher, calls) if preview else _bar(calls)
    quiet = not comfy.utils.PROGRESS_BAR_ENABLED
    noise = torch.zeros_like(samples)
    sampler = WalkSampler(walk, grid)
    done = guider.sample(noise, samples, sampler, grid.sigmas, callback=callback, disable_pbar=quiet, seed=seed)
    return done, sampler.told


def _bar(calls: int) -> Callable[[int, Tensor, Tensor, int], None]:
    bar = comfy.utils.ProgressBar(calls)
    return lambda step, _clean, _state, total: bar.update_absolute(step + 1, total)
