"""Load Demo Model and Demo Picture. They reach further into the host than the others do: see `nodes.demo_nodes`."""

import difflib

import torch
from comfy_api.latest import io

from ...demo import scenes
from ...inversion import InversionError
from ..schema import CATEGORY, schema, within_bounds
from .model import VERSIONS, load

NO_HAT, FIRST_LOOK = "none", 24
OLD_VERSIONS = {"eps": "v-prediction"}
"""Values that workflows of earlier versions of the pack have -> what they are called now."""


class DemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_DemoModel",
            display_name="Load Demo Model",
            category=f"{CATEGORY}/demo",
            description="A small text-to-image model that comes with the pack, to try inversion and editing without a "
            "download. It draws an object before a coloured wall. Prompts look like 'a fox with a crown, blue wall'.",
            inputs=[
                io.Combo.Input(
                    "version",
                    options=list(VERSIONS),
                    default="flow",
                    tooltip="flow: like SD3, Flux, Qwen-Image. v-prediction: sampled like SD 1.5 and SDXL. turbo-flow "
                    "and turbo-ve: 1 to 4 steps at cfg 1, like Flux schnell and SDXL Turbo.",
                )
            ],
            outputs=[
                io.Model.Output(
                    "model", display_name="model", tooltip="The denoiser, for KSampler and the Invert nodes."
                ),
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its autoencoder, for VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, version: str) -> bool | str:
        """In place of the host's own check, which would refuse what old workflows say."""
        known = OLD_VERSIONS.get(version, version) in VERSIONS
        return known or f"There is no version {version!r} of the demo model. Choose one of {', '.join(VERSIONS)}."

    @classmethod
    def execute(cls, version: str) -> io.NodeOutput:
        return io.NodeOutput(*load(OLD_VERSIONS.get(version, version)))


class DemoPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_DemoPicture",
            display_name="Demo Picture",
            category=f"{CATEGORY}/demo",
            description="A 128 x 128 scene for the demo model, and its caption. The model's training never showed it.",
            inputs=[
                io.Combo.Input(
                    "emoji",
                    display_name="object",
                    options=scenes.things(),
                    default="koala",
                    tooltip="What stands before the wall.",
                ),
                io.Combo.Input(
                    "background",
                    display_name="wall",
                    options=list(scenes.WALLS),
                    default="yellow",
                    tooltip="The wall's colour.",
                ),
                io.Combo.Input(
                    "hat",
                    options=[NO_HAT, *scenes.named("hat")],
                    default=NO_HAT,
                    optional=True,
                    tooltip="The hat of the thing. Only animal faces, people and faces can wear one.",
                ),
                io.Int.Input(
                    "look",
                    default=FIRST_LOOK,
                    min=0,
                    max=0x7FFFFFFF,
                    optional=True,
                    tooltip="Another number is another place, size, light and floor, which no caption speaks of.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The picture, for VAE Encode."),
                io.String.Output("caption", display_name="caption", tooltip="The prompt that describes the picture."),
            ],
        )

    @classmethod
    def validate_inputs(cls, emoji: str, background: str = "yellow", hat: str = NO_HAT) -> bool | str:
        """In place of the host's own check: says which object comes nearest to one that old workflows have."""
        return _refusal(emoji, background, hat) or True

    @classmethod
    @within_bounds
    def execute(cls, emoji: str, background: str, hat: str = NO_HAT, look: int = FIRST_LOOK) -> io.NodeOutput:
        if refused := _refusal(emoji, background, hat):
            raise InversionError(refused)
        scene = scenes.unseen_scene(look, emoji, background, "" if hat == NO_HAT else hat)
        return io.NodeOutput(torch.from_numpy(scenes.picture(scene)).unsqueeze(0), scenes.caption(scene))


def _refusal(thing: str, wall: str, hat: str) -> str:
    """Why there is no such scene, and what to choose; nothing if there is one."""
    for what, value, known in (
        ("object", thing, scenes.things()),
        ("wall", wall, list(scenes.WALLS)),
        ("hat", hat, [NO_HAT, *scenes.named("hat")]),
    ):
        if value not in known:
            near = difflib.get_close_matches(str(value), known, 3, 0.4) or known[:3]
            return f"The demo model knows no {what} {value!r}. Choose another from the list, such as {', '.join(near)}."
    if hat != NO_HAT and thing not in scenes.wearers():
        return f"{thing!r} wears no hat. Choose hat {NO_HAT!r}, or a person or a face, such as fox."
    return ""
