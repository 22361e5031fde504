"""Invert Image (EasyInv) and Edit From Latent on the host's own objects, on a trained eps-family and a flow model."""

import math
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from graphs import Bench, demo, micro, relative

import nodes

VERSIONS = ("v-prediction", "flow")


@pytest.fixture(scope="module", params=VERSIONS)
def bench(request, pack) -> Bench:
    return demo(pack, request.param)


@pytest.fixture(scope="module")
def flow(pack) -> Bench:
    return demo(pack, "flow")


@pytest.fixture(scope="module")
def eps(pack) -> Bench:
    return demo(pack, "v-prediction")


def host_euler(bench: Bench, noise, latent: dict, sigmas: torch.Tensor, cfg: float = 1.0) -> torch.Tensor:
    """SamplerCustomAdvanced with the host's own Euler sampler."""
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.set_conds(bench.positive, bench.negative)
    guider.set_cfg(cfg)
    with torch.inference_mode():
        out = SamplerCustomAdvanced.execute(noise, guider, comfy.samplers.sampler_object("euler"), sigmas, latent)
    return out.args[0]["samples"]


@pytest.mark.parametrize("steps", [4, 10, 20, 50])
def test_same_prompt_gives_the_source_back_exactly(bench: Bench, steps: int) -> None:
    latent, _, _, report = bench.invert(steps=steps)
    back, edit_report = bench.edit(latent=latent)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-5
    assert f"{steps} model calls" in report
    assert f"{steps} model calls" in edit_report
    assert "inversion" not in back


@pytest.mark.parametrize("placement", ["after", "before"])
@pytest.mark.parametrize("denoise", [0.5, 1.0])
def test_exact_for_both_placements_partial_and_guided(bench: Bench, placement: str, denoise: float) -> None:
    """Guided too: at the inversion's own cfg and prompts the record is exact, whatever cfg was."""
    latent, _, sigmas, _ = bench.invert(
        placement=placement, denoise=denoise, cfg=2.0, negative=bench.negative, steps=8, preset="custom", length=0.5
    )
    back, _ = bench.edit(latent=latent, cfg=2.0, negative=bench.negative)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-5
    assert len(sigmas) == 9
    assert (float(sigmas[0]) < float(bench.model.get_model_object("model_sampling").sigma_max)) == (denoise < 1)


@pytest.mark.parametrize("steps", [4, 20])
def test_noise_puts_the_hosts_sampler_at_the_inverted_latent(bench: Bench, steps: int) -> None:
    latent, noise, sigmas, _ = bench.invert(steps=steps)
    theirs = host_euler(bench, noise, bench.latent, sigmas)
    plain = {"samples": latent["samples"]}
    ours, report = bench.edit(latent=plain, sigmas=sigmas)
    assert torch.isfinite(theirs).all()
    assert relative(theirs, ours["samples"]) <= 1e-4
    assert "no inversion record" in report


def test_without_a_record_it_is_the_hosts_euler_from_that_latent(eps: Bench) -> None:
    """Eps models take a latent as it stands, so KSampler itself can be compared."""
    latent, _, sigmas, _ = eps.invert(steps=10)
    plain = {"samples": latent["samples"]}
    ours, _ = eps.edit(latent=plain, sigmas=sigmas, cfg=3.0, negative=eps.negative, positive=eps.other)
    with torch.inference_mode():
        theirs = nodes.KSamplerAdvanced().sample(
            eps.model, "disable", 0, 10, 3.0, "euler", "normal", eps.other, eps.negative, plain, 0, 10000, "disable"
        )[0]["samples"]
    assert relative(ours["samples"], theirs) <= 1e-5


def test_without_a_record_below_sigma_1_flow_is_the_hosts_euler(flow: Bench) -> None:
    """The host scales a flow latent by 1 - sigma on the way in; undo that and its Euler must agree with ours."""
    latent, _, sigmas, _ = flow.invert(steps=10, denoise=0.7)
    state = flow.model.model.process_latent_in(latent["samples"])
    given = {"samples": flow.model.model.process_latent_out(state / (1 - float(sigmas[0])))}
    theirs = host_euler(flow, Zero(), given, sigmas)
    ours, _ = flow.edit(latent={"samples": latent["samples"]}, sigmas=sigmas)
    assert relative(ours["samples"], theirs) <= 1e-5


class Zero:
    seed = 0

    def generate_noise(self, latent: dict) -> torch.Tensor:
        return torch.zeros_like(latent["samples"])


def test_twice_is_bit_identical_and_the_model_is_as_before(bench: Bench) -> None:
    def ksampler() -> torch.Tensor:
        empty = {"samples": torch.zeros_like(bench.latent["samples"])}
        with torch.inference_mode():
            return nodes.KSampler().sample(
                bench.model, 7, 4, 2.0, "euler", "normal", bench.other, bench.negative, empty, 1.0
            )[0]["samples"]

    before = ksampler()
    options = str(bench.model.model_options)
    runs = []
    for _ in range(2):
        latent, noise, sigmas, _ = bench.invert(steps=6, cfg=1.5, negative=bench.negative)
        edited, _ = bench.edit(latent=latent, positive=bench.other, cfg=3.0, negative=bench.negative)
        runs.append((latent["samples"], edited["samples"], noise.generate_noise(bench.latent), sigmas))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)
    assert torch.equal(ksampler(), before)
    assert str(bench.model.model_options) == options


def test_inputs_are_not_written_to(bench: Bench) -> None:
    kept = bench.latent["samples"].clone()
    latent, _, _, _ = bench.invert(steps=3)
    assert torch.equal(bench.latent["samples"], kept)
    assert set(bench.latent) == {"samples"}
    inverted = latent["samples"].clone()
    bench.edit(latent=latent)
    assert torch.equal(latent["samples"], inverted)
    assert "inversion" in latent


def test_a_new_prompt_makes_the_edit(bench: Bench) -> None:
    """Of these scenes with the source's look the edited picture is nearest to the one that was asked for."""
    scenes = bench.pack.nodes.demo.scenes
    latent, _, _, _ = bench.invert("FixedPoint", steps=10)
    _, clip, vae = bench.pack.nodes.demo.load("flow")
    with torch.inference_mode():
        crowned = nodes.CLIPTextEncode().encode(clip, "a fox with a crown, green wall")[0]
        edited, _ = bench.edit(latent=latent, positive=crowned, strength=3.0)
        image = vae.decode(edited["samples"])[0]
    source = scenes.unseen_scene(0, "fox", "green")
    wanted = [scenes.edited(source, wall=w, hat=hat) for hat in ("", "hat", "crown") for w in scenes.WALLS]
    errors = [float((image - torch.from_numpy(scenes.picture(scene))).square().mean()) for scene in wanted]
    assert wanted[errors.index(min(errors))] == scenes.edited(source, hat="crown")


def test_a_mask_keeps_everything_outside_it(bench: Bench) -> None:
    latent, _, _, _ = bench.invert(steps=8)
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1
    edited, report = bench.edit(
        latent={**latent, "noise_mask": mask}, positive=bench.other, cfg=3.0, negative=bench.negative, background=0.0
    )
    difference = (edited["samples"] - bench.latent["samples"]).abs()
    assert float(difference[..., 8:].max()) <= 1e-5
    assert float(difference[..., :8].mean()) > 0.05
    assert "50%" in report


def test_batches_and_odd_sizes(bench: Bench) -> None:
    samples = torch.cat([bench.latent["samples"], -bench.latent["samples"], bench.latent["samples"] * 0.5])
    samples = torch.nn.functional.pad(samples, (0, 3, 0, 1))
    latent, _, _, _ = bench.invert(latent={"samples": samples, "batch_index": [0, 1, 2]}, steps=5)
    alone, _, _, _ = bench.invert(latent={"samples": samples[1:2]}, steps=5)
    assert relative(latent["samples"][1:2], alone["samples"]) <= 1e-5
    back, _ = bench.edit(latent=latent)
    assert relative(back["samples"], samples) <= 1e-5
    assert back["batch_index"] == [0, 1, 2]


@pytest.mark.parametrize("model_type", ["EPS", "V_PREDICTION", "EDM"])
def test_stable_diffusions_own_parameterisations(pack, model_type: str) -> None:
    bench = micro(pack, model_type)
    latent, noise, sigmas, _ = bench.invert(scheduler="karras", preset="SDXL")
    back, _ = bench.edit(latent=latent)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-5
    theirs = host_euler(bench, noise, bench.latent, sigmas)
    ours, _ = bench.edit(latent={"samples": latent["samples"]}, sigmas=sigmas)
    assert relative(theirs, ours["samples"]) <= 1e-4


def test_reports_say_what_happened(bench: Bench) -> None:
    assert "touches none of the 4 steps" in bench.invert(steps=4)[3]
    assert "Preset auto chose SD1.x" in bench.invert(steps=5)[3]
    checked = bench.invert(steps=10, check=True)[3]
    assert " dB in the latent; 10 more model calls)" in checked
    assert ("has no flow models" in checked) == (bench.invert.__self__.model.model.model_type.name == "FLOW")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"steps": 0}, "steps takes whole numbers from 1 to 10000, got 0"),
        ({"denoise": 0.0}, "denoise"),
        ({"sigmas": torch.tensor([])}, r"SIGMAS with 0 value\(s\)"),
        ({"sigmas": torch.tensor([1.0])}, r"SIGMAS with 1 value\(s\)"),
        ({"sigmas": torch.tensor([0.0, 0.5, 1.0])}, "must descend"),
        ({"sigmas": torch.tensor([14.6, 1.0, 0.0])}, "0 to 1, got 14.6"),
        ({"preset": "custom", "eta": 1.5}, "eta takes numbers from 0 to 1, got 1.5"),
        ({"cfg": 3.0}, "`negative` is not connected"),
        ({"latent": {"samples": torch.ones(1, 4, 16, 16)}}, "32 channels, got 4"),
        ({"latent": {"samples": torch.ones(1, 16, 3, 8, 8)}}, "video latent in an image model"),
        ({"latent": {"samples": torch.zeros(1, 32, 16, 16)}}, "empty"),
        ({"latent": {"samples": torch.full((1, 32, 16, 16), math.nan)}}, "NaN"),
    ],
)
def test_bad_input_is_named_with_what_to_do(flow: Bench, inputs: dict, message: str) -> None:
    with pytest.raises(flow.pack.inversion.InversionError, match=message):
        flow.invert(**inputs)


def test_a_record_is_used_only_where_it_fits(flow: Bench, eps: Bench) -> None:
    error = flow.pack.inversion.InversionError
    latent, _, sigmas, _ = flow.invert(steps=4)
    with pytest.raises(error, match=r"another kind of model \(flow.*than this one \(ve"):
        eps.edit(latent=latent)
    with pytest.raises(error, match=r"no longer what was inverted.*SIGMAS"):
        flow.edit(latent={**latent, "samples": latent["samples"] * 1.1})
    with pytest.raises(error, match="no longer what was inverted"):
        flow.edit(latent={**latent, "samples": torch.cat([latent["samples"], latent["samples"].flip(-1)])})
    _, report = flow.edit(latent={**latent, "samples": latent["samples"] * 1.1}, sigmas=sigmas)
    assert "was not used" in report
    with pytest.raises(error, match="format 99"):
        flow.edit(latent={**latent, "inversion": {**latent["inversion"], "format": 99}})
    with pytest.raises(error, match="no inversion record"):
        flow.edit(latent={"samples": latent["samples"]})
    with pytest.raises(error, match="batch of 2"):
        flow.edit(latent={**latent, "noise_mask": torch.ones(2, 64, 64)})
    with pytest.raises(error, match="needs a record"):
        flow.edit(latent={"samples": latent["samples"], "noise_mask": torch.ones(1, 64, 64)}, sigmas=sigmas)


def test_the_family_of_every_sampling_rule_of_the_host(flow: Bench) -> None:
    """A rule that the host gains is refused until somebody has looked at it; the known ones are sorted here."""
    import comfy.model_sampling as rules

    families = {"CONST": "flow", "EPS": "ve", "V_PREDICTION": "ve", "EDM": "ve", "X0": "ve", "COSMOS_RFLOW": "ve"}
    refused = {"IMG_TO_IMG", "IMG_TO_IMG_FLOW", "IMG_TO_IMG_VELOCITY", "V_PREDICTION_DDPM"}
    found = {name: c for name, c in vars(rules).items() if hasattr(c, "noise_scaling") and isinstance(c, type)}
    assert set(found) <= set(families) | refused
    for name, rule in found.items():
        if name in families:
            assert flow.pack.nodes.host.kind(rule()) == families[name]
        else:
            with pytest.raises(flow.pack.inversion.InversionError, match=name):
                flow.pack.nodes.host.kind(rule())


@pytest.mark.parametrize("scale", [0.0, 8.0])
def test_a_flow_model_whose_noise_is_none_or_another_is_refused(flow: Bench, scale: float) -> None:
    """Whatever its class: rules that refine a picture are flow rules without noise, and newer hosts have more."""
    import comfy.model_sampling as rules

    class Other(rules.ModelSamplingDiscreteFlow, rules.CONST):
        def noise_scaling(self, sigma: Any, noise: Any, latent_image: Any, max_denoise: bool = False) -> Any:
            return latent_image if scale == 0 else sigma * scale * noise + (1 - sigma) * latent_image

    model = flow.model.clone()
    model.add_object_patch("model_sampling", Other(model.model.model_config))
    with pytest.raises(flow.pack.inversion.InversionError, match="no noise to" if scale == 0 else "ModelNoiseScale"):
        flow.invert(model=model)


def test_the_hosts_own_noise_scale_is_refused_in_words(flow: Bench) -> None:
    import comfy_extras.nodes_model_advanced as advanced

    if not hasattr(advanced, "ModelNoiseScale"):
        pytest.skip("this ComfyUI has no ModelNoiseScale")
    node = advanced.ModelNoiseScale()
    (scaled,) = getattr(node, node.FUNCTION)(flow.model, 2.0)
    with pytest.raises(flow.pack.inversion.InversionError, match=r"takes 0\.5 of the noise"):
        flow.invert(model=scaled)
    (plain,) = getattr(node, node.FUNCTION)(flow.model, 1.0)
    latent, *_ = flow.invert(model=plain, steps=3)
    assert relative(flow.edit(model=plain, latent=latent)[0]["samples"], flow.latent["samples"]) <= 1e-5


def test_noise_refuses_another_size(flow: Bench) -> None:
    _, noise, _, _ = flow.invert(steps=2)
    with pytest.raises(flow.pack.inversion.InversionError, match=r"\(1, 32, 16, 16\).*\(2, 32, 16, 16\)"):
        noise.generate_noise({"samples": torch.ones(2, 32, 16, 16)})


def test_progress_and_live_preview(bench: Bench, monkeypatch) -> None:
    """Every step reports progress, with a preview of the denoised picture, not of the noise."""
    import comfy.utils
    import numpy as np
    from comfy.cli_args import LatentPreviewMethod, args

    seen = []
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *progress, **_: seen.append(progress))
    bench.invert(steps=6, check=True)
    assert [value for value, _, _ in seen] == list(range(1, 13))
    assert {total for _, total, _ in seen} == {12}
    pixels = [np.asarray(preview[1].resize((16, 16))).astype(float) for _, _, preview in seen]
    scenes = bench.pack.nodes.demo.scenes
    source = scenes.picture(scenes.unseen_scene(0, "fox", "green")).reshape(16, 8, 16, 8, 3).mean((1, 3))
    for shown in (pixels[0], pixels[2], pixels[-1]):
        assert np.corrcoef(shown.ravel(), source.ravel())[0, 1] > 0.9


def test_interrupts_pass_through(flow: Bench) -> None:
    import comfy.model_management

    def interrupt(executor, *args, **kwargs):
        comfy.model_management.interrupt_current_processing()
        return executor(*args, **kwargs)

    model = flow.model.clone()
    wrapper = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    model.add_wrapper_with_key(wrapper, "test", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        flow.invert(model=model, steps=3)
    comfy.model_management.interrupt_current_processing(False)
    back, _ = flow.edit(latent=flow.invert(steps=3)[0])
    assert relative(back["samples"], flow.latent["samples"]) <= 1e-5
