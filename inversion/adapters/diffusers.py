"""diffusers: a pipeline, or a network with its embeddings, as a `Denoiser` on a `Grid`.

    from inversion import FixedPoint, invert, sample
    from inversion.adapters import diffusers as adapter

    x0 = adapter.encode(pipe, image)
    grid = adapter.grid(pipe, 20, like=x0)
    inversion = invert(adapter.denoiser(pipe, "a red heart"), x0, grid, FixedPoint())
    edited = sample(adapter.denoiser(pipe, "a green heart", guidance=3), inversion.latent, grid, source=inversion)
    adapter.decode(pipe, edited)[0].save("edited.png")

`sample` is then the pipeline's own loop, step for step, and what would make it another one is refused. The state is the
latent (B, C, H, W), in Flux too, and stays in float32 (or float64) where the pipeline rounds it to its network's
precision. It is what the loop of the pipeline's scheduler holds:

    DDIMScheduler                      kind "vp"    the variance-preserving latent
    EulerDiscreteScheduler             kind "ve"    x0 + sigma n
    EulerAncestralDiscreteScheduler    kind "ve"    the same; `invert` and `sample` take the noise it draws as `noise`
    FlowMatchEulerDiscreteScheduler    kind "flow"  (1 - sigma) x0 + sigma n

To go on with the pipeline's own call, give it an inverted latent through `to_pipeline`.

Nothing is imported here: who has a pipeline has diffusers.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import InversionError
from ..levels import Grid, Kind, Level

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What a network returns: the noise n, the velocity alpha n - sigma x0 of the variance-preserving state, x0, n - x0."""

SCHEDULERS: dict[str, Kind] = {
    "DDIMScheduler": "vp",
    "EulerDiscreteScheduler": "ve",
    "EulerAncestralDiscreteScheduler": "ve",
    "FlowMatchEulerDiscreteScheduler": "flow",
}
# A scheduler's settings under which its step is not the one that `sample` takes.
REFUSED = {
    "clip_sample": "clips the estimate of the clean latent",
    "thresholding": "clips the estimate of the clean latent",
    "stochastic_sampling": "draws new noise at every step",
    "invert_sigmas": "counts its sigmas from the clean end",
}
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
NETWORKS = {"UNet2DConditionModel": "unet", "SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}


@torch.no_grad()
def encode(pipe: Any, image: Any) -> Tensor:
    """The clean latent of a picture, (B, C, H, W) in float32, as the pipeline scales it: the mean of its VAE's answer.

    Arguments:
        image: what diffusers takes for one: a PIL image, an array (H, W, 3) or a tensor (B, 3, H, W) in [0, 1], or a
            list of them. Sides that are no multiple of what the VAE takes are resized down to one, as img2img does.
    """
    pixels = pipe.image_processor.preprocess(image)
    if pixels.shape[1] != 3:
        raise InversionError(
            f"The picture has {pixels.shape[1]} channels, but the VAE takes 3. Give it as RGB: image.convert('RGB')."
        )
    with _precise_vae(pipe) as vae:
        latent = vae.encode(pixels.to(pipe._execution_device, vae.dtype)).latent_dist.mode().float()
    mean, scale = _latent_scale(pipe, latent)
    return (latent - mean) * scale


@torch.no_grad()
def decode(pipe: Any, latent: Tensor) -> list[Any]:
    """The pictures of clean latents (B, C, H, W), as PIL images. No safety checker looks at them."""
    mean, scale = _latent_scale(pipe, latent)
    with _precise_vae(pipe) as vae:
        pixels = vae.decode((latent / scale + mean).to(pipe._execution_device, vae.dtype), return_dict=False)[0]
    return pipe.image_processor.postprocess(pixels.float(), output_type="pil")


def grid(pipe: Any, steps: int, like: Tensor | None = None) -> Grid:
    """The levels that the pipeline's own call with `num_inference_steps=steps` visits.

    Arguments:
        like: a latent (B, C, H, W) of the size to come: SD3's and Flux's schedules may depend on it.
    """
    network, scheduler = _network(pipe), _scheduler(pipe)
    schedule: dict[str, Any] = {}
    if _family(network) == "flux":
        schedule["sigmas"] = [1 - k / steps for k in range(steps)]
    if scheduler.config.get("use_dynamic_shifting"):
        if like is None:
            raise InversionError(
                "This scheduler shifts its sigmas by the picture's size (use_dynamic_shifting). Give grid a latent of "
                "that size: like=x0."
            )
        schedule["mu"] = _shift(scheduler.config, tokens=math.prod(side // _patch(network) for side in like.shape[2:]))
    return scheduler_grid(scheduler, steps, **schedule)


def scheduler_grid(scheduler: Any, steps: int | None, **schedule: Any) -> Grid:
    """The levels that a scheduler visits after `set_timesteps(steps, **schedule)`. The scheduler itself is left alone.

    Arguments:
        steps: number of steps, or None where `schedule` implies it.
        schedule: what this scheduler's `set_timesteps` takes beside them: sigmas, timesteps, mu.
    """
    if steps is not None and steps < 1:
        raise InversionError(f"Ask for 1 step or more, got {steps}.")
    kind = _kind(scheduler)
    scheduler = copy.copy(scheduler)
    scheduler.set_timesteps(steps, **schedule)
    if kind == "vp":
        return _ddim_grid(scheduler)
    ancestral = type(scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    return Grid.from_sigmas(scheduler.sigmas, kind, scheduler.timesteps, ancestral)


@torch.no_grad()
def denoiser(
    pipe: Any,
    prompt: str | Sequence[str],
    *,
    negative: str | Sequence[str] | None = None,
    guidance: float = 1.0,
    true_cfg: float = 1.0,
) -> "NetworkDenoiser":
    """The pipeline's network with a prompt.

    Arguments:
        prompt: one for the whole batch, or one for each of its pictures.
        negative: what classifier-free guidance compares with; default what the pipeline itself takes, usually the empty
            prompt (Flux: none). Read only where there is guidance.
        guidance: the pipeline's `guidance_scale`. Classifier-free guidance, at twice the cost, where it is not 1; in
            Flux the number that a guidance-distilled network is told.
        true_cfg: Flux's `true_cfg_scale`: classifier-free guidance, with a `negative`.
    """
    network, scheduler = _network(pipe), _scheduler(pipe)
    flux = _family(network) == "flux"
    if true_cfg != 1 and not flux:
        raise InversionError(f"true_cfg is Flux's; for {type(pipe).__name__} set guidance={true_cfg:g}.")
    if true_cfg != 1 and negative is None:
        raise InversionError(f"true_cfg {true_cfg:g} compares with a negative prompt. Give one: negative='' will do.")
    cfg = true_cfg if flux else guidance
    if cfg < 1:
        raise InversionError(f"The pipeline takes a guidance of {cfg:g} for none at all. For none set it to 1.")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negatives = [negative] * len(prompts) if isinstance(negative, str) else negative
    prediction: Any = "flow" if _kind(scheduler) == "flow" else scheduler.config.prediction_type
    return NetworkDenoiser(
        network,
        prediction,
        **_embeddings(pipe, prompts, negatives, guided=cfg != 1),
        guidance=cfg,
        embedded_guidance=guidance if flux else 1.0,
        pixels=pipe.vae_scale_factor,
        device=pipe._execution_device,
    )


def to_pipeline(pipe: Any, x: Tensor, grid: Grid) -> Tensor:
    """The state at the grid's first level as the pipeline's own call takes it for `latents`.

    In the network's precision; for Flux packed, (B, H W / 4, 4 C). On "ve" grids divided by the scheduler's
    `init_noise_sigma`, by which the pipeline multiplies what it is given: the largest sigma or, with timestep_spacing
    "leading", sqrt(sigma^2 + 1), the scale that a variance-exploding state of unit variance has there.
    """
    network, scheduler = _network(pipe), _scheduler(pipe)
    if grid.kind == "ve":
        sigma = grid.levels[0].sigma
        x = x / (math.hypot(sigma, 1) if scheduler.config.timestep_spacing == "leading" else sigma)
    return (_packed(x) if _family(network) == "flux" else x).to(pipe._execution_device, network.dtype)


@dataclass(frozen=True)
class NetworkDenoiser:
    """A diffusers network with its embeddings, as a `Denoiser`. The network is told the levels' timesteps.

    Arguments:
        network: a UNet2DConditionModel (SD, SDXL), SD3Transformer2DModel or FluxTransformer2DModel.
        prediction: what it returns.
        prompt_embeds: (B, tokens, width), or of batch 1 for all pictures; as the pipeline's `encode_prompt` gives them,
            like the next three.
        negative_prompt_embeds: of the same shape, where guidance is not 1.
        pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, width), for SDXL, SD3 and Flux.
        guidance: of classifier-free guidance. 1 is none; otherwise a call shows the network its batch twice.
        embedded_guidance: what a guidance-distilled Flux is told.
        pixels: of the picture, to a side of a latent pixel: SDXL is told the picture's size, uncropped.
        device: where the network runs; default where it is.
    """

    network: Any
    prediction: Prediction
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    guidance: float = 1.0
    embedded_guidance: float = 1.0
    pixels: int = 8
    device: torch.device | None = None

    def __post_init__(self) -> None:
        family, config = _family(self.network), self.network.config
        if self.prediction not in get_args(Prediction):
            raise InversionError(f"A network predicts {', '.join(get_args(Prediction))}; got {self.prediction!r}.")
        if self.guidance != 1 and self.negative_prompt_embeds is None:
            raise InversionError(
                f"Guidance {self.guidance:g} compares with a negative prompt, but there are no negative_prompt_embeds. "
                "Give them, or set guidance to 1."
            )
        pooled = family != "unet" or config.addition_embed_type == "text_time"
        for name in self._names("pooled_prompt_embeds"):
            if pooled != (getattr(self, name) is not None):
                raise InversionError(
                    f"This {type(self.network).__name__} takes {'' if pooled else 'no '}{name}. Give what the "
                    "encode_prompt of the model's own pipeline gives."
                )
        if self.embedded_guidance != 1 and not config.get("guidance_embeds"):
            raise InversionError(
                f"This network is not guidance-distilled, but would be told a guidance of {self.embedded_guidance:g}. "
                "Set guidance to 1; what guides such a Flux is true_cfg, with a negative prompt."
            )
        if config.get("time_cond_proj_dim") is not None:
            raise InversionError(
                "This UNet is a latent consistency model (it has a time_cond_proj_dim, and is told its guidance), made "
                "for LCMScheduler. Use the model that it was distilled from."
            )
        if getattr(self.network, "is_cache_enabled", False):
            raise InversionError(
                "The network's cache guesses a step from the steps before it, and an inversion goes through the steps "
                "in the other order. Call disable_cache() on the network."
            )

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The estimate of the clean latent at a state x (B, C, H, W); same shape and dtype out."""
        self._check(x)
        if level.timestep is None:
            raise InversionError(
                f"The network wants to be told a timestep, but the level of sigma {level.sigma:g} has none. Make the "
                "grid with this module, or give Grid.from_sigmas its timesteps."
            )
        guided = self.guidance != 1
        scale = 1.0 if self.prediction == "flow" else math.hypot(level.alpha, level.sigma)
        native = x / scale  # the variance-preserving latent, which on vp grids is x itself
        predicted = self._predict(torch.cat([native, native]) if guided else native, level.timestep).to(x)
        if guided:
            unguided, predicted = predicted.chunk(2)
            predicted = unguided + self.guidance * (predicted - unguided)
        match self.prediction:
            case "epsilon":
                return (x - level.sigma * predicted) / level.alpha
            case "v_prediction":
                return (level.alpha * native - level.sigma * predicted) / scale
            case "sample":
                return predicted
            case "flow":
                return x - level.sigma * predicted

    def _check(self, x: Tensor) -> None:
        channels = self.network.config.in_channels // (4 if _family(self.network) == "flux" else 1)
        patch = _patch(self.network)
        if x.ndim != 4 or x.shape[1] != channels or any(side % patch for side in x.shape[2:]):
            raise InversionError(
                f"The network takes latents (B, {channels}, H, W) with H and W multiples of {patch}, got "
                f"{tuple(x.shape)}. Make them with encode, from a picture of such a size; here Flux's are not packed."
            )

    def _predict(self, z: Tensor, timestep: float) -> Tensor:
        """The network's own answer to z, (B, C, H, W); with guidance the first half is that to the negative prompt."""
        family = _family(self.network)
        # In half precision the order in memory decides how a network rounds, and on the way down a state's is another.
        z = z.to(self.device or self.network.device, self.network.dtype).contiguous()
        time = torch.full((len(z),), timestep, device=z.device)
        text = self._rows("prompt_embeds", z)
        if family == "unet":
            added = None
            if self.pooled_prompt_embeds is not None:
                height, width = (side * self.pixels for side in z.shape[2:])
                sizes = z.new_tensor([[height, width, 0, 0, height, width]])  # original, corner of the crop, target
                added = {"text_embeds": self._rows("pooled_prompt_embeds", z), "time_ids": sizes.expand(len(z), -1)}
            return self.network(z, time, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]
        pooled = self._rows("pooled_prompt_embeds", z)
        given = {"encoder_hidden_states": text, "pooled_projections": pooled, "return_dict": False}
        if family == "sd3":
            return self.network(hidden_states=z, timestep=time, **given)[0]
        height, width = (side // 2 for side in z.shape[2:])
        places = [torch.arange(side, device=z.device) for side in (1, height, width)]
        told = torch.full((len(z),), self.embedded_guidance, device=z.device)
        tokens = self.network(
            hidden_states=_packed(z),
            timestep=time.to(z) / 1000,  # the pipeline too rounds it to the network's precision first
            guidance=told if self.network.config.guidance_embeds else None,
            txt_ids=z.new_zeros(text.shape[1], 3),
            img_ids=torch.cartesian_prod(*places).to(z),
            **given,
        )[0]
        return torch.nn.functional.pixel_shuffle(tokens.mT.unflatten(2, (height, width)), 2)

    def _names(self, embeds: str) -> list[str]:
        """The embeddings that a call shows the network: with guidance the negative ones first."""
        return [embeds] if self.guidance == 1 else [f"negative_{embeds}", embeds]

    def _rows(self, embeds: str, z: Tensor) -> Tensor:
        """A row of embeddings for each row of z."""
        names = self._names(embeds)
        pictures = len(z) // len(names)
        rows = []
        for name in names:
            given = getattr(self, name).to(z)
            if len(given) not in (1, pictures):
                raise InversionError(
                    f"There are {len(given)} {name} for {pictures} pictures. Give one for all of them, or one for each."
                )
            rows.append(given.expand(pictures, *given.shape[1:]))
        return torch.cat(rows)


def _packed(z: Tensor) -> Tensor:
    """Flux's tokens (B, H W / 4, 4 C) of a latent (B, C, H, W)."""
    return torch.nn.functional.pixel_unshuffle(z, 2).flatten(2).mT.contiguous()


def _network(pipe: Any) -> Any:
    """The pipeline's denoising network; says which pipelines there are."""
    name = type(pipe).__name__
    if name not in PIPELINES:
        raise InversionError(
            f"{name} is not one of the pipelines known here: {', '.join(PIPELINES)}. Where it has the parts of one of "
            f"them, that one is made as in {PIPELINES[0]}.from_pipe(pipe, torch_dtype=pipe.dtype)."
        )
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def _family(network: Any) -> str:
    name = type(getattr(network, "_orig_mod", network)).__name__  # compiled networks are wrapped
    if name not in NETWORKS:
        raise InversionError(f"{name} is not one of the networks known here: {', '.join(NETWORKS)}.")
    return NETWORKS[name]


def _patch(network: Any) -> int:
    """Side of the square of latent pixels that makes one of the network's tokens; 1 for UNets."""
    return {"unet": 1, "sd3": network.config.get("patch_size"), "flux": 2}[_family(network)]


def _scheduler(pipe: Any) -> Any:
    """The pipeline's scheduler, if it is of the network's family: SD3's and Flux's loops scale no input for others."""
    scheduler = pipe.scheduler
    if _kind(scheduler) != "flow" and _family(_network(pipe)) != "unet":
        raise InversionError(
            f"{type(pipe).__name__} is of the flow family, but its scheduler is {type(scheduler).__name__}. Set "
            "pipe.scheduler to the FlowMatchEulerDiscreteScheduler that comes with the model."
        )
    return scheduler


def _kind(scheduler: Any) -> Kind:
    """The family of the states that a scheduler's loop holds.

    Raises:
        InversionError: a scheduler, or a setting of it, whose loop is not that of `sample`.
    """
    name = type(scheduler).__name__
    if name not in SCHEDULERS:
        raise InversionError(
            f"{name} is not one of the schedulers known here: {', '.join(SCHEDULERS)}. Set one of them, as in "
            "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)."
        )
    for setting, effect in REFUSED.items():
        if scheduler.config.get(setting):
            raise InversionError(
                f"{name} with {setting}=True {effect}, which sample does not. Set "
                f"pipe.scheduler = {name}.from_config(pipe.scheduler.config, {setting}=False)."
            )
    return SCHEDULERS[name]


def _ddim_grid(scheduler: Any) -> Grid:
    """The levels of a DDIMScheduler that has its timesteps: its steps are all of one length, wherever they land."""
    timesteps, products = [int(t) for t in scheduler.timesteps], scheduler.alphas_cumprod
    trained = scheduler.config.num_train_timesteps
    landings = [t - trained // scheduler.num_inference_steps for t in timesteps]
    for landing, following in zip(landings, timesteps[1:], strict=False):
        if landing != following:
            raise InversionError(
                f"DDIMScheduler with timestep_spacing {scheduler.config.timestep_spacing!r} and {len(timesteps)} steps "
                f"lands on timestep {landing} and goes on from {following} as if it were there, which sample does "
                f"not. Set timestep_spacing='leading', or 'trailing' and a number of steps that divides {trained}."
            )
    if not products[timesteps].all():
        raise InversionError(
            f"DDIMScheduler with rescale_betas_zero_snr begins at timestep {timesteps[0]} with noise alone, where its "
            "state has no finite step. Set EulerDiscreteScheduler.from_config(pipe.scheduler.config), which keeps a "
            "trace of the signal there, or timestep_spacing='leading', which begins lower."
        )
    final = products[landings[-1]] if landings[-1] >= 0 else scheduler.final_alpha_cumprod
    return Grid.from_alphas_cumprod(products, timesteps, float(final))


def _shift(config: Any, tokens: int) -> float:
    """The mu of a flow schedule's shift, linear in the number of tokens that the picture takes."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (tokens - config.base_image_seq_len)


def _embeddings(pipe: Any, prompts: list[str], negatives: Sequence[str] | None, guided: bool) -> dict[str, Any]:
    """The embeddings that a NetworkDenoiser takes, by name."""
    device = pipe._execution_device
    if type(pipe).__name__ == "FluxPipeline":
        text, pooled, _ = pipe.encode_prompt(prompts, device=device)
        against, pooled_against, _ = pipe.encode_prompt(negatives, device=device) if guided else (None, None, None)
        return dict(zip(EMBEDDINGS, (text, against, pooled, pooled_against), strict=True))
    others = {"prompt_2": None, "prompt_3": None} if type(pipe).__name__ == "StableDiffusion3Pipeline" else {}
    found = pipe.encode_prompt(
        prompts,
        **others,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
        negative_prompt=negatives,
    )
    return dict(zip(EMBEDDINGS, found, strict=False))  # SD has no pooled ones


@contextmanager
def _precise_vae(pipe: Any) -> Iterator[Any]:
    """The pipeline's VAE, for the time being in float32 where it says that it overflows in float16."""
    vae, dtype = pipe.vae, pipe.vae.dtype
    if dtype != torch.float16 or not vae.config.force_upcast:
        yield vae
        return
    vae.to(dtype=torch.float32)
    try:
        yield vae
    finally:
        vae.to(dtype=dtype)


def _latent_scale(pipe: Any, latent: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, scale): the pipeline's latent is (the VAE's - mean) * scale. Some SDXL models have them by channel."""
    config = pipe.vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is None or deviation is None:
        mean, deviation = [config.get("shift_factor") or 0.0], [1.0]
    mean, deviation = (latent.new_tensor(values).reshape(1, -1, 1, 1) for values in (mean, deviation))
    return mean, config.scaling_factor / deviation
