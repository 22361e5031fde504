"""Nodes of earlier versions, for the workflows that have them: they are not in the menus, and run as they did."""

from typing import Any, Literal

from comfy_api.latest import io
from torch import Tensor

from .edit import OUTPUTS, edited
from .edit_settings import Settings
from .host.sampler import AS_INVERTED, sampler_names
from .schema import CATEGORY, advanced, cfg_input, schema, within_bounds

NOW = "Does what this setting of Edit Settings does."


class OldEditFromLatent(io.ComfyNode):
    """Edit From Latent with cfg in place of strength, and its settings on the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_EditFromLatent",
            display_name="Edit From Latent (1.0)",
            category=CATEGORY,
            description="The first version of Edit From Latent, for workflows that have it. Use Edit From Latent.",
            is_deprecated=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that inverted."),
                io.Conditioning.Input("positive", tooltip="What the picture should show now."),
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                cfg_input(1.0, NOW),
                _share(
                    "preserve", 0.8, tooltip="How much is kept: sets background, and anchor to twice that, up to 1."
                ),
                advanced(
                    io.Combo.Input(
                        "control",
                        options=["preserve", "advanced"],
                        default="preserve",
                        tooltip="preserve: reads the dial above. advanced: reads the settings below.",
                    )
                ),
                _share("anchor", 1.0),
                _share("anchor_end", 1.0),
                _share("background", 0.8),
                _share("threshold", 0.35, 0.01),
                _pixels("dilation"),
                _share("structure", 0.0),
                _share("structure_layers", 1.0),
                _pixels("feather"),
                io.Combo.Input(
                    "sampler",
                    options=[AS_INVERTED, *sampler_names()],
                    default=AS_INVERTED,
                    optional=True,
                    tooltip=NOW,
                ),
                io.Conditioning.Input("negative", optional=True, tooltip=NOW),
                io.Sigmas.Input("sigmas", optional=True, tooltip=NOW),
                io.Mask.Input("mask", optional=True, tooltip="White where the picture may change."),
                io.Conditioning.Input("source", optional=True, tooltip=NOW),
            ],
            outputs=OUTPUTS,
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        preserve: float,
        control: Literal["preserve", "advanced"],
        mask: Tensor | None = None,
        **given: Any,
    ) -> io.NodeOutput:
        if control == "preserve":
            of_dial = {"anchor": min(1.0, 2 * preserve), "background": preserve, "threshold": 0.3}
            given = {name: value for name, value in given.items() if name not in NOT_READ} | of_dial
        return edited(model, positive, latent, 1.0, mask, Settings(**given, head_start=0.0))


NOT_READ = ("anchor_end", "threshold", "dilation", "structure", "structure_layers")  # unless control is advanced


def _share(name: str, default: float, lowest: float = 0.0, tooltip: str = NOW) -> io.Input:
    widget = io.Float.Input(name, default=default, min=lowest, max=1.0, step=0.01, tooltip=tooltip)
    return widget if name == "preserve" else advanced(widget)


def _pixels(name: str) -> io.Input:
    return advanced(io.Int.Input(name, default=0, min=0, max=64, tooltip=NOW))
