"""The automatic mask: where it splits a picture's differences, and what it makes of them."""

import pytest
import torch
from torch import Tensor

from inversion.masks import HIGHEST_SPLIT, DifferenceMask, split


def mask_of(sizes: Tensor, threshold: float = HIGHEST_SPLIT) -> Tensor:
    """The mask of one difference with these sizes, (B, 1, h, w)."""
    found = DifferenceMask(threshold, 0).add(sizes.expand(-1, 4, -1, -1))
    assert found is not None
    return found


def halves(left: float, right: float) -> Tensor:
    sizes = torch.full((1, 1, 8, 16), left)
    sizes[..., 8:] = right
    return sizes


@pytest.mark.parametrize("power", [0.5, 1, 4, 12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_split_has_the_largest_variance_between_its_parts(power, dtype) -> None:
    sizes = torch.rand(3, 1, 6, 7, generator=torch.Generator().manual_seed(0), dtype=dtype) ** power
    low, high = split(sizes)
    for picture, small, large in zip(sizes, low, high, strict=True):
        values = picture.flatten().double().sort().values
        parts = [(values[:k], values[k:]) for k in range(1, len(values))]
        best = max(parts, key=lambda part: len(part[0]) * len(part[1]) * (part[1].mean() - part[0].mean()) ** 2)
        found = torch.stack([small.flatten(), large.flatten()]).double().flatten()
        torch.testing.assert_close(found, torch.stack([part.mean() for part in best]), rtol=1e-5, atol=1e-6)


def test_it_is_whole_where_much_changes_and_empty_where_little_does() -> None:
    sizes = torch.full((1, 1, 8, 24), 0.05)
    sizes[..., 12:] = torch.linspace(0.3, 1, 12)
    mask = mask_of(sizes)
    assert mask[..., :11].max() <= 1e-6
    assert mask[..., 19:].min() == 1


def test_one_strong_spot_does_not_hide_the_rest() -> None:
    sizes = halves(0.05, 0.35)
    sizes[..., 3:6, 11:14] = 1.0
    mask = mask_of(sizes)
    assert mask[..., :7].max() <= 1e-6
    assert mask[..., 9:].min() > 0.7


def test_where_all_changes_the_lesser_half_changes_too() -> None:
    assert mask_of(halves(1.0, 0.6)).min() == 1
    assert mask_of(torch.ones(1, 1, 8, 8)).min() == 1


def test_the_threshold_moves_it_either_way() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 8, 32)
    areas = [float(mask_of(ramp, threshold).mean()) for threshold in (0.2, 0.3, HIGHEST_SPLIT, 0.6, 0.9)]
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) == len(areas)


def test_a_picture_has_the_same_mask_in_a_batch() -> None:
    sizes = torch.cat([halves(1.0, 0.3), 50 * halves(0.2, 0.9), torch.zeros(1, 1, 8, 16)])
    together = mask_of(sizes)
    for picture, mask in zip(sizes, together, strict=True):
        torch.testing.assert_close(mask_of(picture[None])[0], mask)
    assert together[2].max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_the_same_place(dtype) -> None:
    sizes = halves(1.0, 0.2)
    assert ((mask_of(sizes.to(dtype)).float() - mask_of(sizes)).abs() <= 0.02).all()


def test_one_place_alone() -> None:
    assert mask_of(torch.ones(1, 1, 1, 1)).item() == 1
    assert mask_of(torch.zeros(1, 1, 1, 1)).item() == 0
