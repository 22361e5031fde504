"""Edit From Latent at work: the dial, masks, shared attention; and FlowEdit."""

from itertools import pairwise
from typing import Any

import comfy.samplers
import pytest
import torch
from families import FAMILIES
from graphs import Bench, defaults, demo, relative
from torch import Tensor

HALF = torch.cat([torch.ones(1, 128, 64), torch.zeros(1, 128, 64)], -1)
"""Left half may change."""


@pytest.fixture(scope="module", params=["v-prediction", "flow"])
def bench(request: pytest.FixtureRequest, pack) -> Bench:
    return demo(pack, request.param)


@pytest.fixture(scope="module")
def inverted(bench: Bench) -> dict:
    return bench.invert("FixedPoint", steps=8, iterations=1, start="native")[0]


@pytest.fixture(scope="module")
def flow(pack) -> Bench:
    return demo(pack, "flow")


def edited(bench: Bench, latent: dict, **inputs: Any) -> tuple[Tensor, str, Tensor]:
    """(samples, report, MASK) of the edit to a green heart on white."""
    inputs = {"positive": bench.other, "negative": bench.negative, "cfg": 3.0, **inputs}
    out, report, mask = bench.edit_with_mask(latent=latent, **inputs)
    return out["samples"], report, mask


def advanced(**inputs: Any) -> dict[str, Any]:
    """The separate settings, with nothing kept but what is named."""
    return {"anchor": 0.0, "background": 0.0, **inputs}


def crowned(bench: Bench) -> Any:
    """The prompt for the same fox with a crown."""
    import nodes

    with torch.inference_mode():
        _, clip, _ = bench.pack.nodes.demo.load("flow")
        return nodes.CLIPTextEncode().encode(clip, "a fox with a crown, green wall")[0]


@pytest.mark.parametrize("preserve", [0.5, 0.8, 1.0])
def test_the_same_prompt_is_exact(bench: Bench, inverted: dict, preserve: float) -> None:
    back, report, mask = bench.edit_with_mask(latent=inverted, preserve=preserve)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-7
    assert not mask.any()  # nothing departs, so nothing may change
    assert "The automatic mask lets 0% of the picture change" in report
    assert "8 model calls" in report
    assert f"background {preserve:g}" in report


def test_preserve_0_is_bit_identical_to_plain_sampling(bench: Bench, inverted: dict) -> None:
    _, _, sigmas, _ = bench.invert("FixedPoint", steps=8, iterations=1, start="native")
    plain, _, _ = edited(bench, {"samples": inverted["samples"]}, sigmas=sigmas)
    dial, _, mask = edited(bench, inverted, preserve=0.0)
    assert torch.equal(dial, plain)
    assert float(mask.min()) == 1


def test_the_more_is_preserved_the_less_changes(bench: Bench, inverted: dict) -> None:
    """In the corners, away from the crown, which is all that the new prompt changes."""
    prompt = crowned(bench)
    errors = []
    for preserve in (0.0, 0.5, 0.75, 0.9, 1.0):
        out, _, _ = edited(bench, inverted, positive=prompt, preserve=preserve)
        errors.append(float((out - bench.latent["samples"])[..., ::13, ::13].square().mean().sqrt()))
    assert all(after <= 1.05 * before for before, after in pairwise(errors)), errors
    assert errors[-1] < 0.5 * errors[0], errors


def test_a_mask_keeps_the_rest_exactly(bench: Bench, inverted: dict) -> None:
    source = bench.latent["samples"]
    for given in ({"mask": HALF}, {"latent": {**inverted, "noise_mask": HALF}}):
        for preserve in (0.0, 0.8):
            latent = given.get("latent", inverted)
            out, report, mask = edited(bench, latent, preserve=preserve, mask=given.get("mask"))
            assert relative(out[..., 8:], source[..., 8:]) <= 1e-4
            assert relative(out[..., :8], source[..., :8]) > 0.1
            assert "50%" in report
            assert mask.shape == (1, 128, 128)
            assert float(mask[..., 64:].max()) == 0


def test_two_masks_must_both_allow(bench: Bench, inverted: dict) -> None:
    top = HALF.mT.contiguous()
    out, report, _ = edited(bench, {**inverted, "noise_mask": top}, mask=HALF, preserve=0.0)
    assert relative(out[..., 8:], bench.latent["samples"][..., 8:]) <= 1e-4
    assert relative(out[..., 8:, :], bench.latent["samples"][..., 8:, :]) <= 1e-4
    assert "25%" in report


def test_a_feather_softens_inward_only(bench: Bench, inverted: dict) -> None:
    sharp, _, hard = edited(bench, inverted, mask=HALF, preserve=0.0)
    out, _, soft = edited(bench, inverted, mask=HALF, preserve=0.0, feather=2)
    assert relative(out[..., 8:], bench.latent["samples"][..., 8:]) <= 1e-4
    assert not torch.equal(out, sharp)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert float(soft[..., 64:].max()) == 0
    assert float(soft[..., :48].min()) == 1
    assert 0 < float(soft[..., 63].min()) < 1


def test_the_automatic_mask_is_where_the_prompt_differs(bench: Bench, inverted: dict) -> None:
    """The crown is on the fox's head and the lower right corner is floor."""
    _, report, mask = edited(bench, inverted, positive=crowned(bench), background=1.0, threshold=0.7)
    scenes = bench.pack.nodes.demo.scenes
    source = scenes.unseen_scene(0, "fox", "green")
    before, after = (scenes.picture(scenes.edited(source, hat=hat)) for hat in ("", "crown"))
    differs = torch.from_numpy(abs(after - before).max(-1) > 0.1)
    assert float(mask[0][differs].mean()) > 0.5
    assert float(mask[0, -8:, -8:].max()) == 0
    assert "The automatic mask lets" in report


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [
        {"anchor": 0.5},
        {"anchor": 1.0, "anchor_end": 0.5},
        {"threshold": 0.7, "background": 0.5},
        {"background": 0.8, "threshold": 0.7},
        {"background": 0.8, "threshold": 0.7, "dilation": 2},
        {"structure": 0.5},
        {"structure": 0.5, "structure_layers": 0.4},
    ],
)
def test_every_separate_setting_is_read(bench: Bench, inverted: dict, change: dict) -> None:
    change = {"positive": crowned(bench), **change}
    without = dict(list(change.items())[:-1])
    one, _, _ = edited(bench, inverted, **advanced(**without))
    other, _, _ = edited(bench, inverted, **advanced(**change))
    again, _, _ = edited(bench, inverted, **advanced(**change))
    assert relative(other, one) > 1e-4
    assert torch.equal(again, other)


def test_shared_attention_keeps_the_layout_and_is_counted(bench: Bench, inverted: dict) -> None:
    plain, _, _ = edited(bench, inverted, **advanced())
    shared, report, _ = edited(bench, inverted, **advanced(structure=0.5))
    assert "12 model calls" in report
    assert "4 of the calls evaluate the source" in report
    assert shared.isfinite().all()
    assert relative(shared, plain) > 1e-3
    back, _ = bench.edit(latent=inverted, **advanced(anchor=1.0, structure=1.0))
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-4


@pytest.mark.parametrize("order", ["together", "apart", "swapped"])
def test_shared_attention_whichever_way_the_host_batches(
    flow: Bench, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts of guidance come in one call or in two, in either order; each borrows from its own source."""
    latent, _, _, _ = flow.invert(steps=4)
    expected, _, _ = edited(flow, latent, **advanced(structure=1.0))
    seen = []
    model = flow.model.clone()

    def look(apply_model: Any, given: dict) -> Tensor:
        seen.append(list(given["cond_or_uncond"]))
        if order != "swapped" or len(given["cond_or_uncond"]) != 2:
            return apply_model(given["input"], given["timestep"], **given["c"])
        swap = lambda x: torch.cat(x.chunk(2)[::-1])  # noqa: E731
        c = {**given["c"], "c_crossattn": swap(given["c"]["c_crossattn"]), "y": swap(given["c"]["y"])}
        return swap(apply_model(swap(given["input"]), swap(given["timestep"]), **c))

    model.set_model_unet_function_wrapper(look)
    if order == "apart":
        monkeypatch.setattr(type(model.model), "memory_required", lambda self, *a, **k: 1e30)
    out, _, _ = edited(flow, latent, model=model, **advanced(structure=1.0))
    assert {len(prompts) for prompts in seen} == ({1} if order == "apart" else {2})
    assert relative(out, expected) <= 1e-4


def test_shared_attention_is_chained_with_an_override_already_there(flow: Bench) -> None:
    latent, _, _, _ = flow.invert(steps=3)
    calls = 0

    def count(attention: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return attention(*args, **kwargs)

    model = flow.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = count
    out, _, _ = edited(flow, latent, model=model, **advanced(structure=0.5))
    assert calls > 0
    assert torch.equal(out, edited(flow, latent, **advanced(structure=0.5))[0])
    assert model.model_options["transformer_options"]["optimized_attention_override"] is count


@pytest.mark.parametrize(("family", "calls"), [("SD1.5 eps", 6), ("Flux dev", 9)])
def test_shared_attention_is_free_where_the_original_s_prompt_is_asked_anyway(pack, family: str, calls: int) -> None:
    """But not where text and picture attend to each other as one."""
    bench = FAMILIES[family].bench(pack)
    latent, _, _, _ = bench.invert(steps=3)
    plain, _ = bench.edit(latent=latent, positive=bench.other, **advanced(strength=3.0))
    shared, report = bench.edit(latent=latent, positive=bench.other, **advanced(strength=3.0, structure=1.0))
    assert f"{calls} model calls" in report
    assert relative(shared["samples"], plain["samples"]) > 1e-6
    back, _ = bench.edit(latent=latent, **advanced(anchor=1.0, strength=3.0, structure=1.0))
    same, _ = bench.edit(latent=latent, **advanced(anchor=1.0, strength=3.0))
    assert torch.equal(back["samples"], same["samples"])
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-6


REACHED = ["SD1.5 eps", "SDXL eps", "SD3", "Flux dev", "Qwen-Image", "Wan 2.1", "Lumina 2"]


@pytest.mark.parametrize("family", REACHED)
def test_shared_attention_reaches_the_families(pack, family: str) -> None:
    bench = FAMILIES[family].bench(pack)
    latent, _, _, _ = bench.invert(steps=3)
    inputs = {"latent": latent, "positive": bench.other, "cfg": 3.0, "negative": bench.negative}
    plain, _ = bench.edit(**inputs, **advanced())
    shared, report = bench.edit(**inputs, **advanced(structure=1.0))
    assert "6 model calls" in report
    assert relative(shared["samples"], plain["samples"]) > 1e-6
    back, _ = bench.edit(latent=latent, **advanced(anchor=1.0, structure=1.0))
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-4


def keeping_all(self: Any, items: Any, layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    for item, *pair in zip(items, q.chunk(len(items)), k.chunk(len(items)), strict=True):
        self._kept.setdefault(item, []).append(tuple(pair))
    return q, k


@pytest.mark.parametrize("family", ["demo", "SD1.5 eps", "Flux dev"])
def test_only_what_is_borrowed_is_kept_and_nothing_is_missing(
    pack, flow: Bench, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = flow if family == "demo" else FAMILIES[family].bench(pack)
    latent, _, _, _ = bench.invert(steps=3)
    inputs = {"latent": latent, "positive": bench.other, **advanced(structure=1.0, structure_layers=0.4)}
    shared = pack.nodes.host.attention.SharedAttention
    kept: list[int] = []
    borrow = shared._borrow

    def counting(self: Any, items: Any, layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        kept.append(sum(pair is not None for pairs in self._kept.values() for pair in pairs))
        return borrow(self, items, layer, q, k)

    monkeypatch.setattr(shared, "_borrow", counting)
    some, _ = bench.edit(**inputs)
    assert kept[0] >= kept[-1] > 0
    assert family != "demo" or kept[0] > kept[-1]  # of the others the smallest layers have a size of their own each
    monkeypatch.setattr(shared, "_keep", keeping_all)
    every, _ = bench.edit(**inputs)
    assert torch.equal(some["samples"], every["samples"])


def test_a_model_without_the_hook_is_refused_with_what_works(flow: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.ldm.modules.attention as attention

    latent, _, _, _ = flow.invert(steps=3)
    unhooked = lambda q, k, v, *args, **kwargs: v.clone() if q.shape == k.shape else q.clone()  # noqa: E731
    monkeypatch.setattr(attention, "optimized_attention", unhooked)
    monkeypatch.setattr(attention, "optimized_attention_masked", unhooked)
    with pytest.raises(flow.pack.inversion.InversionError, match="The other settings and masks work with every model"):
        edited(flow, latent, **advanced(structure=0.5))


def test_cfg_batches_partial_inversion_and_lora_on_the_edit_only(bench: Bench) -> None:
    batch = {"samples": torch.cat([bench.latent["samples"], bench.latent["samples"].flip(-1)])}
    latent, _, _, _ = bench.invert(latent=batch, steps=4, denoise=0.6)
    other_weights = bench.model.clone()
    weight = bench.model.model.state_dict()["diffusion_model.out.2.weight"]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    other_weights.add_patches({"diffusion_model.out.2.weight": (0.1 * noise,)})
    for cfg in (1.0, 4.0, 10.0):
        out, _, mask = edited(bench, latent, cfg=cfg, mask=HALF)
        assert out.isfinite().all()
        assert mask.shape == (2, 128, 128)
        assert relative(out[..., 8:], batch["samples"][..., 8:]) <= 1e-4
    patched, _, _ = edited(bench, latent, model=other_weights)
    assert relative(patched, edited(bench, latent)[0]) > 1e-3
    one = {"samples": batch["samples"][1:]}
    alone, _, _ = edited(bench, bench.invert(latent=one, steps=4, denoise=0.6)[0])
    assert relative(edited(bench, latent)[0][1:], alone) <= 1e-4


def test_ancestral_edits_keep_too(bench: Bench) -> None:
    latent, _, _, _ = bench.invert("FixedPoint", steps=5, sampler="euler_ancestral", seed=3)
    back, _ = bench.edit(latent=latent)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-5
    out, _, _ = edited(bench, latent, mask=HALF)
    assert relative(out[..., 8:], bench.latent["samples"][..., 8:]) <= 1e-4
    assert edited(bench, latent, preserve=0.0)[0].isfinite().all()


def flow_edit(bench: Bench, **inputs: Any) -> tuple[Tensor, str]:
    node = bench.pack.nodes.flow_edit.FlowEdit
    given = {"model": bench.model, "positive": bench.other, "source_positive": bench.positive, "latent": bench.latent}
    with torch.inference_mode():
        out, report = node.execute(**{**defaults(node), "negative": bench.negative, **given, **inputs}).args
    return out["samples"], report


def test_flow_edit(bench: Bench) -> None:
    """By its formula, written out on the host's own predictions; the same prompt and cfg change nothing."""
    same, _ = flow_edit(bench, positive=bench.positive, cfg=2.0, source_cfg=2.0, steps=5)
    assert relative(same, bench.latent["samples"]) <= 1e-5
    out, report = flow_edit(bench, steps=6, denoise=0.8, seed=5)
    assert "12 model calls" in report
    assert ("flow models only" in report) == (bench.model.model.model_type.name != "FLOW")
    format_ = bench.model.model.latent_format
    host = bench.pack.nodes.host
    sigmas = host.scheduled_sigmas(bench.model, 6, "normal", 0.8)
    alpha = (1 - sigmas) if host.model_kind(bench.model) == "flow" else torch.ones_like(sigmas)
    x0 = format_.process_in(bench.latent["samples"])
    z, random = x0.clone(), torch.Generator().manual_seed(5)

    def slope(x: Tensor, sigma: Tensor, positive: Any, cfg: float) -> Tensor:
        found = []

        class Once(comfy.samplers.KSAMPLER):
            def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict, *_: Any, **__: Any) -> Tensor:
                found.append(model_wrap(x, sigma.expand(len(x)), **extra_args))
                return x

        guider = comfy.samplers.CFGGuider(bench.model)
        guider.set_conds(positive, bench.negative)
        guider.set_cfg(cfg)
        with torch.inference_mode():
            guider.sample(torch.zeros_like(x), torch.zeros_like(x), Once(None), torch.tensor([float(sigma), 0.0]))
        return (x - found[0]) / sigma

    for i in range(6):
        n = torch.randn(x0.shape, generator=random)
        source = alpha[i] * x0 + sigmas[i] * n
        target = z + source - x0
        difference = slope(target, sigmas[i], bench.other, 3.0) - slope(source, sigmas[i], bench.positive, 1.5)
        z = z + (sigmas[i + 1] - sigmas[i]) * difference
    assert relative(out, format_.process_out(z)) <= 1e-4


def test_flow_edit_says_what_is_missing(flow: Bench) -> None:
    with pytest.raises(flow.pack.inversion.InversionError, match="`negative` is not connected"):
        flow_edit(flow, negative=None)


@pytest.mark.parametrize(("family", "tokens"), [("Flux dev", slice(0, 7)), ("HiDream", None), ("HunyuanVideo", None)])
def test_the_texts_own_tokens_stay_the_edits(pack, family: str, tokens: slice | None) -> None:
    """Of joint attention: what is shared is where the picture's tokens look, not what the prompt's are."""
    bench = FAMILIES[family].bench(pack)
    latent, _, _, _ = bench.invert(steps=3)
    calls: list[tuple[Any, list[Tensor]]] = []  # of a call of the model: its own list of prompts, the queries

    def look(attention: Any, q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if q.shape == k.shape:
            call = kwargs["transformer_options"]["cond_or_uncond"]
            if not calls or calls[-1][0] is not call:
                calls.append((call, []))
            calls[-1][1].append(q)
        return attention(q, k, *args, **kwargs)

    model = bench.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = look
    bench.edit(model=model, latent=latent, positive=bench.other, **advanced(structure=1.0))
    seen = [
        (source != edit).movedim(-2, 0).flatten(1).any(1)  # by token
        for (_, sources), (_, edits) in zip(calls[::2], calls[1::2], strict=True)
        for source, edit in zip(sources, edits, strict=True)
    ]
    differing = torch.stack([tokens for tokens in seen if len(tokens) == len(seen[-1])]).any(0)
    text = differing.nonzero().flatten()
    assert 0 < len(text) < len(differing), "some tokens are the edit's own, and some are shared"
    assert torch.equal(text, torch.arange(int(text[0]), int(text[-1]) + 1)), "all at one end"
    if tokens is not None:
        assert text.tolist() == list(range(tokens.start, tokens.stop))
