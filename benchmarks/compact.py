"""What a compact record costs: `python scripts/benchmark.py compact`

The demo picture is inverted by each method. The record is kept in full, compact, and in full with its points and slopes
rounded to half precision, which would take 2/3. Columns: the compact record's size as a share of the full one's; in dB
how near the same prompt comes back; and how near an edit is to that of the full record. Writes
`docs/compact-tables.md`.
"""

import datetime
import math
from pathlib import Path
from typing import Any

import inprocess

inprocess.boot()
import torch
from comfyui_version import __version__ as host_version
from graphs import demo
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "EasyInv": ("EasyInv", {}),
    "Guided NR": ("GuidedNR", {}),
    "Fixed Point": ("FixedPoint", {}),
    "Fixed Point, euler_ancestral": ("FixedPoint", {"sampler": "euler_ancestral"}),
}
SETTINGS = [(steps, cfg) for steps in (4, 20) for cfg in (1.0, 3.0)]
VERSIONS = ("v-prediction", "flow")


def size(record: dict[str, Any]) -> int:
    return sum(part.nbytes for part in record.values() if isinstance(part, Tensor))


def row(pack: Any, bench: Any, method: str, widgets: dict[str, Any], steps: int, cfg: float) -> list[str]:
    """The cells of one method at one setting."""
    key, psnr = pack.nodes.host.record.KEY, pack.inversion.psnr
    given = {"steps": steps, "cfg": cfg, "negative": bench.negative, **widgets}
    full, compact = (bench.invert(method, **given, compact=small)[0] for small in (False, True))
    halves = {name: full[key][name].half().float() for name in ("points", "slopes")}
    half = {**full, key: full[key] | halves}
    kinds = (full, compact, half)
    back = [bench.edit(latent=latent, cfg=cfg, negative=bench.negative)[0]["samples"] for latent in kinds]
    edits = [
        bench.edit(latent=latent, positive=bench.other, cfg=2.0, negative=bench.negative)[0]["samples"]
        for latent in kinds
    ]
    near = [psnr(bench.latent["samples"], samples) for samples in back]
    alike = [psnr(edits[0], samples) for samples in edits[1:]]
    return [f"{size(compact[key]) / size(full[key]):.0%}", *map(decibels, [*near, *alike])]


def decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.0f}"


def main() -> None:
    pack = inprocess.load_pack()
    lines = [
        f"Made by `python scripts/benchmark.py compact` on {datetime.date.today()}, torch {torch.__version__}, "
        f"ComfyUI {host_version}, CPU.",
        "",
        "A compact record against the full one, and against the full one with points and slopes in half precision.",
        "*Same prompt*: PSNR of the latent that comes back, in dB; above 140 only the latent's own scaling is left. "
        "*Edit*: PSNR to the edit from the full record.",
    ]
    head = ["method", "steps", "cfg", "size", "same prompt: full", "compact", "half", "edit: compact", "half"]
    for version in VERSIONS:
        bench = demo(pack, version)
        lines += ["", f"## {version}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for label, (method, widgets) in METHODS.items():
            for steps, cfg in SETTINGS:
                cells = [label, str(steps), f"{cfg:g}", *row(pack, bench, method, widgets, steps, cfg)]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    (REPOSITORY / "docs" / "compact-tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
