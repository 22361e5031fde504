"""The workflow templates in the real server: made from its own list of nodes, accepted by it, and run by it.

The checkpoints that they name are gigabytes. Empty files of the same names stand in for them, or the demo model in the
place of the loaders, or checkpoints of few layers and random weights, which the host's loaders take for real ones.
"""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
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
from torch import Tensor

from workflows import TEMPLATES, WORKFLOWS, Template, build_all, files, inputs_of

SIDE = 64
SOURCE, TARGET = "red heart on blue background", "green heart on white background"
FLOW = ("sd3", "flux")  # the others' models are of the eps family

every = pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
with_files = [template for template in TEMPLATES if not template.demo]
named = {template.name: template for template in TEMPLATES}


def workflow(template: Template) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{template.name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def stand_ins(server: Server, pack: ModuleType) -> Path:
    """An empty file for each that a template names, and a real picture; the server's folder."""
    base = server.log.parent
    for template in with_files:
        for _, widgets in [*template.loaders, template.picture]:
            for name in files(widgets):
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                (base / name).touch()
    pixels = pack.demo.pictures.picture("red heart", "blue")
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(base / "input" / "example.png")
    return base


def pixels(client: Client, output: dict[str, Any]) -> np.ndarray:
    """The picture that a node shows, (height, width, 3) in [0, 1]."""
    data = client.image(output["images"][0])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64) / 255


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((first - second) ** 2) + 1e-12))


def small(graph: Graph) -> dict[str, str]:
    """Have the graph scale its picture to SIDE; returns its nodes' ids by title, or else by type."""
    for node in graph.values():
        if node["class_type"] == "ImageScale":
            node["inputs"] |= {"width": SIDE, "height": SIDE}
    return {node["_meta"]["title"] or node["class_type"]: name for name, node in graph.items()}


def test_the_files_are_what_the_builder_makes(server: Server, host: Host) -> None:
    if host.version != DEFAULT:
        pytest.skip(f"the files are made on ComfyUI {DEFAULT}: other versions' nodes have other outputs")
    committed = {path: path.read_text(encoding="utf-8") for path in WORKFLOWS.glob("*.json")}
    made = build_all(Client(server.url).object_info())
    assert committed.keys() == made.keys()
    for path, text in made.items():
        assert committed[path] == text, f"{path.name}: run scripts/workflows.py"


@every
def test_a_file_has_the_hosts_widgets_in_the_hosts_order(server: Server, template: Template) -> None:
    info = Client(server.url).object_info()
    for node in workflow(template)["nodes"]:
        if node["type"] != "MarkdownNote":
            kept = [slot["name"] for slot in node["inputs"] if "widget" in slot]
            assert kept == [given.name for given in inputs_of(info[node["type"]]) if given.widget], node["type"]


@pytest.mark.parametrize("template", with_files, ids=lambda template: template.name)
def test_the_server_accepts_a_workflow_and_reaches_its_files(
    server: Server, stand_ins: Path, template: Template
) -> None:
    """What is refused is refused by `queue`; what is accepted comes as far as the first empty file."""
    client = Client(server.url)
    graph = api_graph(workflow(template))
    prompt_id = client.queue(graph)
    while (done := client.history(prompt_id)) is None:
        time.sleep(0.1)
    errors = [message for kind, message in done["status"]["messages"] if kind == "execution_error"]
    assert [error["node_type"] in dict(template.loaders) for error in errors] == [True], errors


@pytest.mark.parametrize("template", with_files, ids=lambda template: template.name)
def test_a_workflow_runs_with_the_demo_model_for_its_own(server: Server, stand_ins: Path, template: Template) -> None:
    client = Client(server.url)
    info = client.object_info()
    graph = api_graph(workflow(template))
    by_title = small(graph)
    graph[by_title["Source prompt"]]["inputs"]["text"] = SOURCE
    graph[by_title["Target prompt"]]["inputs"]["text"] = TARGET
    loaders = {name: node["class_type"] for name, node in graph.items() if node["class_type"] in dict(template.loaders)}
    version = "flow" if template.name in FLOW else "eps"
    graph["demo"] = {"class_type": "INV_DemoModel", "inputs": {"version": version}}
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in loaders:
                wire = info[loaders[value[0]]]["output"][value[1]]
                node["inputs"][name] = ["demo", info["INV_DemoModel"]["output"].index(wire)]
    for name in loaders:
        del graph[name]

    outputs = client.run(graph)
    original = np.asarray(Image.open(stand_ins / "input" / "example.png"), dtype=np.float64) / 255
    reconstruction, edited = (pixels(client, outputs[by_title[title]]) for title in template.titles)
    assert psnr(reconstruction, original) > 24
    assert psnr(edited, original) < 20
    corner = edited[:4, :4].mean()
    assert corner > original[:4, :4].mean() + 0.1, "the edit's background is no lighter than the picture's blue"


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
    by_title = small(graph)
    loader = by_title["CheckpointLoaderSimple"]
    graph[loader]["inputs"]["ckpt_name"] = checkpoint
    decode = {"samples": [by_title["VAEEncode"], 0], "vae": [loader, 2]}
    graph["decoded"] = {"class_type": "VAEDecode", "inputs": decode}
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}}

    outputs = client.run(graph)
    reconstruction, edited = (pixels(client, outputs[by_title[title]]) for title in named[name].titles)
    assert psnr(reconstruction, pixels(client, outputs["shown"])) > 45
    assert psnr(edited, reconstruction) < 45
