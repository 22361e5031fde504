"""MASK and noise_mask: where an edit may change things, at the size of the latent, and back at the picture's."""

import math
from typing import Any

import torch
from torch import Tensor

from ...inversion import InversionError

# How many pixels a side of a latent's cell has, where it is not 8, for hosts whose latent formats do not say.
OLDER_RATIOS = {
    "ChromaRadiance": 1,
    "SC_B": 4,
    "Flux2": 16,
    "HunyuanVideo15": 16,
    "Wan22": 16,
    "HunyuanImage21": 32,
    "LTXV": 32,
    "SC_Prior": 42,
}


def mask_for(latent: dict, samples: Tensor, mask: Tensor | None = None, feather: int = 0) -> Tensor | None:
    """Where the edit may change things, (B or 1, 1, [F or 1,] H, W) at the size of the samples; None if none is given.

    Arguments:
        latent: its noise_mask counts.
        mask: another MASK, (B or 1, H, W), of videos also (frames, H, W); where both are given, both have to allow.
        feather: over how many latent pixels the masks' edges fall off, inward: outside they stay exactly 0.

    Raises:
        InversionError: a mask has another batch or number of frames, or is one of a sound.
    """
    given = [_at_latent_size(m, samples) for m in (latent.get("noise_mask"), mask) if m is not None]
    if not given:
        return None
    allowed = given[0] if len(given) == 1 else given[0] * given[1]  # (B or 1, F or 1, H, W)
    if feather:
        window = 2 * feather + 1
        soft = torch.nn.functional.avg_pool2d(allowed, window, stride=1, padding=feather, count_include_pad=False)
        inside = 1 - torch.nn.functional.max_pool2d((allowed < 1).float(), window, stride=1, padding=feather)
        allowed = torch.maximum(allowed * (2 * soft - 1).clamp(min=0), inside)
    return allowed if samples.ndim == 4 else allowed.unsqueeze(1)


def _at_latent_size(mask: Tensor, samples: Tensor) -> Tensor:
    """(B or 1, F or 1, H, W), as many frames as a video's latent has; of pictures one."""
    if samples.ndim < 4:
        raise InversionError(
            "A mask is a picture, and this is a latent of sound, which has no place for it. Remove the mask."
        )
    if mask.ndim == 5:  # the host's, of a video: (B, 1, frames, H, W)
        mask = _frames(mask.float()[:, 0], samples)
    else:
        mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
        if samples.ndim == 5 and mask.shape[0] not in (1, samples.shape[0]):
            mask = _frames(mask.movedim(1, 0), samples)
    height, width = samples.shape[-2:]
    mask = cropped(mask, width / height)
    if mask.shape[0] not in (1, samples.shape[0]):
        raise InversionError(
            f"The mask has a batch of {mask.shape[0]}, the latent of {samples.shape[0]}. Use one mask, or one for each."
        )
    # The mean over each latent cell: a cell that the mask does not touch stays exactly 0.
    return torch.nn.functional.interpolate(mask, size=(height, width), mode="area").clamp(0, 1)


def cropped(mask: Tensor, shape: float) -> Tensor:
    """The middle of a mask (..., H, W), of width / height `shape`; as it is where it has about that shape.

    A picture that a node crops to the model's size leaves the mask that was painted on it uncropped.
    """
    height, width = mask.shape[-2:]
    if math.isclose(width / height, shape, rel_tol=0.05):
        return mask
    high, wide = (height, max(1, round(height * shape))) if width > height * shape else (round(width / shape), width)
    high = max(1, high)
    top, left = (height - high) // 2, (width - wide) // 2
    return mask[..., top : top + high, left : left + wide]


def crop_remark(latent: dict, samples: Tensor, mask: Tensor | None) -> str:
    """What the report says if a mask was cropped; "" if none was."""
    height, width = samples.shape[-2:]
    for given in (mask, latent.get("noise_mask")):
        if given is not None and cropped(given, width / height).shape != given.shape:
            return (
                f"The mask is {given.shape[-1]} x {given.shape[-2]}, which is another shape than the picture's. The "
                "middle of the mask was used, as a node takes it that crops a picture at its center."
            )
    return ""


def _frames(mask: Tensor, samples: Tensor) -> Tensor:
    """A mask for each frame of a video, (B or 1, frames, H, W), as one for each frame of its latent.

    One that stands for several has their mean. Video autoencoders keep the first frame by itself, or none.
    """
    frames, wanted = mask.shape[1], samples.shape[2]
    if frames in (1, wanted):
        return mask
    alone = int(wanted > 1 and (frames - 1) % (wanted - 1) == 0)
    if frames < wanted or (frames - alone) % (wanted - alone):
        raise InversionError(
            f"The mask has {frames} frames, the video's latent {wanted}. Use one mask for all frames, one for each of "
            "the video, or one for each of the latent."
        )
    groups = mask[:, alone:].unflatten(1, (wanted - alone, -1)).mean(2)
    return torch.cat([mask[:, :alone], groups], 1)


def picture_mask(model: Any, mask: Tensor) -> Tensor:
    """A latent mask as the host's MASK, (B, H, W): pictures are larger than their latents."""
    latent_format = model.get_model_object("latent_format")
    ratio = getattr(latent_format, "spacial_downscale_ratio", OLDER_RATIOS.get(type(latent_format).__name__, 8))
    flat = mask.float().cpu().reshape(-1, 1, *mask.shape[-2:] if mask.ndim > 3 else (1, mask.shape[-1]))
    return torch.nn.functional.interpolate(flat, scale_factor=float(ratio), mode="nearest")[:, 0]
