"""The editing benchmark's cases are what its documents say, and its judge is right where the answer is known."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import edit_cases


@pytest.mark.parametrize("split", ["tuning", "final"])
def test_cases_change_what_their_kind_says_and_nothing_else(split: str) -> None:
    asked = edit_cases.cases(split)
    assert set(Counter(case.kind for case in asked).values()) == {len(asked) // len(edit_cases.KINDS)}
    assert len({(case.source, case.target) for case in asked}) == len(asked)
    for case in asked:
        a, b = case.source, case.target
        assert replace(a, thing=b.thing, wall=b.wall, hat=b.hat) == b
        differs = (a.thing != b.thing, a.wall != b.wall, a.hat != b.hat)
        expected = {"attribute": (1, 0, 0), "wall": (0, 1, 0), "replacement": (1, 0, 0)}.get(case.kind, (0, 0, 1))
        assert differs == tuple(map(bool, expected))
        if case.kind == "attribute":
            assert edit_cases.variants(a.thing) == edit_cases.variants(b.thing) != ()
    assert 0.1 < np.mean([case.unseen for case in asked]) < 0.2


def test_tuning_and_final_cases_have_no_scene_in_common() -> None:
    looks = [{edit_cases._look(case.source) for case in edit_cases.cases(split)} for split in ("tuning", "final")]
    assert not looks[0] & looks[1]
    assert len(edit_cases.cases("tuning")) + len(edit_cases.cases("final")) == 400
    assert {case.kind for case in edit_cases.quick()} == set(edit_cases.KINDS)


def test_the_judge_tells_truth_source_and_wrong_looks_apart() -> None:
    asked = edit_cases.cases()[5:9]
    source, truth = edit_cases.sources(asked), edit_cases.truths(asked)
    scores = edit_cases.judge(asked, truth, source, truth)
    assert all(scores["success"])
    assert set(scores["PSNR"]) == {edit_cases.CAP}
    unedited = edit_cases.judge(asked, source, source, truth)
    assert not any(unedited["success"])
    assert all(unedited["look"])
    mirrored = edit_cases.pictures([replace(case.target, mirrored=not case.target.mirrored) for case in asked])
    seen = edit_cases.judge(asked, mirrored, source, truth)
    assert np.mean(seen["look"]) < 0.5
    assert np.mean(seen["colour"]) == 1


def test_background_metrics_see_only_what_should_stay() -> None:
    asked = [case for case in edit_cases.cases() if case.kind == "attribute"][:4]
    source, truth = edit_cases.sources(asked), edit_cases.truths(asked)
    region = edit_cases.changed(asked).unsqueeze(-1)
    inside, outside = (torch.lerp(truth, (truth + 0.5) % 1, where) for where in (region, 1 - region))
    scores = edit_cases.judge(asked, inside, source, truth)
    assert set(scores["background PSNR"]) == {edit_cases.CAP}
    assert scores["background SSIM"] == pytest.approx([1] * 4)
    assert max(edit_cases.judge(asked, outside, source, truth)["background PSNR"]) < 7


def test_an_attribute_is_judged_by_itself() -> None:
    (case,) = [case for case in edit_cases.cases()[:40] if case.kind == "attribute"][:1]
    source, truth = edit_cases.sources([case]), edit_cases.truths([case])
    scores = edit_cases.judge([case], source, source, truth)
    assert (scores["object"], scores["attribute"], scores["colour"], scores["look"]) == ([1], [0], [1], [1])


def test_ssim_of_a_known_pair() -> None:
    flat = torch.full((1, 64, 64, 3), 0.5)
    # Of constant pictures only the brightness term is left.
    expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert torch.allclose(edit_cases.ssim(flat, flat / 2), torch.full_like(flat, expected), atol=1e-4)
    assert torch.allclose(edit_cases.ssim(flat, flat), torch.ones_like(flat))
