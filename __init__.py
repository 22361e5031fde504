"""Image inversion and editing for ComfyUI. The nodes are in `nodes/`, the mathematics in `inversion/`."""


async def comfy_entrypoint():
    """What ComfyUI calls after importing the folder; lazy, so that importing the folder costs nothing."""
    from .nodes import InversionExtension

    return InversionExtension()
