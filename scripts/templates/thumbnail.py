"""The picture beside a template in the browser: what the template makes, run on the demo model."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

from client import Client, api_graph
from PIL import Image, ImageDraw

from .stand_in import lay_out, stand_in
from .stories import Template

SIZE, MARGIN, GAP = 448, 20, 12  # pixels; the browser shows it at about half of that
PAPER = (34, 34, 38)
OVERLAP = 0.64  # of two pictures: the side of each, as a share of the whole
ROUND = 0.07  # a corner's radius, as a share of the side


def thumbnail(template: Template, workflow: str, client: Client, base: Path) -> Image.Image:
    """Run the workflow on a server whose folders are in `base`, and put together what the template shows."""
    lay_out(base, template)
    graph = api_graph(json.loads(workflow))
    by_title = stand_in(graph, template, client.object_info())
    if "LoadImage" in by_title:
        source = {"images": [by_title["LoadImage"], 0]}
        graph["original"] = {"class_type": "PreviewImage", "inputs": source, "_meta": {"title": "Original"}}
        by_title["Original"] = "original"
    outputs = client.run(graph)
    shown = [outputs[by_title[title]]["images"] for title in template.shows]
    chosen = shown[0] if len(shown) == 1 else [images[0] for images in shown]
    return together([Image.open(io.BytesIO(client.image(reference))).convert("RGB") for reference in chosen])


def together(pictures: list[Image.Image]) -> Image.Image:
    """Two pictures overlap, the second before the first; others are in rows, in the middle."""
    sheet = Image.new("RGB", (SIZE, SIZE), PAPER)
    room = SIZE - 2 * MARGIN
    columns = math.ceil(math.sqrt(len(pictures)))
    side = round(OVERLAP * room) if len(pictures) == 2 else (room - (columns - 1) * GAP) // columns
    sizes = [tuple(round(side * part / max(picture.size)) for part in picture.size) for picture in pictures]
    line = max(height for _, height in sizes) + GAP
    top = (SIZE - math.ceil(len(pictures) / columns) * line + GAP) // 2
    places = [(MARGIN + i % columns * (side + GAP), top + i // columns * line) for i in range(len(pictures))]
    if len(pictures) == 2:
        places = [(MARGIN, MARGIN), (SIZE - MARGIN - sizes[1][0], SIZE - MARGIN - sizes[1][1])]
    for picture, (width, height), (left, top) in zip(pictures, sizes, places, strict=True):
        apart = rounded(width + 2 * GAP, height + 2 * GAP)  # from the one behind
        sheet.paste(PAPER, (left - GAP, top - GAP), apart)
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top), rounded(width, height))
    return sheet


def rounded(width: int, height: int) -> Image.Image:
    """A mask with round corners, drawn four times as large, so that they are smooth."""
    mask = Image.new("L", (4 * width, 4 * height))
    corners = (0, 0, 4 * width - 1, 4 * height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(corners, radius=4 * ROUND * max(width, height), fill=255)
    return mask.resize((width, height), Image.Resampling.LANCZOS)
