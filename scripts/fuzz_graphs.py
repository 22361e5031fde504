#!/usr/bin/env python3
"""Queues random graphs at a real server: `python scripts/fuzz_graphs.py [--count 500] [--seed 0]`

Each has one of this pack's nodes at its end, wires of every kind before it, and widgets at their edges, NaN and numbers
outside their bounds among them. It has to end in finite latents, or in a message: the host's own before it runs, this
pack's error where this pack's code is on the way, anything where only the host's nodes are, or where a node of the host
fails that is on the model (`BROKEN`). Anything else is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import random
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client import Client, Graph, QueueError
from host import DEFAULT, PACKAGES, command_line, ensure, say

OURS = ("EasyInv", "GuidedNR", "FixedPoint")
KEPT_SMALL = {
    **dict.fromkeys(("steps", "count", "frames", "amount", "batch_size"), (1, 2, 3)),
    "iterations": (1, 2, 5),
    "anderson": (0, 1, 3),
    "width": (8, 64, 72),
    "height": (8, 64, 72),
    "frame_rate": (1,),
}
"""Whole numbers whose highest values would only take long, and what they get in their place."""

NODES: dict[str, list[str]] = {
    "MODEL": [
        *["INV_DemoModel"] * 6,
        "ModelSamplingDiscrete",
        "ModelSamplingSD3",
        "ModelSamplingContinuousEDM",
        "RescaleCFG",
        "TomePatchModel",
        "HyperTile",
        "PerturbedAttentionGuidance",
        "SelfAttentionGuidance",
        "DifferentialDiffusion",
    ],
    "CONDITIONING": [
        *["CLIPTextEncode"] * 6,
        "ConditioningZeroOut",
        "ConditioningCombine",
        "ConditioningSetTimestepRange",
        "ConditioningSetArea",
        "ConditioningSetMask",
    ],
    "LATENT": [
        *["VAEEncode"] * 5,
        *[f"INV_{name}" for name in OURS] * 3,
        "INV_Edit",
        "INV_FlowEdit",
        "INV_Seeds",
        "INV_Interpolate",
        "EmptyLatentImage",
        "EmptySD3LatentImage",
        "EmptyHunyuanLatentVideo",
        "RepeatLatentBatch",
        "LatentFromBatch",
        "LatentBatch",
        "LatentUpscale",
        "SetLatentNoiseMask",
        "KSampler",
        "SamplerCustomAdvanced",
    ],
    "SIGMAS": ["BasicScheduler", "KarrasScheduler", "SplitSigmas", "FlipSigmas", *[f"INV_{name}" for name in OURS]],
    "SAMPLER": ["KSamplerSelect", *[f"INV_{name}Sampler" for name in OURS]],
    "GUIDER": ["BasicGuider", "CFGGuider", "INV_EditGuider"],
    "NOISE": ["RandomNoise", "DisableNoise", "INV_NoiseFromLatent", *[f"INV_{name}" for name in OURS]],
    "INV_EDIT_SETTINGS": ["INV_EditSettings"],
    "MASK": ["SolidMask", "InvertMask", "INV_Edit"],
    "IMAGE": [*["INV_DemoPicture"] * 4, "EmptyImage", "ImageScale", "VAEDecode", "INV_RestoreBackground"],
    "CLIP": ["INV_DemoModel"],
    "VAE": ["INV_DemoModel"],
}
"""What makes each kind of wire."""

INVERTED = [f"INV_{name}" for name in OURS]
FITTING = {
    **dict.fromkeys(("INV_Edit", "INV_EditGuider", "INV_Save", "INV_Report", "INV_Interpolate"), INVERTED),
    **dict.fromkeys(("INV_Seeds", "RepeatLatentBatch", "LatentFromBatch", "SetLatentNoiseMask"), INVERTED),
    **{name: ["VAEEncode", "SetLatentNoiseMask"] for name in (*INVERTED, "INV_FlowEdit", "SamplerCustomAdvanced")},
}
"""Which LATENTs a node is mostly given, so that most graphs get beyond its first message."""

REUSED = {"MODEL": 0.9, "CLIP": 0.95, "VAE": 0.95, "CONDITIONING": 0.7}
"""How often a wire of a kind comes from a node that is there already."""

BROKEN = {"nodes_sag.py": "create_blur_map"}
"""What fails in the host whoever samples, and where: of two Self-Attention Guidances on one model the first."""

ENDS = [*[f"INV_{name}" for name in OURS], *["INV_Edit"] * 4, "INV_FlowEdit", "INV_Seeds", "INV_Interpolate"]
ENDS += [*["SamplerCustomAdvanced"] * 2, "INV_Save", "INV_Report", "INV_RestoreBackground"]
DEPTH = 5


class Maker:
    """Random graphs from what a server offers."""

    def __init__(self, offered: dict[str, Any], draw: random.Random) -> None:
        self.offered, self.draw = offered, draw
        self.graph: Graph = {}
        self.made: dict[str, list[list[Any]]] = {}  # kind of wire -> outputs that are there

    def graph_of(self, end: str) -> Graph:
        """A graph whose last node is `end`, with its LATENT saved."""
        node = self._node(end, 0)
        kinds = self.offered[end]["output"]
        if "LATENT" in kinds:
            saved = {"samples": [node, kinds.index("LATENT")], "filename_prefix": "fuzz"}
            self.graph["save"] = {"class_type": "SaveLatent", "inputs": saved}
        elif not self.offered[end]["output_node"]:
            self.graph["see"] = {"class_type": "PreviewAny", "inputs": {"source": [node, 0]}}
        return self.graph

    def _node(self, name: str, depth: int) -> str:
        asked = self.offered[name]["input"]
        inputs = {key: self._value(name, key, spec, depth) for key, spec in asked.get("required", {}).items()}
        for key, spec in asked.get("optional", {}).items():
            if self.draw.random() < (0.9 if key == "negative" else 0.2):
                inputs[key] = self._value(name, key, spec, depth)
        number = str(len(self.graph) + 1)
        self.graph[number] = {"class_type": name, "inputs": inputs}
        for slot, kind in enumerate(self.offered[name]["output"]):
            if isinstance(kind, str):
                self.made.setdefault(kind, []).append([number, slot])
        return number

    def _value(self, name: str, key: str, spec: list, depth: int) -> Any:
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        if isinstance(kind, list) or kind == "COMBO":
            choices = kind if isinstance(kind, list) else options.get("options", [])
            calm = options.get("default") if self.draw.random() < 0.5 else None
            return calm or (self.draw.choice(choices) if choices else "")
        if kind in ("INT", "FLOAT"):
            return self._number(key, kind, options)
        if kind == "BOOLEAN":
            return self.draw.random() < 0.5
        if kind == "STRING":
            return self.draw.choice(["a red heart, blue wall", "green star", "", "fuzz"])
        return self._wire(kind, depth, name)

    def _number(self, key: str, kind: str, options: dict) -> Any:
        low, high, usual = options.get("min", 0), options.get("max", 10), options.get("default", 0)
        share = self.draw.random()
        if share < 0.002:  # the host refuses the whole graph
            return self.draw.choice([low - 1, high + 1, math.inf])
        if share < 0.012 and kind == "FLOAT":  # of which it takes no notice
            return math.nan
        if key in KEPT_SMALL and kind == "INT":
            return max(low, self.draw.choice(KEPT_SMALL[key]))
        edges = [low, high, (low + high) / 2 if kind == "FLOAT" else (low + high) // 2]
        return usual if share < 0.75 else self.draw.choice(edges)

    def _wire(self, kind: str, depth: int, to: str) -> Any:
        there = self.made.get(kind, [])
        fits = FITTING.get(to) if kind == "LATENT" and self.draw.random() < 0.85 else None
        if fits is not None:
            there = [wire for wire in there if self.graph[wire[0]]["class_type"] in fits]
        if there and (depth >= DEPTH or self.draw.random() < REUSED.get(kind, 0.5)):
            return self.draw.choice(there)
        names = [name for name in fits or NODES.get(kind, []) if name in self.offered]
        if not names:
            return "nothing"
        # Deep down the first, which needs the least.
        name = names[0] if depth >= DEPTH else self.draw.choice(names)
        node = self._node(name, depth + 1)
        return [node, self.offered[name]["output"].index(kind)]


def outcome(client: Client, graph: Graph, output: Path, patience: float = 120) -> tuple[str, str]:
    """(what came of it, what there is to say): "finite", "refused by the host", ..., or "BAD: ..."."""
    try:
        prompt = client.queue(graph)
    except QueueError as error:
        return "refused by the host", str(error)
    end = time.monotonic() + patience
    while (done := client.history(prompt)) is None:
        if time.monotonic() > end:
            return "BAD: does not end", ""
        time.sleep(0.05)
    for kind, message in done["status"]["messages"]:
        if kind == "execution_error":
            return _error(message)
    for shown in done["outputs"].values():
        for saved in shown.get("latents", []):
            path = output / saved["subfolder"] / saved["filename"]
            if path.name.endswith(".latent") and not finite(path):
                return "BAD: not finite", str(path)
    return "finite", ""


def _error(message: dict[str, Any]) -> tuple[str, str]:
    kind, text = message["exception_type"].rsplit(".", 1)[-1], message["exception_message"].strip()
    told = f"{message['node_type']}: {kind}: {text}"
    if kind in ("InversionError", "DivergedError") or text.startswith("The demo model takes"):
        return "refused by this pack", told
    here = any("custom_nodes" in line for line in message["traceback"])
    last = message["traceback"][-1]
    if any(file in last and function in last for file, function in BROKEN.items()):
        here = False
    return ("BAD: a raw error" if here else "refused by a node of the host"), told + "\n" + "".join(
        message["traceback"]
    )


def finite(path: Path) -> bool:
    """Whether all numbers of a file of Save Latent are finite."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + size])["latent_tensor"]
    start, end = entry["data_offsets"]
    if entry["dtype"] != "F32":
        return True
    return all(map(math.isfinite, array.array("f", data[8 + size + start : 8 + size + end])))


def fuzz(
    client: Client, output: Path, count: int, seed: int, tell: Callable[[str], None], verbose: bool = False
) -> tuple[Counter, list[str]]:
    """Run `count` graphs; returns how often each came of it, and what is wrong."""
    offered, counted, wrong = client.object_info(), Counter[str](), []
    for i in range(count):
        draw = random.Random(f"{seed} {i}")
        graph = Maker(offered, draw).graph_of(draw.choice(ENDS))
        what, told = outcome(client, graph, output)
        counted[what] += 1
        if verbose:
            tell(f"{i}: {what}: {told.splitlines()[0][:400] if told else ''}")
        if what.startswith("BAD"):
            wrong.append(f"Graph {i} of seed {seed}: {what}\n{told}\n{json.dumps(graph)}")
            tell(wrong[-1])
    return counted, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="say what came of every graph")
    parser.add_argument("--comfyui", choices=tuple(PACKAGES), default=DEFAULT, help=f"default: {DEFAULT}")
    options = parser.parse_args()
    host, started = ensure(options.comfyui), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="inversion-fuzz-") as base, host.serve(Path(base)) as server:
        counted, wrong = fuzz(
            Client(server.url), Path(base) / "output", options.count, options.seed, say, options.verbose
        )
    say(f"{options.count} graphs, seed {options.seed}, {time.monotonic() - started:.0f} seconds:")
    for what, times in counted.most_common():
        say(f"  {what}: {times}")
    return bool(wrong)


if __name__ == "__main__":
    command_line(main)
