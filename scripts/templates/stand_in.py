"""The demo model and its pictures in the place of a template's own, so that it runs without a download."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from client import Graph
from host import REPOSITORY
from PIL import Image

sys.path.append(str(REPOSITORY))
from demo import scenes

from .stories import STYLE, Step, Template

LORA = REPOSITORY / "tests" / "data" / "greyscale_lora.safetensors"  # made by demo/train_lora.py, for v-prediction


def scene_of(picture: Step) -> scenes.Scene:
    """What a Demo Picture shows."""
    widgets = picture[1]
    hat = "" if widgets["hat"] == "none" else widgets["hat"]
    return scenes.unseen_scene(widgets["look"], widgets["emoji"], widgets["background"], hat)


def lay_out(base: Path, template: Template) -> None:
    """Put what stands in for a template's picture and style where ComfyUI looks for them, in the folders of `base`."""
    if template.tried_on:
        folder = base / "input"
        folder.mkdir(exist_ok=True)
        pixels = (scenes.picture(scene_of(template.tried_on[1])) * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / "example.png")
        if ("LoadVideo", {"file": "video.mp4"}) in template.pictures:
            _video(folder / "video.mp4", pixels)
        folder = base / "models" / "loras"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(LORA, folder / STYLE)


def _video(path: Path, pixels: np.ndarray) -> None:
    """A file of a few equal frames."""
    import av  # the host's

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=16, options={"qscale": "2"})
        stream.height, stream.width = pixels.shape[:2]
        for _ in range(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())


def stand_in(graph: Graph, template: Template, info: dict[str, Any]) -> dict[str, str]:
    """Replace a template's loaders, prompts and size in its graph; returns its nodes' ids by title, or else by type."""
    by_title = {node["_meta"]["title"] or node["class_type"]: name for name, node in graph.items()}
    if template.tried_on is None:
        return by_title
    version, picture, target = template.tried_on
    kinds = dict(template.loaders)
    loaders = {name: graph.pop(name)["class_type"] for name in list(graph) if graph[name]["class_type"] in kinds}
    graph["demo"] = {"class_type": "INV_DemoModel", "inputs": {"version": version}, "_meta": {"title": ""}}
    wires = info["INV_DemoModel"]["output"]
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in loaders:
                node["inputs"][name] = ["demo", wires.index(info[loaders[value[0]]]["output"][value[1]])]
        if node["class_type"] == "SAM3_Detect":  # a red thing on white
            node["class_type"], node["inputs"] = "ImageToMask", {"image": node["inputs"]["image"], "channel": "red"}
        if node["class_type"] == "ImageFromBatch":  # the demo model draws no videos
            node["inputs"]["length"] = 1
        if node["_meta"]["title"].endswith("new prompt") and not version.startswith("turbo"):
            node["inputs"]["strength"] = max(3.0, node["inputs"]["strength"])  # else it hardly follows a prompt
        if node["class_type"] == "ImageScale":
            node["inputs"] |= {"width": scenes.SIZE, "height": scenes.SIZE}
    words = {"Source prompt": scenes.caption(scene_of(picture)), "Target prompt": target}
    for title in words.keys() & by_title.keys():
        graph[by_title[title]]["inputs"]["text"] = words[title]
    return by_title
