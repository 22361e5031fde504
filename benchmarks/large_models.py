"""The papers' checkpoints on a GPU: `python scripts/benchmark.py large_models [--models FOLDER] [--pictures FOLDER]`

- *Round trips* of real pictures with the methods of both papers, on the checkpoints of `CHECKPOINTS` that are in the
  models folder (default: the host's own), beside the papers' own numbers.
- *Cost*: SDXL and Flux at the size of their published checkpoints with random weights (the cost does not depend on
  their values), in bf16, at 512 and 1024 pixels: 4 steps of Guided NR with 2 iterations by each gradient, the ratio of
  its time to the host's KSampler with as many model calls, and peak memory. GNRI (arXiv 2312.12540) reports 0.4 s for
  SDXL Turbo at 512 pixels on an A100.

The pictures are those of the folder with their captions in text files of the same names; default the host's example.
Prints tables with the name of the GPU. There is nothing to run without one, and no round trip without a checkpoint.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path += [str(REPOSITORY / folder) for folder in ("benchmarks", "scripts", "tests/host")]

import inprocess
import torch

GPU = torch.cuda.is_available()
inprocess.boot(None, *(["--highvram", "--disable-dynamic-vram"] if GPU else []), cpu=not GPU)
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import graphs
import numpy as np
from _trips import Trips, methods
from PIL import Image, ImageOps
from torch import Tensor

import nodes

REPEATS = 5
STEPS, ITERATIONS = 4, 2
SDXL = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False,
    "num_heads": -1, "num_head_channels": 64, "use_checkpoint": False, "use_temporal_resblock": False,
    "use_temporal_attention": False,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "hidden_size": 3072, "num_heads": 24,
    "mlp_ratio": 4.0, "context_in_dim": 4096, "vec_in_dim": 768, "depth": 19, "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
MODELS = {"SDXL": ("SDXL", SDXL, 77, 2048, 1280), "Flux": ("Flux", FLUX, 256, 4096, 768)}


def load(name: str) -> tuple[Any, Any, int]:
    """MODEL, CONDITIONING and latent channels."""
    config_name, network, tokens, width, pooled = MODELS[name]
    config = getattr(comfy.supported_models, config_name)(dict(network))
    config.set_inference_dtype(torch.bfloat16, None)
    device = comfy.model_management.get_torch_device()
    with torch.device(device):
        model = config.get_model({}, "")
    random = torch.Generator(device).manual_seed(0)
    for weight in model.diffusion_model.parameters():
        scale = 0.0 if weight.ndim < 2 else 0.5 * weight[0].numel() ** -0.5
        weight.data = torch.randn(weight.shape, generator=random, device=device, dtype=weight.dtype) * scale
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
    prompt = [[torch.randn(1, tokens, width), {"pooled_output": torch.randn(1, pooled)}]]
    return patcher, prompt, config.latent_format.latent_channels


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Checkpoint:
    """One of the papers' models.

    Arguments:
        file: in the models folder's `checkpoints`, with its text encoders and VAE.
        pixels: the side of its pictures.
        steps, scheduler, ancestral: how it is sampled.
        paper: label of a method -> what a paper reports of it.
    """

    file: str
    pixels: int
    steps: int
    scheduler: str
    ancestral: bool
    paper: dict[str, str]


EASYINV = "arXiv 2408.05159, SD1.4"
CHECKPOINTS = {
    "SD1.5": Checkpoint(
        "v1-5-pruned-emaonly-fp16.safetensors", 512, 50, "normal", False,
        {
            "DDIM or Euler": f"29.717 dB, SSIM .621 ({EASYINV})",
            "EasyInv, SD1.x": f"30.189 dB, SSIM .646 ({EASYINV})",
            "ReNoise, averaged, 5": f"31.025 dB, SSIM .641 ({EASYINV})",
            "AIDI, averaged, 5": f"29.107 dB, SSIM .563 ({EASYINV})",
        },
    ),
    "SDXL": Checkpoint("sd_xl_base_1.0.safetensors", 1024, 50, "normal", False, {}),
    "SDXL-Turbo": Checkpoint(
        "sd_xl_turbo_1.0_fp16.safetensors", 512, 4, "sgm_uniform", True,
        {
            "VAE alone": "26.0 dB", "GNRI, released code, 2": "23.9 dB", "exact DPM inversion, 50": "20.0 dB",
            "ReNoise, averaged, 9": "18.1 dB", "DDIM or Euler": "12.3 dB",
        },
    ),
    "Flux-schnell": Checkpoint(
        "flux1-schnell-fp8.safetensors", 512, 4, "simple", False,
        {
            "VAE alone": "26 dB", "GNRI, paper, 2": "24.4 dB", "exact DPM inversion, 50": "16.1 dB",
            "ReNoise, averaged, 9": "20.4 dB", "DDIM or Euler": "10.4 dB",
        },
    ),
}  # fmt: skip
MANY = ("exact DPM inversion, 50", "ours: Fixed Point, up to 80, to 5e-6")  # left out where there are many steps
EXAMPLE = "a drawing of a girl with yellow hair and a pink dress on a green hill, blue sky with clouds"


def missing(folder: Path) -> list[str]:
    """The files that the round trips lack in a models folder."""
    return [c.file for c in CHECKPOINTS.values() if not (folder / "checkpoints" / c.file).exists()]


def captioned(folder: Path | None, pixels: int) -> Iterator[tuple[Tensor, str]]:
    """Pictures (1, pixels, pixels, 3) in [0, 1] and what they show; the host's example without a folder."""
    if folder is None:
        paths = {Path(folder_paths.__file__).parent / "input" / "example.png": EXAMPLE}
    else:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        texts = [path.with_suffix(".txt") for path in found]
        paths = {
            path: text.read_text("utf-8") if text.exists() else "" for path, text in zip(found, texts, strict=True)
        }
    for path, text in paths.items():
        shown = ImageOps.fit(Image.open(path).convert("RGB"), (pixels, pixels), Image.Resampling.LANCZOS)
        yield torch.from_numpy(np.asarray(shown, dtype=np.float32) / 255).unsqueeze(0), text.strip()


def round_trips(pack: Any, name: str, path: Path, pictures: Path | None) -> Iterator[list[str]]:
    """The lines of a checkpoint's table: method, calls a step, seconds, dB and SSIM of the picture, the paper's."""
    checkpoint = CHECKPOINTS[name]
    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(path))
    trips, inputs = Trips(pack, model, vae), []
    for shown, text in captioned(pictures, checkpoint.pixels):
        (prompt,) = nodes.CLIPTextEncode().encode(clip, text)
        with torch.no_grad():
            latent = {"samples": vae.encode(shown)}
        inputs.append((shown, graphs.Bench(pack, model, prompt, None, None, latent)))
    bound = [trips.bound(*given) for given in inputs]
    yield [name, "VAE alone", "", "", *figures(bound), checkpoint.paper.get("VAE alone", "")]
    chosen = methods(pack.inversion) | {"EasyInv, SD1.x": pack.inversion.EasyInv()}
    chosen |= {"EasyInv, SDXL": pack.inversion.EasyInv(0.8, 0.85, 0.1)}
    for label, method in chosen.items():
        if label in MANY and checkpoint.steps > 10:
            continue
        started = time.perf_counter()
        how = method, checkpoint.steps, checkpoint.ancestral, checkpoint.scheduler
        found = [trips.round_trip(shown, bench, *how) for shown, bench in inputs]
        seconds = (time.perf_counter() - started) / len(inputs)
        calls = statistics.fmean(row["cost"] for row in found)
        yield [name, label, f"{calls:.1f}", f"{seconds:.1f}", *figures(found), checkpoint.paper.get(label, "")]


def figures(found: list[dict[str, float]]) -> list[str]:
    return [
        f"{statistics.fmean(row[key] for row in found):{form}}" for key, form in (("picture", ".1f"), ("ssim", ".3f"))
    ]


def needs(folder: Path) -> str:
    """What to do to have the round trips, in words."""
    files = "".join(f"\n  {folder / 'checkpoints' / file}" for file in missing(folder))
    return f"The round trips need an NVIDIA GPU and these checkpoints, each with text encoders and VAE:{files}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(folder_paths.__file__).parent / "models"
    parser.add_argument("--models", type=Path, default=default, metavar="FOLDER", help="has a folder `checkpoints`")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="pictures, and captions in text files")
    options = parser.parse_args()
    if missing(options.models):
        print(needs(options.models), flush=True)
    if not GPU:
        raise SystemExit("large_models measures on an NVIDIA GPU, and this machine has none.")
    pack = inprocess.load_pack()
    print("| model | method | calls a step | seconds, both ways | picture, dB | SSIM | the paper |")
    print("|---|---|---|---|---|---|---|")
    for name, checkpoint in CHECKPOINTS.items():
        path = options.models / "checkpoints" / checkpoint.file
        for line in round_trips(pack, name, path, options.pictures) if path.exists() else []:
            print(f"| {' | '.join(line)} |", flush=True)
        comfy.model_management.unload_all_models()
    cost(pack)


def cost(pack: Any) -> None:
    """The table of cost, with random weights."""
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, bf16, median of {REPEATS} pairs")
    print("| model | pixels | gradient | seconds | ratio to KSampler with as many calls | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        with torch.inference_mode():
            model, prompt, channels = load(name)
        for pixels in (512, 1024):
            latent = {"samples": torch.randn(1, channels, pixels // 8, pixels // 8)}
            for gradient in ("sign", "autograd", "min-norm"):
                invert = _inversion(pack, model, prompt, latent, gradient)
                sample = _sampling(model, prompt, latent, calls=STEPS * ITERATIONS)
                invert(), sample()  # warm up
                torch.cuda.reset_peak_memory_stats()
                times = [(seconds(invert), seconds(sample)) for _ in range(REPEATS)]
                ratio = statistics.median(mine / theirs for mine, theirs in times)
                mine = statistics.median(pair[0] for pair in times)
                memory = torch.cuda.max_memory_allocated() / 2**30
                print(f"| {name} | {pixels} | {gradient} | {mine:.2f} | {ratio:.2f} | {memory:.1f} |", flush=True)
        comfy.model_management.unload_all_models()
        del model


def _inversion(pack: Any, model: Any, prompt: Any, latent: dict, gradient: str) -> Callable[[], object]:
    node = graphs.node_of(pack, "INV_GuidedNR")
    settings = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
    settings |= {"steps": STEPS, "iterations": ITERATIONS, "gradient": gradient, "scheduler": "simple"}

    def run() -> object:
        with torch.inference_mode():
            return node.execute(model=model, positive=prompt, latent=latent, **settings)

    return run


def _sampling(model: Any, prompt: Any, latent: dict, calls: int) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return nodes.KSampler().sample(model, 0, calls, 1.0, "euler", "simple", prompt, prompt, latent, 1.0)

    return run


if __name__ == "__main__":
    main()
