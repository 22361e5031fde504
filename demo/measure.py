"""How good is the demo model? `python scripts/host.py run demo/measure.py`

For each version: 200 prompts (emoji, background) drawn at random, 20 steps of the host's Euler sampler at cfg 2 from
random noise; for each result the nearest of all pictures, by mean squared error. The bar: the right emoji in 95 %, the
right background in 99 %. Prints the counts, those of pairs that training never showed and those of rare emoji, and
leaves a sheet of the first results in `output/`.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "scripts"))

import inprocess  # noqa: E402

inprocess.boot()
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

PROMPTS, BATCH, STEPS, CFG = 200, 20, 20, 2.0


def generate(model: Any, clip: Any, vae: Any, captions: list[str], seed: int) -> Tensor:
    """Pictures (B, 64, 64, 3) for a batch of captions, through the host's own sampler."""
    encoded = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in captions]
    context, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    empty, empty_pooled = clip.encode_from_tokens(clip.tokenize(""), return_pooled=True)
    latent = torch.zeros(len(captions), 16, 16, 16)
    noise = comfy.sample.prepare_noise(latent, seed)
    positive, negative = [[context, {"pooled_output": pooled}]], [[empty, {"pooled_output": empty_pooled}]]
    samples = comfy.sample.sample(
        model, noise, STEPS, CFG, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=seed
    )
    return vae.decode(samples)


def count(version: str, what: str, asked: list, nearest: list) -> None:
    pairs = list(zip(asked, nearest, strict=True))
    emoji, colour = (sum(a[i] == b[i] for a, b in pairs) for i in (0, 1))
    print(f"{version:4} {what:22} right emoji {emoji:3}/{len(pairs)}   right background {colour:3}/{len(pairs)}")


def main() -> None:
    demo = inprocess.load_pack().nodes.demo
    pictures = demo.pictures
    every = pictures.pairs()
    truth = torch.from_numpy(np.stack([pictures.picture(*pair) for pair in every])).flatten(1)
    random = [every[i] for i in np.random.default_rng(0).integers(0, len(every), PROMPTS)]
    never = [pair for pair in every if pictures.held_out(*pair)]
    rare = [(name, colour) for name in pictures.index()["rare"] for colour in ("white", "blue")]
    asked = [*random, *never, *rare]
    for version in demo.VERSIONS:
        model, clip, vae = demo.load(version)
        batches = [asked[i : i + BATCH] for i in range(0, len(asked), BATCH)]
        with torch.inference_mode():
            captions = [[pictures.caption(*pair) for pair in batch] for batch in batches]
            images = torch.cat([generate(model, clip, vae, c, seed).cpu() for seed, c in enumerate(captions)])
        nearest = [every[i] for i in torch.cdist(images.flatten(1), truth).argmin(1).tolist()]
        a, b = len(random), len(random) + len(never)
        count(version, "random pairs", random, nearest[:a])
        count(version, "pairs never shown", never, nearest[a:b])
        count(version, "rare emoji", rare, nearest[b:])
        pairs = zip(random, nearest[:a], strict=True)
        wrong = [f"{pictures.caption(*x)} -> {pictures.caption(*y)}" for x, y in pairs if x != y]
        print(f"     wrong: {'; '.join(wrong) or 'none'}")
        tiles = images[:40].mul(255).byte().unflatten(0, (4, 10)).permute(0, 2, 1, 3, 4).reshape(4 * 64, 10 * 64, 3)
        path = REPOSITORY / "output" / f"demo-{version}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(tiles.numpy()).resize((1280, 512), Image.Resampling.LANCZOS).save(path)
        print(f"     the first 40: {path.relative_to(REPOSITORY)}", flush=True)


if __name__ == "__main__":
    main()
