#!/usr/bin/env python3
"""Makes the templates in workflows/: `python scripts/workflows.py` starts a ComfyUI and writes every file anew.

A `Template` says what differs between them; `build` wires the graph that they have in common and `Page` lays it out in
columns. Which inputs, widgets, defaults and outputs a node has, and in which order, is what the server's /object_info
says, so a file is as the browser would save it. The same server and templates give the same bytes: a test compares
them with what is committed. To change a workflow, change its template here and run this; to add one, add a template.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Client
from host import PACK, REPOSITORY, command_line, ensure, say

WORKFLOWS = REPOSITORY / "workflows"
# Where ComfyUI looks for the file that a widget names.
FOLDERS = {
    "ckpt_name": "models/checkpoints",
    "unet_name": "models/diffusion_models",
    "clip_name1": "models/text_encoders",
    "clip_name2": "models/text_encoders",
    "vae_name": "models/vae",
    "image": "input",
}

# --- what the templates are -------------------------------------------------------------------------------------------

Step = tuple[str, dict[str, Any]]
"""A node's type and those of its widgets that are not as the node comes."""


@dataclass(frozen=True)
class Template:
    """What differs between the workflows; with `size` the picture is cropped and scaled to a square of it."""

    name: str
    note: str
    loaders: list[Step]
    invert: Step
    source: str
    target: str
    picture: Step = ("LoadImage", {"image": "example.png"})
    size: int | None = None
    guidance: tuple[float, float] | None = None  # Flux's own: of the inversion, of the edit
    cfg: float = 1.0
    negative: bool = True
    titles: tuple[str, str] = ("Reconstruction (same prompt)", "Edited")

    @property
    def demo(self) -> bool:
        return self.picture[0] == "INV_DemoPicture"


DEMO = [("INV_DemoModel", {"version": "flow"})]
HEART = ("INV_DemoPicture", {"emoji": "red heart", "background": "blue"})
# What ComfyUI's example.png shows.
EXAMPLE = "a drawing of a girl with yellow hair and a {} dress on a green hill, blue sky with clouds"

YOURS = """\
Files, in ComfyUI's folder:

{files}

Choose your picture in **Load Image**, which has ComfyUI's example, and describe it in the source prompt; the target \
prompt says what should be different. **Crop and scale** makes it {size} x {size}, which suits the model."""
BACK = """\
**Edit From Latent** regenerates it under the *target prompt*, and under the *source prompt* to show what is kept."""
MORE = """\
More **cfg** of the edit follows the target prompt more; less **denoise** of the inversion keeps more of the picture."""

TEMPLATES = [
    Template(
        "first_edit",
        """\
# First edit

Queue this: it needs no download.

1. **Demo Picture** is the picture to edit. Use **Load Image** for your own, with your own model's loader, CLIP \
and VAE in place of **Load Demo Model**.
2. The *source prompt* says what the picture shows. **Invert Image** finds the noise that regenerates it.
3. **Edit From Latent** with the same prompt gives the picture back (*reconstruction*); with the *target prompt* it \
gives the *edit*. White in *May change* is where the two prompts' predictions differ; the rest is kept, as far as \
**preserve** says.

Change the target prompt and queue again: the picture is not inverted a second time.""",
        loaders=DEMO,
        picture=HEART,
        invert=("INV_EasyInv", {}),
        source="red heart on blue background",
        target="green heart on blue background",
        cfg=3.0,
        titles=("Reconstruction", "Edit"),
    ),
    Template(
        "guided_nr_4_steps",
        """\
# Four steps

Queue this: it needs no download.

**Invert Image (Guided NR)** solves each step of the inversion in two iterations, so that a handful of steps is \
enough: 4 here, as for Turbo, Lightning and schnell models. The report says how well it went; **check** has it measured.

The *reconstruction* is made under the source prompt, the *edit* under the target prompt. Change the target prompt and \
queue again; more **cfg** of the edit follows it more, and keeps less of the picture.""",
        loaders=DEMO,
        picture=HEART,
        invert=("INV_GuidedNR", {"check": True}),
        source="red heart on blue background",
        target="yellow heart on blue background",
        titles=("Reconstruction (same prompt)", "Edited: yellow heart"),
    ),
    Template(
        "sd15",
        f"""\
# Edit a picture with Stable Diffusion 1.5

**Invert Image (EasyInv)** finds the noise that regenerates a picture, at one model call a step. {BACK}

{YOURS} {MORE} Any SD 1.x checkpoint will do.""",
        loaders=[("CheckpointLoaderSimple", {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"})],
        invert=("INV_EasyInv", {}),
        source=EXAMPLE.format("pink"),
        target=EXAMPLE.format("red"),
        size=512,
        cfg=3.0,
    ),
    Template(
        "sdxl",
        f"""\
# Edit a picture with SDXL

**Invert Image (Fixed Point)** finds the noise that regenerates a picture, repeating each step until it is \
solved. {BACK}

{YOURS} {MORE} Any SDXL checkpoint will do.""",
        loaders=[("CheckpointLoaderSimple", {"ckpt_name": "sd_xl_base_1.0.safetensors"})],
        invert=("INV_FixedPoint", {}),
        source=EXAMPLE.format("pink"),
        target=EXAMPLE.format("red"),
        size=1024,
        cfg=3.0,
    ),
    Template(
        "sdxl_turbo",
        f"""\
# Edit a picture with SDXL Turbo, in 4 steps

**Invert Image (Guided NR)** inverts *euler_ancestral*, which Turbo is made for, with the noise that it adds held \
fixed. {BACK}

{YOURS} Turbo takes no negative prompt: leave **cfg** at 1. Less **denoise** keeps more of the picture.""",
        loaders=[("CheckpointLoaderSimple", {"ckpt_name": "sd_xl_turbo_1.0_fp16.safetensors"})],
        invert=("INV_GuidedNR", {"scheduler": "sgm_uniform", "sampler": "euler_ancestral"}),
        source=EXAMPLE.format("pink"),
        target=EXAMPLE.format("red"),
        size=512,
        negative=False,
    ),
    Template(
        "sd3",
        f"""\
# Edit a picture with Stable Diffusion 3.5

**Invert Image (Fixed Point)** finds the noise that regenerates a picture, repeating each step until it is \
solved. {BACK}

{YOURS} {MORE} A checkpoint without text encoders, such as *sd3.5_medium*, needs **TripleCLIPLoader** for its CLIP.""",
        loaders=[("CheckpointLoaderSimple", {"ckpt_name": "sd3.5_large_fp8_scaled.safetensors"})],
        invert=("INV_FixedPoint", {"scheduler": "sgm_uniform"}),
        source=EXAMPLE.format("pink"),
        target=EXAMPLE.format("red"),
        size=1024,
        cfg=3.0,
    ),
    Template(
        "flux",
        f"""\
# Edit a picture with Flux

**Invert Image (Fixed Point)** finds the noise that regenerates a picture, at a **FluxGuidance** of 1. {BACK}

{YOURS} Flux takes no negative prompt: leave **cfg** at 1; more *guidance of the edit* follows the target prompt more. \
For *flux1-schnell*, which does not read the guidance, set **steps** to 4.""",
        loaders=[
            ("UNETLoader", {"unet_name": "flux1-dev.safetensors"}),
            (
                "DualCLIPLoader",
                {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"},
            ),
            ("VAELoader", {"vae_name": "ae.safetensors"}),
        ],
        invert=("INV_FixedPoint", {"scheduler": "simple"}),
        source=EXAMPLE.format("pink"),
        target=EXAMPLE.format("red"),
        size=1024,
        guidance=(1.0, 3.5),
        negative=False,
    ),
]


def files(widgets: dict[str, Any]) -> Iterator[str]:
    """The files that a node's widgets name, relative to ComfyUI's folder."""
    for name, value in widgets.items():
        if name in FOLDERS and isinstance(value, str):
            yield f"{FOLDERS[name]}/{value}"


# --- how they are made ------------------------------------------------------------------------------------------------

EDGES = (-60, 300, 690, 1100, 1470, 1710)  # where a column begins
WIDTHS = (300, 320, 340, 300, 170, 300)
TOP, GAP = 20, 70  # the gap has room for the title, which is above a node's position
HEIGHTS = {"CLIPTextEncode": 100, "LoadImage": 320, "PreviewImage": 220, "SaveImage": 280, "PreviewAny": 300}
WINDOW = (1500, 800)  # what the whole is zoomed to, for frontends that do not do it themselves
MARGIN = (90, 165)  # pixels for the sidebar and the menu


@dataclass(frozen=True)
class Output:
    node: int
    slot: int
    type: str


@dataclass(frozen=True)
class Input:
    name: str
    type: str
    optional: bool
    default: Any

    @property
    def widget(self) -> bool:
        return self.type in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")

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
            yield Input(name, of_type, part == "optional", more.get("default", choices[0] if choices else None))


@dataclass
class Page:
    """A workflow in the making: each node comes below the last one of its column."""

    info: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    bottoms: dict[int, int] = field(default_factory=dict)

    def note(self, text: str, height: int) -> None:
        """Above the first two columns."""
        position, size = [EDGES[0], TOP - GAP - 20 - height], [EDGES[1] + WIDTHS[1] - EDGES[0], height]
        content = {"inputs": [], "outputs": [], "title": "How to use", "properties": {}, "widgets_values": [text]}
        self._place("MarkdownNote", position, size, **content, color="#432", bgcolor="#653")

    def add(
        self, kind: str, column: int, title: str = "", *, beside: Output | None = None, **given: Any
    ) -> dict[str, Output]:
        """A node; `given` are its wires and those of its widgets that differ from their defaults.

        Arguments:
            beside: begin at the height of the node that this comes from.

        Returns:
            Its outputs by type.
        """
        about = self.info[kind]
        inputs = list(inputs_of(about))
        if unknown := given.keys() - {each.name for each in inputs}:
            raise ValueError(f"{kind} has no {', '.join(unknown)}: it has {', '.join(each.name for each in inputs)}.")
        number = len(self.nodes) + 1
        wires = [each.slot() for each in inputs if not each.widget]
        for index, slot in enumerate(wires):
            if slot["name"] in given:
                slot["link"] = self._link(given[slot["name"]], number, index)
            elif "shape" not in slot:
                raise ValueError(f"{kind}.{slot['name']} is not connected.")
        widgets = [each.slot() for each in inputs if each.widget]
        values = [given.get(each.name, each.default) for each in inputs if each.widget]
        outputs = [
            {"name": name, "type": of_type, "links": None}
            for name, of_type in zip(about["output_name"], about["output"], strict=True)
        ]
        height = HEIGHTS.get(kind) or 20 * max(len(wires), len(outputs)) + 24 * len(widgets) + 16
        top = self.nodes[beside.node - 1]["pos"][1] if beside else self.bottoms.get(column, TOP)
        self.bottoms[column] = top + height + GAP
        source = PACK if about["python_module"] == f"custom_nodes.{PACK}" else "comfy-core"
        content = {
            "inputs": wires + widgets,
            "outputs": outputs,
            **({"title": title} if title else {}),
            "properties": {"Node name for S&R": kind, "cnr_id": source},
            "widgets_values": values,
        }
        self._place(kind, [EDGES[column], top], [WIDTHS[column], height], **content)
        return {out["type"]: Output(number, slot, out["type"]) for slot, out in enumerate(outputs)}

    def _link(self, source: Output, node: int, slot: int) -> int:
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, node, slot, source.type])
        out = self.nodes[source.node - 1]["outputs"][source.slot]
        out["links"] = [*(out["links"] or []), number]
        return number

    def _place(self, kind: str, position: list[int], size: list[int], **content: Any) -> None:
        count = len(self.nodes)
        node = {"id": count + 1, "type": kind, "pos": position, "size": size, "flags": {}, "order": count, "mode": 0}
        self.nodes.append(node | content)

    def text(self, name: str) -> str:
        """The file."""
        left, top = (min(node["pos"][axis] for node in self.nodes) for axis in (0, 1))
        right, bottom = (max(node["pos"][axis] + node["size"][axis] for node in self.nodes) for axis in (0, 1))
        scale = round(min(0.75, WINDOW[0] / (right - left), WINDOW[1] / (bottom - top)), 2)
        offset = [round(MARGIN[0] / scale - left), round(MARGIN[1] / scale - top)]
        workflow = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": scale, "offset": offset}},
            "version": 0.4,
        }
        return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def build(template: Template, info: dict[str, Any]) -> str:
    """The workflow file of a template, by what a server's /object_info says."""
    page = Page(info)
    steps = [*template.loaders, template.picture]
    listed = [f"- `{file}`" for _, widgets in steps for file in files(widgets)]
    height = 200 + 10 * len(listed) if listed else 190
    page.note(template.note.format(files="\n".join(listed), size=template.size), height)
    wires: dict[str, Output] = {}
    for kind, widgets in steps:
        wires |= page.add(kind, 0, **widgets)
    model, clip, vae, image = (wires[of_type] for of_type in ("MODEL", "CLIP", "VAE", "IMAGE"))
    if template.demo:
        page.add("PreviewImage", 0, "Original", images=image)

    def prompt(title: str, text: str) -> Output:
        return page.add("CLIPTextEncode", 1, title, clip=clip, text=text)["CONDITIONING"]

    source, target = prompt("Source prompt", template.source), prompt("Target prompt", template.target)
    negative: dict[str, Any] = {"negative": prompt("Negative prompt", "")} if template.negative else {}
    if template.guidance:
        for_source, for_target = template.guidance
        titles = ("Guidance of the inversion", "Guidance of the edit")
        source = page.add("FluxGuidance", 1, titles[0], conditioning=source, guidance=for_source)["CONDITIONING"]
        target = page.add("FluxGuidance", 1, titles[1], conditioning=target, guidance=for_target)["CONDITIONING"]
    if template.size:
        square: dict[str, Any] = {
            "upscale_method": "lanczos",
            "width": template.size,
            "height": template.size,
            "crop": "center",
        }
        image = page.add("ImageScale", 1, "Crop and scale", image=image, **square)["IMAGE"]
    latent = page.add("VAEEncode", 1, pixels=image, vae=vae)["LATENT"]
    kind, widgets = template.invert
    inverted = page.add(kind, 2, model=model, positive=source, latent=latent, **widgets)
    common: dict[str, Any] = {"model": model, "latent": inverted["LATENT"]}
    edit = "INV_EditFromLatent"
    same = page.add(edit, 3, "Edit From Latent: same prompt", positive=source, **common)["LATENT"]
    new = {"positive": target, "cfg": template.cfg, **negative}
    changed = page.add(edit, 3, "Edit From Latent: new prompt", **new, **common)
    edited = changed["LATENT"]
    pictures = [page.add("VAEDecode", 4, beside=end, samples=end, vae=vae)["IMAGE"] for end in (same, edited)]
    page.add("PreviewImage", 5, template.titles[0], images=pictures[0])
    if template.demo:
        page.add("PreviewImage", 5, template.titles[1], images=pictures[1])
        mask = page.add("MaskToImage", 4, mask=changed["MASK"])["IMAGE"]
        page.add("PreviewImage", 5, "May change (white)", images=mask)
    else:
        page.add("SaveImage", 5, template.titles[1], images=pictures[1], filename_prefix=f"edit_{template.name}")
    page.add("PreviewAny", 2, "Report", source=inverted["STRING"])
    return page.text(template.name)


def build_all(info: dict[str, Any]) -> dict[Path, str]:
    return {WORKFLOWS / f"{template.name}.json": build(template, info) for template in TEMPLATES}


def main() -> int:
    host = ensure()
    say(f"Asking ComfyUI {host.version} about its nodes; this takes about half a minute.")
    with tempfile.TemporaryDirectory(prefix="inversion-workflows-") as folder, host.serve(Path(folder)) as server:
        made = build_all(Client(server.url).object_info())
    for path, text in made.items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(path)
    return 0


if __name__ == "__main__":
    command_line(main)
