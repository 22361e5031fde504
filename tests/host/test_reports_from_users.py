"""What users of the host and of other packs have met, tried on this one.

Where there is a public report of it, it is named. What names none is of the same kind: what people connect.
"""

import importlib
import random
from collections.abc import Callable
from typing import Any

import comfy.samplers
import comfy_extras.nodes_post_processing  # noqa: F401  newer hosts' nodes_latent has to find it begun
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras import nodes_hypertile, nodes_pag, nodes_tomesd
from comfy_extras.nodes_align_your_steps import AlignYourStepsScheduler
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced, SplitSigmas
from comfy_extras.nodes_latent import LatentBatch
from families import FAMILIES
from graphs import METHODS, Bench, demo, relative

from nodes import LatentFromBatch, RepeatLatentBatch, VAEEncode


def one(output: Any) -> Any:
    """The single output of a host node, of either generation."""
    return (output.args if hasattr(output, "args") else output)[0]


MODELS = {
    # dbolya/tomesd pull request 25: token merging draws its tokens at random, and shifts all that is drawn afterwards.
    "token merging": lambda model: one(nodes_tomesd.TomePatchModel.execute(model, 0.5)),
    # Comfy-Org/ComfyUI issue 2007 and pull request 2207: HyperTile chooses its tiles at random.
    "HyperTile": lambda model: one(nodes_hypertile.HyperTile.execute(model, 32, 3, 0, False)),
}


@pytest.fixture(scope="module")
def sd(pack) -> Bench:
    """Random weights, 32 x 32: large enough for tiles."""
    return FAMILIES["SD1.5 eps"].bench(pack, sides=(32, 32))


@pytest.fixture(scope="module")
def eps(pack) -> Bench:
    return demo(pack, "v-prediction")


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
    assert "comes back exactly with" not in report
    edited = eps.edit(model=model, latent=up, positive=eps.other)[1]
    assert says in edited
    assert "mask of your own" in edited
    assert says in eps.load(eps.save(up))[2].splitlines()[0]
    steady = eps.invert(steps=4, model=one(nodes_pag.PerturbedAttentionGuidance.execute(eps.model, 3.0)))[3]
    assert says not in steady
    assert "draws random numbers" not in steady


# --- batch nodes after an inversion: variations of one picture, an edit of one of a batch -----------------------------
# Comfy-Org/ComfyUI issue 12051: Latent From Batch does not reproduce the picture that was in the batch.


def repeated(latent: dict) -> dict:
    return RepeatLatentBatch().repeat(latent, 3)[0]


def second(latent: dict) -> dict:
    return LatentFromBatch().frombatch(latent, 1, 1)[0]


def turned(latent: dict) -> dict:
    return one(LatentBatch.execute(second(latent), LatentFromBatch().frombatch(latent, 0, 1)[0]))


BATCHES = {"repeated": (repeated, [0, 1] * 3), "one of it": (second, [1]), "put together": (turned, [1, 0])}


@pytest.mark.parametrize("what", BATCHES)
@pytest.mark.parametrize("method", ["EasyInv", "FixedPoint"])
def test_batch_nodes_after_an_inversion(eps: Bench, what: str, method: str) -> None:
    """Each picture of the new batch has its own part of the record, also through a file."""
    change, which = BATCHES[what]
    source = torch.cat([eps.latent["samples"], eps.latent["samples"].flip(-1)])
    ancestral = {"sampler": "euler_ancestral"} if method == "FixedPoint" else {}
    up = eps.invert(method, steps=4, latent={"samples": source}, **ancestral)[0]
    whole = eps.edit(latent=up, positive=eps.other, cfg=2.0, negative=eps.negative)[0]["samples"]
    latent = change(up)
    for given in (latent, eps.load(eps.save(latent))[0]):
        back, report = eps.edit(latent=given)
        assert relative(back["samples"], source[which]) <= 1e-6
        assert "record of" in report
    edited = eps.edit(latent=latent, positive=eps.other, cfg=2.0, negative=eps.negative)[0]["samples"]
    assert relative(edited, whole[which]) <= 1e-4


def test_a_batch_with_a_stranger_in_it_is_refused(eps: Bench) -> None:
    """A joined batch carries the first latent's record only."""
    up, other = eps.invert(steps=3)[0], eps.invert(steps=3, positive=eps.other)[0]
    joined = one(LatentBatch.execute(up, other))
    report = eps.edit(latent=joined, sigmas=eps.invert(steps=3)[2])[1]
    assert "no longer what was inverted" in report
    with pytest.raises(eps.pack.inversion.InversionError, match="no longer what was inverted"):
        eps.save(joined)


# --- model patches of the host, without a negative prompt at cfg 1 and with one at cfg 3 ------------------------------
# lllyasviel/stable-diffusion-webui-forge pull request 1725: SelfAttentionGuidance fails at cfg 1, where there is no
# negative prompt. It looks at the attention of that prompt: Comfy-Org/ComfyUI pull request 2201.

PATCHES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SelfAttentionGuidance": ("nodes_sag", "SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}),
    "PerturbedAttention": ("nodes_pag", "PerturbedAttentionGuidance", {"scale": 3.0}),
    "NAGuidance": ("nodes_nag", "NAGuidance", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}),
    "FreeU": ("nodes_freelunch", "FreeU", {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}),
    "FreeU_V2": ("nodes_freelunch", "FreeU_V2", {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}),
    "FreSca": ("nodes_fresca", "FreSca", {"scale_low": 1.0, "scale_high": 1.25, "freq_cutoff": 3}),
    "TCFG": ("nodes_tcfg", "TCFG", {}),
    "Mahiro": ("nodes_mahiro", "Mahiro", {}),
    "APG": ("nodes_apg", "APG", {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.0}),
    "CFGZeroStar": ("nodes_cfg", "CFGZeroStar", {}),
    "CFGNorm": ("nodes_cfg", "CFGNorm", {"strength": 1.0}),
    "RescaleCFG": ("nodes_model_advanced", "RescaleCFG", {"multiplier": 0.7}),
    "RenormCFG": ("nodes_lumina2", "RenormCFG", {"cfg_trunc": 100.0, "renorm_cfg": 1.0}),
    "EpsilonScaling": ("nodes_eps", "EpsilonScaling", {"scaling_factor": 1.005}),
    "TemporalScoreRescaling": ("nodes_eps", "TemporalScoreRescaling", {"tsr_k": 0.95, "tsr_sigma": 1.0}),
    "SkipLayerGuidanceDiTSimple": (
        "nodes_slg",
        "SkipLayerGuidanceDiTSimple",
        {"double_layers": "0", "single_layers": "0", "start_percent": 0.0, "end_percent": 1.0},
    ),
    "PatchModelAddDownscale": (
        "nodes_model_downscale",
        "PatchModelAddDownscale",
        {"block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
         "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"},
    ),
    "ModelSamplingDiscrete": ("nodes_model_advanced", "ModelSamplingDiscrete", {"sampling": "eps", "zsnr": False}),
}  # fmt: skip


def patched(bench: Bench, name: str) -> Any:
    """The bench's model with a patch of the host, skipped where this host has it not."""
    module, node, inputs = PATCHES[name]
    try:
        found = getattr(importlib.import_module(f"comfy_extras.{module}"), node)
    except (ImportError, AttributeError):
        pytest.skip(f"this host has no {name}")
    if hasattr(found, "execute"):
        return one(found.execute(bench.model, **inputs))
    return one(getattr(found(), found.FUNCTION)(bench.model, **inputs))


@pytest.mark.parametrize("name", PATCHES)
def test_patches_with_and_without_a_negative_prompt(eps: Bench, name: str) -> None:
    """The picture comes back, or the missing prompt is asked for; a run with it before changes nothing about that."""
    model = patched(eps, name)
    needed = model.model_options.get("disable_cfg1_optimization")
    assert needed == (True if name in ("SelfAttentionGuidance", "NAGuidance") else None)
    guided = {"cfg": 3.0, "negative": eps.negative}
    up = eps.invert(model=model, steps=3, **guided)[0]
    assert relative(eps.edit(model=model, latent=up, **guided)[0]["samples"], eps.latent["samples"]) <= 1e-6
    for run in (lambda: eps.invert(model=model, steps=3)[0], lambda: eps.edit(model=model, latent=up)[0]):
        if needed:
            with pytest.raises(eps.pack.inversion.InversionError, match=r"even at cfg 1.*not connected"):
                run()
        else:
            assert run()["samples"].isfinite().all()
    if not needed:
        up = eps.invert(model=model, steps=3)[0]
        assert relative(eps.edit(model=model, latent=up)[0]["samples"], eps.latent["samples"]) <= 1e-6


def test_a_guider_without_the_negative_prompt_that_a_patch_needs(eps: Bench) -> None:
    guider = comfy.samplers.CFGGuider(patched(eps, "SelfAttentionGuidance"))
    guider.inner_set_conds({"positive": eps.positive})
    sigmas = eps.pack.nodes.host.scheduled_sigmas(eps.model, 2, "normal", 1.0)
    with torch.inference_mode(), pytest.raises(eps.pack.inversion.InversionError, match="but the guider has none"):
        SamplerCustomAdvanced.execute(
            RandomNoise.execute(0).args[0], guider, eps.sampler("EasyInv"), sigmas, eps.latent
        )


# --- pictures and schedules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "channels"), [(65, 47, 3), (64, 64, 4), (9, 130, 3), (8, 8, 3)])
def test_pictures_of_any_size_and_with_transparency(pack, flow: Bench, height: int, width: int, channels: int) -> None:
    """ssitu/ComfyUI_UltimateSDUpscale issue 45: an error with transparency. The host crops to what the VAE takes."""
    vae = pack.nodes.demo.model.load("flow")[2]
    picture = torch.rand(1, height, width, channels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latent = VAEEncode().encode(vae, picture)[0]
    up = flow.invert(steps=3, latent=latent)[0]
    back = flow.edit(latent=up)[0]["samples"]
    assert relative(back, latent["samples"]) <= 1e-6
    edited, _, mask = flow.edit_with_mask(latent=up, positive=flow.other)
    assert edited["samples"].isfinite().all()
    assert mask.shape[1:] == (height // 8 * 8, width // 8 * 8)


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_constant_pictures_under_an_empty_prompt(pack, flow: Bench, grey: float, method: str) -> None:
    vae = pack.nodes.demo.model.load("flow")[2]
    with torch.inference_mode():
        latent = VAEEncode().encode(vae, torch.full((1, 64, 64, 3), grey))[0]
    up, _, _, report = flow.invert(method, steps=3, latent=latent, positive=flow.negative)
    assert "nan" not in report
    assert relative(flow.edit(latent=up, positive=flow.negative)[0]["samples"], latent["samples"]) <= 1e-6


SCHEDULES: dict[str, Callable[[Any, int, float], Any]] = {
    "BasicScheduler": lambda model, n, denoise: custom.BasicScheduler.execute(model, "normal", n, denoise),
    "KarrasScheduler": lambda model, n, denoise: custom.KarrasScheduler.execute(n, 0.9, 0.02, 7.0),
    "ExponentialScheduler": lambda model, n, denoise: custom.ExponentialScheduler.execute(n, 0.9, 0.02),
    "PolyexponentialScheduler": lambda model, n, denoise: custom.PolyexponentialScheduler.execute(n, 0.9, 0.02, 1.0),
    "LaplaceScheduler": lambda model, n, denoise: custom.LaplaceScheduler.execute(n, 0.9, 0.02, 0.0, 0.5),
    "BetaSamplingScheduler": lambda model, n, denoise: custom.BetaSamplingScheduler.execute(model, n, 0.6, 0.6),
    "VPScheduler": lambda model, n, denoise: custom.VPScheduler.execute(n, 1.0, 0.1, 0.001),
    "AlignYourSteps": lambda model, n, denoise: AlignYourStepsScheduler.execute("SD1", n, denoise),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("steps", "denoise"), [(1, 1.0), (1, 0.01), (8, 0.01), (8, 0.6)])
def test_schedules_from_every_node(eps: Bench, name: str, steps: int, denoise: float) -> None:
    """Finite and exact, or a sentence on what is wrong with the SIGMAS."""
    try:
        sigmas = one(SCHEDULES[name](eps.model, steps, denoise))
        assert len(sigmas)
    except Exception:  # the host's own node cannot
        pytest.skip(f"{name} makes no SIGMAS of {steps} steps at denoise {denoise}")
    try:
        up = eps.invert(sigmas=sigmas)[0]
    except eps.pack.inversion.InversionError:
        with pytest.raises(eps.pack.inversion.InversionError, match=r"[Ss]igmas|SIGMAS|noise level"):
            eps.invert(sigmas=sigmas)
        return
    assert relative(eps.edit(latent=up)[0]["samples"], eps.latent["samples"]) <= 1e-6


@pytest.mark.parametrize("at", [1, 3, 5])
def test_split_sigmas_on_the_way_down(flow: Bench, at: int) -> None:
    """On the lower part of the record's levels the source, under its own prompt, comes back all the same."""
    up, _, sigmas, _ = flow.invert(steps=6)
    low = SplitSigmas.execute(sigmas, at).args[1]
    back, _ = flow.edit(latent=up, sigmas=low)
    assert relative(back["samples"], flow.latent["samples"]) <= 1e-6
