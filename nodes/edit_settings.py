"""Edit Settings: what Edit From Latent and Edit Guider need seldom, as one wire."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..inversion import InversionError, Keep
from .host.attention import Structure
from .host.sampler import AS_INVERTED, sampler_names
from .schema import CATEGORY, cfg_input, schema, within_bounds

EditSettings = io.Custom("INV_EDIT_SETTINGS")


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of an edit beside its prompt, strength and mask.

    Arguments:
        anchor, anchor_end, background, threshold, dilation, limit, head_start: as in `Keep`.
        feather: how softly the caller's mask ends, in latent pixels.
        structure, structure_layers: as in `Structure`.
        sampler: the sampler's name, or AS_INVERTED.
        cfg: guidance of the new prompt from `negative`; 1 for none.
        negative: a CONDITIONING to guide away from.
        source: the CONDITIONING that the picture was inverted with, in place of the record's.
        sigmas: the levels to sample on, in place of the record's.
    """

    anchor: float = 1.0
    anchor_end: float = 1.0
    background: float = 1.0
    threshold: float = Keep.threshold
    dilation: int = 0
    feather: int = 0
    structure: float = 0.0
    structure_layers: float = 1.0
    sampler: str = AS_INVERTED
    cfg: float = 1.0
    negative: Any = None
    source: Any = None
    sigmas: Tensor | None = None
    limit: float = 1.0
    head_start: float = 0.1

    def keep(self, mask: Tensor | None) -> Keep:
        return Keep(
            anchor=self.anchor,
            anchor_end=self.anchor_end,
            background=self.background,
            threshold=self.threshold,
            dilation=self.dilation,
            mask=mask,
            limit=self.limit,
            head_start=self.head_start,
        )

    def shared_attention(self) -> Structure:
        return Structure(self.structure, self.structure_layers)

    def __str__(self) -> str:
        return (
            f"Anchor {self.anchor:g} to {self.anchor_end:.0%} of the steps, background {self.background:g}, structure "
            f"{self.structure:g}."
        )


def settings_of(value: Any) -> Settings:
    """What came by the wire `settings`; the defaults where nothing did.

    Raises:
        InversionError: it is something else.
    """
    if value is None:
        return Settings()
    if not isinstance(value, Settings):
        raise InversionError(f"`settings` takes the output of Edit Settings, got {type(value).__name__}.")
    return value


class EditSettingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_EditSettings",
            display_name="Edit Settings",
            category=CATEGORY,
            description="Settings that you seldom need: another sampler, a negative prompt, how much is kept. "
            "Connect it to Edit From Latent or Edit Guider.",
            search_aliases=["edit options", "advanced edit", "preserve background", "structure", "edit sampler"],
            inputs=[
                io.Combo.Input(
                    "sampler",
                    options=[AS_INVERTED, *sampler_names()],
                    default=AS_INVERTED,
                    tooltip="The sampler of the edit. as inverted: Euler, or the sampler that the Invert node names. "
                    "Nearly every other sampler gives the picture back exactly, too, if the prompt stays the same.",
                ),
                _share("background", "How strongly the original is put back outside the automatic mask. 1: nothing "
                       "changes there. 0: the automatic mask is off."),
                _share("threshold", "Higher makes the automatic mask smaller. The mask is white where the two "
                       "prompts' predictions differ much. The node finds the limit for each picture, and this number "
                       "moves it.", 0.01),
                _pixels("dilation", "Grows the automatic mask, in latent pixels."),
                _pixels("feather", "Softens the edge of a connected mask, in latent pixels inward. The outside stays "
                        "exact."),
                _share("anchor", "Ties each step to the same step of the inversion. 1: the same prompt gives the "
                       "picture back exactly. 0: the steps are not tied."),
                _share("anchor_end", "Share of the steps that are tied, from the noisy end."),
                _share("structure", "Share of the steps that use the original's self-attention, to keep shapes. "
                       "At strength 1, and with models like Flux and SD3, it costs one more model call a step."),
                _share("structure_layers", "Share of the model's layers that use structure, counted from the last "
                       "layer."),
                cfg_input(1.0, "Guidance of the new prompt away from `negative`, as in KSampler. 1: none. Use strength "
                          "first: more edits succeed with it."),
                io.Float.Input("limit", default=Settings.limit, min=0.0, max=10.0, step=0.05,
                               tooltip="A high strength can make colours too strong. This is how strong a place of the "
                               "picture may become, compared with the picture's own strongest places. Lower it for "
                               "softer colours. 0: no limit."),
                _share("head_start", "How far the starting noise is moved toward the new prompt. Higher edits more and "
                       "keeps less. 0: not at all."),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed when cfg is not 1."),
                io.Conditioning.Input(
                    "source",
                    optional=True,
                    tooltip="The prompt that the picture was inverted with. Needed only if the latent does not carry "
                    "it: the Invert node's report says so. It can also improve edits with dpm_2, at more model calls.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels to sample on, in place of the inversion's own. A lower start changes less. A "
                    "latent without an inversion record needs them: connect the Invert node's sigmas.",
                ),
            ],
            outputs=[EditSettings.Output("settings", display_name="settings", tooltip="For the input `settings`.")],
        )  # fmt: skip

    @classmethod
    @within_bounds
    def execute(cls, **given: Any) -> io.NodeOutput:
        settings = Settings(**given)
        settings.keep(None)  # refuses what does not go together
        return io.NodeOutput(settings)


def _share(name: str, tooltip: str, lowest: float = 0.0) -> io.Input:
    return io.Float.Input(name, default=getattr(Settings, name), min=lowest, max=1.0, step=0.01, tooltip=tooltip)


def _pixels(name: str, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=0, min=0, max=64, tooltip=tooltip)
