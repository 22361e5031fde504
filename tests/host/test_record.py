"""When a record may be trusted: the latent is still the inverted one, the model the same, every number finite."""

import logging
import re
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy_extras.nodes_model_advanced as advanced
import folder_paths
import pytest
import torch
from graphs import Bench, demo, micro, relative

import nodes


@pytest.fixture(scope="module")
def flow(pack: Any) -> Bench:
    return demo(pack, "flow")


@pytest.fixture(scope="module")
def eps(pack: Any) -> Bench:
    return micro(pack, "EPS")


def failing_at(bench: Bench, call: int) -> Any:
    """The model, which gives one NaN in its n-th answer and each after that."""
    model, calls = bench.model.clone(), []

    def answer(args: dict) -> torch.Tensor:
        calls.append(1)
        denoised = args["denoised"].clone()
        if len(calls) >= call:
            denoised.view(-1)[5] = torch.nan
        return denoised

    model.set_model_sampler_post_cfg_function(answer)
    return model


@pytest.mark.parametrize("method", ["EasyInv", "FixedPoint", "GuidedNR"])
def test_nan_on_the_way_up_is_named_with_its_step(flow: Bench, method: str) -> None:
    model = failing_at(flow, 3)
    with pytest.raises(flow.pack.inversion.DivergedError, match=r"step [23] of 4 \(sigma 0\.\d+\)"):
        flow.invert(method, model=model, steps=4)


@pytest.mark.parametrize("preserve", [0.0, 0.6])
def test_nan_on_the_way_down_is_named_with_its_step(flow: Bench, preserve: float) -> None:
    latent = flow.invert(steps=4)[0]
    model = failing_at(flow, 3)
    with pytest.raises(flow.pack.inversion.DivergedError, match=r"step 3 of 4 .*\(sigma 0\.\d+\)"):
        flow.edit(model=model, latent=latent, positive=flow.other, preserve=preserve)


@pytest.mark.parametrize("where", [0, -1])
def test_a_latent_that_is_no_longer_the_inversion_is_refused_without_a_model(flow: Bench, where: int) -> None:
    latent = flow.invert(steps=3)[0]
    error = flow.pack.inversion.InversionError
    with torch.inference_mode():
        sampled = nodes.KSampler().sample(
            flow.model, 0, 2, 1.0, "euler", "normal", flow.positive, flow.negative, latent, 0.5
        )[0]
    assert "inversion" in sampled  # the host passes it on
    pasted = latent["samples"].clone()
    pasted[..., where, :] = 0  # one row of sixteen
    for samples in (sampled["samples"], pasted, latent["samples"] * torch.nan):
        with pytest.raises(error, match=r"no longer what was inverted \(its values were changed"):
            flow.save({**latent, "samples": samples})
    for samples in (None, [[1.0]]):
        with pytest.raises(error, match=r"no longer what was inverted \((NoneType|list), not"):
            flow.save({**latent, "samples": samples})


def test_rounding_is_no_change(flow: Bench) -> None:
    record = flow.pack.nodes.host.record
    latent = flow.invert(steps=3)[0]
    for dtype in (torch.float16, torch.bfloat16):
        assert record.require({**latent, "samples": latent["samples"].to(dtype)}, "") is not None
    fingerprint = latent["inversion"]["fingerprint"]
    samples = latent["samples"].expand(1, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(record.fingerprint_of(samples), fingerprint, rtol=1e-12, atol=0)


def test_a_fingerprint_tells_how_far_latents_are_apart(pack: Any) -> None:
    record, random = pack.nodes.host.record, torch.Generator().manual_seed(0)
    for shape in ((1, 4, 32, 32), (2, 16, 3, 20, 11), (1, 3)):
        a = torch.randn(shape, generator=random)
        for change in (torch.randn(shape, generator=random), torch.ones(shape), (torch.arange(a.numel()) < 30)):
            b = a + 0.1 * change.reshape(shape)
            sketched = (record.fingerprint_of(a) - record.fingerprint_of(b)).norm()
            assert float(sketched) == pytest.approx(float((a - b).norm()), rel=0.5)


RULES = {"v_prediction": "V_PREDICTION", "x0": "X0"}


@pytest.mark.parametrize("rule", RULES)
def test_another_sampling_rule_is_remarked(eps: Bench, rule: str) -> None:
    (same,) = advanced.ModelSamplingDiscrete().patch(eps.model, "eps", False)
    (other,) = advanced.ModelSamplingDiscrete().patch(eps.model, rule, False)
    latent = eps.invert(steps=3)[0]
    assert "sampling rule" not in eps.edit(latent=latent)[1]
    assert "sampling rule" not in eps.edit(model=same, latent=latent)[1]  # by another name the same
    report = eps.edit(model=other, latent=latent)[1]
    assert "Inverted under another sampling rule (ModelSamplingDiscrete + EPS)" in report
    assert RULES[rule] in report
    assert "the source is not exact" in report
    back = eps.invert(model=other, steps=3)[0]
    assert "sampling rule" in eps.edit(latent=back)[1]


def test_the_rule_is_what_the_model_is_told_and_answers_not_its_levels(flow: Bench, eps: Bench) -> None:
    latent = flow.invert(steps=3)[0]
    (shifted,) = advanced.ModelSamplingSD3().patch(flow.model, 9.0)
    assert "sampling rule" not in flow.edit(model=shifted, latent=latent)[1]
    (scaled,) = advanced.ModelSamplingAuraFlow().patch_aura(flow.model, 1.73)  # which tells times from 0 to 1
    assert "sampling rule" in flow.edit(model=scaled, latent=latent)[1]
    (zero,) = advanced.ModelSamplingDiscrete().patch(eps.model, "eps", True)
    assert "sampling rule" in eps.edit(model=zero, latent=eps.invert(steps=3)[0])[1]


def test_a_record_of_format_2_is_used_as_before(flow: Bench) -> None:
    latent = flow.invert(steps=3)[0]
    new = latent["inversion"]
    model = {key: new["model"][key] for key in ("state space", "latent format", "model class")}
    old = {key: value for key, value in new.items() if key != "fingerprint"}
    old |= {"format": 2, "residuals": new["residuals"].amax(1), "model": model}
    came, report = flow.edit(latent={**latent, "inversion": old})
    assert "exact" not in report or "not exact" not in report
    assert torch.equal(came["samples"], flow.edit(latent=latent)[0]["samples"])
    loaded = flow.load(flow.save({**latent, "inversion": old}))[0]
    assert loaded["inversion"]["format"] == 2


def test_the_size_of_a_large_record_is_said_before_it_is_made_and_refused_where_there_is_no_room(
    flow: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = flow.pack.nodes.host.record
    calls: list[int] = []
    model = flow.model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: calls.append(1) or args["denoised"])
    monkeypatch.setattr(record, "WORTH_SAYING", 100_000)
    with caplog.at_level(logging.INFO):
        size = sum(
            flow.invert(model=model, steps=3)[0]["inversion"][name].nbytes
            for name in ("trajectory", "points", "slopes")
        )
    assert f"The record of this inversion will take {size / 1e6:.1f} MB of memory" in caplog.text
    calls.clear()
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 150_000)
    error = flow.pack.inversion.InversionError
    for run in (
        lambda: flow.invert(model=model, steps=3),
        lambda: flow.invert("GuidedNR", model=model, steps=3, sampler="euler_ancestral"),
    ):
        with pytest.raises(
            error, match=r"record of 3 steps of .* takes 0\.[34] MB .* 0\.1 MB are free. Use fewer steps"
        ):
            run()
    assert not calls


def test_words_from_a_record_are_shown_as_they_are(flow: Bench) -> None:
    record = flow.pack.nodes.host.record
    latent = flow.invert(steps=2)[0]
    note = "![x](http://a) <img src=x>\n# *b* `c` _d_ \\[e](f) euler_ancestral"
    read = record.Record.parse({**latent, "inversion": {**latent["inversion"], "notes": [note]}})
    (shown,) = read.inversion.notes
    assert shown == r"!\[x\](http://a) \<img src=x\> \# \*b\* \`c\` \_d\_ \[e\](f) euler_ancestral"
    assert record.escaped(shown) == shown


@pytest.mark.parametrize("method", ["EasyInv", "FixedPoint", "GuidedNR"])
def test_a_compact_record_takes_half_and_edits_alike(flow: Bench, method: str) -> None:
    """Also in a file, and in one of a batch; the same prompt comes back to rounding, and the report says so."""
    batch = {"samples": torch.cat([flow.latent["samples"], flow.latent["samples"].flip(-1)])}
    whole = flow.invert(method, steps=10, latent=batch)[0]
    small, _, _, report = flow.invert(method, steps=10, latent=batch, compact=True)
    assert torch.equal(small["samples"], whole["samples"])
    compact, full = map(float, re.search(r"takes ([\d.]+) MB in place of ([\d.]+) MB", report).groups())
    assert 0.4 < compact / full < 0.65
    assert "to rounding, not to the last bit" in report
    files = [flow.save(latent) for latent in (small, whole)]
    sizes = [path_of(file).stat().st_size for file in files]
    assert sizes[0] < 0.62 * sizes[1]
    guided = {"cfg": 2.0, "negative": flow.negative}
    edited = flow.edit(latent=whole, positive=flow.other, **guided)[0]["samples"]
    for given, which in ((small, slice(None)), (flow.load(files[0])[0], slice(None)), (second(small), slice(1, None))):
        back = flow.edit(latent=given)[0]["samples"]
        assert relative(back, batch["samples"][which]) <= 1e-4
        again = flow.edit(latent=given, positive=flow.other, **guided)[0]["samples"]
        assert relative(again, edited[which]) <= 1e-4


def second(latent: dict) -> dict:
    return nodes.LatentFromBatch().frombatch(latent, 1, 1)[0]


def path_of(file: str) -> Path:
    return Path(folder_paths.get_annotated_filepath(file))
