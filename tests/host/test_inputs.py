"""Latents, masks and numbers of every kind into every node: computed with, or refused in plain words."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import comfy.k_diffusion.sampling
import comfy.samplers
import pytest
import torch
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from families import FAMILIES
from graphs import METHODS, Bench, defaults, demo, relative
from torch import Tensor

from nodes import ConditioningSetArea, ConditioningSetTimestepRange, VAEDecode, VAEEncode


@pytest.fixture(scope="module")
def bench(pack) -> Bench:
    return demo(pack, "flow")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_the_layout_in_memory_makes_no_difference(bench: Bench, method: str, dtype: torch.dtype) -> None:
    samples = torch.cat([bench.latent["samples"], bench.latent["samples"].flip(-1)]).to(dtype)
    plain, other = ({"samples": x} for x in (samples, samples.contiguous(memory_format=torch.channels_last)))
    up, same = (bench.invert(method, steps=3, latent=latent)[0] for latent in (plain, other))
    assert torch.equal(up["samples"], same["samples"])
    down, again = (bench.edit(latent=latent)[0]["samples"] for latent in (up, same))
    assert torch.equal(down, again)
    assert relative(again, samples) <= 1e-7


# --- masks ------------------------------------------------------------------------------------------------------------

HALF = torch.zeros(1, 128, 128)
HALF[:, :, 64:] = 1  # the right half may change


def run(node: Any, **inputs: Any) -> tuple:
    with torch.inference_mode():
        return node.execute(**{**defaults(node), **inputs}).args


def flow_edited(bench: Bench, latent: dict) -> Tensor:
    given = {"positive": bench.other, "source_positive": bench.positive, "negative": bench.negative}
    out, report = run(bench.pack.nodes.flow_edit.FlowEdit, model=bench.model, latent=latent, steps=4, **given)
    assert "mask lets 50% of the picture change" in report
    return out["samples"]


def edited(bench: Bench, latent: dict) -> Tensor:
    up = bench.invert(steps=4, latent=latent)[0]
    return bench.edit(latent=up, positive=bench.other, cfg=3.0, negative=bench.negative, preserve=0.2)[0]["samples"]


def edited_as_before(bench: Bench, latent: dict) -> Tensor:
    up = bench.invert(steps=4, latent=latent)[0]
    prompts = {"positive": bench.other, "negative": bench.negative, "cfg": 3.0, "preserve": 0.2}
    return run(bench.pack.nodes.old.OldEditFromLatent, model=bench.model, latent=up, **prompts)[0]["samples"]


WRITES_PICTURES = {"INV_Edit": edited, "INV_EditFromLatent": edited_as_before, "INV_FlowEdit": flow_edited}
PASSES_IT_ON = {f"INV_{method}" for method in METHODS} | {"INV_Save"}
SAYS_THAT_IT_IS_LEFT_OUT = {"INV_Interpolate", "INV_Seeds"}
MAKES_NO_LATENT = {"INV_NoiseFromLatent", "INV_Report"}
LEAVES_IT_TO_THE_SAMPLER = {"INV_EditGuider"}


def test_every_node_that_takes_a_latent_is_known(pack) -> None:
    nodes = asyncio.run(pack.nodes.InversionExtension().get_node_list())
    schemas = [node.define_schema() for node in nodes]
    taking = {s.node_id for s in schemas if any(isinstance(i, io.Latent.Input) for i in s.inputs)}
    assert taking == {
        *WRITES_PICTURES,
        *PASSES_IT_ON,
        *SAYS_THAT_IT_IS_LEFT_OUT,
        *MAKES_NO_LATENT,
        *LEAVES_IT_TO_THE_SAMPLER,
    }


@pytest.mark.parametrize("node", WRITES_PICTURES)
def test_what_the_latents_mask_leaves_out_stays_as_it_was(bench: Bench, node: str) -> None:
    source = bench.latent["samples"]
    out = WRITES_PICTURES[node](bench, {**bench.latent, "noise_mask": HALF})
    assert relative(out[..., :8], source[..., :8]) <= 1e-7
    assert relative(out[..., 8:], source[..., 8:]) >= 0.05


@pytest.mark.parametrize(("height", "width"), [(128, 192), (192, 128)])
def test_of_a_mask_of_another_shape_the_middle_counts(bench: Bench, height: int, width: int) -> None:
    """As of a picture that a node crops at its center: the mask was painted before."""
    up = bench.invert(steps=4)[0]
    given = {"latent": up, "positive": bench.other, "background": 0.0}
    top, left = (height - 128) // 2, (width - 128) // 2
    wide = torch.nn.functional.pad(1 - HALF, (left, left, top, top), value=1.0)
    out, report = bench.edit(**given, mask=wide)
    assert torch.equal(out["samples"], bench.edit(**given, mask=1 - HALF)[0]["samples"])
    assert f"The mask is {width} x {height}" in report
    assert "The mask is" not in bench.edit(**given, mask=1 - HALF)[1]


def test_other_nodes_pass_a_mask_on_or_say_that_they_do_not(bench: Bench) -> None:
    masked = {**bench.latent, "noise_mask": HALF}
    for method in METHODS:
        up = bench.invert(method, steps=2, latent=masked)[0]
        assert torch.equal(up["noise_mask"], HALF)
    assert torch.equal(bench.load(bench.save(up))[0]["noise_mask"], HALF)
    library = bench.pack.nodes
    out, *_, report = run(library.seeds.Seeds, model=bench.model, latent=up, count=1)
    assert "noise_mask" not in out
    assert "mask was left out" in report
    sides = {"latent_from": up, "latent_to": up, "positive_from": bench.positive, "positive_to": bench.positive}
    out, *_, report = run(library.interpolate.Interpolate, model=bench.model, frames=2, **sides)
    assert "noise_mask" not in out
    assert "masks were left out" in report


@pytest.fixture(scope="module")
def video(pack) -> Bench:
    return FAMILIES["Wan 2.1"].bench(pack)


@pytest.mark.parametrize("frames", [3, 9, 6])  # of the latent; of the video, with the first by itself and without
@pytest.mark.parametrize("how", ["wire", "noise_mask", "noise_mask of a video"])
def test_a_mask_for_each_frame(video: Bench, frames: int, how: str) -> None:
    """The first third of the video may change; the rest is kept."""
    masks = torch.zeros(frames, 64, 64)
    masks[: {3: 1, 9: 1, 6: 2}[frames]] = 1
    up = video.invert(steps=3)[0]
    given = {"wire": {"mask": masks}, "noise_mask": {"latent": {**up, "noise_mask": masks[:, None]}}}
    given["noise_mask of a video"] = {"latent": {**up, "noise_mask": masks[None, None]}}
    inputs = {"latent": up, "positive": video.other, "preserve": 0.2, **given[how]}
    out, _, mask = video.edit_with_mask(**inputs)
    source = video.latent["samples"]
    assert relative(out["samples"][:, :, 1:], source[:, :, 1:]) <= 1e-7
    assert relative(out["samples"][:, :, :1], source[:, :, :1]) >= 1e-4
    assert len(mask) == source.shape[2]


def test_masks_that_fit_no_frames_or_no_picture_are_refused(video: Bench, pack) -> None:
    up = video.invert(steps=2)[0]
    with pytest.raises(pack.inversion.InversionError, match="mask has 4 frames, the video's latent 3"):
        video.edit(latent=up, mask=torch.ones(4, 64, 64))
    sound = FAMILIES["Stable Audio"].bench(pack)
    up = sound.invert(steps=2)[0]
    with pytest.raises(pack.inversion.InversionError, match=r"latent of sound.*Remove the mask"):
        sound.edit(latent=up, mask=torch.ones(1, 64, 64))


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers() -> Iterator[tuple[str, str]]:
    """(node, widget) of every number in the pack, by hand, because the pack is not loaded when tests are collected."""
    schedule = ["steps", "cfg", "denoise"]
    yield from (("INV_EasyInv", name) for name in (*schedule, "eta", "start", "length"))
    yield from (("INV_GuidedNR", name) for name in (*schedule, "iterations", "guidance", "tolerance", "seed"))
    yield from (("INV_FixedPoint", name) for name in (*schedule, "iterations", "tolerance", "anderson", "seed"))
    shares = ["anchor", "anchor_end", "background", "threshold", "structure", "structure_layers"]
    yield from (("INV_EditSettings", name) for name in ("cfg", *shares, "dilation", "feather", "limit", "head_start"))
    yield from (("INV_EditFromLatent", name) for name in ("cfg", "preserve", *shares, "dilation", "feather"))
    yield from ((node, "strength") for node in ("INV_Edit", "INV_EditGuider"))
    yield from (("INV_FlowEdit", name) for name in (*schedule, "source_cfg", "seed"))
    yield from (("INV_Seeds", name) for name in ("count", "spread", "fresh", "seed"))
    yield from (("INV_Interpolate", name) for name in ("frames",))
    yield from (("INV_RestoreBackground", name) for name in ("grow", "feather"))
    yield ("INV_DemoPicture", "look")
    yield from (("INV_NoiseFromLatent", name) for name in ("seed",))
    yield from (("INV_EasyInvSampler", name) for name in ("eta", "start", "length"))
    yield from (("INV_GuidedNRSampler", name) for name in ("iterations", "guidance", "tolerance"))
    yield from (("INV_FixedPointSampler", name) for name in ("iterations", "tolerance", "anderson"))


def test_every_number_is_known(pack) -> None:
    nodes = asyncio.run(pack.nodes.InversionExtension().get_node_list())
    schemas = [node.define_schema() for node in nodes]
    widgets = {(s.node_id, i.id) for s in schemas for i in s.inputs if isinstance(i, io.Int.Input | io.Float.Input)}
    assert widgets == set(numbers())


@pytest.mark.parametrize(("node", "widget"), list(numbers()))
@pytest.mark.parametrize("value", [math.nan, math.inf, -1e9, 2**64])
def test_a_number_outside_its_bounds_is_refused_by_name(pack, node: str, widget: str, value: float) -> None:
    """The host's own check lets NaN through, and looks at nothing that comes by wire."""
    found = {n.define_schema().node_id: n for n in asyncio.run(pack.nodes.InversionExtension().get_node_list())}[node]
    inputs = {i.id: None for i in found.define_schema().inputs} | defaults(found) | {widget: value}
    with pytest.raises(pack.inversion.InversionError, match=f"^{widget} takes .*numbers from .* to .*, got"):
        found.execute(**inputs)


def test_the_highest_seed(bench: Bench, pack) -> None:
    """The host's euler_ancestral counts one up."""
    highest = 0xFFFFFFFFFFFFFFFF
    for method in ("GuidedNR", "FixedPoint"):
        assert bench.invert(method, steps=2, seed=highest)[0]["samples"].isfinite().all()
        try:
            comfy.k_diffusion.sampling.default_noise_sampler(torch.zeros(1, 4), seed=highest)
        except (RuntimeError, OverflowError, ValueError):
            with pytest.raises(pack.inversion.InversionError, match=f"cannot take the seed {highest}"):
                bench.invert(method, steps=2, seed=highest, sampler="euler_ancestral")
        else:  # older hosts do not
            up = bench.invert(method, steps=2, seed=highest, sampler="euler_ancestral")[0]
            assert up["samples"].isfinite().all()
    assert flow_edited(bench, {**bench.latent, "noise_mask": HALF}).isfinite().all()
    up = bench.invert(steps=2)[0]
    assert run(pack.nodes.seeds.Seeds, model=bench.model, latent=up, seed=highest)[0]["samples"].isfinite().all()


def test_the_noise_of_an_ancestral_sampler_is_in_main_memory_once(bench: Bench) -> None:
    up = bench.invert("FixedPoint", steps=3, sampler="euler_ancestral", seed=5)[0]
    noise = up["inversion"]["noise"]
    assert noise.device.type == "cpu"
    assert noise.untyped_storage().nbytes() == noise.nbytes


# --- latents that do not fit ------------------------------------------------------------------------------------------


def through_sampler(bench: Bench, samples: Tensor) -> Any:
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.set_conds(bench.positive, bench.negative)
    with torch.inference_mode():
        noise = RandomNoise.execute(0).args[0]
        sigmas = bench.pack.nodes.host.scheduled_sigmas(bench.model, 2, "normal", 1.0)
        return SamplerCustomAdvanced.execute(noise, guider, bench.sampler("EasyInv"), sigmas, {"samples": samples})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 16, 3, 16, 16), "a video latent in an image model"),
        ((1, 16, 64), "an audio or 1-D latent in an image model"),
        ((1, 4, 16, 16), "takes latents of 16 channels, got 4"),
    ],
)
def test_a_sampler_refuses_what_a_node_refuses(pack, shape: tuple[int, ...], message: str) -> None:
    bench = FAMILIES["SD3"].bench(pack)
    samples = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for refuses in (lambda: through_sampler(bench, samples), lambda: bench.invert(latent={"samples": samples})):
        with pytest.raises(bench.pack.inversion.InversionError, match=message):
            refuses()


def test_an_empty_latent_into_a_sampler_is_refused(bench: Bench) -> None:
    with pytest.raises(bench.pack.inversion.InversionError, match="latent is empty"):
        through_sampler(bench, torch.zeros(1, 32, 16, 16))


def test_the_demo_model_refuses_latents_of_another(pack, bench: Bench) -> None:
    """Also in a SAMPLER, where the host scales the latent before the sampler sees it, and in its VAE."""
    channels = bench.latent["samples"].shape[1]
    samples = torch.ones(1, channels - 3, 16, 16)
    message = f"takes latents of {channels} channels, got {channels - 3}"
    for refuses in (lambda: through_sampler(bench, samples), lambda: bench.invert(latent={"samples": samples})):
        with pytest.raises(bench.pack.inversion.InversionError, match=message):
            refuses()
    with pytest.raises(ValueError, match=message):
        VAEDecode().decode(pack.nodes.demo.load("flow")[2], {"samples": samples})


@pytest.mark.parametrize("preserve", [0.0, 0.8])
def test_an_edit_refuses_a_sampler_that_inverts(bench: Bench, preserve: float) -> None:
    up = bench.invert(steps=2)[0]
    guider, latent, noise, sigmas = bench.edit_guider(positive=bench.other, latent=up, preserve=preserve)
    with torch.inference_mode(), pytest.raises(bench.pack.inversion.InversionError, match="This SAMPLER inverts"):
        SamplerCustomAdvanced.execute(noise, guider, bench.sampler("EasyInv"), sigmas, latent)


@pytest.mark.parametrize(("height", "width"), [(7, 64), (64, 1), (2, 3)])
def test_a_picture_smaller_than_a_patch(pack, height: int, width: int) -> None:
    vae = pack.nodes.demo.load("flow")[2]
    with torch.inference_mode(), pytest.raises(ValueError, match="8 x 8 pixels or more"):
        VAEEncode().encode(vae, torch.full((1, height, width, 3), 0.3))


@pytest.mark.parametrize(("family", "side"), [("SD3", 8), ("Flux.2", 16), ("LTX-Video", 32), ("HunyuanImage 2.1", 32)])
def test_the_mask_has_the_size_of_the_picture(pack, family: str, side: int) -> None:
    """Also where the host's latent formats do not say how large that is."""
    model = FAMILIES[family].bench(pack).model
    assert pack.nodes.host.masks.picture_mask(model, torch.ones(1, 1, 3, 2)).shape == (1, 3 * side, 2 * side)


def test_prompts_that_the_host_cannot_compute_with(bench: Bench) -> None:
    ranged = ConditioningSetTimestepRange().set_range(bench.positive, 0.0, math.nan)[0]
    beyond = ConditioningSetArea().append(bench.positive, 64, 64, 512, 0, 1.0)[0]
    for positive, message in ((ranged, "positive conditioning is not a number"), (beyond, "begins beyond the picture")):
        with pytest.raises(bench.pack.inversion.InversionError, match=message):
            bench.invert(steps=2, positive=positive)
