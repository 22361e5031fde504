"""The ComfyUI side: the only room that knows the host. A node is a schema and one call."""

from comfy_api.latest import ComfyExtension, io

from .demo import DemoModel, DemoPicture
from .easyinv import EasyInvSampler, InvertEasyInv
from .edit import EditFromLatent
from .files import LoadInversion, SaveInversion
from .fixed_point import FixedPointSampler, InvertFixedPoint
from .flow_edit import FlowEdit
from .guided_nr import GuidedNRSampler, InvertGuidedNR
from .interpolate import Interpolate
from .noise import NoiseFromLatent
from .report import InversionReport
from .seeds import Seeds


class InversionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        invert = [InvertEasyInv, InvertGuidedNR, InvertFixedPoint]
        samplers = [EasyInvSampler, GuidedNRSampler, FixedPointSampler, NoiseFromLatent]
        files = [SaveInversion, LoadInversion]
        several = [Interpolate, Seeds]
        return [*invert, EditFromLatent, InversionReport, *several, FlowEdit, *files, *samplers, DemoModel, DemoPicture]
