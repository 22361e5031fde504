"""The demo model as host objects, with random weights, and the demo nodes with what old workflows ask of them."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module", params=["flow", "v-prediction"])
def loaded(pack: ModuleType, request: pytest.FixtureRequest) -> tuple[Any, Any, Any, Tensor]:
    """MODEL, CLIP, VAE and some pictures."""
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
    return *world.assemble(request.param, shared, weights, words), pictures


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
    assert "Choose flow or v-prediction" in model.validate_inputs("x0")
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
