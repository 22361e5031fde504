"""A workflow file in the making: nodes in columns, with the widgets and defaults that the server says they have."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from client import MUTED, UNSAVED
from host import PACK

TOP, GAP = 20, 70  # the gap has room for the title, which is above a node's position
HEIGHTS = {
    "CLIPTextEncode": 100,
    "LoadImage": 320,
    "PreviewImage": 220,
    "SaveImage": 280,
    "PreviewAny": 300,
    "INV_Report": 420,
    "ImageCompare": 420,
}
# Below a node that samples: it grows where ComfyUI was started to show previews of the steps.
PREVIEW = 240
SAMPLES = ("INV_EasyInv", "INV_GuidedNR", "INV_FixedPoint", "INV_Edit", "SamplerCustomAdvanced")
WINDOW = (1500, 800)  # what the whole is zoomed to, for frontends that do not do it themselves
MARGIN = (90, 165)  # pixels for the sidebar and the menu


@dataclass(frozen=True)
class Output:
    """Where a wire begins; `value` is for a widget that the wire could feed, and has until then."""

    node: int
    slot: int
    type: str
    value: Any = None


@dataclass(frozen=True)
class Input:
    name: str
    type: str
    optional: bool
    default: Any
    forced: bool = False  # to be a wire, though of a widget's type

    @property
    def widget(self) -> bool:
        return not self.forced and self.type in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", *UNSAVED)

    def slot(self) -> dict[str, Any]:
        rest = {"widget": {"name": self.name}} if self.widget else {"shape": 7} if self.optional else {}
        return {"name": self.name, "type": self.type, "link": None, **rest}


def inputs_of(about: dict[str, Any]) -> Iterator[Input]:
    """The inputs of a node in /object_info, in the order in which a file has their values."""
    for part in ("required", "optional"):
        for name in about["input_order"].get(part, []):
            kind, *rest = about["input"][part][name]
            more = rest[0] if rest else {}
            if more.get("control_after_generate"):
                raise ValueError(f"{name} has a second widget, which this does not know how to fill.")
            choices = kind if isinstance(kind, list) else more.get("options", [])  # older nodes: a list for a type
            of_type = "COMBO" if isinstance(kind, list) else kind
            default = more.get("default", choices[0] if choices else None)
            yield Input(name, of_type, part == "optional", default, bool(more.get("forceInput")))


@dataclass(frozen=True)
class App:
    """What a workflow shows in App mode.

    Arguments:
        inputs: (title or else type of a node, widget, what to call it), in order.
        outputs: titles of nodes with pictures, in order.
    """

    inputs: tuple[tuple[str, str, str], ...]
    outputs: tuple[str, ...]


@dataclass
class Page:
    """Each node comes below the last one of its column.

    Arguments:
        info: a server's /object_info.
        widths: of the columns.
    """

    info: dict[str, Any]
    widths: tuple[int, ...]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    bottoms: dict[int, int] = field(default_factory=dict)

    def left(self, column: int) -> int:
        return sum(self.widths[:column]) + column * GAP

    def note(self, text: str, height: int) -> None:
        """In the top left corner; what is in the first two columns goes down."""
        for node in self.nodes:
            if node["pos"][0] < self.left(2):
                node["pos"][1] += height + GAP + 20
        position, size = [self.left(0), TOP], [sum(self.widths[:2]) + GAP, height]
        content = {"inputs": [], "outputs": [], "title": "How to use", "properties": {}, "widgets_values": [text]}
        self.place("MarkdownNote", position, size, **content, color="#432", bgcolor="#653")

    def add(
        self,
        kind: str,
        column: int,
        title: str = "",
        *,
        muted: bool = False,
        **given: Any,
    ) -> dict[str, Output]:
        """A node; `given` are its wires and those of its widgets that differ from their defaults.

        Arguments:
            column: from the left, or if negative from the right.
            muted: for the user to wake; it may lack wires.

        Returns:
            Its outputs by type, the first of each.
        """
        about = self.info[kind]
        inputs = list(inputs_of(about))
        if unknown := given.keys() - {each.name for each in inputs}:
            raise ValueError(f"{kind} has no {', '.join(unknown)}: it has {', '.join(each.name for each in inputs)}.")
        number = len(self.nodes) + 1
        inputs.sort(key=lambda each: each.widget)  # the widgets come last, each part in its order
        slots = [each.slot() for each in inputs]
        for index, slot in enumerate(slots):
            source = given.get(slot["name"])
            if isinstance(source, Output):
                slot["link"] = self._link(source, number, index)
            elif not (inputs[index].widget or inputs[index].optional or muted):
                raise ValueError(f"{kind}.{slot['name']} is not connected.")
        widgets = [each for each in inputs if each.widget]
        values = [given.get(each.name, each.default) for each in widgets if each.type not in UNSAVED]
        values = [value.value if isinstance(value, Output) else value for value in values]
        outputs = [
            {"name": name, "type": of_type, "links": None}
            for name, of_type in zip(about["output_name"], about["output"], strict=True)
        ]
        rows = max(len(slots) - len(widgets), len(outputs))
        height = HEIGHTS.get(kind) or 20 * rows + 24 * len(values) + 16
        column %= len(self.widths)
        top = self.bottoms.get(column, TOP)
        self.bottoms[column] = top + height + GAP + (PREVIEW if kind in SAMPLES else 0)
        pack = PACK if about["python_module"] == f"custom_nodes.{PACK}" else "comfy-core"
        content = {
            "inputs": slots,
            "outputs": outputs,
            **({"title": title} if title else {}),
            "properties": {"Node name for S&R": kind, "cnr_id": pack},
            "widgets_values": values,
            **({"mode": MUTED} if muted else {}),
        }
        self.place(kind, [self.left(column), top], [self.widths[column], height], **content)
        wires = [Output(number, slot, out["type"]) for slot, out in enumerate(outputs)]
        return {out.type: out for out in reversed(wires)}

    def _link(self, source: Output, node: int, slot: int) -> int:
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, node, slot, source.type])
        if source.node > 0:
            out = self.nodes[source.node - 1]["outputs"][source.slot]
            out["links"] = [*(out["links"] or []), number]
        return number

    def place(self, kind: str, position: list[int], size: list[int], **content: Any) -> None:
        count = len(self.nodes)
        node = {"id": count + 1, "type": kind, "pos": position, "size": size, "flags": {}, "order": count, "mode": 0}
        self.nodes.append(node | content)

    def bounds(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of all nodes."""
        corners = [
            (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in self.nodes
        ]
        left, top, right, bottom = zip(*corners, strict=True)
        return min(left), min(top), max(right), max(bottom)

    def text(self, name: str, app: App | None = None, **more: Any) -> str:
        """The file, and what else it holds; with `app` it opens in App mode, in frontends that have it."""
        left, top, right, bottom = self.bounds()
        scale = round(min(0.75, WINDOW[0] / (right - left), WINDOW[1] / (bottom - top)), 2)
        offset = [round(MARGIN[0] / scale - left), round(MARGIN[1] / scale - top)]
        extra = {"ds": {"scale": scale, "offset": offset}, **self._app(app)}
        workflow = {
            "id": identity(name),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": extra,
            "version": 0.4,
            **more,
        }
        return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"

    def _app(self, app: App | None) -> dict[str, Any]:
        if app is None:
            return {}
        titled = {node.get("title") or node["type"]: node for node in self.nodes}
        ids = {title: node["id"] for title, node in titled.items()}
        for title, widget, label in app.inputs:
            next(slot for slot in titled[title]["inputs"] if slot["name"] == widget)["label"] = label
        inputs = [[ids[title], widget] for title, widget, _ in app.inputs]
        return {"linearMode": True, "linearData": {"inputs": inputs, "outputs": [ids[title] for title in app.outputs]}}


def identity(name: str) -> str:
    """A UUID that is the same each time the file is made."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{name}"))
