"""The wide world's model as host objects, with random weights: what the loader makes works in the host's sampler."""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module", params=["flow", "eps"])
def loaded(pack: ModuleType, request: pytest.FixtureRequest) -> tuple[Any, Any, Any, Tensor]:
    """MODEL, CLIP, VAE and some pictures."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    world = importlib.import_module(f"{pack.__name__}.nodes.demo.world")
    scenes, text = (importlib.import_module(f"{pack.__name__}.demo.{name}") for name in ("world.scenes", "text"))
    pictures = torch.stack([torch.from_numpy(scenes.picture(scenes.unseen_scene(i, "fox", "blue"))) for i in range(8)])
    torch.manual_seed(0)
    codec = world.LappedCodec()
    codec.fit(pictures.movedim(-1, 1) * 2 - 1)
    words = scenes.vocabulary()
    shared = {f"text.{k}": v for k, v in text.TextEncoder(len(words)).state_dict().items()}
    shared |= {f"codec.{k}": v for k, v in codec.state_dict().items()} | {"latent.scale": torch.linspace(0.5, 2, 32)}
    unet = UNetModel(**world.network.UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    weights = {k: torch.randn_like(v) * 0.02 for k, v in unet.state_dict().items()}
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
