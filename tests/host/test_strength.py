"""The source's prompt travels with the inversion, and strength goes from it to the new prompt."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from graphs import Bench, demo, relative
from test_samplers import counted


@pytest.fixture(scope="module")
def bench(pack) -> Bench:
    return demo(pack, "flow")


@pytest.fixture(scope="module")
def inverted(bench: Bench) -> dict:
    latent, _, _, report = bench.invert("FixedPoint", steps=6, cfg=1.0)
    assert "The prompt travels with the latent (0.1 MB)" in report
    return latent


@pytest.mark.parametrize("background", [0.0, 0.8])
@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_the_same_prompt_is_exact_at_every_strength(
    bench: Bench, inverted: dict, strength: float, background: float
) -> None:
    back, _ = bench.edit(latent=inverted, strength=strength, background=background)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-7


def test_strength_0_is_the_source_under_any_prompt(bench: Bench, inverted: dict) -> None:
    back, _ = bench.edit(latent=inverted, positive=bench.other, strength=0.0)
    assert relative(back["samples"], bench.latent["samples"]) <= 1e-7


def test_strength_1_costs_half(bench: Bench, inverted: dict) -> None:
    for strength, per_step in ((1.0, 1), (2.0, 2)):
        with counted(bench) as calls:
            _, report = bench.edit(latent=inverted, positive=bench.other, strength=strength)
        assert sum(calls) == 6 * per_step
        assert f"at strength {strength:g}, {6 * per_step} model calls" in report


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_the_report_says_that_a_sampler_asks_between_levels(bench: Bench, inverted: dict, strength: float) -> None:
    given = {"latent": inverted, "positive": bench.other, "sampler": "dpm_2", "strength": strength}
    assert "times between the inversion's levels" in bench.edit(**given)[1]
    assert "times between" not in bench.edit(**given, source=bench.positive)[1]


def test_more_strength_goes_further(bench: Bench, inverted: dict) -> None:
    source = bench.latent["samples"]
    changes = [
        relative(bench.edit(latent=inverted, positive=bench.other, strength=w, background=0.0)[0]["samples"], source)
        for w in (0.0, 0.5, 1.0, 1.5)
    ]
    assert changes == sorted(changes)
    assert changes[1] > 0.01


def test_a_wired_source_does_what_the_record_does(bench: Bench, inverted: dict) -> None:
    given: dict[str, Any] = {"latent": inverted, "positive": bench.other, "strength": 2.0}
    assert torch.equal(bench.edit(**given, source=bench.positive)[0]["samples"], bench.edit(**given)[0]["samples"])


def test_a_file_keeps_the_prompt(bench: Bench, inverted: dict) -> None:
    loaded, _, _ = bench.load(bench.save(inverted))
    given: dict[str, Any] = {"positive": bench.other, "strength": 2.0}
    assert torch.equal(
        bench.edit(latent=loaded, **given)[0]["samples"], bench.edit(latent=inverted, **given)[0]["samples"]
    )


def test_a_guided_inversion_carries_no_prompt_and_says_what_to_do(bench: Bench) -> None:
    latent, _, _, report = bench.invert("FixedPoint", steps=3, cfg=2.0, negative=bench.negative)
    assert "travels" not in report
    with pytest.raises(bench.pack.inversion.InversionError, match=r"strength of 2 .* as `source` in Edit Settings"):
        bench.edit(latent=latent, positive=bench.other, strength=2.0)
    with pytest.raises(bench.pack.inversion.InversionError, match="`negative` is not connected"):
        bench.edit(latent=latent, positive=bench.other, strength=2.0, source=bench.positive)
    guided = {"latent": latent, "strength": 2.0, "cfg": 2.0, "negative": bench.negative, "source": bench.positive}
    assert relative(bench.edit(**guided)[0]["samples"], bench.latent["samples"]) <= 1e-7
    assert relative(bench.edit(**guided, positive=bench.other)[0]["samples"], bench.latent["samples"]) > 0.01


def test_a_prompt_with_a_live_object_stays_behind_in_words(bench: Bench) -> None:
    live = [[tensor, {**options, "control": object()}] for tensor, options in bench.positive]
    packed, sentence = bench.pack.nodes.host.conditioning.packed(live)
    assert packed == {}
    assert "does not travel" in sentence
    assert "'control'" in sentence


def test_areas_masks_and_ranges_travel(bench: Bench) -> None:
    conditioning = bench.pack.nodes.host.conditioning
    extra = {"area": (4, 4, 0, 4), "strength": 0.5, "mask": torch.rand(1, 64, 64), "start_percent": 0.2, "width": 512}
    prompt = [[tensor, {**options, **extra}] for tensor, options in bench.positive]
    packed, _ = conditioning.packed(prompt)
    ((tensor, options),) = conditioning.unpacked(packed)
    assert torch.equal(tensor, prompt[0][0])
    assert options.keys() == prompt[0][1].keys()
    assert options["area"] == (4, 4, 0, 4)
    assert options["width"] == 512
    assert type(options["width"]) is int


def test_the_prompt_follows_a_batch(bench: Bench) -> None:
    """Pictures inverted under a prompt each: the second alone keeps its own."""
    conditioning = bench.pack.nodes.host.conditioning
    two = [[torch.cat([bench.positive[0][0], bench.other[0][0]]), dict(bench.positive[0][1])]]
    ((tensor, _),) = conditioning.picked(two, [1], 2)
    assert torch.equal(tensor, bench.other[0][0])


def damages(prompt: list[dict]) -> Iterator[tuple[dict, str]]:
    entry = prompt[0]
    yield {"prompt": []}, "the prompt is 0 values"
    yield {"prompt": [entry] * 17}, "the prompt is 17 values"
    yield {"prompt": "words"}, "the prompt is 'words'"
    yield {"prompt": [entry | {"control": 5}]}, "'control', not a value that a prompt has"
    yield {"prompt": [entry | {"mask": 5}]}, "mask of part 1 of the prompt is 5"
    yield {"prompt": [entry | {"strength": 1e400}]}, "strength of part 1"
    yield {"prompt": [entry | {"area": ["x", 1, 2, 3]}]}, "not a value that a prompt has"
    yield {"prompt": [{"strength": 1.0}]}, "cross_attention of part 1 of the prompt is missing"
    yield {"prompt": [entry | {"pooled_output": {"tensor": "trajectory"}}]}, "pooled_output of part 1"
    yield {entry["cross_attention"]["tensor"]: torch.full((1, 4, 8), torch.nan)}, "cross_attention of part 1"
    yield {entry["cross_attention"]["tensor"]: torch.zeros(4)}, "cross_attention of part 1"


def test_damaged_prompts_are_refused_by_name(bench: Bench, inverted: dict) -> None:
    record = inverted["inversion"]
    for change, words in damages(record["prompt"]):
        with pytest.raises(bench.pack.inversion.InversionError, match="record is damaged") as refused:
            bench.edit(latent={**inverted, "inversion": record | change}, positive=bench.other)
        assert words in str(refused.value)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "uni_pc", "dpmpp_sde"])
def test_a_head_start_reaches_every_sampler_and_takes_no_model_call(bench: Bench, inverted: dict, sampler: str) -> None:
    found = []
    for share in (0.0, 0.1):
        given = {"positive": bench.other, "strength": 2.0, "sampler": sampler, "head_start": share}
        with counted(bench) as calls:
            found.append((bench.edit(latent=inverted, **given)[0]["samples"], len(calls)))
    (without, calls), (leaning, same) = found
    assert calls == same
    assert relative(leaning, without) > 1e-3  # without it they are the same to the last bit


def test_a_prompt_of_another_text_encoder_is_refused(bench: Bench, inverted: dict) -> None:
    wide = [[torch.zeros(1, 8, 999), dict(bench.positive[0][1])]]
    with pytest.raises(bench.pack.inversion.InversionError, match="embeddings of width"):
        bench.edit(latent=inverted, positive=wide, strength=2.0)


def test_the_old_node_runs_as_it_did(bench: Bench, inverted: dict) -> None:
    from graphs import defaults

    old = bench.pack.nodes.old.OldEditFromLatent
    given = {"model": bench.model, "positive": bench.other, "latent": inverted, "negative": bench.negative}
    with torch.inference_mode():
        out = old.execute(**{**defaults(old), **given, "cfg": 2.0, "preserve": 0.6, "anchor": 0.0}).args[0]
    was = {"threshold": 0.3, "head_start": 0.0}
    same, _ = bench.edit(latent=inverted, positive=bench.other, negative=bench.negative, cfg=2.0, preserve=0.6, **was)
    assert torch.equal(out["samples"], same["samples"])


def test_a_guider_takes_strength_and_refuses_what_it_does_not_read(bench: Bench, inverted: dict) -> None:
    from test_samplers import by_guider

    out = by_guider(bench, inverted, "euler", positive=bench.other, strength=2.0)
    same, _ = bench.edit(latent=inverted, positive=bench.other, strength=2.0)
    assert relative(out, same["samples"]) <= 1e-6
    for unread in ({"sampler": "heun"}, {"sigmas": torch.tensor([1.0, 0.0])}):
        with pytest.raises(bench.pack.inversion.InversionError, match="from SamplerCustomAdvanced"):
            bench.edit_guider(latent=inverted, **unread)
