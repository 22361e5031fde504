"""The ComfyUI side: the only room that knows the host. A node is a schema and one call."""

import logging

from comfy_api.latest import ComfyExtension, io

from .background import RestoreBackground
from .edit import EditFromLatent
from .edit_settings import EditSettingsNode
from .files import LoadInversion, SaveInversion
from .flow_edit import FlowEdit
from .guider import EditGuiderNode
from .interpolate import Interpolate
from .invert import INVERT_NODES, INVERTING_SAMPLERS
from .noise import NoiseFromLatent
from .old import OldEditFromLatent
from .older import NODES as OLDER_HOSTS_LACK
from .report import InversionReport
from .schema import CATEGORY, missing
from .seeds import Seeds


class InversionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        samplers = [*INVERTING_SAMPLERS, NoiseFromLatent, EditGuiderNode]
        edits = [EditFromLatent, EditSettingsNode, OldEditFromLatent, RestoreBackground]
        edits += [InversionReport, Interpolate, Seeds, FlowEdit]
        return [*INVERT_NODES, *edits, SaveInversion, LoadInversion, *samplers, *OLDER_HOSTS_LACK, *demo_nodes()]


def demo_nodes() -> list[type[io.ComfyNode]]:
    """The demo nodes, which build a model from parts of the host; where a host has changed these, nodes that say so."""
    try:
        from .demo import DemoModel, DemoPicture
    except Exception as reason:  # whatever the host has renamed
        logging.warning("Image inversion: the demo nodes do not work on this ComfyUI (%s). All others do.", reason)
        return [
            missing(node_id, name, f"{CATEGORY}/demo", f"{name} does not work on this ComfyUI: {reason}.")
            for node_id, name in (("INV_DemoModel", "Load Demo Model"), ("INV_DemoPicture", "Demo Picture"))
        ]
    return [DemoModel, DemoPicture]
