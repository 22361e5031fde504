"""How well an inversion went, in one sentence: every threshold, and every sentence that depends on one."""

# The worst residual up to which, on the demo models, the sampler alone always came back near the picture, and to
# something like it. Above the latter anything happened.
CLOSE, ROUGH = 3e-2, 3e-1
# PSNR of a latent's round trip, in dB: what looks the same (the demo model's codec has 33), and what looks alike.
NEAR, ALIKE = 38.0, 28.0
# What a note begins with that says so; then nothing else is promised.
UNSTEADY = "The model does not answer the same question the same way twice"


def of_residuals(worst: float) -> str:
    """What the residuals of the steps promise of the sampler alone, without the record.

    Arguments:
        worst: the largest relative residual of all steps, >= 0.
    """
    if worst <= CLOSE:
        return "Inverted closely: the sampler alone comes back near the picture, the record exactly."
    if worst <= ROUGH:
        return "Inverted: the record comes back exactly, the sampler alone to the picture or something like it."
    return (
        "May not have worked: the record comes back exactly, but whether the sampler alone does only a check can "
        "tell. Cfg nearer 1, more steps or more iterations make it surer."
    )


def of_round_trip(decibels: float, steps: int) -> str:
    """What a round trip by the sampler alone, without the record, showed.

    Arguments:
        decibels: PSNR of the latent.
        steps: model calls that the check took.
    """
    if decibels >= NEAR:
        what = "Inverted well: the sampler alone comes back near the picture"
    elif decibels >= ALIKE:
        what = "Inverted fairly: the sampler alone comes back to something like the picture"
    else:
        what = (
            "The inversion did not work well: the sampler alone comes back to another picture. Lower cfg toward 1, "
            "use more steps or more iterations. It came back"
        )
    return f"{what} (checked: {decibels:.1f} dB in the latent, {steps} more model calls)."
