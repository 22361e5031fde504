"""The adapter against diffusers' own loops, on the same random weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_pipelines
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PyramidAttentionBroadcastConfig,
    StableDiffusionImg2ImgPipeline,
    UNet2DModel,
)
from PIL import Image
from tiny_pipelines import BETAS, PIPELINES, PLAIN_DDIM, WIDTH, build
from torch import Tensor

from inversion import DDIM, FixedPoint, Grid, Inversion, InversionError, Keep, Level, invert, sample
from inversion.adapters import diffusers as adapter
from inversion.gradient import gradient_error

STEPS = 5  # trailing timesteps of DDIM want a divisor of 1000
# Both sides run the same network on the same weights. What is left is the order of a step's operations in float32 (6e-8
# each), carried through the steps that follow. Loops differ by 1e-7, "ddim, sample", which divides by alpha, by 2e-6.
CLOSE = 5e-6


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(width: int = 24, height: int = 16) -> Image.Image:
    return Image.fromarray((noise(height, width, 3) * 60 + 128).clamp(0, 255).byte().numpy())


# --- a network, a scheduler and embeddings


def euler(**settings: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**BETAS, **settings)


def ddim(**settings: Any) -> DDIMScheduler:
    return DDIMScheduler(**{**PLAIN_DDIM, **settings})


def ancestral(**settings: Any) -> EulerAncestralDiscreteScheduler:
    return EulerAncestralDiscreteScheduler(**BETAS, **settings)


def flow(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**settings)


LOOPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim, eps": (ddim(), {}),
    "ddim, v": (ddim(prediction_type="v_prediction"), {}),
    "ddim, sample": (ddim(prediction_type="sample"), {}),
    "ddim, trailing, to the clean end": (ddim(timestep_spacing="trailing", set_alpha_to_one=True, steps_offset=0), {}),
    "ddim, zero terminal SNR, from below it": (ddim(rescale_betas_zero_snr=True), {}),
    "euler, eps": (euler(), {}),
    "euler, v": (euler(prediction_type="v_prediction"), {}),
    "euler, sample": (euler(prediction_type="sample"), {}),
    "euler, karras": (euler(use_karras_sigmas=True), {}),
    "euler, leading, to sigma_min": (euler(timestep_spacing="leading", final_sigmas_type="sigma_min"), {}),
    "euler, sigmas given": (euler(), {"sigmas": [12.0, 6.0, 2.0, 0.7, 0.2, 0.0]}),
    "euler, zero terminal SNR": (
        euler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        {},
    ),
    "euler, continuous timesteps": (euler(prediction_type="v_prediction", timestep_type="continuous"), {}),
    "ancestral, eps": (ancestral(), {}),
    "ancestral, v": (ancestral(prediction_type="v_prediction", timestep_spacing="trailing"), {}),
    "flow": (flow(shift=3.0), {}),
    "flow, dynamic shift": (flow(use_dynamic_shifting=True), {"mu": 0.8}),
    "flow, linear shift": (flow(use_dynamic_shifting=True, time_shift_type="linear"), {"mu": 0.8}),
    "flow, karras": (flow(use_karras_sigmas=True), {}),
    "flow, to a terminal sigma": (flow(shift_terminal=0.1), {}),
}


@pytest.fixture(scope="module")
def unet() -> Any:
    return build("sd").unet


GUIDED = [f"{name}, {kind}" for name in ("ddim", "euler") for kind in ("eps", "v", "sample")]
GUIDED += ["ancestral, eps", "ancestral, v", "flow", "flow, dynamic shift"]


@pytest.mark.parametrize(("loop", "guidance"), [*((loop, 1.0) for loop in LOOPS), *((loop, 3.0) for loop in GUIDED)])
def test_sample_is_the_schedulers_own_loop(unet: Any, loop: str, guidance: float) -> None:
    scheduler, schedule = LOOPS[loop]
    steps = None if "sigmas" in schedule else STEPS
    text, against = noise(1, 5, WIDTH, seed=2), noise(1, 5, WIDTH, seed=3)
    before = copy.deepcopy(scheduler.__dict__)
    grid = adapter.scheduler_grid(scheduler, steps, **schedule)
    assert str(scheduler.__dict__) == str(before)  # the scheduler is left as it was
    x = grid.levels[0].sigma * noise(2, 4, 8, 12)

    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, **schedule)
    options = {"generator": torch.Generator().manual_seed(4)} if grid.ancestral else {}
    own = x
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.scale_model_input(own, t) if hasattr(scheduler, "scale_model_input") else own
            predicted = unet(z, t, text.expand(2, -1, -1)).sample
            if guidance != 1:
                unguided = unet(z, t, against.expand(2, -1, -1)).sample
                predicted = unguided + guidance * (predicted - unguided)
            own = scheduler.step(predicted, t, own, **options).prev_sample

    prediction = scheduler.config.get("prediction_type", "flow")
    denoiser = adapter.NetworkDenoiser(unet, prediction, text, against, guidance=guidance)
    generator = torch.Generator().manual_seed(4)
    drawn = [torch.randn(x.shape, generator=generator) for _ in range(STEPS)] if grid.ancestral else None
    assert relative(sample(denoiser, x, grid, noise=drawn), own) < CLOSE


def test_ddim_inversion_is_ddim_inverse_schedulers_loop(unet: Any) -> None:
    """At every step. For eps only: with v and sample that scheduler reads the answer, which is the upper level's, with
    the lower level's alpha and sigma.
    """
    x0, text = noise(1, 4, 8, 12), noise(1, 5, WIDTH, seed=2)
    inversion = invert(
        adapter.NetworkDenoiser(unet, "epsilon", text), x0, adapter.scheduler_grid(ddim(), STEPS), DDIM()
    )
    inverse = DDIMInverseScheduler(**PLAIN_DDIM)
    inverse.set_timesteps(STEPS)
    x = x0
    for t, state in zip(inverse.timesteps, inversion.trajectory[1:], strict=True):
        with torch.no_grad():
            x = inverse.step(unet(x, t, text).sample, t, x).prev_sample
        assert relative(state, x) < CLOSE


def test_a_compiled_network(unet: Any) -> None:
    text, x, level = noise(1, 5, WIDTH), noise(1, 4, 8, 8), Level(0.8, 0.6, 500.0)
    expected = adapter.NetworkDenoiser(unet, "epsilon", text)(x, level)
    with torch.compiler.set_stance("force_eager"):  # wrapped, but without the minutes that compiling takes
        result = adapter.NetworkDenoiser(torch.compile(unet), "epsilon", text)(x, level)
    assert torch.equal(result, expected)


# --- whole pipelines


def unpacked(pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
    """A pipeline's latents as the state: those of Flux unpacked, by its own code, for a picture of 24 x 16 pixels."""
    return pipe._unpack_latents(latents, 16, 24, pipe.vae_scale_factor) if hasattr(pipe, "_unpack_latents") else latents


def own_call(pipe: DiffusionPipeline, prompt: str | list[str], x: Tensor, grid: Grid, **settings: Any) -> Tensor:
    settings = {"guidance_scale": 1.0, "height": 16, "width": 24, **settings}
    latents = adapter.to_pipeline(pipe, x, grid)
    images = pipe(prompt, latents=latents, num_inference_steps=grid.steps, output_type="latent", **settings).images
    return unpacked(pipe, images)


CALLS: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any], dict[str, Any]]] = {
    # pipeline, its options, another scheduler, settings here, settings there
    "sd": ("sd", {}, None, {}, {}),
    "sd, guided": ("sd", {}, None, {"guidance": 5.0}, {"guidance_scale": 5.0}),
    "sd, negative": (
        "sd",
        {},
        euler(use_karras_sigmas=True),
        {"guidance": 2.0, "negative": "blurry"},
        {"guidance_scale": 2.0, "negative_prompt": "blurry"},
    ),
    "sd, ancestral": ("sd", {}, ancestral(), {}, {}),
    "sdxl": ("sdxl", {}, None, {}, {}),
    "sdxl, guided": ("sdxl", {}, None, {"guidance": 5.0}, {"guidance_scale": 5.0}),
    "sdxl, negative": (
        "sdxl",
        {},
        euler(timestep_spacing="trailing"),
        {"guidance": 2.0, "negative": "blurry"},
        {"guidance_scale": 2.0, "negative_prompt": "blurry"},
    ),
    "sd3": ("sd3", {}, None, {}, {}),
    "sd3, guided": ("sd3", {}, None, {"guidance": 5.0}, {"guidance_scale": 5.0}),
    "sd3, dynamic shift": ("sd3", {}, flow(use_dynamic_shifting=True), {}, {}),
    "flux dev": ("flux", {}, None, {"guidance": 3.5}, {"guidance_scale": 3.5}),
    "flux schnell": ("flux", {"distilled": False}, None, {}, {}),
    "flux, true cfg": (
        "flux",
        {},
        None,
        {"true_cfg": 2.0, "negative": "blurry"},
        {"true_cfg_scale": 2.0, "negative_prompt": "blurry"},
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_sample_is_the_pipelines_own_call(call: str) -> None:
    name, options, scheduler, here, there = CALLS[call]
    pipe = build(name, **options)
    if scheduler is not None:
        pipe.scheduler = scheduler
    shape = (1, 4 if name.startswith("sd") and name != "sd3" else 16, 8, 12)
    grid = adapter.grid(pipe, STEPS, like=torch.empty(shape))
    x, drawn = grid.levels[0].sigma * noise(*shape), None
    if grid.ancestral:
        there = {**there, "generator": torch.Generator().manual_seed(4)}
        generator = torch.Generator().manual_seed(4)
        drawn = [torch.randn(shape, generator=generator) for _ in range(STEPS)]
    result = sample(adapter.denoiser(pipe, "a red heart", **here), x, grid, noise=drawn)
    assert relative(result, own_call(pipe, "a red heart", x, grid, **there)) < CLOSE
    assert relative(result, sample(adapter.denoiser(pipe, "a green heart", **here), x, grid, noise=drawn)) > 1e-3


@pytest.mark.parametrize("name", PIPELINES)
def test_a_prompt_for_each_picture(name: str) -> None:
    pipe = build(name)
    like = adapter.encode(pipe, [picture(), picture()])
    grid, x = adapter.grid(pipe, 2, like=like), noise(*like.shape)
    prompts, negatives = ["a red heart", "a green heart"], ["blurry", "a"]
    cfg = {"true_cfg": 2.0} if name == "flux" else {"guidance": 2.0}
    there = {"negative_prompt": negatives, **({"true_cfg_scale": 2.0} if name == "flux" else {"guidance_scale": 2.0})}
    result = sample(adapter.denoiser(pipe, prompts, negative=negatives, **cfg), x, grid)
    assert relative(result, own_call(pipe, prompts, x, grid, **there)) < CLOSE
    alone = [adapter.denoiser(pipe, p, negative=n, **cfg) for p, n in zip(prompts, negatives, strict=True)]
    assert relative(result, torch.cat([sample(d, x[i : i + 1], grid) for i, d in enumerate(alone)])) < CLOSE


class Inverted:
    """A picture, inverted as the module's own example does, but to convergence."""

    def __init__(self, name: str) -> None:
        self.pipe = build(name)
        self.x0 = adapter.encode(self.pipe, picture())
        self.grid = adapter.grid(self.pipe, STEPS, like=self.x0)
        self.denoiser = adapter.denoiser(self.pipe, "a red heart")
        self.inversion = invert(self.denoiser, self.x0, self.grid, FixedPoint(40, tolerance=1e-6, anderson=3))

    def edit(self, source: Inversion, keep: Keep | None = None) -> Tensor:
        denoiser = adapter.denoiser(self.pipe, "a green heart", guidance=3)
        return sample(denoiser, self.inversion.latent, self.grid, source=source, keep=keep)


@pytest.fixture(scope="module", params=PIPELINES)
def inverted(request: pytest.FixtureRequest) -> Inverted:
    return Inverted(request.param)


def test_a_picture_is_inverted_and_edited(inverted: Inverted, tmp_path: Any) -> None:
    edited = inverted.edit(inverted.inversion)
    assert relative(edited, inverted.x0) > 1e-2
    adapter.decode(inverted.pipe, edited)[0].save(tmp_path / "edited.png")
    with Image.open(tmp_path / "edited.png") as saved:
        assert saved.size == (24, 16)


def test_the_same_prompt_gives_the_source_back(inverted: Inverted) -> None:
    back = sample(inverted.denoiser, inverted.inversion.latent, inverted.grid, source=inverted.inversion)
    assert relative(back, inverted.x0) < 1e-5


def test_the_pipelines_own_call_comes_back_to_the_picture(inverted: Inverted) -> None:
    """Each step is solved to a relative 1e-6, and the steps that follow carry what is left."""
    assert inverted.inversion.converged
    back = own_call(inverted.pipe, "a red heart", inverted.inversion.latent, inverted.grid)
    assert relative(back, inverted.x0) < 1e-5


def test_a_mask_keeps_the_rest(inverted: Inverted) -> None:
    """In Flux too, because its state is not packed."""
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., 5:] = 1
    edited = inverted.edit(inverted.inversion, Keep(mask=mask))
    assert torch.equal(edited[..., :5], inverted.x0[..., :5])
    assert relative(edited[..., 5:], inverted.x0[..., 5:]) > 1e-2


def test_gradients_come_through(inverted: Inverted) -> None:
    middle = len(inverted.grid.levels) // 2
    x = inverted.inversion.trajectory[-1 - middle]
    assert gradient_error(inverted.denoiser, x, inverted.grid.levels[middle], inverted.grid, step=1e-3) < 1e-2


BY_CHANNEL = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [2.0, 1.0, 0.5, 1.5]}


@pytest.mark.parametrize(("name", "scale"), [*((name, {}) for name in PIPELINES), ("sdxl", BY_CHANNEL)])
def test_encode_and_decode_are_the_pipelines(name: str, scale: dict[str, list[float]]) -> None:
    pipe = build(name)
    pipe.vae.register_to_config(**scale)
    x0 = adapter.encode(pipe, picture())
    assert x0.dtype == torch.float32
    pixels = pipe.image_processor.preprocess(picture())
    with torch.no_grad():
        reconstructed = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    assert difference(adapter.decode(pipe, x0)[0], pipe.image_processor.postprocess(reconstructed)[0]) <= 1  # rounding

    grid = adapter.grid(pipe, 1, like=x0)
    x = grid.levels[0].sigma * noise(*x0.shape)
    result = sample(adapter.denoiser(pipe, "a red heart"), x, grid)
    latents = adapter.to_pipeline(pipe, x, grid)
    size = {"height": 16, "width": 24}
    own = pipe("a red heart", latents=latents, num_inference_steps=1, guidance_scale=1.0, **size).images[0]
    assert difference(adapter.decode(pipe, result)[0], own) <= 1


def difference(a: Image.Image, b: Image.Image) -> int:
    """The largest, of 255."""
    bytes_of = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int() for image in (a, b)]
    return int((bytes_of[0] - bytes_of[1]).abs().max())


def network_of(pipe: DiffusionPipeline) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


@contextmanager
def watched(network: Any) -> Iterator[list[dict[str, Any]]]:
    """The arguments of each of the network's calls, by name."""
    calls: list[dict[str, Any]] = []

    def remember(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        given = dict(zip(("hidden_states", "timestep"), args, strict=False)) | kwargs
        calls.append(given | (given.pop("added_cond_kwargs", None) or {}))

    hook = network.register_forward_pre_hook(remember, with_kwargs=True)
    yield calls
    hook.remove()


@pytest.mark.parametrize("name", PIPELINES)
def test_half_precision(name: str) -> None:
    """The network runs in its own precision, the states do not; the record brings back every bit all the same."""
    pipe = build(name).to(torch.bfloat16)
    x0 = adapter.encode(pipe, picture())
    grid = adapter.grid(pipe, 3, like=x0)
    denoiser = adapter.denoiser(pipe, "a red heart")
    inversion = invert(denoiser, x0, grid, DDIM())
    back = sample(denoiser, inversion.latent, grid, source=inversion)
    assert x0.dtype == inversion.trajectory.dtype == back.dtype == torch.float32
    assert inversion.trajectory.isfinite().all()
    assert torch.equal(back, x0)
    with watched(network_of(pipe)) as calls:
        assert sample(denoiser, inversion.latent.double(), grid).dtype == torch.float64
        denoiser(x0.to(memory_format=torch.channels_last), grid.levels[0])
    assert {call["hidden_states"].dtype for call in calls} == {torch.bfloat16}
    assert all(call["hidden_states"].is_contiguous() for call in calls)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_network_is_told_what_its_pipeline_tells_it(name: str) -> None:
    """To the last bit, so in half precision too; but for the state, which the pipeline rounds once more on the way."""
    pipe = build(name).to(torch.bfloat16)
    x = noise(1, 16 if name in ("sd3", "flux") else 4, 8, 12)
    grid = adapter.grid(pipe, 3, like=x)
    with watched(network_of(pipe)) as calls:
        sample(adapter.denoiser(pipe, "a red heart"), x, grid)
        own_call(pipe, "a red heart", x, grid)
    for here, there in zip(calls[:3], calls[3:], strict=True):
        for name, value in here.items():
            told = there[name]
            if name == "hidden_states":
                assert relative(value.float(), told.float()) < 0.05
            elif isinstance(value, Tensor):
                assert torch.equal(value.float(), told.float().expand_as(value)), name
            else:
                assert value == told, name


def test_a_vae_that_overflows_in_half_precision_runs_in_full() -> None:
    pipe = build("sdxl")
    expected = adapter.encode(pipe, picture())
    pipe.vae.to(torch.float16)
    seen = []
    pipe.vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    assert relative(adapter.encode(pipe, picture()), expected) < 1e-2  # the weights were rounded to float16
    assert seen == [torch.float32]
    assert pipe.vae.dtype == torch.float16


# --- what is refused, and what to do about it


def with_scheduler(name: str, scheduler: Any) -> DiffusionPipeline:
    pipe = build(name)
    pipe.scheduler = scheduler
    return pipe


def predicted(pipe: DiffusionPipeline, *shape: int, **settings: Any) -> Tensor:
    return adapter.denoiser(pipe, "a red heart", **settings)(torch.zeros(shape), Level(0.5, 0.5, 500.0))


def cached() -> DiffusionPipeline:
    pipe = build("flux")
    pipe.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 0)
    )
    return pipe


def latent_consistency() -> DiffusionPipeline:
    pipe = build("sd")
    pipe.unet = tiny_pipelines.unet(time_cond_proj_dim=8)
    return pipe


def network_denoiser(name: str, prediction: Any = "epsilon", **settings: Any) -> adapter.NetworkDenoiser:
    return adapter.NetworkDenoiser(network_of(build(name)), prediction, noise(1, 5, WIDTH), **settings)


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "scheduler": (
        lambda: adapter.scheduler_grid(DPMSolverMultistepScheduler(), 5),
        "DPMSolverMultistepScheduler is not one.*DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteSch"
        "eduler, FlowMatchEulerDiscreteScheduler.*from_config",
    ),
    "clip_sample": (
        lambda: adapter.scheduler_grid(DDIMScheduler(), 5),
        "clip_sample=True clips.*DDIMScheduler.from_config.pipe.scheduler.config, clip_sample=False",
    ),
    "thresholding": (lambda: adapter.scheduler_grid(ddim(thresholding=True), 5), "thresholding=False"),
    "stochastic_sampling": (
        lambda: adapter.denoiser(with_scheduler("sd3", flow(stochastic_sampling=True)), "a"),
        "new noise at every step.*stochastic_sampling=False",
    ),
    "invert_sigmas": (lambda: adapter.scheduler_grid(flow(invert_sigmas=True), 5), "invert_sigmas=False"),
    "linspace": (
        lambda: adapter.scheduler_grid(ddim(timestep_spacing="linspace"), 5),
        "'linspace' and 5 steps lands on timestep 799 and goes on from 749.*'leading'",
    ),
    "trailing": (
        lambda: adapter.scheduler_grid(ddim(timestep_spacing="trailing"), 3),
        "'trailing' and 3 steps lands on timestep 333 and goes on from 332.*divides 1000",
    ),
    "zero terminal SNR": (
        lambda: adapter.scheduler_grid(ddim(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 5),
        "timestep 999 with noise alone.*EulerDiscreteScheduler",
    ),
    "steps": (lambda: adapter.grid(build("flux"), 0, like=torch.empty(1, 16, 8, 8)), "1 step or more, got 0"),
    "no size": (lambda: adapter.grid(build("flux"), 5), "use_dynamic_shifting.*like=x0"),
    "family": (
        lambda: adapter.grid(with_scheduler("sd3", euler()), 5),
        "StableDiffusion3Pipeline is of the flow family, but its scheduler is EulerDiscreteScheduler",
    ),
    "pipeline": (
        lambda: adapter.grid(StableDiffusionImg2ImgPipeline.from_pipe(build("sd")), 5),
        "StableDiffusionImg2ImgPipeline is not one.*FluxPipeline.*from_pipe.pipe, torch_dtype",
    ),
    "network": (
        lambda: adapter.NetworkDenoiser(UNet2DModel(block_out_channels=(32,) * 4), "epsilon", noise(1, 5, WIDTH)),
        "UNet2DModel is not one.*UNet2DConditionModel",
    ),
    "prediction": (lambda: network_denoiser("sd", "noise"), "epsilon, v_prediction, sample, flow; got 'noise'"),
    "guidance without negative": (lambda: network_denoiser("sd", guidance=3.0), "Guidance 3 .*negative_prompt_embeds"),
    "true cfg without negative": (
        lambda: adapter.denoiser(build("flux"), "a", true_cfg=3.0),
        "true_cfg 3 compares with a negative prompt.*negative=''",
    ),
    "true cfg elsewhere": (lambda: adapter.denoiser(build("sd"), "a", true_cfg=3.0), "set guidance=3"),
    "guidance below 1": (lambda: adapter.denoiser(build("sdxl"), "a", guidance=0.0), "0 for none.*set it to 1"),
    "guidance in schnell": (
        lambda: adapter.denoiser(build("flux", distilled=False), "a", guidance=3.5),
        "not guidance-distilled.*3.5.*guidance to 1.*true_cfg",
    ),
    "no pooled": (lambda: network_denoiser("sdxl"), "takes pooled_prompt_embeds"),
    "pooled": (lambda: network_denoiser("sd", pooled_prompt_embeds=noise(1, 8)), "takes no pooled_prompt_embeds"),
    "no negative pooled": (
        lambda: network_denoiser(
            "sd3", "flow", negative_prompt_embeds=noise(1, 5, WIDTH), pooled_prompt_embeds=noise(1, 16), guidance=2.0
        ),
        "takes negative_pooled_prompt_embeds",
    ),
    "latent consistency": (lambda: adapter.denoiser(latent_consistency(), "a"), "time_cond_proj_dim.*LCMScheduler"),
    "cache": (lambda: adapter.denoiser(cached(), "a"), "disable_cache"),
    "channels": (lambda: predicted(build("sd"), 1, 16, 8, 8), r"\(B, 4, H, W\).*got \(1, 16, 8, 8\)"),
    "packed": (lambda: predicted(build("flux"), 1, 24, 64), r"\(B, 16, H, W\).*multiples of 2.*got \(1, 24, 64\)"),
    "odd side": (lambda: predicted(build("sd3"), 1, 16, 7, 8), r"multiples of 2, got \(1, 16, 7, 8\)"),
    "prompts": (
        lambda: adapter.denoiser(build("sd"), ["a", "b"])(torch.zeros(3, 4, 8, 8), Level(0.5, 0.5, 500.0)),
        "2 prompt_embeds for 3 pictures",
    ),
    "no timestep": (
        lambda: adapter.denoiser(build("sd"), "a")(torch.zeros(1, 4, 8, 8), Level(1.0, 0.5)),
        "sigma 0.5 has none",
    ),
    "transparent": (lambda: adapter.encode(build("sd"), picture().convert("RGBA")), r"4 channels.*convert\('RGB'\)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_say_what_to_do(case: str) -> None:
    act, message = REFUSALS[case]
    with pytest.raises(InversionError, match=message):
        act()
