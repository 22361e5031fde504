"""The subgraph blueprint: Invert and Edit, the whole job as one node, which the host offers among its own nodes.

The format is that of ComfyUI's own blueprints: a workflow of one node, whose type is the id of a subgraph that is
defined beside it. In there wires come from an input node of number -10 and end in an output node of number -20.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .page import GAP, TOP, App, Output, Page, identity
from .stories import AFTER, BEFORE, EASYINV, EDIT, WIDTHS, Scene

NAME = "Invert and Edit"
DESCRIPTION = (
    "Edits a picture by words: say what it shows, and what it should show. Outside the mask, yours or the one that is "
    "found, every pixel stays the original's."
)
INPUTS, OUTPUTS = -10, -20
SIZE = (340, 480)


@dataclass
class Subgraph(Page):
    """A page with inputs and outputs of its own."""

    takes: list[dict[str, Any]] = field(default_factory=list)
    gives: list[dict[str, Any]] = field(default_factory=list)

    def take(self, name: str, of_type: str, value: Any = None, *, optional: bool = False) -> Output:
        """An input; one with a value is a widget of the node that stands for all this."""
        rest = {"shape": 7} if optional else {} if value is None else {"widget": {"name": name}}
        self.takes.append({"name": name, "type": of_type, "link": None, **rest})
        return Output(INPUTS, len(self.takes) - 1, of_type, value)

    def give(self, name: str, source: Output) -> None:
        """An output."""
        self._link(source, OUTPUTS, len(self.gives))
        self.gives.append({"name": name, "type": source.type, "links": []})

    def text(self, name: str, app: App | None = None, **more: Any) -> str:
        left, _, right, _ = self.bounds()
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        definition = {
            "id": identity(f"subgraphs/{name}"),
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": len(self.nodes),
                "lastLinkId": len(self.links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": name,
            **self._ends("input", INPUTS, self.takes, left - GAP - SIZE[0] // 2),
            **self._ends("output", OUTPUTS, self.gives, right + GAP),
            "widgets": [],
            "nodes": self.nodes,
            "groups": [],
            "links": [dict(zip(keys, link, strict=True)) for link in self.links],
            "extra": {},
            "category": "inversion",
            "description": DESCRIPTION,
        }
        page = Page(self.info, (SIZE[0],))
        node = {"inputs": self.takes, "outputs": self.gives, "properties": {}, "widgets_values": [], "title": name}
        page.place(definition["id"], [0, TOP], [*SIZE], **node)
        return page.text(name, app, definitions={"subgraphs": [definition]}, **more)

    def _ends(self, which: str, number: int, slots: list[dict[str, Any]], left: int) -> dict[str, Any]:
        """The input or the output node, and its slots with the links there."""
        of_node, of_slot = (1, 2) if number == INPUTS else (3, 4)
        described = []
        for i, slot in enumerate(slots):
            ids = [link[0] for link in self.links if (link[of_node], link[of_slot]) == (number, i)]
            facts = {"name": slot["name"], "type": slot["type"], "linkIds": ids, "pos": [left, TOP + 20 * i]}
            described.append({"id": identity(f"{which}/{slot['name']}"), **facts})
        box = [left, TOP, SIZE[0] // 2, 20 * len(slots) + 40]
        return {f"{which}Node": {"id": number, "bounding": box}, f"{which}s": described}


def blueprint(info: dict[str, Any]) -> str:
    """The file, by what a server's /object_info says."""
    page = Subgraph(info, WIDTHS)
    model, clip, vae, image = (page.take(kind.lower(), kind) for kind in ("MODEL", "CLIP", "VAE", "IMAGE"))
    mask = page.take("mask", "MASK", optional=True)
    scene = Scene(page, model, clip, vae, images=[image])
    # Examples, since older frontends do not say which box is which.
    source = scene.prompt("Source prompt", page.take("what it shows", "STRING", BEFORE))
    target = scene.prompt("Target prompt", page.take("what it should show", "STRING", AFTER))
    latent = scene.encode(scene.images[0])
    kind, _ = EASYINV
    inverted = scene.invert((kind, {"steps": page.take("steps", "INT", 20)}), source, latent)
    common: dict[str, Any] = {"model": scene.model, "latent": inverted["LATENT"]}
    strength = page.take("strength", "FLOAT", 4.0)
    edited = page.add(EDIT, 3, positive=target, mask=mask, strength=strength, **common)
    after = scene.restore(image, scene.decode(edited["LATENT"]), edited["MASK"], page.take("grow", "INT", 16))
    beside: dict[str, Any] = {"image1": image, "image2": after, "spacing_width": 8}
    page.give("edit", after)
    page.give("comparison", page.add("ImageStitch", -1, "Original and edit", **beside)["IMAGE"])
    page.give("mask", edited["MASK"])
    page.give("report", inverted["STRING"])
    return page.text(NAME)
