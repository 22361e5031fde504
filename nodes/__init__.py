"""The ComfyUI side: the only room that knows the host. A node is a schema and one call."""

from comfy_api.latest import ComfyExtension, io

from .demo import DemoModel, DemoPicture
from .edit import EditFromLatent
from .files import LoadInversion, SaveInversion
from .flow_edit import FlowEdit
from .guider import EditGuiderNode
from .interpolate import Interpolate
from .invert import INVERT_NODES, INVERTING_SAMPLERS
from .noise import NoiseFromLatent
from .report import InversionReport
from .seeds import Seeds


class InversionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        samplers = [*INVERTING_SAMPLERS, NoiseFromLatent, EditGuiderNode]
        edits = [EditFromLatent, InversionReport, Interpolate, Seeds, FlowEdit]
        return [*INVERT_NODES, *edits, SaveInversion, LoadInversion, *samplers, DemoModel, DemoPicture]
