"""Every family that the host can sample: inverted, given back and edited, through the nodes and the host's sampler."""

from typing import Any

import comfy.samplers
import comfy.supported_models
import comfyui_version
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from families import ABSENT, FAMILIES, Family
from graphs import Bench, relative

STEPS = 4
GUIDED = 3.0
TOLERANCE = 1e-6
HERE = {name: family for name, family in FAMILIES.items() if hasattr(comfy.supported_models, family.config)}


@pytest.fixture(scope="module", params=HERE)
def family(request: pytest.FixtureRequest) -> Family:
    return HERE[request.param]


@pytest.fixture(scope="module")
def bench(pack, family: Family) -> Bench:
    return family.bench(pack)


def host_euler(bench: Bench, noise: Any, sigmas: torch.Tensor, cfg: float) -> torch.Tensor:
    """SamplerCustomAdvanced with the host's own Euler sampler, from the source's latent and `noise`."""
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.set_conds(bench.positive, bench.negative)
    guider.set_cfg(cfg)
    euler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        return SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, bench.latent).args[0]["samples"]


def converged_noise(bench: Bench, sigmas: torch.Tensor, cfg: float) -> Any:
    """The NOISE of a converged inversion."""
    library, host = bench.pack.inversion, bench.pack.nodes.host
    method = library.FixedPoint(80, TOLERANCE, anderson=3)

    def walk(denoiser, x, grid, callback):
        found = library.invert(denoiser, x, grid, method)
        return found.latent, found

    _, found = bench.through(walk, sigmas, cfg)
    assert found.converged, found.report()
    return host.InvertedNoise(bench.model, found.latent, float(sigmas[0]))


def test_what_this_host_lacks_is_listed() -> None:
    version = comfyui_version.__version__
    if version not in ABSENT:
        pytest.skip(f"nobody has listed what ComfyUI {version} lacks")
    assert set(ABSENT[version]) == set(FAMILIES) - set(HERE)


@pytest.mark.parametrize("cfg", [1.0, GUIDED])
@pytest.mark.parametrize("denoise", [0.6, 1.0])
def test_the_source_comes_back_and_another_prompt_edits(
    family: Family, bench: Bench, denoise: float, cfg: float
) -> None:
    sigmas = family.schedule(bench, STEPS, denoise)
    latent, noise, _, _ = bench.invert(sigmas=sigmas, cfg=cfg, negative=bench.negative)
    source = bench.latent["samples"]
    assert (float(sigmas[0]) < float(family.schedule(bench, STEPS)[0])) == (denoise < 1)
    assert latent["samples"].shape == source.shape
    assert latent["samples"].isfinite().all()
    assert noise.generate_noise(bench.latent).isfinite().all()
    back, _ = bench.edit(latent=latent, cfg=cfg, negative=bench.negative)
    assert relative(back["samples"], source) <= 1e-6
    edited, _ = bench.edit(latent=latent, cfg=cfg, negative=bench.negative, positive=bench.other)
    assert edited["samples"].isfinite().all()
    assert relative(edited["samples"], source) >= 1e-4


@pytest.mark.parametrize("cfg", [1.0, GUIDED])
def test_the_hosts_sampler_comes_back_from_the_noise(family: Family, bench: Bench, cfg: float) -> None:
    sigmas = family.schedule(bench, STEPS)
    theirs = host_euler(bench, converged_noise(bench, sigmas, cfg), sigmas, cfg)
    # A residual is relative to the noisy state, which outweighs the picture by sigma in eps, v and EDM models.
    allowed = min(1e-3, max(1e-5, TOLERANCE * float(sigmas[0])))
    assert relative(theirs, bench.latent["samples"]) <= allowed


@pytest.mark.once
@pytest.mark.parametrize("sides", ["own", "odd"])
def test_a_batch_is_its_items(pack, family: Family, sides: str) -> None:
    bench = family.bench(pack, batch=3, sides=family.odd if sides == "odd" else ())
    source = bench.latent["samples"]
    guided = {"cfg": GUIDED, "negative": bench.negative}
    sigmas = family.schedule(bench, STEPS)
    latent, _, _, _ = bench.invert(sigmas=sigmas, **guided)
    assert relative(bench.edit(latent=latent, **guided)[0]["samples"], source) <= 1e-6
    edited, _ = bench.edit(latent=latent, positive=bench.other, **guided)
    if family.mixes:
        return
    for i in (0, 2):  # the first and the last
        one, _, _, _ = bench.invert(latent={"samples": source[i : i + 1]}, sigmas=sigmas, **guided)
        other, _ = bench.edit(latent=one, positive=bench.other, **guided)
        assert relative(latent["samples"][i], one["samples"][0]) <= 1e-4
        assert relative(edited["samples"][i], other["samples"][0]) <= 1e-4


@pytest.mark.parametrize("name", ["Qwen-Image", "Cosmos Predict2"])
def test_a_still_image_in_a_model_of_videos(pack, name: str) -> None:
    """The host's image VAEs give such models (B, C, H, W); everything after that has a frame axis."""
    family = FAMILIES[name]
    bench = family.bench(pack)
    source = bench.latent["samples"]
    bench.latent = {"samples": source[:, :, 0]}
    sigmas = family.schedule(bench, STEPS)
    latent, _, _, _ = bench.invert(sigmas=sigmas)
    assert relative(bench.edit(latent=latent)[0]["samples"], source) <= 1e-6
    theirs = host_euler(bench, converged_noise(bench, sigmas, 1.0), sigmas, 1.0)
    assert relative(theirs, source) <= 1e-3
