#!/usr/bin/env python3
"""Works a real server for long, from two sides: `python scripts/soak.py [--count 500] [--seed 0]`

Two clients queue graphs at once until all of this pack's nodes have run many times, with other pictures, prompts, seeds
and cfg each time, and interrupt some of their own at random moments. Then:

- each graph ended as it had to: with finite latents, or interrupted where that was asked for;
- each saved inversion is there, under a name of its own, with the size of a whole file;
- a picture made at the end, after the cache was emptied, is that of the beginning to the last bit;
- the server's memory, measured with caches and history emptied, is flat once everything has run a few times;
- no file is left over: none half written, none in the temporary folders but the previews that the host shows.

What is not so is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import tempfile
import threading
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from client import UNSAVED, Client, Graph, QueueError
from fuzz_graphs import finite
from host import DEFAULT, PACK, PACKAGES, Server, command_line, ensure, say

CLIENTS = 2
INTERRUPTED = 0.2
BLOCK = 50  # graphs between two measurements of memory
ALLOWED = 48 * 2**20  # bytes that the server's memory may grow by from the first measurement after warm-up to the last
PATIENCE = 300.0  # seconds for one graph
PROMPTS: dict[str, Any] = {"negative": ["empty", 0], "source": ["source", 0]}  # of every Edit Settings


class Maker:
    """Graphs that use all of the pack's nodes, with whatever the demo nodes offer for pictures and prompts."""

    def __init__(self, offered: dict[str, Any]) -> None:
        self.offered = offered
        self.recipes: list[Callable[[random.Random], Graph]] = [
            self.easyinv, self.fixed_point, self.guided, self.gradient, self.structure, self.another_sampler,
            self.saved, self.loaded, self.reported, self.interpolated, self.seeds, self.flow_edit, self.guider,
            self.restored, self.old,
            *[partial(self.inverting_sampler, method) for method in ("EasyInv", "FixedPoint", "GuidedNR")],
        ]  # fmt: skip
        self.saved_files: list[str] = []

    def choices(self, node: str, name: str) -> list[str]:
        spec = self.offered[node]["input"]["required"][name]
        return list(spec[0]) if isinstance(spec[0], list) else list(spec[1]["options"])

    def start(self, draw: random.Random) -> Graph:
        """A model, two prompts, an empty one, and a picture's latent, under the names that the recipes use."""
        pictures = self.choices("INV_DemoPicture", "emoji"), self.choices("INV_DemoPicture", "background")
        chosen = [dict(zip(("emoji", "background"), map(draw.choice, pictures), strict=True)) for _ in range(2)]
        version = draw.choice(self.choices("INV_DemoModel", "version"))
        return {
            "model": node("INV_DemoModel", version=version),
            "picture": node("INV_DemoPicture", **chosen[0]),
            "wanted": node("INV_DemoPicture", **chosen[1]),
            "source": node("CLIPTextEncode", text=["picture", 1], clip=["model", 1]),
            "target": node("CLIPTextEncode", text=["wanted", 1], clip=["model", 1]),
            "empty": node("CLIPTextEncode", text="", clip=["model", 1]),
            "latent": node("VAEEncode", pixels=["picture", 0], vae=["model", 2]),
        }

    def inverted(self, draw: random.Random, method: str = "EasyInv", **widgets: Any) -> Graph:
        cfg = widgets.pop("cfg", draw.choice([1.0, 1.0, round(draw.uniform(1, 4), 2)]))
        made = {"steps": draw.randint(2, 5), "cfg": cfg, **widgets}
        wires = {"model": ["model", 0], "positive": ["source", 0], "latent": ["latent", 0], "negative": ["empty", 0]}
        return self.start(draw) | {"inverted": self.node(f"INV_{method}", **wires, **made)}

    def node(self, kind: str, **inputs: Any) -> dict[str, Any]:
        """A node with its widgets' defaults where `inputs` says nothing."""
        return node(kind, **self.defaults(kind) | inputs)

    def defaults(self, kind: str) -> dict[str, Any]:
        found = {}
        for name, spec in self.offered[kind]["input"]["required"].items():
            options = spec[1] if len(spec) > 1 else {}
            if isinstance(spec[0], list) or spec[0] == "COMBO":
                found[name] = options.get("default") or (self.choices(kind, name) or [""])[0]
            elif "default" in options:
                found[name] = options["default"]
        return found

    def edited(self, draw: random.Random, graph: Graph, given: dict[str, Any] | None = None, **settings: Any) -> Graph:
        settings = {**PROMPTS, "cfg": draw.choice([1.0, round(draw.uniform(1, 5), 2)]), **settings}
        inputs: dict[str, Any] = {"model": ["model", 0], "positive": ["target", 0], "latent": ["inverted", 0]}
        inputs |= {"settings": ["settings", 0], "strength": round(draw.uniform(1, 3), 2), **(given or {})}
        made = {"settings": self.node("INV_EditSettings", **settings), "edited": self.node("INV_Edit", **inputs)}
        return shown(graph | made, ["edited", 0])

    def old(self, draw: random.Random) -> Graph:
        wires = {"model": ["model", 0], "positive": ["target", 0], "negative": ["empty", 0], "latent": ["inverted", 0]}
        made = self.node("INV_EditFromLatent", **wires, cfg=round(draw.uniform(1, 5), 2))
        return shown(self.inverted(draw) | {"edited": made}, ["edited", 0])

    def easyinv(self, draw: random.Random) -> Graph:
        up = self.inverted(draw, check=draw.random() < 0.3, compact=draw.random() < 0.5)
        return self.edited(draw, up, background=draw.choice([0.0, 0.5, 1.0]))

    def fixed_point(self, draw: random.Random) -> Graph:
        sampler = draw.choice(["euler", "euler_ancestral"])
        up = self.inverted(
            draw, "FixedPoint", iterations=draw.randint(1, 3), sampler=sampler, seed=draw.getrandbits(32)
        )
        return self.edited(draw, up)

    def guided(self, draw: random.Random) -> Graph:
        return self.edited(draw, self.inverted(draw, "GuidedNR", cfg=1.0))

    def gradient(self, draw: random.Random) -> Graph:
        gradient = draw.choice(["auto", "autograd", "min-norm"])
        return self.edited(draw, self.inverted(draw, "GuidedNR", cfg=2.0, gradient=gradient, steps=2, iterations=2))

    def structure(self, draw: random.Random) -> Graph:
        return self.edited(draw, self.inverted(draw), structure=round(draw.random(), 2))

    def another_sampler(self, draw: random.Random) -> Graph:
        return self.edited(draw, self.inverted(draw), sampler=draw.choice(["dpmpp_2m", "uni_pc", "dpmpp_sde", "lms"]))

    def saved(self, draw: random.Random) -> Graph:
        up = self.inverted(draw)
        return self.edited(draw, up | {"saved": node("INV_Save", latent=["inverted", 0], filename_prefix="soak/up")})

    def loaded(self, draw: random.Random) -> Graph:
        if not self.saved_files:
            return self.saved(draw)
        graph = self.start(draw) | {"inverted": node("INV_Load", file=draw.choice(self.saved_files))}
        version = self.choices("INV_DemoModel", "version")[0]  # of the first saved file, see `soak`
        graph["model"]["inputs"]["version"] = version
        return self.edited(draw, graph)

    def reported(self, draw: random.Random) -> Graph:
        wires = {"model": ["model", 0], "positive": ["source", 0], "negative": ["empty", 0], "vae": ["model", 2]}
        up = self.inverted(draw)
        return up | {"report": node("INV_Report", latent=["inverted", 0], **wires)}

    def interpolated(self, draw: random.Random) -> Graph:
        up = self.inverted(draw, cfg=1.0)
        inputs = up["inverted"]["inputs"] | {"latent": ["other", 0], "positive": ["target", 0]}
        up |= {
            "other": node("VAEEncode", pixels=["wanted", 0], vae=["model", 2]),
            "second": node("INV_EasyInv", **inputs),
        }
        between = self.node(
            "INV_Interpolate",
            model=["model", 0],
            latent_from=["inverted", 0],
            positive_from=["source", 0],
            latent_to=["second", 0],
            positive_to=["target", 0],
            frames=draw.randint(2, 4),
            path=draw.choice(self.choices("INV_Interpolate", "path")),
            prompts=draw.choice(self.choices("INV_Interpolate", "prompts")),
        )
        up |= {"between": between}
        return self.edited(draw, up, {"latent": ["between", 0], "positive": ["between", 1], "strength": 1.0}, cfg=1.0)

    def seeds(self, draw: random.Random) -> Graph:
        up = self.inverted(draw)
        made = self.node("INV_Seeds", model=["model", 0], latent=["inverted", 0], count=2, seed=draw.getrandbits(32))
        return sampled(up | {"seeds": made}, ["seeds", 1], ["seeds", 2], ["seeds", 0])

    def flow_edit(self, draw: random.Random) -> Graph:
        prompts = {"positive": ["target", 0], "source_positive": ["source", 0], "negative": ["empty", 0]}
        wires = {"model": ["model", 0], "latent": ["latent", 0], **prompts}
        edit = self.node("INV_FlowEdit", **wires, steps=draw.randint(2, 5), seed=draw.getrandbits(32))
        return shown(self.start(draw) | {"edited": edit}, ["edited", 0])

    def restored(self, draw: random.Random) -> Graph:
        graph = self.edited(draw, self.inverted(draw))
        images = {"original": ["picture", 0], "edited": ["decoded", 0], "mask": ["edited", 2]}
        graph["restored"] = self.node("INV_RestoreBackground", **images)
        slider = {name: UNSAVED["IMAGECOMPARE"] for name in self.offered["ImageCompare"]["input"].get("required", {})}
        graph["compared"] = node("ImageCompare", image_a=["picture", 0], image_b=["restored", 0], **slider)
        graph["image"]["inputs"]["images"] = ["restored", 0]
        return graph

    def guider(self, draw: random.Random) -> Graph:
        wires = {"model": ["model", 0], "positive": ["target", 0], "latent": ["inverted", 0]}
        graph = self.inverted(draw) | {
            "settings": self.node("INV_EditSettings", **PROMPTS, cfg=round(draw.uniform(1, 4), 2)),
            "guider": self.node("INV_EditGuider", **wires, settings=["settings", 0]),
            "sampler": node("KSamplerSelect", sampler_name=draw.choice(["euler", "heun", "dpmpp_2m"])),
        }
        return run(graph, ["guider", 2], ["guider", 0], ["sampler", 0], ["guider", 3], ["guider", 1])

    def inverting_sampler(self, method: str, draw: random.Random) -> Graph:
        schedule = {"scheduler": "normal", "steps": draw.randint(2, 5), "denoise": 1.0}
        graph = self.start(draw) | {
            "up": self.node(f"INV_{method}Sampler"),
            "levels": node("BasicScheduler", model=["model", 0], **schedule),
            "guider": node("BasicGuider", model=["model", 0], conditioning=["source", 0]),
            "none": node("RandomNoise", noise_seed=draw.getrandbits(32)),
            "inverted": node(
                "SamplerCustomAdvanced", noise=["none", 0], guider=["guider", 0], sampler=["up", 0],
                sigmas=["levels", 0], latent_image=["latent", 0],
            ),
        }  # fmt: skip
        made = {"model": ["model", 0], "latent": ["inverted", 0], "sigmas": ["levels", 0]}
        graph["noise"] = self.node("INV_NoiseFromLatent", **made)
        return sampled(graph, ["noise", 0], ["levels", 0], ["latent", 0])


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def shown(graph: Graph, latent: list) -> Graph:
    """The latent saved, and its picture."""
    return graph | {
        "numbers": node("SaveLatent", samples=latent, filename_prefix="soak/latent"),
        "decoded": node("VAEDecode", samples=latent, vae=["model", 2]),
        "image": node("SaveImage", images=["decoded", 0], filename_prefix="soak/picture"),
    }


def sampled(graph: Graph, noise: list, sigmas: list, latent: list) -> Graph:
    """Down from a NOISE by the host's own euler."""
    graph = graph | {
        "basic": node("BasicGuider", model=["model", 0], conditioning=["target", 0]),
        "euler": node("KSamplerSelect", sampler_name="euler"),
    }
    return run(graph, noise, ["basic", 0], ["euler", 0], sigmas, latent)


def run(graph: Graph, noise: list, guider: list, sampler: list, sigmas: list, latent: list) -> Graph:
    wires = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
    return shown(graph | {"down": node("SamplerCustomAdvanced", **wires)}, ["down", 0])


@dataclass
class Soak:
    """What came of it.

    Arguments:
        ended: how many graphs ended in which way.
        used: how often each of the pack's nodes was in a graph that ran through.
        memory: of the server, in bytes, after every block: (graphs so far, bytes).
        wrong: what is not as it has to be.
    """

    ended: Counter = field(default_factory=Counter)
    used: Counter = field(default_factory=Counter)
    memory: list[tuple[int, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes from the first measurement after a fifth of the graphs, which is warm-up, to the last."""
        measured = self.memory[len(self.memory) // 5 :]
        return measured[-1][1] - measured[0][1] if measured else 0


def post(client: Client, path: str, **content: Any) -> None:
    body = json.dumps(content).encode()
    request = urllib.request.Request(f"{client.url}{path}", body, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.open(request, timeout=60).close()


def soak(
    server: Server, output: Path, count: int, seed: int, tell: Callable[[str], None], interrupted: float = INTERRUPTED
) -> Soak:
    """Run `count` graphs.

    Arguments:
        output: the server's output folder.
        interrupted: the share of graphs that are interrupted, once all kinds have had their turn.
    """
    client, came = Client(server.url), Soak()
    offered = client.object_info()
    maker = Maker(offered)
    ours = {name for name, facts in offered.items() if facts["python_module"] == f"custom_nodes.{PACK}"}

    # The file that `loaded` graphs read, of the first version of the model, and the picture to compare with.
    known = maker.saved(random.Random(f"{seed} known"))
    known["model"]["inputs"]["version"] = maker.choices("INV_DemoModel", "version")[0]
    first = client.run(known)
    maker.saved_files.append(f"soak/{first['saved']['latents'][0]['filename']} [output]")
    expected = contents(output, first)

    lock = threading.Lock()
    done = 0
    while done < count:
        size = min(BLOCK, count - done)
        todo = [planned(maker, seed, number, interrupted) for number in range(done, done + size)]

        def work(side: int, todo: list = todo) -> None:
            for number, graph, moment in todo[side::CLIENTS]:
                try:
                    how, told = one(client, graph, moment, output)
                except Exception as error:  # a client that dies silently would look like success
                    how, told = f"BAD: {type(error).__name__}", str(error)
                with lock:
                    came.ended[how] += 1
                    if how == "finite":
                        came.used.update(kind for kind in kinds(graph) if kind in ours)
                    if how.startswith("BAD"):
                        came.wrong.append(f"Graph {number} of seed {seed}: {how}: {told}\n{json.dumps(graph)}")
                        tell(came.wrong[-1])

        sides = [threading.Thread(target=work, args=(side,)) for side in range(CLIENTS)]
        for side in sides:
            side.start()
        for side in sides:
            side.join()
        done += size
        came.memory.append((done, at_rest(client, server.process.pid)))
        tell(f"{done} of {count}: {came.memory[-1][1] / 2**20:.0f} MB")

    at_rest(client, server.process.pid)
    last = client.run(known)
    if contents(output, last) != expected:
        came.wrong.append("The last picture is not the first one to the last bit.")
    if last["saved"]["latents"] == first["saved"]["latents"]:
        came.wrong.append("The last picture was not computed: it came from the host's cache.")
    came.wrong += lost(came, output) + left_over(output)
    unused = ours - set(came.used)
    if unused:
        came.wrong.append(f"Never ran through: {', '.join(sorted(unused))}.")
    return came


def planned(maker: Maker, seed: int, number: int, interrupted: float) -> tuple[int, Graph, float | None]:
    """(number, graph, seconds of its run after which to interrupt it, None for never)."""
    draw, recipes = random.Random(f"{seed} {number}"), maker.recipes.copy()
    turn, place = divmod(number, len(recipes))
    random.Random(f"{seed} turn {turn}").shuffle(recipes)  # each once before any comes again
    graph, moment = recipes[place](draw), draw.uniform(0, 0.8)
    return number, graph, moment if turn and draw.random() < interrupted else None


def kinds(graph: Graph) -> list[str]:
    return [made["class_type"] for made in graph.values()]


def wait_for(client: Client, prompt: str) -> None:
    """Until a graph's turn has come."""
    while any(waiting[1] == prompt for waiting in json.loads(client.get("/queue"))["queue_pending"]):
        time.sleep(0.02)


def one(client: Client, graph: Graph, moment: float | None, output: Path) -> tuple[str, str]:
    """(how it ended, what there is to say)."""
    try:
        prompt = client.queue(graph)
    except QueueError as error:
        return "BAD: refused", str(error)[:1000]
    if moment is not None:
        wait_for(client, prompt)
        time.sleep(moment)
        post(client, "/interrupt", prompt_id=prompt)
    end = time.monotonic() + PATIENCE
    while (done := client.history(prompt)) is None:
        if time.monotonic() > end:
            return "BAD: lost", "not in the history"
        time.sleep(0.05)
    told = dict(done["status"]["messages"])
    if "execution_error" in told:
        return "BAD: an error", str(told["execution_error"].get("exception_message"))
    if "execution_interrupted" in told:
        return ("interrupted", "") if moment is not None else ("BAD: interrupted", "nobody asked for it")
    if "execution_success" not in told:
        return "BAD: no end", str(list(told))
    saved = list(files(output, done["outputs"]))
    missing = [str(path) for path in saved if not path.is_file()]
    if missing:
        return "BAD: lost", f"not there: {', '.join(missing)}"
    if not all(finite(path) for path in saved if path.suffix == ".latent"):
        return "BAD: not finite", str(saved)
    return "finite", ""


def files(output: Path, outputs: dict[str, Any]) -> list[Path]:
    """The files in the output folder that a graph's end names."""
    entries = [entry for shown in outputs.values() for key in ("latents", "images") for entry in shown.get(key, [])]
    return [output / entry["subfolder"] / entry["filename"] for entry in entries if entry["type"] == "output"]


def contents(output: Path, outputs: dict[str, Any]) -> list[bytes]:
    """The pixels and the latent's numbers of a graph's end, without the texts beside them."""
    found = []
    for path in files(output, outputs):
        data = path.read_bytes()
        if path.suffix == ".png":
            found.append(pixels(data))
        elif path.suffix == ".latent":
            (size,) = struct.unpack("<Q", data[:8])
            found.append(data[8 + size :])
    assert len(found) == 2
    return found


def pixels(png: bytes) -> bytes:
    at, packed = 8, b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        packed += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return zlib.decompress(packed)


def at_rest(client: Client, process: int) -> int:
    """The server's memory in bytes with its caches, models and history given up; 0 where it cannot be read."""
    post(client, "/history", clear=True)
    for _ in range(2):  # the host gives up what it holds, and collects garbage, when its worker gets to it
        post(client, "/free", unload_models=True, free_memory=True)
        time.sleep(1)
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def lost(came: Soak, output: Path) -> list[str]:
    """What is wrong with the saved inversions: a graph that saved one and ran through has a whole file of its own."""
    saved = list((output / "soak").glob("*.inversion.safetensors"))
    fewest = came.used["INV_Save"] + 2  # and the first and the last
    wrong = []
    if len(saved) < fewest:  # an interrupt after it was saved leaves one more
        wrong.append(f"{fewest} inversions were saved, {len(saved)} are there.")
    for path in saved:
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        entries = json.loads(data[8 : 8 + size])
        end = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
        if len(data) != 8 + size + end:
            wrong.append(f"{path} is no whole file.")
    return wrong


PREVIEWS = ("ComfyUI_temp_", "comfy.compare.")  # how the host calls the pictures that it shows


def left_over(output: Path) -> list[str]:
    """Files that nobody asked for: half written ones in the output folder, others than previews in the temporary."""
    base = output.parent
    found = [path for path in output.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
    for folder in (base / "temp", base / "system-temp"):
        paths = folder.rglob("*") if folder.is_dir() else []
        found += [path for path in paths if path.is_file() and not path.name.startswith(PREVIEWS)]
    return [f"{path} was left over." for path in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--comfyui", choices=tuple(PACKAGES), default=DEFAULT, help=f"default: {DEFAULT}")
    options = parser.parse_args()
    host, started = ensure(options.comfyui), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="inversion-soak-") as base:
        folder = Path(base) / "system-temp"
        folder.mkdir()
        os.environ["TMPDIR"] = str(folder)  # of the server, so that nothing else is in it
        with host.serve(Path(base)) as server:
            came = soak(server, Path(base) / "output", options.count, options.seed, say)
    say(f"{options.count} graphs, seed {options.seed}, {time.monotonic() - started:.0f} seconds:")
    for how, times in came.ended.most_common():
        say(f"  {how}: {times}")
    say("Ran through: " + ", ".join(f"{name} {times}" for name, times in sorted(came.used.items())) + ".")
    say("Memory: " + ", ".join(f"{size / 2**20:.0f} MB after {done}" for done, size in came.memory) + ".")
    say(f"Growth after the warm-up: {came.growth / 2**20:.1f} MB.")
    if came.growth > ALLOWED:
        came.wrong.append(f"The memory grew by {came.growth / 2**20:.1f} MB, more than {ALLOWED / 2**20:.0f}.")
    for what in came.wrong:
        say(what)
    return bool(came.wrong)


if __name__ == "__main__":
    command_line(main)
