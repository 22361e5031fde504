"""On the trained models, what the verdict calls accurate is never another picture, and "usually" is true."""

from typing import Any

import pytest
import torch
from graphs import Bench, demo
from torch import Tensor

# Other pictures than those that the thresholds were read off.
PICTURES = [("blue heart", "white"), ("house", "orange"), ("owl", "grey"), ("thumbs up dark skin", "red")]


@pytest.mark.once
@pytest.mark.parametrize("version", ["v-prediction", "flow"])
def test_the_verdict_never_says_more_than_the_round_trip(pack, version: str) -> None:
    library = pack.inversion
    bench = with_pictures(demo(pack, version))
    methods = {
        "DDIM": library.DDIM(),
        **{f"EasyInv {eta:g}": library.EasyInv(eta, 0, 1) for eta in (0.0, 0.2, 0.5, 0.9)},
        "EasyInv, SD": library.EasyInv(0.5, 0.05, 0.2),
        "EasyInv, before": library.EasyInv(0.5, 0.05, 0.5, "before"),
        "Fixed Point": library.FixedPoint(3, anderson=3),
        "Fixed Point, solved": library.FixedPoint(12, 1e-3, anderson=3),
        "Guided NR": library.GuidedNewton(2, start="extrapolated"),
    }
    contradictions: list[str] = []
    shown: dict[str, list[float]] = {}
    for steps, cfg in ((4, 1.0), (10, 1.0), (10, 3.0)):
        for name, method in methods.items():

            def walk(denoiser: Any, x: Tensor, grid: Any, _: Any, method: Any = method) -> tuple[Tensor, Any]:
                inversion = library.invert(denoiser, x, grid, method)
                back = library.sample(denoiser, inversion.latent, grid)
                return back, (inversion.risk.tolist(), library.metrics.psnr_each(x, back))

            _, found = bench.through(walk, pack.nodes.host.scheduled_sigmas(bench.model, steps, "normal", 1.0), cfg)
            for risk, decibels in zip(*found, strict=True):
                said = library.verdict.of_risk(risk).split(":")[0]
                shown.setdefault(said, []).append(decibels)
                measured = library.verdict.of_round_trip([decibels], steps)
                if said == "Accurate" and measured.startswith("Inaccurate:"):
                    contradictions.append(f"{name}, {steps} steps, cfg {cfg:g}: risk {risk:.3f}, {decibels:.1f} dB")
    assert not contradictions
    assert shown.keys() == {"Accurate", "Fair", "Rough"}  # all of them were tried
    middle = {said: float(torch.tensor(values).median()) for said, values in shown.items()}
    assert middle["Accurate"] >= library.verdict.NEAR
    assert middle["Fair"] >= library.verdict.ALIKE
    assert middle["Accurate"] > middle["Fair"] > middle["Rough"]


def with_pictures(bench: Bench) -> Bench:
    """The bench on PICTURES, with their captions."""
    with torch.inference_mode():
        version = "flow" if bench.model.model.model_type.name == "FLOW" else "v-prediction"
        _, clip, vae = bench.pack.nodes.demo.load(version)
        scenes = bench.pack.nodes.demo.scenes
        described = [scenes.unseen_scene(100 + i, *what) for i, what in enumerate(PICTURES)]
        shown = torch.stack([torch.from_numpy(scenes.picture(scene)) for scene in described])
        bench.latent = {"samples": vae.encode(shown)}
        texts = [clip.tokenize(scenes.caption(scene)) for scene in described]
        encoded = [clip.encode_from_tokens(text, return_pooled=True) for text in texts]
        context, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        bench.positive = [[context, {"pooled_output": pooled}]]
    return bench
