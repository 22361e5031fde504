"""The inversion record: what a LATENT carries from an Invert node to Edit From Latent, and when it may be trusted.

It is one extra key of the LATENT dictionary, a plain dictionary of CPU tensors, numbers and strings, which the host's
own nodes pass on untouched (Save Latent does not; Save Inversion does).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...inversion import Inversion, InversionError
from ...inversion.metrics import relative_difference
from .latents import model_kind, samples_for, to_state

KEY = "inversion"
# Rounding of the samples on their way through the graph (fp16 intermediates: 5e-4) is no edit; anything above is.
SAME_SAMPLES = 5e-3


@dataclass(frozen=True)
class Record:
    """An inversion, and how the host made it.

    Arguments:
        inversion: in the state space of the model.
        model: what must agree for its states to mean the same thing to another model, see `signature`.
        cfg: guidance of the inversion.
    """

    inversion: Inversion
    model: dict[str, Any]
    cfg: float

    @classmethod
    def parse(cls, latent: dict) -> "Record | None":
        """The record of a LATENT, None where it has none.

        Raises:
            InversionError: it is damaged.
        """
        plain = latent.get(KEY)
        if plain is None:
            return None
        inversion, model, cfg = Inversion.from_dict(plain), plain.get("model"), plain.get("cfg")
        if not isinstance(model, dict) or not isinstance(cfg, int | float):
            raise InversionError(
                f"This inversion record is damaged: it was made with the model {model!r} at cfg {cfg!r}. Invert the "
                "picture again."
            )
        return cls(inversion, model, cfg)

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "cfg": self.cfg, **self.inversion.to_dict()}


def signature(model: Any) -> dict[str, Any]:
    """What must agree for a record's states to mean the same thing to `model`."""
    return {
        "state space": model_kind(model),
        "latent format": type(model.get_model_object("latent_format")).__name__,
        "model class": type(model.model).__name__,
    }


def require(latent: dict, otherwise: str) -> Record:
    """The record that a LATENT carries, as far as it can be judged without the model.

    Raises:
        InversionError: there is none (the message ends with `otherwise`), it is damaged, or the samples have another
            shape by now.
    """
    record = Record.parse(latent)
    if record is None:
        raise InversionError(f"This LATENT carries no inversion record. {otherwise}")
    came, expected = tuple(latent["samples"].shape), tuple(record.inversion.latent.shape)
    if came != expected:
        raise InversionError(
            f"The LATENT is no longer what was inverted ({came}, not {expected}), so its record does not fit. Connect "
            "the latent straight from an Invert node."
        )
    return record


def require_for(model: Any, latent: dict, otherwise: str) -> tuple[Record, list[str]]:
    """The record that a LATENT carries for this model, and remarks for the report.

    Raises:
        InversionError: there is none that fits; the message ends with `otherwise`.
    """
    record = require(latent, otherwise)
    unfit, remarks = _judged(record, model, samples_for(model, latent))
    if unfit:
        raise InversionError(f"{unfit} {otherwise}")
    return record, remarks


def read(model: Any, latent: dict, samples: Tensor) -> tuple[Record | None, list[str]]:
    """The LATENT's record, if it has one that fits, and remarks for the report.

    Raises:
        InversionError: the record is of a model with other latents or another kind of noise.
    """
    record = Record.parse(latent)
    if record is None:
        return None, ["The LATENT carries no inversion record, so this is plain sampling from it."]
    unfit, remarks = _judged(record, model, samples)
    return (None, [unfit]) if unfit else (record, remarks)


def _judged(record: Record, model: Any, samples: Tensor) -> tuple[str, list[str]]:
    """(why the record does not fit the samples, "" where it does; remarks on the model)."""
    made, here = record.model, signature(model)
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
    expected = record.inversion.latent
    if samples.shape != expected.shape:
        why = f"{tuple(samples.shape)}, not {tuple(expected.shape)}"
    elif float(relative_difference(expected, to_state(model, samples)).max()) > SAME_SAMPLES:
        why = "its values were changed"
    else:
        return "", remarks
    return f"The LATENT is no longer what was inverted ({why}), so its record does not fit and was not used.", remarks
