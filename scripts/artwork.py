#!/usr/bin/env python3
"""Draws what registry, README and help pages show of this pack: `python scripts/host.py run scripts/artwork.py`

    assets/icon.png      400 x 400: a face, the picture at its left, its edit at its right, the noise between them
    assets/banner.png    798 x 342 (21:9): the picture, its noise, its edit, and how much noise is in it on the way
    web/docs/report.jpg  the Inversion Report of the picture
    docs/first_edit_graph.jpg  the first template after a run: the browser test's screenshot, if there is one

The demo model makes them: it inverts a koala, and edits it so that it wears a hat. The states between picture and noise
are mixed as a flow model mixes them, (1 - s) picture + s noise.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path += [str(REPOSITORY / folder) for folder in ("scripts", "tests/host")]
ASSETS, REPORT = REPOSITORY / "assets", REPOSITORY / "web" / "docs" / "report.jpg"
SCREENSHOT = REPOSITORY / "output" / "browser" / "0.30.0" / "first_edit.png"
GRAPH, CANVAS = REPOSITORY / "docs" / "first_edit_graph.jpg", (270, 120, 1660, 790)  # the screenshot without its bars
SOURCE, EDIT = ("koala", "yellow"), "a koala with a hat, yellow wall"
TITLE, SUBTITLE = "Image Inversion and Editing", "find a picture's noise, then change the words"
BACK, BRIGHT, DIM = (24, 26, 32), (240, 240, 244), (150, 154, 166)
CONTRAST = 1.6  # the noise's, about its grey: smaller than a picture's as it stands


def main() -> None:
    picture, noise, edit, report = pictures()
    ASSETS.mkdir(exist_ok=True)
    icon(picture, noise, edit).save(ASSETS / "icon.png", optimize=True)
    banner(picture, noise, edit).save(ASSETS / "banner.png", optimize=True)
    image(report).save(REPORT, quality=88)
    print(ASSETS / "icon.png", ASSETS / "banner.png", REPORT, sep="\n")
    if SCREENSHOT.exists():
        from PIL import Image

        Image.open(SCREENSHOT).convert("RGB").crop(CANVAS).save(GRAPH, quality=82)
        print(GRAPH)


def pictures() -> tuple[Any, Any, Any, Any]:
    """The picture, its noise and its edit, (128, 128, 3), and its report, (H, W, 3), as float arrays in [0, 1]."""
    import inprocess

    inprocess.boot()
    import graphs
    import torch

    pack = inprocess.load_pack()
    nodes: Any = importlib.import_module("nodes")  # the host's: this repository has one too
    with torch.inference_mode():
        model, clip, vae = pack.nodes.demo.load("flow")
        picture, caption = pack.nodes.demo.DemoPicture.execute(*SOURCE).args
        positive, other, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in (caption, EDIT, ""))
        bench = graphs.Bench(pack, model, positive, other, negative, nodes.VAEEncode().encode(vae, picture)[0])
        inverted, *_ = bench.invert()
        edited, _ = bench.edit(latent=inverted, positive=other, strength=3.0)
        report = pack.nodes.report.InversionReport.execute(model, positive, inverted, vae, image=picture).args[0][0]
        noise, edit = (nodes.VAEDecode().decode(vae, latent)[0][0] for latent in (inverted, edited))
    noise = noise.mean() + CONTRAST * (noise - noise.mean())
    first, second, third, fourth = (image.clamp(0, 1).numpy() for image in (picture[0], noise, edit, report))
    return first, second, third, fourth


def icon(picture: Any, noise: Any, edit: Any) -> Any:
    import numpy as np

    across = np.linspace(-1, 1, picture.shape[1])[None, :, None]  # -1 the picture's side, 1 the edit's
    share = np.clip(1.1 - 3.2 * abs(across), 0, 1)
    return image(np.where(across < 0, picture, edit) * (1 - share) + noise * share, 400)


def banner(picture: Any, noise: Any, edit: Any) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    tile, gap, left, top = 138, 14, 26, 176
    sheet = Image.new("RGB", (798, 342), BACK)
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 36), TITLE, BRIGHT, ImageFont.load_default(46))
    draw.text((left, 104), SUBTITLE, DIM, ImageFont.load_default(25))
    for column, (clean, share) in enumerate(((picture, 0), (picture, 0.5), (picture, 1), (edit, 0.5), (edit, 0))):
        sheet.paste(image((1 - share) * clean + share * noise, tile), (left + column * (tile + gap), top))
    return sheet


def image(values: Any, size: int | None = None) -> Any:
    """Float values (H, W, 3) in [0, 1] as a picture, with `size` as a square of so many pixels."""
    from PIL import Image

    made = Image.fromarray((255 * values).round().astype("uint8"))
    return made if size is None else made.resize((size, size), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    main()
