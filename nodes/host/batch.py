"""A LATENT whose batch was repeated, cut or joined since it was inverted: which of its record's items it holds."""

from torch import Tensor

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
