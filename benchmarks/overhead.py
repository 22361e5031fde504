"""What an inversion costs beside the host's own sampler: `python scripts/benchmark.py overhead`

Times N steps of Invert Image (EasyInv) against N steps of the host's KSampler (`euler`) on the same model at the same
cfg: equal model calls, so the ratio shows what the nodes add. Runs are paired and alternate; the median of the pairs'
ratios is printed with their quartiles. The bar is 1.05.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

import inprocess

inprocess.boot()
import torch

import nodes

PAIRS, STEPS, BATCH = 31, 20, 4


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratios(pack: Any, version: str, cfg: float) -> list[float]:
    """Seconds of an inversion over seconds of the sampler, for each pair."""
    model, clip, vae = pack.nodes.demo.load(version)
    image, caption = pack.nodes.demo.DemoPicture.execute("red heart", "blue").args
    positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in (caption, ""))
    latent = {"samples": vae.encode(image).repeat(BATCH, 1, 1, 1)}
    settings = {"scheduler": "normal", "denoise": 1.0, "preset": "SD1.x", "eta": 0.5, "start": 0.05}
    settings |= {"length": 0.2, "placement": "after", "check": False, "steps": STEPS, "cfg": cfg}

    def invert() -> None:
        pack.nodes.easyinv.InvertEasyInv.execute(
            model=model, positive=positive, negative=negative, latent=latent, **settings
        )

    def sample() -> None:
        nodes.KSampler().sample(model, 0, STEPS, cfg, "euler", "normal", positive, negative, latent, denoise=1.0)

    invert(), sample()  # warm up
    found = []
    for pair in range(PAIRS):
        times = {work: seconds(work) for work in ((invert, sample) if pair % 2 else (sample, invert))}
        found.append(times[invert] / times[sample])
    return found


def main() -> None:
    pack = inprocess.load_pack()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {STEPS} steps, batch {BATCH}, {PAIRS} pairs")
    for version in pack.nodes.demo.VERSIONS:
        for cfg in (1.0, 3.0):
            with torch.inference_mode():
                low, median, high = statistics.quantiles(ratios(pack, version, cfg), n=4)
            print(f"{version:4} cfg {cfg:g}: inversion / KSampler {median:.3f}  (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
