"""Node schemas that load on older hosts too: what a host does not know is left out."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..inversion import InversionError

CATEGORY = "inversion"
SAMPLING = f"{CATEGORY}/sampling"


def schema(**fields: Any) -> io.Schema:
    """`io.Schema`, without the fields this host does not have (search aliases and essentials came after 0.3.75)."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def advanced(widget: io.Input) -> io.Input:
    """Mark an input as advanced: newer frontends fold it away, older ones ignore the mark."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def within_bounds(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's `execute` that refuses numbers outside its widgets' bounds.

    The host's own check lets NaN through, and looks at nothing that comes by wire.

    Raises:
        InversionError: names the widget.
    """

    @functools.wraps(execute)
    def checked(cls: Any, *args: Any, **inputs: Any) -> io.NodeOutput:
        for widget in cls.define_schema().inputs:
            value = inputs.get(widget.id)
            if isinstance(widget, io.Int.Input | io.Float.Input) and value is not None:
                whole = isinstance(widget, io.Float.Input) or (math.isfinite(value) and int(value) == value)
                least = -math.inf if widget.min is None else widget.min
                most = math.inf if widget.max is None else widget.max
                if not (whole and least <= value <= most):
                    kind = "numbers" if isinstance(widget, io.Float.Input) else "whole numbers"
                    raise InversionError(f"{widget.id} takes {kind} from {least:g} to {most:g}, got {value}.")
        return execute(cls, *args, **inputs)

    return checked


def seed_input(tooltip: str) -> io.Input:
    """A seed that stays as it is set: one that changed after each run would edit another picture every time."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False, tooltip=tooltip)


def report_text(paragraphs: list[str]) -> str:
    """Lines that stay lines where the text is shown as Markdown, too: two spaces at the end of each."""
    return "  \n".join(line for paragraph in paragraphs for line in paragraph.splitlines())


def cfg_input(default: float, tooltip: str, name: str = "cfg") -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, tooltip=tooltip)


def schedule_inputs(steps: int, of_steps: str, of_denoise: str, denoise: float = 1.0) -> tuple[io.Input, ...]:
    """steps, scheduler and denoise, as the host's samplers have them."""
    return (
        io.Int.Input("steps", default=steps, min=1, max=10000, tooltip=of_steps),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.SCHEDULER_NAMES),
            default="normal",
            tooltip="How the noise levels are spaced, as in KSampler.",
        ),
        io.Float.Input("denoise", default=denoise, min=0.01, max=1.0, step=0.01, tooltip=of_denoise),
    )


def missing(node_id: str, name: str, category: str, reason: str) -> type[io.ComfyNode]:
    """A node in the place of one that this host cannot run, which says why."""

    class Missing(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            fields = {"node_id": node_id, "display_name": name, "category": category, "description": reason}
            return schema(**fields, is_output_node=True, inputs=[])

        @classmethod
        def execute(cls) -> io.NodeOutput:
            raise InversionError(f"{reason} Update the pack, or use a model of your own.")

    return Missing
