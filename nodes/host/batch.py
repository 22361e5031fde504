"""A LATENT whose batch was repeated, cut or joined since it was inverted: which of its record's items it holds."""

import dataclasses

import torch
from torch import Tensor

from ...inversion import Inversion
from ...inversion.metrics import relative_difference


def places(known: Tensor, items: Tensor, tolerance: float) -> list[int] | None:
    """Where among `known`, (K, D), each of `items`, (B, D), is found; None if one of them is not there."""
    found = []
    for item in items:
        differences = relative_difference(known, item.expand_as(known))
        nearest = int(differences.argmin())
        if not float(differences[nearest]) <= tolerance:
            return None
        found.append(nearest)
    return found


def chosen(inversion: Inversion, places: list[int]) -> Inversion:
    """The inversion of these items of its batch, in this order; one may come several times."""

    def of(x: Tensor | None, axis: int) -> Tensor | None:
        return None if x is None else x.index_select(axis, torch.tensor(places, device=x.device))

    second = ("trajectory", "points", "slopes", "residuals", "noise")
    parts = {name: of(getattr(inversion, name), 1) for name in second}
    parts |= {name: of(getattr(inversion, name), 0) for name in ("drift", "partner")}
    return dataclasses.replace(inversion, **parts)
