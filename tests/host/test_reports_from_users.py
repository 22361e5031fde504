"""What users of the host and of other packs have reported, tried on this one. Each test says where it comes from."""

import random
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_hypertile, nodes_pag, nodes_sag, nodes_tomesd
from comfy_extras.nodes_custom_sampler import SplitSigmas
from families import FAMILIES
from graphs import METHODS, Bench, demo, relative


def one(output: Any) -> Any:
    """The single output of a host node, of either generation."""
    return (output.args if hasattr(output, "args") else output)[0]


MODELS = {
    # Comfy-Org/ComfyUI PR 2207: token merging draws its tokens at random, so that no two runs are the same.
    "token merging": lambda model: one(nodes_tomesd.TomePatchModel.execute(model, 0.5)),
    # Comfy-Org/ComfyUI issue 2007: HyperTile chooses its tiles at random.
    "HyperTile": lambda model: one(nodes_hypertile.HyperTile.execute(model, 32, 3, 0, False)),
}


@pytest.fixture(scope="module")
def sd(pack) -> Bench:
    """Random weights, 32 x 32: large enough for tiles."""
    return FAMILIES["SD1.5 eps"].bench(pack, sides=(32, 32))


@pytest.fixture(scope="module")
def eps(pack) -> Bench:
    return demo(pack, "eps")


@pytest.fixture(scope="module")
def flow(pack) -> Bench:
    return demo(pack, "flow")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("patch", MODELS)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_models_that_draw_random_numbers(sd: Bench, patch: str, method: str, cfg: float) -> None:
    model, guided = MODELS[patch](sd.model), {"cfg": cfg, "negative": sd.negative}
    before = torch.get_rng_state()
    up, _, _, report = sd.invert(method, model=model, steps=4, **guided)
    assert "draws random numbers as it runs" in report
    assert relative(up["samples"], sd.invert(method, steps=4, **guided)[0]["samples"]) > 1e-4, "the patch does nothing"
    back, _, mask = sd.edit_with_mask(model=model, latent=up, **guided)
    assert relative(back["samples"], sd.latent["samples"]) <= 1e-6
    assert not mask.any()
    assert torch.equal(torch.get_rng_state(), before)
    edited, _ = sd.edit(model=model, latent=up, positive=sd.other, **guided)
    assert relative(edited["samples"], sd.latent["samples"]) > 1e-4


def test_a_model_that_answers_differently_each_time(eps: Bench) -> None:
    """With random numbers that nobody can hold fixed; the same kind as the two above."""

    def shaken(apply_model: Any, given: dict) -> torch.Tensor:
        return apply_model(given["input"], given["timestep"], **given["c"]) * random.uniform(0.9, 1.1)

    model = eps.model.clone()
    model.set_model_unet_function_wrapper(shaken)
    up, _, _, report = eps.invert(steps=4, model=model)
    says = "does not answer the same question the same way twice"
    assert says in report.splitlines()[0]
    assert "the record exactly" not in report
    edited = eps.edit(model=model, latent=up, positive=eps.other)[1]
    assert says in edited
    assert "mask of your own" in edited
    assert says in eps.load(eps.save(up))[2].splitlines()[0]
    steady = eps.invert(steps=4, model=one(nodes_pag.PerturbedAttentionGuidance.execute(eps.model, 3.0)))[3]
    assert says not in steady
    assert "draws random numbers" not in steady
