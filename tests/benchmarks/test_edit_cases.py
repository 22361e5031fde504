"""The editing benchmark's cases are what its documents say, and its judge is right where the answer is known."""

import math
from collections import Counter

import pytest
import torch

from benchmarks.edit_cases import (
    CAP,
    KINDS,
    LOOKS,
    PER_KIND,
    SUBSET,
    UNSEEN,
    cases,
    changed,
    judge,
    sources,
    ssim,
    truths,
)
from demo import pictures


@pytest.mark.parametrize("asked", [cases(), cases()[::SUBSET]], ids=["all", "subset"])
def test_kinds_and_looks_are_evenly_drawn(asked: list) -> None:
    assert set(Counter(case.kind for case in asked).values()) == {len(asked) // len(KINDS)}
    assert set(Counter((case.kind, case.look) for case in asked).values()) == {len(asked) // len(KINDS) // len(LOOKS)}


def test_cases_are_many_and_different() -> None:
    asked = cases()
    assert len({(case.source, case.target) for case in asked}) == len(asked) == PER_KIND * len(KINDS) >= 200
    assert {background for case in asked for _, background in (case.source, case.target)} == set(pictures.COLOURS)


def test_each_case_changes_what_its_kind_says() -> None:
    for case in cases():
        emoji, background = (a != b for a, b in zip(case.source, case.target, strict=True))
        if case.kind == UNSEEN:
            assert pictures.held_out(*case.target)
        else:
            assert not pictures.held_out(*case.target)
            assert (emoji, background) == (case.kind != "background", "background" in case.kind)
        if "skin tone" in case.kind:
            assert all(name.endswith("skin tone") for name, _ in (case.source, case.target))
        if "heart" in case.kind:
            assert all(name.endswith("heart") for name, _ in (case.source, case.target))


def test_half_of_each_kind_starts_from_a_pair_never_trained() -> None:
    unseen = Counter(case.kind for case in cases() if pictures.held_out(*case.source) and case.kind != UNSEEN)
    assert set(unseen.values()) == {PER_KIND // 2}


def test_the_truth_scores_full_marks_and_the_source_none() -> None:
    asked = cases()[::9]
    source, truth = sources(asked), truths(asked)
    scores = judge(asked, truth, source, truth)
    assert all(scores["success"])
    assert set(scores["PSNR"]) == {CAP}
    assert all(math.isnan(value) or value == CAP for value in scores["background PSNR"])
    unedited = judge(asked, source, source, truth)
    assert not any(unedited["success"])
    assert not any(unedited["structure"])
    assert all(value == CAP or math.isnan(value) or value > 40 for value in unedited["background PSNR"])


def test_a_picture_drawn_anew_lacks_the_look() -> None:
    asked = [case for case in cases() if case.look == "shaded"][::7]
    anew = torch.stack([torch.from_numpy(pictures.picture(*case.target)) for case in asked])
    scores = judge(asked, anew, sources(asked), truths(asked))
    assert all(scores["emoji"])
    assert not any(scores["look"])
    assert not any(scores["success"])


def test_background_metrics_see_only_what_should_stay() -> None:
    asked = [case for case in cases() if case.kind == "heart colour"][:4]
    source, truth = sources(asked), truths(asked)
    region = changed(asked).unsqueeze(-1)
    inside, outside = (torch.lerp(truth, (truth + 0.5) % 1, where) for where in (region, 1 - region))
    assert set(judge(asked, inside, source, truth)["background PSNR"]) == {CAP}
    assert judge(asked, inside, source, truth)["background SSIM"] == pytest.approx([1] * 4)
    assert max(judge(asked, outside, source, truth)["background PSNR"]) < 7


def test_ssim_of_a_known_pair() -> None:
    flat = torch.full((1, 64, 64, 3), 0.5)
    # Of constant pictures only the brightness term is left.
    expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert torch.allclose(ssim(flat, flat / 2), torch.full_like(flat, expected), atol=1e-4)
    assert torch.allclose(ssim(flat, flat), torch.ones_like(flat))
