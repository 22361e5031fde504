"""The workflow templates in the real server: made from its own list of nodes, accepted by it, and run by it.

The checkpoints that they name are gigabytes. Empty files of the same names stand in for them, or the demo model in the
place of the loaders, or checkpoints of few layers and random weights, which the host's loaders take for real ones.
"""

import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.ops
import comfy.sd1_clip
import comfy.taesd.taesd
import numpy as np
import pytest
import torch
from client import Client, Graph, api_graph
from families import fill
from host import DEFAULT, Host, Server
from PIL import Image
from safetensors.torch import save_file
from templates.page import inputs_of
from templates.stand_in import lay_out, scene_of, scenes, stand_in
from templates.stories import METHODS, TEMPLATES, Step, Template, files
from torch import Tensor

from demo import judge
from workflows import BLUEPRINT, WORKFLOWS, build_all

WIDGETS = Path(__file__).parents[1] / "data" / "widgets.json"
STEPS = 10  # of the workflows that are run here; their own 20 take twice as long

CAPTION = re.compile(r"an? (?P<thing>.+?)(?: with a (?P<hat>\w+))?, (?P<wall>\w+) wall")
CALLS = re.compile(r"steps from .*, (\d+) model calls")

every = pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
with_files = [template for template in TEMPLATES if not template.demo]
named = {template.name: template for template in TEMPLATES}


def workflow(template: Template) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{template.name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def stand_ins(server: Server) -> Path:
    """A file for each that a template names, empty if it is a model, and real pictures; the server's folder."""
    base = server.log.parent
    for template in with_files:
        for name in files(workflow(template)["nodes"]):
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).touch()
        lay_out(base, template)
    return base


def pixels(client: Client, output: dict[str, Any], which: int = 0) -> np.ndarray:
    """The picture that a node shows, (height, width, 3) in [0, 1]."""
    data = client.image(output["images"][which])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64) / 255


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((first - second) ** 2) + 1e-12))


def truth(picture: Step, caption: str) -> np.ndarray:
    """What a caption describes, with a Demo Picture's look."""
    asked = CAPTION.fullmatch(caption)
    assert asked
    scene = scenes.edited(scene_of(picture), thing=asked["thing"], wall=asked["wall"], hat=asked["hat"] or "")
    return scenes.picture(scene).astype(np.float64)


class Story:
    """A template's graph on a server, with the demo model where it needs one, fewer steps, and what came of it."""

    def __init__(self, name: str, server: Server) -> None:
        self.client, self.template = Client(server.url), named[name]
        info_for(self.template, self.client)
        lay_out(server.log.parent, self.template)
        self.graph: Graph = api_graph(workflow(self.template))
        self.nodes = stand_in(self.graph, self.template, self.client.object_info())
        for node in self.graph.values():
            if "steps" in node["inputs"]:
                node["inputs"]["steps"] = min(STEPS, node["inputs"]["steps"])
        self.outputs: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        self.outputs = self.client.run(self.graph)

    def also(self, name: str, kind: str, **inputs: Any) -> list[Any]:
        """One more node; returns its first output."""
        self.graph[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": name}}
        self.nodes[name] = name
        return [name, 0]

    def wire(self, title: str, slot: int = 0) -> list[Any]:
        return [self.nodes[title], slot]

    def picture(self, title: str, which: int = 0) -> np.ndarray:
        return pixels(self.client, self.outputs[self.nodes[title]], which)

    def text(self, title: str) -> str:
        return "\n".join(self.outputs[self.nodes[title]]["text"])

    def asked(self, title: str, which: int = 0) -> np.ndarray:
        """The picture that a prompt describes, with the look of one of the template's pictures."""
        picture = (self.template.tried_on or (0, self.template.pictures[which]))[1]
        return truth(picture, self.graph[self.nodes[title]]["inputs"]["text"])

    def nearer(self, picture: np.ndarray, than: np.ndarray, title: str) -> float:
        """By how many dB `picture` is nearer than another to what a prompt describes."""
        return psnr(picture, self.asked(title)) - psnr(than, self.asked(title))


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_builder_makes(server: Server, host: Host) -> None:
    if host.version != DEFAULT:
        pytest.skip(f"the files are made on ComfyUI {DEFAULT}: other versions' nodes have other outputs")
    folders = (WORKFLOWS, BLUEPRINT.parent)
    committed = {path: path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.json")}
    made = build_all(Client(server.url).object_info())
    assert committed.keys() == made.keys()
    for path, text in made.items():
        assert committed[path] == text, f"{path.name}: run scripts/workflows.py"


def info_for(template: Template, client: Client) -> dict[str, Any]:
    """What the server says about its nodes, where it has those that the template needs."""
    info = client.object_info()
    if template.needs and template.needs not in info:
        pytest.skip(f"this ComfyUI has no {template.needs}")
    return info


@every
def test_a_file_has_the_hosts_widgets_in_the_hosts_order(server: Server, template: Template) -> None:
    info = info_for(template, Client(server.url))
    for node in workflow(template)["nodes"]:
        if node["type"] not in ("MarkdownNote", "ImageCompare"):  # whose widget no file has a value of
            kept = [slot["name"] for slot in node["inputs"] if "widget" in slot]
            assert kept == [given.name for given in inputs_of(info[node["type"]]) if given.widget], node["type"]


@every
def test_a_template_has_a_thumbnail(template: Template) -> None:
    """The browser asks for a JPEG of the template's name, and shows it in a square."""
    path = WORKFLOWS / f"{template.name}.jpg"
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.size[0] == picture.size[1] >= 400
    assert path.stat().st_size < 60_000


def test_widgets_are_only_ever_appended(server: Server) -> None:
    """Workflow files keep widgets' values by position, so what people have saved means what it did.

    A new node, or a new last widget, is written into tests/data/widgets.json; what is there does not change.
    """
    info = Client(server.url).object_info()
    ours = {name: about for name, about in info.items() if name.startswith("INV_")}
    live = {name: [given.name for given in inputs_of(about) if given.widget] for name, about in ours.items()}
    known = json.loads(WIDGETS.read_text(encoding="utf-8"))
    moved = {name: live.get(name) for name, widgets in known.items() if live.get(name, [])[: len(widgets)] != widgets}
    assert moved == {}, "widgets that are not where saved workflows have them; append new ones after the last"
    assert live == known, "write what is new into tests/data/widgets.json"


# --- what they do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", with_files, ids=lambda template: template.name)
def test_the_server_accepts_a_workflow_and_reaches_its_files(
    server: Server, stand_ins: Path, template: Template
) -> None:
    """What is refused is refused by `queue`; what is accepted comes as far as the first empty file."""
    client = Client(server.url)
    info_for(template, client)
    graph = api_graph(workflow(template))
    prompt_id = client.queue(graph)
    while (done := client.history(prompt_id)) is None:
        time.sleep(0.1)
    errors = [message for kind, message in done["status"]["messages"] if kind == "execution_error"]
    assert [error["node_type"] in dict(template.loaders) for error in errors] == [True], errors


def reconstruction(template: Template) -> str | None:
    """The title of the node that shows it, in a template that gives the picture back beside its edit."""
    titles = [node.get("title", "") for node in workflow(template)["nodes"]]
    return next((title for title in titles if title.startswith("Reconstruction")), None)


@pytest.fixture
def story(request: pytest.FixtureRequest, server: Server) -> Story:
    """Of the template that the test is named after, or gets as a parameter."""
    name = getattr(request, "param", None) or request.node.name.removeprefix("test_")
    return Story(name, server)


edits = [template.name for template in TEMPLATES if reconstruction(template)]


@pytest.mark.parametrize("story", edits, indirect=True)
def test_an_edit_gives_the_picture_back_and_makes_another_of_it(story: Story) -> None:
    """The picture and what is asked for are both files."""
    story.run()
    back, edited = reconstruction(story.template), next(title for title in story.template.shows if "Edit" in title)
    assert back
    original = story.asked("Source prompt")
    assert psnr(story.picture(back), original) > 24
    assert story.nearer(story.picture(edited), original, "Target prompt") > 1.5


def test_app(story: Story) -> None:
    story.run()
    original, edited, both = story.asked("Source prompt"), story.picture("Edit"), story.picture("Original and edit")
    assert story.nearer(edited, original, "Target prompt") > 1.5
    width = original.shape[1]
    assert np.abs(both[:, :width] - original).max() <= 1 / 255
    assert np.abs(both[:, -width:] - edited).max() <= 1 / 255


def test_exact_background(story: Story) -> None:
    """The left half has the pixels of the picture itself, without the autoencoder's changes."""
    story.run()
    before, after = story.picture("Original"), story.picture("Edited")
    assert np.array_equal(after[:, :64], before[:, :64])
    right = story.asked("Target prompt")[:, 64:]
    assert psnr(after[:, 64:], right) > psnr(before[:, 64:], right) + 1.5


def test_compare_methods(story: Story) -> None:
    """What its note says: how many calls each method makes, and that Fixed Point stops where a step is solved."""
    story.run()
    calls = {
        name: int(found[1]) for name in METHODS if (found := CALLS.search(story.text(f"Inversion Report: {name}")))
    }
    assert calls["EasyInv"] == calls["DDIM"] == STEPS
    assert calls["Guided NR"] == 2 * STEPS
    assert STEPS <= calls["Fixed Point"] < 3 * STEPS  # of 8 a step
    for name in METHODS:
        assert story.picture(f"Inversion Report: {name}").std() > 0.1


def test_partial_upscale(story: Story) -> None:
    """New detail, of what the prompt names."""
    story.run()
    assert story.picture("Small").shape == (32, 32, 3)
    upscaled, redrawn = story.picture("Upscaled"), story.picture("Redrawn")
    assert detail(redrawn) > detail(upscaled)
    assert seen([redrawn]) == [("tiger", "yellow")]


def detail(picture: np.ndarray) -> float:
    """How much neighbouring pixels differ."""
    return float(np.abs(np.diff(picture, axis=0)).mean() + np.abs(np.diff(picture, axis=1)).mean())


def seen(pictures: list[np.ndarray]) -> list[tuple[str, str]]:
    """The object and the wall that the demo's judge sees in each."""
    batch = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float()
    return [(found.thing, found.wall) for found in judge.load().see(batch)]


def test_style_lora(story: Story) -> None:
    """The LoRA that stands in makes grey what the plain model gives back in colour."""
    plain = story.graph[story.nodes["The style, for the edit alone"]]["inputs"]["model"]
    common = story.graph[story.nodes["INV_Edit"]]["inputs"]
    plain_edit = story.also("plain edit", "INV_Edit", **{**common, "model": plain})
    vae = story.graph[story.nodes["VAEDecode"]]["inputs"]["vae"]
    decoded = story.also("decoded", "VAEDecode", samples=plain_edit, vae=vae)
    story.also("In its own style", "PreviewImage", images=decoded)
    story.run()
    original = story.asked("Source prompt")
    assert psnr(story.picture("In its own style"), original) > 24

    def colour(picture: np.ndarray) -> float:
        return float(np.ptp(picture, axis=-1).mean())

    styled = story.picture("In the new style")
    assert colour(styled) < colour(original) / 3
    assert psnr(styled.mean(-1), original.mean(-1)) > 15


def test_invert_once_edit_many(story: Story, server: Server) -> None:
    """After a restart: Load Inversion, woken and connected in Invert Image's place, gives the same edits."""
    story.run()
    original = story.asked("Source prompt")
    titles = [title for title in story.template.shows if title != "Original"]
    for title in titles:
        assert story.nearer(story.picture(title), original, f"Target prompt: {title.lower()}") > 1, title
    (saved,) = story.outputs[story.nodes["INV_Save"]]["latents"]
    before = [story.picture(title) for title in titles]

    (asleep,) = (node for node in workflow(story.template)["nodes"] if node["type"] == "INV_Load")
    assert asleep["widgets_values"] == ["inversions/inversion_00001_.inversion.safetensors [output]"]
    loaded = story.also("Load Inversion", "INV_Load", file=f"{saved['subfolder']}/{saved['filename']} [output]")
    inverter = story.nodes["INV_EasyInv"]
    for node in story.graph.values():
        node["inputs"] |= {name: loaded for name, value in node["inputs"].items() if value == [inverter, 0]}
    del story.graph[inverter]
    for name in [name for name, node in story.graph.items() if node["class_type"] == "INV_Save"]:
        del story.graph[name]
    story.run()
    assert all(np.array_equal(story.picture(title), was) for title, was in zip(titles, before, strict=True))


def test_interpolate(story: Story) -> None:
    story.run()
    frames = [story.picture("Frames", i) for i in range(9)]
    first, last = (story.asked(f"Prompt of the {title} picture", i) for i, title in enumerate(("first", "last")))
    assert psnr(frames[0], first) > 24
    assert psnr(frames[-1], last) > 24
    nearer_the_last = [psnr(frame, last) - psnr(frame, first) for frame in frames]
    assert nearer_the_last == sorted(nearer_the_last)


def test_rare_seeds(story: Story) -> None:
    """From the examples' noise the model draws what is more of a rocket than from random noise."""
    story.run()
    examples, random = (
        likeness([story.picture(title, i) for i in range(4)], "rocket")
        for title in ("From examples", "From random noise")
    )
    assert examples > random + 1


def likeness(pictures: list[np.ndarray], thing: str) -> float:
    """How sure the demo's judge is that pictures show a thing, in nats, on average."""
    batch = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float()
    with torch.inference_mode():
        things = judge.load()(batch)[0].log_softmax(1)
    return float(things[:, scenes.things().index(thing)].mean())


# --- and with checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_encoder() -> dict[str, Tensor]:
    """CLIP-L, whose size the host takes for granted; random."""
    config = json.loads(Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json").read_text(encoding="utf-8"))
    return random_weights(comfy.clip_model.CLIPTextModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init))


def random_weights(network: torch.nn.Module) -> dict[str, Tensor]:
    fill(network, torch.Generator().manual_seed(0))
    return {name: weight.half() for name, weight in network.state_dict().items()}


def unet() -> torch.nn.Module:
    """The smallest that the host takes for SD 1.x."""
    return comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_output=[0, 0],
        transformer_depth_middle=-2,
        context_dim=768,
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        num_heads=8,
        num_head_channels=-1,
        legacy=False,
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )


def mmdit() -> torch.nn.Module:
    """The smallest that the host takes for SD 3 and its text encoders' outputs fit."""
    return comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper(
        in_channels=16,
        out_channels=16,
        patch_size=2,
        depth=2,
        input_size=None,
        adm_in_channels=2048,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
        num_patches=256,
        pos_embed_max_size=16,
        pos_embed_scaling_factor=None,
        x_block_self_attn_layers=[],
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )


TINY = {"sd15": (unet, 4, "cond_stage_model.transformer."), "sd3": (mmdit, 16, "text_encoders.clip_l.transformer.")}


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest, stand_ins: Path, text_encoder: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(template, checkpoint): a whole checkpoint, of a quarter gigabyte."""
    make, channels, prefix = TINY[request.param]
    parts = {
        "model.diffusion_model.": random_weights(make()),
        "first_stage_model.": random_weights(comfy.taesd.taesd.TAESD(latent_channels=channels)),
        prefix: text_encoder,
    }
    weights = {before + name: weight for before, part in parts.items() for name, weight in part.items()}
    path = stand_ins / "models" / "checkpoints" / f"tiny_{request.param}.safetensors"
    save_file(weights, path)
    yield request.param, path.name
    path.unlink()


def test_a_workflow_runs_with_a_tiny_checkpoint(server: Server, tiny: tuple[str, str]) -> None:
    """Nothing is stood in for but the weights: the record brings even a random model back."""
    name, checkpoint = tiny
    client = Client(server.url)
    graph = api_graph(workflow(named[name]))
    by_title = {node["_meta"]["title"] or node["class_type"]: number for number, node in graph.items()}
    graph[by_title["Crop and scale"]]["inputs"] |= {"width": 64, "height": 64}
    loader = by_title["CheckpointLoaderSimple"]
    graph[loader]["inputs"]["ckpt_name"] = checkpoint
    decode = {"samples": [by_title["VAEEncode"], 0], "vae": [loader, 2]}
    graph["decoded"] = {"class_type": "VAEDecode", "inputs": decode}
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}}

    outputs = client.run(graph)
    reconstruction, edited = (
        pixels(client, outputs[by_title[title]]) for title in ("Reconstruction (same prompt)", "Edited")
    )
    assert psnr(reconstruction, pixels(client, outputs["shown"])) > 45
    assert psnr(edited, reconstruction) < 45
