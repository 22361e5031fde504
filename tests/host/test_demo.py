"""The demo model as host objects, with random weights, and the demo nodes with what old workflows ask of them."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from demo import judge


@pytest.fixture(scope="module")
def random_weights(pack: ModuleType) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str], Tensor]:
    """What `assemble` takes after the version, and some pictures."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    world, scenes, text = pack.nodes.demo.model, pack.demo.scenes, pack.demo.text
    pictures = torch.stack([torch.from_numpy(scenes.picture(scenes.unseen_scene(i, "fox", "blue"))) for i in range(8)])
    random = torch.Generator().manual_seed(0)
    codec = world.LappedCodec()
    codec.fit(pictures.movedim(-1, 1) * 2 - 1)
    words = scenes.vocabulary()
    encoder = text.TextEncoder(len(words))
    world.network.initialise(encoder, random)
    shared = {f"text.{k}": v for k, v in encoder.state_dict().items()}
    shared |= {f"codec.{k}": v for k, v in codec.state_dict().items()} | {"latent.scale": torch.linspace(0.5, 2, 32)}
    unet = UNetModel(**world.network.UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    weights = {k: torch.randn(v.shape, generator=random) * 0.02 for k, v in unet.state_dict().items()}
    return shared, weights, words, pictures


@pytest.fixture(scope="module", params=["flow", "v-prediction", "turbo-flow", "turbo-ve"])
def loaded(pack: ModuleType, random_weights: Any, request: pytest.FixtureRequest) -> tuple[Any, Any, Any, Tensor]:
    """MODEL, CLIP, VAE and some pictures."""
    *weights, pictures = random_weights
    return *pack.nodes.demo.model.assemble(request.param, *weights), pictures


def test_the_sampler_runs_and_follows_the_prompt(loaded: tuple[Any, Any, Any, Tensor]) -> None:
    import comfy.sample

    model, clip, vae, _ = loaded
    conditioning = []
    for caption in ("a fox with a crown, blue wall", "a red heart, white wall"):
        context, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
        conditioning.append([[context, {"pooled_output": pooled}]])
    latent = torch.zeros(1, 32, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 3)
    results = [
        comfy.sample.sample(
            model, noise, 2, 2.0, "euler", "normal", positive, conditioning[0], latent, disable_pbar=True, seed=3
        )
        for positive in conditioning
    ]
    assert all(result.isfinite().all() for result in results)
    assert not torch.equal(*results)
    assert vae.decode(results[0]).shape == (1, 128, 128, 3)


def test_both_turbo_versions_say_the_same_of_the_same_noise(pack: ModuleType, random_weights: Any) -> None:
    """turbo-ve is the flow model in other units: x = x0 + sigma n is its state over 1 - s."""
    *weights, _ = random_weights
    flow, ve = (pack.nodes.demo.model.assemble(f"turbo-{kind}", *weights)[0].model for kind in ("flow", "ve"))
    random = torch.Generator().manual_seed(1)
    picture, noise = (torch.randn(1, 32, 16, 16, generator=random) for _ in range(2))
    prompt = {"c_crossattn": torch.randn(1, 10, 128, generator=random), "y": torch.randn(1, 128, generator=random)}
    with torch.inference_mode():
        for s in (0.1, 0.5, 0.9):
            sigma = s / (1 - s)
            said = flow.apply_model((1 - s) * picture + s * noise, torch.tensor([s]), **prompt)
            assert torch.allclose(
                ve.apply_model(picture + sigma * noise, torch.tensor([sigma]), **prompt), said, atol=1e-4
            )
            assert not torch.allclose(said, picture, atol=0.1)


@pytest.mark.parametrize("scheduler", ["simple", "sgm_uniform", "normal"])
def test_schedules_of_turbo_ve_have_the_levels_of_turbo_flow(
    pack: ModuleType, random_weights: Any, scheduler: str
) -> None:
    import comfy.samplers

    *weights, _ = random_weights
    models = (pack.nodes.demo.model.assemble(f"turbo-{kind}", *weights)[0] for kind in ("flow", "ve"))
    flow, ve = (
        comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 4) for model in models
    )
    assert torch.allclose(ve / (1 + ve), flow, atol=0.016)  # at the top 0.985, where flow has 1
    assert ve[0] == pytest.approx(65.7, abs=0.1)


FEW_STEPS = [("turbo-flow", "euler", 1), ("turbo-flow", "euler", 4), ("turbo-ve", "euler_ancestral", 4)]


@pytest.mark.parametrize(("version", "sampler", "steps"), FEW_STEPS)
def test_the_few_step_versions_draw_what_is_asked(pack: ModuleType, version: str, sampler: str, steps: int) -> None:
    """By the host's own sampler at cfg 1, where the flow version draws 2 of these 16 in 1 step, and 10 in 4 steps."""
    import comfy.sample

    scenes = pack.demo.scenes
    things = ["fox", "pizza", "panda", "house", "car", "red heart", "pig", "koala"]
    asked = [scenes.unseen_scene(i, thing, wall) for thing in things for i, wall in enumerate(("blue", "red"))]
    with torch.inference_mode():
        model, clip, vae = pack.nodes.demo.load(version)
        encoded = [clip.encode_from_tokens(clip.tokenize(scenes.caption(s)), return_pooled=True) for s in asked]
        context, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        prompt, latent = [[context, {"pooled_output": pooled}]], torch.zeros(len(asked), 32, 16, 16)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
        how = (steps, 1.0, sampler, "simple", prompt, prompt, latent)
        drawn = vae.decode(comfy.sample.sample(model, noise, *how, disable_pbar=True, seed=3))
    seen = judge.load().see(drawn.movedim(-1, 1).clamp(0, 1))
    assert sum((a.thing, a.wall) == (b.thing, b.wall) for a, b in zip(seen, asked, strict=True)) >= 13


def test_the_vae_is_the_codec_and_its_way_back_is_exact(loaded: tuple[Any, Any, Any, Tensor]) -> None:
    model, _, vae, pictures = loaded
    latents = vae.encode(pictures)
    assert latents.shape == (8, 32, 16, 16)
    assert (vae.decode(latents) - pictures).square().mean() < 1e-3
    inside = model.model.process_latent_in(latents)
    assert torch.allclose(model.model.process_latent_out(inside), latents, atol=1e-6)
    assert not torch.allclose(inside, latents)


def test_previews_show_the_mean_colours(loaded: tuple[Any, Any, Any, Tensor]) -> None:
    model, _, vae, pictures = loaded
    form = model.model.latent_format
    inside = model.model.process_latent_in(vae.encode(pictures))
    preview = torch.einsum("bchw,cr->brhw", inside, torch.tensor(form.latent_rgb_factors))
    preview += torch.tensor(form.latent_rgb_factors_bias)[:, None, None]
    colours = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1) * 2 - 1, 8)
    assert (preview - colours).square().mean().sqrt() < 0.15  # the lapped transform's windows are wider than a block


def test_a_value_of_an_old_workflow_opens_or_is_refused_in_words(pack: ModuleType) -> None:
    model, picture = pack.nodes.demo.DemoModel, pack.nodes.demo.DemoPicture
    assert model.validate_inputs("eps") is model.validate_inputs("flow") is True
    assert model.execute("eps").args[0].model.model_type.name == "V_PREDICTION"
    assert "Choose one of flow, v-prediction, turbo-flow, turbo-ve." in model.validate_inputs("x0")
    assert picture.validate_inputs("red heart", "blue") is True
    refused = picture.validate_inputs("tiger face", "blue")
    assert refused.startswith("The demo model knows no object 'tiger face'.")
    assert " tiger," in refused
    with pytest.raises(pack.inversion.InversionError, match="no wall 'pink'"):
        picture.execute("red heart", "pink")
    with pytest.raises(pack.inversion.InversionError, match="wears no hat"):
        picture.execute("red heart", "blue", "crown")


def test_another_look_is_another_picture_of_the_same_caption(pack: ModuleType) -> None:
    pictures, captions = zip(
        *(pack.nodes.demo.DemoPicture.execute("fox", "blue", "crown", i).args for i in (0, 1)), strict=True
    )
    assert captions == ("a fox with a crown, blue wall",) * 2
    assert pictures[0].shape == (1, 128, 128, 3)
    assert not torch.equal(*pictures)
