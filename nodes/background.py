"""Restore Original Background: the original's own pixels back, everywhere outside the mask of an edit."""

import math

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from ..inversion import InversionError
from .schema import CATEGORY, schema, within_bounds

COUNTS = 0.1  # from this value of the mask on, a pixel counts as changed
CELLS = (4, 8, 16, 32, 42, 64)  # sides of a latent's cell in pixels: autoencoders take whole cells of a picture
FRAMES = (4, 6, 8)  # how many frames of a video one of its latent's stands for
SHAPE = 0.05  # how far the ratios of two pictures' sides may be apart


class RestoreBackground(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def pixels(name: str, tooltip: str) -> io.Input:
            return io.Int.Input(name, default=16, min=0, max=256, tooltip=tooltip)

        return schema(
            node_id="INV_RestoreBackground",
            display_name="Restore Original Background",
            category=CATEGORY,
            description="Puts the original's own pixels back everywhere outside the mask of an edit. An autoencoder "
            "changes the whole picture a little, and this undoes it. It calls no model.",
            search_aliases=["composite", "paste back", "keep background", "uncrop", "exact background", "stitch"],
            essentials_category="Image Tools",
            inputs=[
                io.Image.Input("original", tooltip="The picture before the edit. A video is a batch of frames."),
                io.Image.Input("edited", tooltip="The edited picture, from VAE Decode."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the edit changed the picture: the mask output of Edit From Latent, or a mask "
                    "of your own.",
                ),
                pixels("grow", "How many pixels around the mask stay from the edit, for shadows and soft edges."),
                pixels(
                    "feather",
                    "Over how many pixels the edit fades into the original, up to the edge of the grown mask.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image", tooltip="The edit, with the original's pixels outside the mask."
                ),
                io.Mask.Output("mask_out", display_name="mask", tooltip="Black where the original's own pixels are."),
            ],
        )

    @classmethod
    @within_bounds
    def execute(cls, original: Tensor, edited: Tensor, mask: Tensor, grow: int, feather: int) -> io.NodeOutput:
        return io.NodeOutput(*restored(original, edited, mask, grow, feather))


def restored(original: Tensor, edited: Tensor, mask: Tensor, grow: int, feather: int) -> tuple[Tensor, Tensor]:
    """(pictures, how much of each pixel is the edit's), (B, H, W, C) and (B, H, W) of the original's size.

    Arguments:
        original, edited: (B or 1, H, W, C); the edit may be another crop or size of the same picture.
        mask: (B or 1, H, W) from 0 to 1, of the original's shape or the edit's; of a video also one for each frame of
            its latent.
        grow: pixels by which the mask is grown.
        feather: pixels over which the edit fades out, up to the grown mask's edge.

    Raises:
        InversionError: the three are not of one picture.
    """
    count = _count(original, edited)
    height, width = original.shape[1:3]
    size = f"{width} x {height}"
    mask = _for_frames(mask.float().nan_to_num(0).reshape(-1, *mask.shape[-2:]), count)
    changed = (mask >= COUNTS).float()[:, None]
    placed, covered = _on(original, edited.movedim(-1, 1).to(original), size)
    if changed.shape[-2:] != (height, width):
        if changed.shape[-2:] != edited.shape[1:3]:
            _check_shape("mask", changed, f"original ({size})", height, width)
        if covered is None or changed.shape[-2:] != edited.shape[1:3]:
            changed = _scaled(changed, (height, width))
        else:
            top, left = covered
            whole = changed.new_zeros(len(changed), 1, height, width)
            whole[..., top : top + changed.shape[-2], left : left + changed.shape[-1]] = changed
            changed = whole
    share = faded(changed, grow, feather)
    if covered is not None:  # the edit says nothing beyond its own crop
        top, left = covered
        inside = torch.zeros_like(share[:1])
        inside[..., top : top + edited.shape[1], left : left + edited.shape[2]] = 1
        share = share * inside

    source, placed = _with_the_same_channels(original.movedim(-1, 1), placed)
    source, placed, share = (part.expand(count, *part.shape[1:]) for part in (source, placed, share.to(source)))
    blend = torch.where(share < 1, torch.lerp(source, placed, share), placed)
    return torch.where(share > 0, blend, source).movedim(1, -1).contiguous(), share[:, 0].contiguous()


def faded(changed: Tensor, grow: int, feather: int) -> Tensor:
    """A mask of zeros and ones, (B, 1, H, W), grown, and falling off to exactly 0 at the grown edge.

    It falls off over `feather` pixels: the mean over a window is 0 where the window holds nothing of the mask, so a
    mask that is grown by half a feather less before reaches as far. The picture's own edges do not fade.
    """
    half = feather // 2
    first = grow - half
    if first >= 0:
        solid = _grown(changed, first)
    else:
        solid = 1 - _grown(1 - changed, -first)
    if half == 0:
        return solid
    for window, padding in (((2 * half + 1, 1), (half, 0)), ((1, 2 * half + 1), (0, half))):
        solid = avg_pool2d(solid, window, stride=1, padding=padding, count_include_pad=False)
    return solid


def _grown(mask: Tensor, pixels: int) -> Tensor:
    for window, padding in (((2 * pixels + 1, 1), (pixels, 0)), ((1, 2 * pixels + 1), (0, pixels))):
        mask = max_pool2d(mask, window, stride=1, padding=padding)
    return mask


def _count(original: Tensor, edited: Tensor) -> int:
    """How many pictures there are."""
    given = {len(original), len(edited)}
    if 0 in given or (len(given) > 1 and 1 not in given):
        raise InversionError(
            f"`original` holds {len(original)} pictures and `edited` {len(edited)}. Connect as many of one as of the "
            "other, or a single one. Of a video, connect the frames that were encoded."
        )
    return max(given)


def _for_frames(mask: Tensor, count: int) -> Tensor:
    """One mask for each picture, or one for all: (count or 1, H, W).

    Video autoencoders keep the first frame by itself, or none, and put several of the others into one.
    """
    if len(mask) in (1, count):
        return mask
    if count == 1:
        return mask.amax(0, keepdim=True)
    for alone in (1, 0):
        frames, groups = count - alone, len(mask) - alone
        if groups > 0 and frames % groups == 0 and frames // groups in FRAMES:
            return torch.cat([mask[:alone], mask[alone:].repeat_interleave(frames // groups, 0)])
    raise InversionError(
        f"The mask has a batch of {len(mask)}, and there are {count} pictures. Connect one mask, or one for each."
    )


def _on(original: Tensor, edited: Tensor, size: str) -> tuple[Tensor, tuple[int, int] | None]:
    """(the edit on the original's canvas, (B, C, H, W); where its corner is, None if it fills the canvas).

    An edit that is smaller by part of a latent's cell is what the host's VAE Encode leaves of a picture: its middle.
    Any other of the same shape is scaled.
    """
    height, width = original.shape[1:3]
    if edited.shape[-2:] == (height, width):
        return edited, None
    if any(edited.shape[-2:] == (height // cell * cell, width // cell * cell) for cell in CELLS):
        top, left = (height - edited.shape[-2]) // 2, (width - edited.shape[-1]) // 2
        canvas = edited.new_zeros(*edited.shape[:2], height, width)
        canvas[..., top : top + edited.shape[-2], left : left + edited.shape[-1]] = edited
        return canvas, (top, left)
    _check_shape("edited picture", edited, f"original ({size})", height, width)
    return interpolate(edited, (height, width), mode="bicubic", antialias=True).clamp(0, 1), None


def _check_shape(what: str, came: Tensor, other: str, height: int, width: int) -> None:
    rows, columns = came.shape[-2:]
    if not math.isclose(rows / height, columns / width, rel_tol=SHAPE):
        raise InversionError(
            f"The {what} is {columns} x {rows}, which is not the shape of the {other}. Connect the original as it was "
            "encoded, behind whatever crops or scales it."
        )


def _scaled(changed: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask of zeros and ones at another size; what is smaller than a pixel there still counts."""
    larger = [max(was, wanted) for was, wanted in zip(changed.shape[-2:], size, strict=True)]
    changed = interpolate(changed, larger, mode="nearest-exact")
    return torch.nn.functional.adaptive_max_pool2d(changed, size)


def _with_the_same_channels(source: Tensor, placed: Tensor) -> tuple[Tensor, Tensor]:
    """Both with colours, and with transparency if one of them has it. An edit without has the original's."""
    colours, edit = (side if side.shape[1] > 1 else side.expand(-1, 3, -1, -1) for side in (source, placed))
    if colours.shape[1] == edit.shape[1]:
        return colours, edit
    if colours.shape[1] == 3:
        return _joined(colours, torch.ones_like(colours[:, :1])), edit
    return colours, _joined(edit, colours[:, 3:])


def _joined(colours: Tensor, alpha: Tensor) -> Tensor:
    count = max(len(colours), len(alpha))
    return torch.cat([part.expand(count, *part.shape[1:]) for part in (colours, alpha)], 1)
