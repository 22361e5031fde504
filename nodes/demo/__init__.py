"""Load Demo Model and Demo Picture. They reach further into the host than the others do: see `nodes.demo_nodes`."""

import torch
from comfy_api.latest import io

from ...demo import pictures
from ..schema import CATEGORY, schema
from .model import VERSIONS, load


class DemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_DemoModel",
            display_name="Load Demo Model",
            category=f"{CATEGORY}/demo",
            description="A small text-to-image model that comes with the pack (emoji on eight background colours), to "
            "try inversion and editing without a download. Prompts look like 'red heart on blue background'.",
            inputs=[
                io.Combo.Input(
                    "version",
                    options=list(VERSIONS),
                    default="flow",
                    tooltip="flow: like SD3, Flux, Qwen-Image. eps: like SD 1.5 and SDXL (trained as v-prediction).",
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
    def execute(cls, version: str) -> io.NodeOutput:
        return io.NodeOutput(*load(version))


class DemoPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_DemoPicture",
            display_name="Demo Picture",
            category=f"{CATEGORY}/demo",
            description="A 64 x 64 picture that the demo model knows, and its caption: Noto Emoji, plain background.",
            inputs=[
                io.Combo.Input(
                    "emoji", options=pictures.index()["names"], default="red heart", tooltip="What the picture shows."
                ),
                io.Combo.Input(
                    "background", options=list(pictures.COLOURS), default="blue", tooltip="The colour behind it."
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The picture, for VAE Encode."),
                io.String.Output("caption", display_name="caption", tooltip="The prompt that describes the picture."),
            ],
        )

    @classmethod
    def execute(cls, emoji: str, background: str) -> io.NodeOutput:
        picture = torch.from_numpy(pictures.picture(emoji, background)).unsqueeze(0)
        return io.NodeOutput(picture, pictures.caption(emoji, background))
