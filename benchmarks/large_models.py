"""Guided NR at real sizes on a GPU: `python scripts/benchmark.py large_models`

SDXL and Flux at the size of their published checkpoints with random weights (the cost does not depend on their values),
in bf16, at 512 and 1024 pixels: 4 steps of Guided NR with 2 iterations by each gradient, the ratio of its time to the
host's KSampler with as many model calls, and peak memory. The paper (arXiv 2312.12540) reports 0.4 s for SDXL Turbo at
512 pixels on an A100. Prints a table with the name of the GPU; there is nothing to run without one.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import graphs
import inprocess
import torch

inprocess.boot(None, "--highvram", "--disable-dynamic-vram", cpu=False)
import comfy.model_management
import comfy.supported_models
import comfy.utils

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


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("large_models measures on an NVIDIA GPU, and this machine has none.")
    pack = inprocess.load_pack()
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
