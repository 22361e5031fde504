"""A node of the host that older hosts lack, so that the pack's templates open and run there."""

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from .schema import schema


class CompareImages(io.ComfyNode):
    """Compare Images shows both pictures; on newer hosts it is a slider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ImageCompare",
            display_name="Compare Images",
            category="image",
            description="Shows two pictures. Newer versions of ComfyUI have a slider here.",
            is_output_node=True,
            inputs=[io.Image.Input("image_a", optional=True), io.Image.Input("image_b", optional=True)],
            outputs=[],
        )

    @classmethod
    def execute(cls, image_a: Tensor | None = None, image_b: Tensor | None = None) -> io.NodeOutput:
        shown: list[Any] = []
        for image in (image_a, image_b):
            if image is not None:
                shown += ui.PreviewImage(image, cls=cls).as_dict()["images"]
        return io.NodeOutput(ui={"images": shown})


NODES = [] if hasattr(io, "ImageCompare") else [CompareImages]
