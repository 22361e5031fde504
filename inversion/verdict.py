"""How well an inversion went, in one sentence: every threshold, and every sentence that depends on one."""

from collections.abc import Sequence

# Up to which risk, on the demo models, the sampler alone always came back near the picture, and to something like it.
# Above the latter anything happened. (`python scripts/benchmark.py verdict`)
CLOSE, ROUGH = 5e-2, 2e-1
# PSNR of a latent's round trip, in dB: what looks the same (the demo model's codec has 33), and what looks alike.
NEAR, ALIKE = 38.0, 27.0
# What a note begins with that says so; then nothing else is promised.
UNSTEADY = "The model does not answer the same question the same way twice"


def of_risk(risk: float) -> str:
    """What an inversion promises of the sampler alone, without the record.

    Arguments:
        risk: the largest residual of the steps plus what they drifted, >= 0; of several pictures the worst.
    """
    if risk <= CLOSE:
        return "Inverted closely: the sampler alone comes back near the picture, the record exactly."
    if risk <= ROUGH:
        return "Inverted: the record comes back exactly, the sampler alone to the picture or something like it."
    return (
        "May not have worked: the record comes back exactly, but whether the sampler alone does only a check can "
        "tell. Cfg nearer 1, more steps or more iterations make it surer."
    )


def of_round_trip(decibels: Sequence[float], steps: int) -> str:
    """What a round trip by the sampler alone, without the record, showed. Of several pictures the worst counts.

    Arguments:
        decibels: PSNR of each picture's latent.
        steps: model calls that the check took.
    """
    worst = min(decibels)
    if worst >= NEAR:
        what = "Inverted well: the sampler alone comes back near the picture"
    elif worst >= ALIKE:
        what = "Inverted fairly: the sampler alone comes back to something like the picture"
    else:
        what = (
            "The inversion did not work well: the sampler alone comes back to another picture. Lower cfg toward 1, "
            "use more steps or more iterations. It came back"
        )
    which = f", picture {decibels.index(worst) + 1} of {len(decibels)}, the worst" if len(decibels) > 1 else ""
    return f"{what} (checked: {worst:.1f} dB in the latent{which}; {steps} more model calls)."
