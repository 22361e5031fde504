"""How well an inversion went, in a sentence or two: every threshold, and every sentence that depends on one."""

from collections.abc import Sequence
from typing import Literal

Grade = Literal["good", "fair", "poor"]

# Up to which risk, on the demo models, the sampler alone gave all pictures back almost exactly, and most of them alike.
# On pictures that these bounds were not read off there are exceptions: a small residual may grow on the way down. So
# the sentences say "usually", and only a check knows. (`python scripts/benchmark.py verdict`)
CLOSE, ROUGH = 1e-2, 1e-1
# PSNR of a latent's round trip, in dB: what looks the same (the demo model's codec has 35), and what looks alike.
NEAR, ALIKE = 38.0, 27.0
# What a note begins with that says so; then nothing else is promised.
UNSTEADY = "The model does not answer the same question the same way twice"


def of_risk(risk: float) -> str:
    """What an inversion promises of the sampler alone, without the record.

    Arguments:
        risk: the largest residual of the steps plus what they drifted, >= 0; of several pictures the worst.
    """
    if risk <= CLOSE:
        return "Accurate: the picture comes back exactly with its record, and usually almost exactly without it."
    if risk <= ROUGH:
        return (
            "Fair: with its record the picture comes back exactly. Without the record usually a similar picture comes "
            "back. *check* shows it."
        )
    return (
        "Rough: with its record the picture comes back exactly. Without the record another picture may come back. For "
        "more accuracy lower cfg toward 1, or use more steps or more iterations."
    )


def in_short(decibels: Sequence[float]) -> tuple[Grade, str]:
    """What a round trip showed, in a sentence for a picture; of several pictures the worst counts.

    Arguments:
        decibels: PSNR of each picture's latent.
    """
    worst = min(decibels)
    if worst >= NEAR:
        return "good", f"Accurate: the same picture comes back (latent: {worst:.0f} dB)."
    if worst >= ALIKE:
        return "fair", f"Fair: a similar picture comes back (latent: {worst:.0f} dB)."
    return "poor", f"Not accurate: another picture comes back (latent: {worst:.0f} dB)."


def of_round_trip(decibels: Sequence[float], steps: int) -> str:
    """What a round trip by the sampler alone, without the record, showed. Of several pictures the worst counts.

    Arguments:
        decibels: PSNR of each picture's latent.
        steps: model calls that the check took.
    """
    worst = min(decibels)
    if worst >= NEAR:
        what = "Accurate: without its record the picture comes back almost exactly"
    elif worst >= ALIKE:
        what = "Fair: without its record a similar picture comes back"
    else:
        what = (
            "Inaccurate: without its record another picture comes back. For more accuracy lower cfg toward 1, or use "
            "more steps or more iterations"
        )
    which = f", picture {decibels.index(worst) + 1} of {len(decibels)}, the worst" if len(decibels) > 1 else ""
    return f"{what} (checked: {worst:.1f} dB in the latent{which}; {steps} more model calls)."
