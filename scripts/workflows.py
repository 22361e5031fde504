#!/usr/bin/env python3
"""Makes the templates in workflows/ and the blueprint in subgraphs/.

    python scripts/workflows.py [--thumbnails [NAME ...]]

Starts a ComfyUI and writes every file anew. With `--thumbnails` it also runs the templates, all or the named ones,
which takes some minutes, and puts together the picture that the template browser shows beside each. What is in them is
written in `templates/`.

Which inputs, widgets, defaults and outputs a node has, and in which order, is what the server's /object_info says, so a
file is as the browser would save it. The same server and templates give the same bytes: a test compares them with what
is committed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from client import Client
from host import REPOSITORY, command_line, ensure, say
from templates.blueprint import NAME, blueprint
from templates.stories import TEMPLATES, build

WORKFLOWS = REPOSITORY / "workflows"
BLUEPRINT = REPOSITORY / "subgraphs" / f"{NAME}.json"
QUALITY = 88  # of a JPEG: some 20 KB


def build_all(info: dict[str, Any]) -> dict[Path, str]:
    made = {WORKFLOWS / f"{template.name}.json": build(template, info) for template in TEMPLATES}
    return {**made, BLUEPRINT: blueprint(info)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [template.name for template in TEMPLATES]
    about = "also run the templates, all or these, and make their pictures"
    parser.add_argument("--thumbnails", nargs="*", metavar="NAME", choices=names, help=about)
    options = parser.parse_args()
    host = ensure()
    asked = options.thumbnails is not None
    if asked and Path(sys.executable) != host.python:  # the pictures are made with the host's own Pillow
        environment = {**os.environ, "COMFYUI_ROOT": str(host.root), "COMFYUI_PYTHON": str(host.python)}
        return subprocess.run([str(host.python), *sys.argv], env=environment).returncode
    say(f"Asking ComfyUI {host.version} about its nodes; this takes about half a minute.")
    with tempfile.TemporaryDirectory(prefix="inversion-workflows-") as folder, host.serve(Path(folder)) as server:
        client = Client(server.url)
        for path, text in build_all(client.object_info()).items():
            path.write_text(text, encoding="utf-8", newline="\n")
            print(path)
        if asked:
            from templates.thumbnail import thumbnail

            for template in (t for t in TEMPLATES if t.name in options.thumbnails or not options.thumbnails):
                place = WORKFLOWS / f"{template.name}.jpg"
                workflow = place.with_suffix(".json").read_text(encoding="utf-8")
                thumbnail(template, workflow, client, Path(folder)).save(place, quality=QUALITY)
                print(place)
    return 0


if __name__ == "__main__":
    command_line(main)
