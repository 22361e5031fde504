#!/usr/bin/env python3
"""The main job, end to end: `python scripts/first_edit.py [--comfyui 0.30.0|0.3.75]`

Sets up a real ComfyUI (see host.py), starts it with this pack, and runs `workflows/first_edit.json` over HTTP as the
browser would queue it, on both versions of the demo model: a picture is inverted, given back under
its own prompt, and edited under another. Then it stops the server and leaves in `output/`

    first_edit.png    original, reconstruction, edit and the reconstruction's error, for each model
    first_edit.json   round-trip PSNR in latent and picture, model calls, seconds, versions
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from client import Client, Graph, api_graph
from host import DEFAULT, PACKAGES, REPOSITORY, Host, command_line, ensure, say

WORKFLOW = REPOSITORY / "workflows" / "first_edit.json"
OUTPUT = REPOSITORY / "output"
VERSIONS = ("v-prediction", "flow")
AMPLIFIED = 8  # the difference is too small to see as it is
TITLES = ("original", "reconstruction", "edit", "may change", f"reconstruction's error x {AMPLIFIED}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", choices=tuple(PACKAGES), default=DEFAULT, help=f"default: {DEFAULT}")
    options = parser.parse_args()
    host = ensure(options.comfyui)
    if Path(sys.executable) != host.python:  # the pictures are looked at with the host's own Pillow and torch
        environment = {**os.environ, "COMFYUI_ROOT": str(host.root), "COMFYUI_PYTHON": str(host.python)}
        return subprocess.run([str(host.python), __file__], env=environment).returncode
    return run(host)


def run(host: Host) -> int:
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    figures: dict[str, Any] = {"comfyui": host.version, "python": sys.version.split()[0], "models": {}}
    rows = []
    with tempfile.TemporaryDirectory(prefix="inversion-demo-") as folder:
        say(f"Starting ComfyUI {host.version} on the CPU; this takes about half a minute.")
        with host.serve(Path(folder)) as server:
            for version in VERSIONS:
                say(f"Running {WORKFLOW.name} on the {version} model.")
                pictures, measured = one(Client(server.url), graph_for(workflow, version), Path(folder))
                rows.append((version, pictures))
                figures["models"][version] = measured
                say("  " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in measured.items()))
    OUTPUT.mkdir(exist_ok=True)
    sheet, table = OUTPUT / "first_edit.png", OUTPUT / "first_edit.json"
    contact_sheet(rows).save(sheet)
    table.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{sheet}\n{table}")
    return 0


def graph_for(workflow: dict[str, Any], version: str) -> Graph:
    """The workflow on one model, with the check on and the latents saved, so that there is something to measure."""
    graph = api_graph(workflow)
    (loader,), (inverter,) = named(graph, "INV_DemoModel"), named(graph, "INV_EasyInv")
    graph[loader]["inputs"]["version"] = version
    graph[inverter]["inputs"]["check"] = True
    (encoder,) = named(graph, "VAEEncode")
    (same,) = (node for node in named(graph, "INV_Edit") if "same" in graph[node]["_meta"]["title"])
    for name, node in (("source", encoder), ("back", same)):
        inputs = {"samples": [node, 0], "filename_prefix": f"{version}-{name}"}
        graph[name] = {"class_type": "SaveLatent", "inputs": inputs}
    return graph


def named(graph: Graph, class_type: str) -> list[str]:
    return [node for node, content in graph.items() if content["class_type"] == class_type]


def one(client: Client, graph: Graph, base: Path) -> tuple[list[Any], dict[str, Any]]:
    """Run one graph; returns [original, reconstruction, edit, mask] as arrays in [0, 1], and what was measured."""
    import numpy as np
    from PIL import Image
    from safetensors.torch import load_file

    sys.path.append(str(REPOSITORY))
    from inversion import psnr

    outputs = client.run(graph)
    titled = {graph[node]["_meta"]["title"]: node for node in named(graph, "PreviewImage")}
    pictures = []
    for title in ("Original", "Reconstruction", "Edit", "May change (white)"):
        png = client.image(outputs[titled[title]]["images"][0])
        pictures.append(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float32) / 255)
    (report_node,) = named(graph, "PreviewAny")
    report = "\n".join(outputs[report_node]["text"])

    def figure(pattern: str) -> float:
        found = re.search(pattern, report)
        if not found:
            raise ValueError(f"The report lacks {pattern!r}:\n{report}")
        return float(found[1])

    saved = []
    for name in ("source", "back"):
        reference = outputs[name]["latents"][0]
        saved.append(load_file(base / "output" / reference["subfolder"] / reference["filename"])["latent_tensor"])
    source, back = saved
    error = float((source - back).norm() / source.norm())
    original, reconstruction = pictures[:2]
    mean_square = float(((original - reconstruction) ** 2).mean())
    return pictures, {
        "round_trip_latent_relative_error": float(f"{error:.2g}"),
        "round_trip_latent_psnr_db": rounded(psnr(source, back)),
        "round_trip_without_record_latent_psnr_db": figure(r"checked: ([\d.]+) dB"),
        "round_trip_picture_psnr_db": rounded(-10 * float(np.log10(max(mean_square, 1e-12)))),
        "model_calls_inversion": int(figure(r"(\d+) model calls")),
        "seconds_inversion_and_check": figure(r"([\d.]+) seconds"),
    }


def rounded(decibels: float) -> float | str:
    return round(decibels, 1) if decibels < 1000 else "inf"


def contact_sheet(rows: list[tuple[str, list[Any]]]) -> Any:
    """A row for each model, a column for each of `TITLES`."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    tile, gap, top, left = 256, 12, 34, 124
    width, height = left + len(TITLES) * (tile + gap), top + len(rows) * (tile + gap)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for column, title in enumerate(TITLES):
        draw.text((left + column * (tile + gap) + tile // 2, top // 2), title, "black", font, "mm")
    for row, (version, (original, reconstruction, edit, mask)) in enumerate(rows):
        y = top + row * (tile + gap)
        draw.text((left // 2, y + tile // 2), version, "black", font, "mm")
        difference = np.abs(original - reconstruction) * AMPLIFIED
        for column, picture in enumerate((original, reconstruction, edit, mask, difference)):
            pixels = Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
            sheet.paste(pixels.resize((tile, tile), Image.Resampling.LANCZOS), (left + column * (tile + gap), y))
    return sheet


if __name__ == "__main__":
    command_line(main)
