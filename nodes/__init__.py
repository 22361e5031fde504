"""The ComfyUI side: the only room that knows the host. A node is a schema and one call."""

from comfy_api.latest import ComfyExtension, io

from .demo import DemoModel, DemoPicture
from .edit import EditFromLatent
from .invert import InvertEasyInv


class InversionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [InvertEasyInv, EditFromLatent, DemoModel, DemoPicture]
