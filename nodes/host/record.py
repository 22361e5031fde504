"""The inversion record: what a LATENT carries from an Invert node to Edit From Latent, and when it may be trusted.

It is one extra key of the LATENT dictionary, a plain dictionary of CPU tensors, numbers and strings, which the host's
own nodes pass on untouched (Save Latent does not; Save Inversion does).
"""

import dataclasses
import logging
import math
import re
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...inversion import Grid, Inversion, InversionError
from ...inversion import fields as checked
from ...inversion.metrics import relative_difference
from ...inversion.record import in_words, no_room, record_bytes
from . import batch, conditioning
from .latents import model_kind, samples_for, to_state

KEY = "inversion"
# Rounding of the samples on their way through the graph (fp16 intermediates: 5e-4) is no edit; anything above is.
SAME_SAMPLES = 5e-3
HIGHEST_CFG = 1000.0
WORTH_SAYING = 1 << 28  # bytes; a record that takes less is nobody's concern
NUMBERS = 64  # of a fingerprint; it tells how far two latents are apart to some 20 %
PROBED = (0.25, 0.75)  # sigmas that every family has
SAME_RULE = 1e-4
MARKDOWN = re.compile(r"[`*<>\[\]|~&#]|(?<!\w)_|_(?!\w)")


@dataclass(frozen=True, eq=False)
class Record:
    """An inversion, and how the host made it.

    Arguments:
        inversion: in the state space of the model.
        model: what must agree for its states to mean the same thing to another model, see `signature`.
        cfg: guidance of the inversion.
        fingerprint: of the LATENT's samples, (B, 64); None in records of format 2.
        prompt: the CONDITIONING it was inverted with; None where it was guided, or the prompt is not plain.
    """

    inversion: Inversion
    model: dict[str, Any]
    cfg: float
    fingerprint: Tensor | None = None
    prompt: list | None = None

    @classmethod
    def parse(cls, latent: dict) -> "Record | None":
        """The record of a LATENT, None where it has none. What it says in words is safe to show as Markdown.

        Raises:
            InversionError: it is damaged.
        """
        if latent.get(KEY) is None:
            return None
        plain = checked.mapping("the whole", latent[KEY])
        inversion = Inversion.from_dict(plain)
        fingerprint = plain.get("fingerprint")
        if fingerprint is not None:
            fingerprint = checked.floats("fingerprint", fingerprint, (len(inversion.latent), NUMBERS), torch.float64)
        elif plain["format"] > 2:
            raise checked.damaged("fingerprint", None, "the latent's")
        return cls(
            dataclasses.replace(inversion, notes=tuple(map(escaped, inversion.notes))),
            _checked_signature(plain.get("model"), inversion.grid.kind),
            checked.number("cfg", plain.get("cfg"), 0, HIGHEST_CFG),
            fingerprint,
            conditioning.unpacked(plain),
        )

    def following(self, samples: Any) -> "Record":
        """The record of samples that are items of this one's, as nodes that repeat, cut and join batches leave them.

        The record itself where it is of these samples, or of others altogether.
        """
        known, latent = self.fingerprint, self.inversion.latent
        if known is None or not isinstance(samples, Tensor) or len(samples) == 0 or samples[0].shape != latent[0].shape:
            return self
        found = batch.places(known, fingerprint_of(samples), SAME_SAMPLES)
        if found is None or found == list(range(len(known))):
            return self
        inversion, prompt = self.inversion.pick(found), self.prompt
        if prompt is not None:
            prompt = conditioning.picked(prompt, found, len(known))
        return dataclasses.replace(self, inversion=inversion, fingerprint=known[found], prompt=prompt)

    def on(self, latent: dict, samples: Tensor, compact: bool = False) -> tuple[dict, str]:
        """(the LATENT with these samples, which are the inverted ones, and this record; a sentence on its prompt).

        Arguments:
            compact: see `Inversion.to_dict`.
        """
        beside = {"model": self.model, "cfg": self.cfg, "fingerprint": fingerprint_of(samples)}
        prompt, sentence = ({}, "") if self.prompt is None else conditioning.packed(self.prompt)
        return {**latent, "samples": samples, KEY: beside | prompt | self.inversion.to_dict(compact)}, sentence


def escaped(text: str) -> str:
    """A text from a file on one line, so that Markdown shows it as it is, but for backslashes; twice is once."""
    return MARKDOWN.sub(r"\\\g<0>", " ".join(text.replace("\\", "").split()))


def fingerprint_of(samples: Tensor) -> Tensor:
    """What a LATENT's samples are known by where there is no model: (B, ...) -> (B, 64), float64.

    Sums of the samples with signs that look random. So the difference of two fingerprints is as large as that of the
    samples, wherever these differ.
    """
    flat = samples.detach().cpu().double().flatten(1)
    mixed = torch.arange(flat.shape[1]) * 0x9E3779B1 & 0xFFFFFFFF  # no generator: the same in every version
    mixed = (mixed ^ mixed >> 15) * 0x85EBCA77 & 0xFFFFFFFF
    signed = flat * ((mixed >> 16 & 1) * 2 - 1)
    padded = torch.nn.functional.pad(signed, (0, -flat.shape[1] % NUMBERS))
    return padded.reshape(len(flat), -1, NUMBERS).sum(1)


def check_memory(x: Tensor, grid: Grid) -> None:
    """Say what the record of an inversion of `x` will take, where it is much.

    Raises:
        InversionError: that much memory is not free.
    """
    size = record_bytes(x, grid.steps, grid.ancestral)
    free = int(comfy.model_management.get_free_memory(torch.device("cpu")))
    if size > free:
        raise InversionError(no_room(size, x, grid.steps, free))
    if size > WORTH_SAYING:
        logging.info(
            "The record of this inversion will take %s of memory; %s are free.", in_words(size), in_words(free)
        )


def signature(model: Any) -> dict[str, Any]:
    """What must agree for a record's states to mean the same thing to `model`."""
    sampling = model.get_model_object("model_sampling")
    rules = [c.__name__ for c in type(sampling).__mro__ if c.__module__ == "comfy.model_sampling"]
    return {
        "state space": model_kind(model),
        "latent format": type(model.get_model_object("latent_format")).__name__,
        "model class": type(model.model).__name__,
        "sampling rule": " + ".join(rules) or type(sampling).__name__,
        "sampling numbers": [number for sigma in PROBED for number in _probed(sampling, sigma)],
    }


def _probed(sampling: Any, sigma: float) -> list[float]:
    """What a sampling rule tells the network at a level, and what it makes of an answer: what it is, whatever its name.

    Not which levels there are (the shift of flow models): a record has its own.
    """
    level, one = torch.tensor([sigma]), torch.ones(1, 1, 1, 1)
    values = [
        sampling.timestep(level),
        sampling.calculate_input(level, one),
        sampling.calculate_denoised(level, 0 * one, one),
        sampling.calculate_denoised(level, one, 0 * one),
    ]
    return [float(value) for value in values]


def _checked_signature(made: Any, kind: str) -> dict[str, Any]:
    """What `signature` made; older records have no sampling rule. InversionError where it is damaged."""
    made = checked.mapping("the model", made)
    names = ["latent format", "model class", *(["sampling rule"] if "sampling rule" in made else [])]
    signature: dict[str, Any] = {name: checked.title(f"the {name}", made.get(name)) for name in names}
    if made.get("state space") != kind:
        raise checked.damaged("the state space", made.get("state space"), f"{kind!r} like the levels")
    if "sampling rule" in made:
        count = 4 * len(PROBED)
        numbers = checked.items("the sampling numbers", made.get("sampling numbers"), count, count)
        signature["sampling numbers"] = [checked.number("a sampling number", n, -1e9, 1e9) for n in numbers]
    return {"state space": kind, **signature}


def require(latent: dict, otherwise: str) -> Record:
    """The record that a LATENT carries, as far as it can be judged without the model.

    Raises:
        InversionError: there is none, or the samples are others by now (the message ends with `otherwise`), or it is
            damaged.
    """
    record = Record.parse(latent)
    if record is None:
        raise InversionError(f"This LATENT carries no inversion record. {otherwise}")
    record = record.following(latent.get("samples"))
    samples, expected = latent.get("samples"), record.inversion.latent
    if not isinstance(samples, Tensor) or samples.shape != expected.shape:
        came = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        why = f"{came}, not {tuple(expected.shape)}"
    elif record.fingerprint is not None and _differ(record.fingerprint, fingerprint_of(samples)):
        why = "its values were changed"
    else:
        return record
    unfit = f"The LATENT is no longer what was inverted ({why}), so its record does not fit."
    raise InversionError(f"{unfit} {otherwise}".rstrip())


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether an item of `b` is not that of `a` by more than rounding; NaN differs."""
    return not float(relative_difference(a, b).max()) <= SAME_SAMPLES


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
        return None, ["The LATENT carries no inversion record. So this is plain sampling from it."]
    record = record.following(latent["samples"])
    unfit, remarks = _judged(record, model, samples)
    return (None, [unfit]) if unfit else (record, remarks)


def _judged(record: Record, model: Any, samples: Tensor) -> tuple[str, list[str]]:
    """(why the record does not fit the samples, "" where it does; remarks on the model)."""
    made, here = record.model, signature(model)
    if any(made[key] != here[key] for key in ("state space", "latent format")):
        came, fits = (
            ", ".join(str(side[key]) for key in ("state space", "latent format", "model class"))
            for side in (made, here)
        )
        raise InversionError(
            f"The LATENT was inverted with another kind of model ({came}) than this one ({fits}). Edit with the model "
            "of the inversion, or with one of its family. Or invert again with this one."
        )
    remarks = []
    if made["model class"] != here["model class"]:
        remarks.append(
            f"Inverted with {made['model class']}, edited with {here['model class']}. So the source is not exact."
        )
    numbers = zip(made.get("sampling numbers", here["sampling numbers"]), here["sampling numbers"], strict=True)
    if not all(math.isclose(a, b, rel_tol=SAME_RULE, abs_tol=SAME_RULE) for a, b in numbers):
        remarks.append(
            f"Inverted under another sampling rule ({made['sampling rule']}) than this model has "
            f"({here['sampling rule']}). So the source is not exact. If both are the same checkpoint, connect the same "
            "ModelSampling node on both sides, or on none."
        )
    expected = record.inversion.latent
    if samples.shape != expected.shape:
        why = f"{tuple(samples.shape)}, not {tuple(expected.shape)}"
    elif _differ(expected, to_state(model, samples)):
        why = "its values were changed"
    else:
        return "", remarks
    return f"The LATENT is no longer what was inverted ({why}), so its record does not fit and was not used.", remarks
