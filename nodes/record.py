"""The inversion record: what a LATENT carries from an Invert node to Edit From Latent, and when it may be trusted.

It is one extra key of the LATENT dictionary, a plain dictionary of CPU tensors, numbers and strings, which the host's
own nodes pass on untouched (Save Latent does not; Save Inversion does).
"""

import math
from typing import Any

import torch

from ..inversion import Inversion, InversionError
from ..inversion.metrics import relative_difference
from .host import model_kind

KEY = "inversion"
# Rounding of the samples on their way through the graph (fp16 intermediates: 5e-4) is no edit; anything above is.
SAME_SAMPLES = 5e-3


def signature(model: Any) -> dict[str, Any]:
    """What must agree for a record's states to mean the same thing to `model`."""
    return {
        "state space": model_kind(model),
        "latent format": type(model.get_model_object("latent_format")).__name__,
        "model class": type(model.model).__name__,
    }


def write(model: Any, inversion: Inversion, cfg: float) -> dict[str, Any]:
    """The record of an inversion in the state space of `model`."""
    return {"model": signature(model), "cfg": cfg, **inversion.to_dict()}


def require(latent: dict, otherwise: str) -> Inversion:
    """The inversion that a LATENT carries, as far as it can be judged without the model.

    Raises:
        InversionError: there is none (the message ends with `otherwise`), it is damaged, or the samples have another
            shape by now.
    """
    record = latent.get(KEY)
    if record is None:
        raise InversionError(f"This LATENT carries no inversion record. {otherwise}")
    inversion = Inversion.from_dict(record)
    made, cfg = record.get("model"), record.get("cfg")
    if not isinstance(made, dict) or not isinstance(cfg, int | float):
        raise InversionError(
            f"This inversion record is damaged: it was made with the model {made!r} at cfg {cfg!r}. Invert the picture "
            "again."
        )
    came, expected = tuple(latent["samples"].shape), tuple(inversion.latent.shape)
    if came != expected:
        raise InversionError(
            f"The LATENT is no longer what was inverted ({came}, not {expected}), so its record does not fit. Connect "
            "the latent straight from an Invert node."
        )
    return inversion


def read(model: Any, latent: dict, samples: torch.Tensor) -> tuple[Inversion | None, list[str]]:
    """The LATENT's record, if it has one that fits, and remarks for the report.

    Raises:
        InversionError: the record is of a model with other latents or another kind of noise.
    """
    record = latent.get(KEY)
    if record is None:
        return None, ["The LATENT carries no inversion record, so this is plain sampling from it."]
    inversion = Inversion.from_dict(record)
    made, here = record.get("model", {}), signature(model)
    differing = [key for key in here if made.get(key) != here[key]]
    if set(differing) - {"model class"}:
        came, fits = (", ".join(str(side.get(key)) for key in here) for side in (made, here))
        raise InversionError(
            f"The LATENT was inverted with another kind of model ({came}) than this one ({fits}); its noise means "
            "nothing here. Edit with the model that inverted, or one of the same family, or invert again with this one."
        )
    remarks = []
    if differing:
        remarks.append(
            f"Inverted with {made['model class']}, edited with {here['model class']}: the source is not exact."
        )
    expected = inversion.latent
    fits_shape = samples.shape == expected.shape
    if fits_shape:
        state = model.get_model_object("latent_format").process_in(samples.float().cpu())
        fits_values = float(relative_difference(expected, state).max()) <= SAME_SAMPLES
    if not fits_shape or not fits_values:
        why = "its values were changed" if fits_shape else f"{tuple(samples.shape)}, not {tuple(expected.shape)}"
        return None, [
            f"The LATENT is no longer what was inverted ({why}), so its record does not fit and was not used."
        ]
    return inversion, remarks


def mask_for(
    latent: dict, samples: torch.Tensor, mask: torch.Tensor | None = None, feather: int = 0
) -> torch.Tensor | None:
    """Where the edit may change things, (B or 1, 1, ..., H, W) at the size of the samples; None if no mask is given.

    Arguments:
        latent: its noise_mask counts.
        mask: another MASK, (B or 1, H, W); where both are given, both have to allow.
        feather: over how many latent pixels the masks' edges fall off, inward: outside they stay exactly 0.

    Raises:
        InversionError: a mask has another shape of picture or another batch.
    """
    given = [_at_latent_size(m, samples) for m in (latent.get("noise_mask"), mask) if m is not None]
    if not given:
        return None
    allowed = given[0] if len(given) == 1 else given[0] * given[1]
    if feather:
        window = 2 * feather + 1
        soft = torch.nn.functional.avg_pool2d(allowed, window, stride=1, padding=feather, count_include_pad=False)
        inside = 1 - torch.nn.functional.max_pool2d((allowed < 1).float(), window, stride=1, padding=feather)
        allowed = torch.maximum(allowed * (2 * soft - 1).clamp(min=0), inside)
    height, width = samples.shape[-2:]
    return allowed.reshape(allowed.shape[0], 1, *[1] * (samples.ndim - 4), height, width)


def _at_latent_size(mask: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    height, width = samples.shape[-2:]
    ratio = (mask.shape[-2] / height, mask.shape[-1] / width)
    if not math.isclose(*ratio, rel_tol=0.05):
        raise InversionError(
            f"The mask is {mask.shape[-1]} x {mask.shape[-2]}, which is not the shape of the latent "
            f"({width} x {height}). Draw it on the picture that was inverted."
        )
    if mask.shape[0] not in (1, samples.shape[0]):
        raise InversionError(
            f"The mask has a batch of {mask.shape[0]}, the latent of {samples.shape[0]}. Use one mask, or one for each."
        )
    # The mean over each latent cell: a cell that the mask does not touch stays exactly 0.
    return torch.nn.functional.interpolate(mask, size=(height, width), mode="area").clamp(0, 1)
