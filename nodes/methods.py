"""The inversion methods in the graph: one row each, from which its Invert node and its inverting SAMPLER are built."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..inversion import Denoiser, EasyInv, FixedPoint, GuidedNewton, Method
from .host import gradient, model_kind
from .schema import advanced

Ready = AbstractContextManager[tuple[Method, Denoiser, Tensor, str]]
ALIASES = (
    "invert image",
    "image inversion",
    "noise inversion",
    "real image editing",
    "unsample",
    "unsampler",
    "reconstruct",
    "RF inversion",
    "null-text inversion",
)


@dataclass(frozen=True)
class Row:
    """One method.

    Arguments:
        id: the nodes are INV_<id> and INV_<id>Sampler.
        name: in the nodes' titles, in brackets.
        description: of the Invert node, after "Finds the noise from which the model draws your picture".
        aliases: what else people may search for.
        inputs: its settings, for the Invert node (True) or the SAMPLER (False).
        method: the method and remarks for the report, from the model (None in the SAMPLER) and the settings by name.
        prepare: what the method needs of the host, where that is more than a denoiser: from the method, the settings,
            the denoiser, the clean latent and the grid to what takes their place, and a remark.
        steps: the default number of steps.
        ancestral: whether it can invert euler_ancestral too.
        essential: whether newer frontends list it among the essentials.
    """

    id: str
    name: str
    description: str
    aliases: tuple[str, ...]
    inputs: Callable[[bool], list[io.Input]]
    method: Callable[[Any, dict[str, Any]], tuple[Method, list[str]]]
    prepare: Callable[..., Ready] | None = None
    steps: int = 20
    ancestral: bool = True
    essential: bool = False


# --- EasyInv, arXiv 2408.05159 ----------------------------------------------------------------------------------------

# The paper's settings (section 4.1 and the authors' example): eta, start, length.
PRESETS = {"SD1.x": (0.5, 0.05, 0.2), "SDXL": (0.8, 0.85, 0.1)}


def _easyinv_inputs(in_node: bool) -> list[io.Input]:
    custom = "Used only if preset is custom."
    presets, default = (["auto", *PRESETS], "auto") if in_node else ([*PRESETS], "SD1.x")
    auto = " auto: those of SDXL for SDXL models, those of SD1.x for all others." if in_node else ""
    return [
        io.Combo.Input(
            "preset",
            options=[*presets, "custom"],
            default=default,
            tooltip=f"The settings of EasyInv, from its paper.{auto}",
        ),
        io.Float.Input(
            "eta",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"How much of each new step is kept. Less leaves more of the picture in the noise. 1 is plain "
            f"DDIM inversion. {custom}",
        ),
        io.Float.Input(
            "start",
            default=0.05,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"When EasyInv starts to mix the old latent into the new one, as a share of the steps. {custom}",
        ),
        io.Float.Input(
            "length",
            default=0.2,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=f"How long the mixing lasts, as a share of the steps. {custom}",
        ),
        advanced(
            io.Combo.Input(
                "placement",
                options=["after", "before"],
                default="after",
                tooltip="after: mix after each step, as in the paper. before: mix before each step, as in the "
                "authors' scripts.",
            )
        ),
    ]


def _easyinv(model: Any, given: dict[str, Any]) -> tuple[Method, list[str]]:
    preset, remarks = given["preset"], []
    if preset == "auto":
        preset = "SDXL" if type(model.get_model_object("latent_format")).__name__.startswith("SDXL") else "SD1.x"
        remarks.append(f"Preset auto chose {preset}'s settings.")
        if model_kind(model) == "flow":
            remarks.append("The EasyInv paper has no flow models. Compare with eta 1, which is plain DDIM inversion.")
    eta, start, length = PRESETS.get(preset, (given["eta"], given["start"], given["length"]))
    return EasyInv(eta, start, length, given["placement"]), remarks


# --- guided Newton-Raphson, arXiv 2312.12540 --------------------------------------------------------------------------


def _tolerance(default: float) -> io.Input:
    return io.Float.Input(
        "tolerance",
        default=default,
        min=0.0,
        max=1.0,
        step=0.000001,  # the page rounds what is typed to the step
        tooltip="A step ends early when its relative error is below this. Smaller is more accurate and takes more "
        "model calls. 0 always takes all iterations.",
    )


def _guided_nr_inputs(in_node: bool) -> list[io.Input]:
    del in_node
    return [
        io.Int.Input(
            "iterations",
            default=2,
            min=1,
            max=100,
            tooltip="Model calls per step. The paper takes 1 or 2.",
        ),
        io.Float.Input(
            "guidance",
            default=0.1,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="Leave it at the default. How strongly the result is pulled toward likely noise (lambda in the "
            "paper). 0 is plain Newton-Raphson.",
        ),
        _tolerance(0.0),
        io.Combo.Input(
            "gradient",
            options=["auto", "sign", "autograd", "min-norm"],
            default="auto",
            tooltip="Leave it at auto. sign: the step of the authors' code, which needs no gradient of the model. "
            "autograd: the step of the paper. min-norm: the shortest such step. Both run the model backward, which "
            "takes time and much memory. auto: sign at cfg 1; otherwise min-norm, if the model allows it.",
        ),
        advanced(
            io.Combo.Input(
                "start",
                options=["extrapolated", "native", "state"],
                default="extrapolated",
                tooltip="Leave it at extrapolated; for edits with schnell set native. The first guess of each step. "
                "extrapolated: from the steps before; the most accurate. native: the known latent in the model's own "
                "scale, as in the paper. state: the known latent as it is, as in the authors' code.",
            )
        ),
    ]


def _guided_nr(model: Any, given: dict[str, Any]) -> tuple[Method, list[str]]:
    del model
    fixed: Any = (
        "sign" if given["gradient"] == "auto" else given["gradient"]
    )  # auto is decided when the model is loaded
    named = {name: given[name] for name in ("iterations", "guidance", "start", "tolerance")}
    return GuidedNewton(gradient=fixed, **named), []


def _with_gradient(method: Any, given: dict[str, Any], *run: Any) -> Ready:
    return gradient.prepared(method, given["gradient"] == "auto", *run)


# --- fixed-point iteration; plain DDIM is a setting of it -------------------------------------------------------------

WARM_START: dict[str, Any] = {"extrapolated": True, "last slope": "last", "native": False}


def _fixed_point_inputs(in_node: bool) -> list[io.Input]:
    del in_node
    return [
        io.Int.Input(
            "iterations",
            default=8,
            min=1,
            max=1000,
            tooltip="The most model calls per step. A step ends earlier when it reaches tolerance. 1 with start "
            "native is plain DDIM inversion.",
        ),
        _tolerance(0.01),
        advanced(
            io.Combo.Input(
                "start",
                options=list(WARM_START),
                default="extrapolated",
                tooltip="Leave it at extrapolated. The first guess of each step. extrapolated: from the last two "
                "steps; the most accurate. last slope: from the last step, as in Uni-Inv. native: the known latent in "
                "the model's own scale, as in DDIM inversion.",
            )
        ),
        advanced(
            io.Int.Input(
                "anderson",
                default=3,
                min=0,
                max=10,
                tooltip="Leave it at the default. How many earlier tries of a step help the next try (Anderson "
                "acceleration). 0 turns this off.",
            )
        ),
    ]


def _fixed_point(model: Any, given: dict[str, Any]) -> tuple[Method, list[str]]:
    del model
    return FixedPoint(given["iterations"], given["tolerance"], WARM_START[given["start"]], given["anderson"]), []


METHODS = (
    Row(
        id="EasyInv",
        name="EasyInv",
        description="Takes one model call per step. Connect its latent to Edit From Latent, with a new prompt.",
        aliases=("DDIM inversion", "flip sigmas"),
        inputs=_easyinv_inputs,
        method=_easyinv,
        ancestral=False,
        essential=True,
    ),
    Row(
        id="GuidedNR",
        name="Guided NR",
        description="Uses guided Newton-Raphson. Made for edits with SDXL Turbo.",
        aliases=("GNRI", "guided Newton-Raphson", "Turbo inversion", "ReNoise"),
        inputs=_guided_nr_inputs,
        method=_guided_nr,
        prepare=_with_gradient,
        steps=4,
    ),
    Row(
        id="FixedPoint",
        name="Fixed Point",
        description="Repeats each step until it is accurate. The most accurate Invert node at cfg 1. It can do plain "
        "DDIM inversion, too.",
        aliases=("DDIM inversion", "ReNoise", "AIDI", "FPI", "Uni-Inv", "Anderson acceleration"),
        inputs=_fixed_point_inputs,
        method=_fixed_point,
    ),
)
