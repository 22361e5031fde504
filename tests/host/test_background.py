"""Restore Original Background: whose pixels are where, on pictures whose every pixel is known."""

import types

import pytest
import torch
from graphs import defaults, demo
from torch import Tensor

import nodes

SIDE = 96


@pytest.fixture(scope="module")
def node(pack: types.ModuleType) -> type:
    return pack.nodes.background.RestoreBackground


def picture(seed: int, height: int = SIDE, width: int = SIDE, count: int = 1, channels: int = 3) -> Tensor:
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


def square(height: int = SIDE, width: int = SIDE, count: int = 1, side: int = 16) -> Tensor:
    """A mask with a white square in its middle."""
    mask = torch.zeros(count, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    mask[:, top : top + side, left : left + side] = 1
    return mask


def within(mask: Tensor, pixels: int) -> Tensor:
    """Where a pixel of the mask is no further than that, counted along each axis."""
    return torch.nn.functional.max_pool2d(mask[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0


def put_back(node: type, original: Tensor, edited: Tensor, mask: Tensor, **widgets: int) -> tuple[Tensor, Tensor]:
    given = {**defaults(node), **widgets}
    kept = [part.clone() for part in (original, edited, mask)]
    image, share = node.execute(original, edited, mask, **given).args
    assert all(map(torch.equal, kept, (original, edited, mask)))
    return image, share


@pytest.mark.parametrize(("grow", "feather"), [(0, 0), (7, 0), (16, 16), (5, 10), (3, 1), (0, 9), (4, 20), (200, 10)])
def test_every_pixel_outside_the_grown_mask_is_the_originals(node: type, grow: int, feather: int) -> None:
    original, edited, mask = picture(0), picture(1), square()
    image, share = put_back(node, original, edited, mask, grow=grow, feather=feather)
    outside = ~within(mask, grow)
    assert torch.equal(image[outside], original[outside])
    assert torch.equal(share == 0, outside if feather <= 2 * grow else share == 0)
    assert not share[outside].any()
    if feather <= grow:
        inside = mask > 0
        assert torch.equal(image[inside], edited[inside])
    assert torch.equal(image[share == 1], edited[share == 1])


def test_the_edit_fades_evenly_into_the_original(node: type) -> None:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :, : SIDE // 2] = 1
    _, share = put_back(node, picture(0), picture(1), mask, grow=12, feather=10)
    row = share[0, SIDE // 2]
    last = SIDE // 2 + 12
    assert (row[: last - 10] == 1).all()  # as far as the picture's own edge on the left, which does not fade
    assert (row[last:] == 0).all()
    falls = row[last - 11 : last + 1].diff()
    assert torch.allclose(falls, torch.full_like(falls, -1 / 11), atol=1e-6)


def test_what_the_mask_says_a_little_is_what_it_says(node: type) -> None:
    """The automatic mask is soft; what it leaves below a tenth is hardly an edit."""
    mask = 0.05 * torch.ones(1, SIDE, SIDE) + 0.5 * square()
    original, edited = picture(0), picture(1)
    image, _ = put_back(node, original, edited, mask, grow=0, feather=0)
    assert torch.equal(image, torch.where(square()[..., None] > 0, edited, original))


def test_a_whole_mask_gives_the_edit_and_an_empty_one_the_original(node: type) -> None:
    original, edited = picture(0), picture(1)
    assert torch.equal(put_back(node, original, edited, torch.ones(1, SIDE, SIDE))[0], edited)
    assert torch.equal(put_back(node, original, edited, torch.zeros(1, SIDE, SIDE))[0], original)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["original", "edit"])
def test_an_edit_that_the_autoencoder_cropped(node: type, of: str) -> None:
    """VAE Encode takes the middle of a picture whose sides are not whole latent cells; the rim is the original's."""
    height, width, (rows, columns) = 101, 94, (96, 88)
    original, edited = picture(0, height, width), picture(1, rows, columns)
    top, left = (height - rows) // 2, (width - columns) // 2
    mask = torch.ones(1, height, width) if of == "original" else torch.ones(1, rows, columns)
    image, share = put_back(node, original, edited, mask)
    middle = (slice(None), slice(top, top + rows), slice(left, left + columns))
    assert torch.equal(image[middle], edited)
    rim = torch.ones_like(share, dtype=torch.bool)
    rim[middle] = False
    assert torch.equal(image[rim], original[rim])


def test_an_edit_at_another_resolution(node: type) -> None:
    """The original's own resolution outside, the edit's content inside."""
    original = picture(0, 2 * SIDE, 2 * SIDE)
    edited = torch.full((1, SIDE, SIDE, 3), 0.25)
    image, share = put_back(node, original, edited, square(side=24), grow=4, feather=4)
    assert image.shape == original.shape
    outside = ~within(square(2 * SIDE, 2 * SIDE, side=48), 4)
    assert torch.equal(image[outside], original[outside])
    assert torch.allclose(image[share == 1], torch.tensor(0.25), atol=1e-6)


@pytest.mark.parametrize("side", [12, 48, SIDE, 192])
def test_a_mask_of_another_size(node: type, side: int) -> None:
    original, edited = picture(0), picture(1)
    mask = square(side, side, side=side // 3)
    image, _ = put_back(node, original, edited, mask, grow=0, feather=0)
    assert torch.equal(image, torch.where(square(side=SIDE // 3)[..., None] > 0, edited, original))


def test_a_thin_line_of_a_large_mask_still_counts(node: type) -> None:
    mask = torch.zeros(1, 960, 960)
    mask[:, 483] = 1
    image, _ = put_back(node, picture(0), picture(1), mask, grow=0, feather=0)
    assert torch.equal(image[:, 48], picture(1)[:, 48])
    assert torch.equal(image[:, 49], picture(0)[:, 49])


# --- batches, videos, transparency ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("originals", "edits", "masks"), [(3, 3, 3), (1, 3, 1), (3, 1, 3), (3, 3, 1), (1, 1, 1)])
def test_batches(node: type, originals: int, edits: int, masks: int) -> None:
    original, edited = picture(0, count=originals), picture(1, count=edits)
    mask = torch.stack([torch.roll(square()[0], 8 * i, 0) for i in range(masks)])
    image, share = put_back(node, original, edited, mask, grow=0, feather=0)
    count = max(originals, edits)
    assert len(image) == len(share) == count
    wide = [part.expand(count, *part.shape[1:]) for part in (original, edited, mask[..., None])]
    assert torch.equal(image, torch.where(wide[2] > 0, wide[1], wide[0]))


@pytest.mark.parametrize(("frames", "masks", "stands"), [(9, 3, [1, 4, 4]), (8, 2, [4, 4]), (17, 3, [1, 8, 8])])
def test_a_mask_for_each_frame_of_a_videos_latent(node: type, frames: int, masks: int, stands: list[int]) -> None:
    mask = torch.stack([torch.roll(square()[0], 8 * i, 0) for i in range(masks)])
    _, share = put_back(node, picture(0, count=frames), picture(1, count=frames), mask, grow=0, feather=0)
    of = [i for i, many in enumerate(stands) for _ in range(many)]
    assert torch.equal(share, mask[of])


def test_transparency_is_the_originals(node: type) -> None:
    original, edited = picture(0, channels=4), picture(1)
    image, share = put_back(node, original, edited, square())
    assert torch.equal(image[..., 3], original[..., 3])
    assert torch.equal(image[share == 1][:, :3], edited[share == 1])
    assert torch.equal(image[share == 0], original[share == 0])


def test_an_edit_with_transparency_keeps_its_own(node: type) -> None:
    original, edited = picture(0), picture(1, channels=4)
    image, share = put_back(node, original, edited, square())
    assert torch.equal(image[share == 1], edited[share == 1])
    assert torch.equal(image[share == 0][:, :3], original[share == 0])
    assert (image[share == 0][:, 3] == 1).all()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "edited", "mask", "message"),
    [
        ((2, 96, 96), (3, 96, 96), (1, 96, 96), "`original` holds 2 pictures and `edited` 3"),
        ((4, 96, 96), (4, 96, 96), (3, 96, 96), "mask has a batch of 3, and there are 4 pictures"),
        ((1, 96, 200), (1, 96, 96), (1, 96, 96), "edited picture is 96 x 96, .* original .200 x 96"),
        ((1, 96, 96), (1, 96, 96), (1, 64, 128), "mask is 128 x 64, .* original .96 x 96"),
    ],
)
def test_what_is_not_of_one_picture_is_refused(
    pack: types.ModuleType, node: type, original: tuple, edited: tuple, mask: tuple, message: str
) -> None:
    with pytest.raises(pack.inversion.InversionError, match=message):
        put_back(node, torch.rand(*original, 3), torch.rand(*edited, 3), torch.ones(mask))


def test_after_an_edit(pack: types.ModuleType, node: type) -> None:
    """The autoencoder changed every part of the picture; outside the automatic mask nothing of that is left."""
    bench = demo(pack, "flow")
    with torch.inference_mode():
        original, _ = pack.nodes.demo.DemoPicture.execute("fox", "green", look=0).args
        clip = pack.nodes.demo.load("flow")[1]
        crowned = nodes.CLIPTextEncode().encode(clip, "a fox with a crown, green wall")[0]
        latent = bench.invert(steps=6)[0]
        out, _, mask = bench.edit_with_mask(latent=latent, positive=crowned, strength=3.0)
        edited = pack.nodes.demo.load("flow")[2].decode(out["samples"]).cpu()
    image, share = put_back(node, original, edited, mask, grow=0, feather=0)
    outside = share == 0
    assert 0.2 < outside.float().mean() < 0.9
    assert (edited[outside] != original[outside]).any(-1).float().mean() > 0.5
    assert torch.equal(image[outside], original[outside])
    assert (image[share == 1] - original[share == 1]).abs().mean() > 0.05
