"""Image inversion and editing for ComfyUI. The nodes are in `nodes/`, the mathematics in `inversion/`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import InversionExtension

WEB_DIRECTORY = "./web"  # the nodes' help pages; no JavaScript


async def comfy_entrypoint() -> "InversionExtension":
    """What ComfyUI calls after importing the folder; lazy, so that importing the folder costs nothing."""
    from .nodes import InversionExtension

    return InversionExtension()
