"""Inversion Report: its numbers are the Invert node's own check, and its picture shows what was decoded."""

import math
from typing import Any

import comfy.samplers
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from families import FAMILIES
from graphs import Bench, demo
from PIL import Image
from torch import Tensor

import nodes

SCALE = 3  # 128 x 128 pictures are drawn at 384 x 384
ROUNDING = 0.5 / 255 + 1e-6


@pytest.fixture(scope="module", params=["v-prediction", "flow"])
def bench(request: pytest.FixtureRequest, pack: Any) -> Bench:
    return demo(pack, request.param)


@pytest.fixture(scope="module")
def flow(pack: Any) -> Bench:
    return demo(pack, "flow")


@pytest.fixture(scope="module")
def vae(pack: Any) -> Any:
    return pack.nodes.demo.load("flow")[2]


@pytest.fixture(scope="module")
def picture(pack: Any) -> Tensor:
    return pack.nodes.demo.DemoPicture.execute("fox", "green", look=0).args[0]


def report(bench: Bench, vae: Any, latent: dict, **inputs: Any) -> Any:
    node = bench.pack.nodes.report.InversionReport
    with torch.inference_mode():
        return node.execute(
            **{"model": bench.model, "positive": bench.positive, "latent": latent, "vae": vae, **inputs}
        )


def layout_of(bench: Bench, drawn: Tensor, width: int, height: int, rows: int) -> Any:
    """The layout that has the drawing's size; how many lines the headline has is not known before."""
    make = bench.pack.nodes.report_picture.Layout
    fitting = [
        found for lines in range(1, 12) if (found := make(width, height, rows, lines)).size[::-1] == drawn.shape[1:3]
    ]
    assert len(fitting) == 1
    return fitting[0]


def panel(drawn: Tensor, layout: Any, row: int, column: int) -> Tensor:
    left, top = layout.cell(row, column)
    return drawn[0, top : top + layout.height, left : left + layout.width]


def test_the_panels_are_the_pictures(bench: Bench, vae: Any, picture: Tensor) -> None:
    """The middle one is what the host's own sampler makes of the inverted noise."""
    latent, noise, sigmas, _ = bench.invert("EasyInv", steps=6)
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.set_conds(bench.positive, bench.negative)
    guider.set_cfg(1.0)
    with torch.inference_mode():
        euler = comfy.samplers.sampler_object("euler")
        theirs = SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, bench.latent).args[0]
        decoded = nodes.VAEDecode().decode(vae, theirs)[0][0]
    drawn, text = report(bench, vae, latent, image=picture).args
    layout = layout_of(bench, drawn, 384, 384, 1)
    original, came, difference = (panel(drawn, layout, 0, column)[::SCALE, ::SCALE] for column in range(3))
    torch.testing.assert_close(original, picture[0], atol=ROUNDING, rtol=0)
    torch.testing.assert_close(came, decoded, atol=ROUNDING + 1e-3, rtol=0)
    expected = (picture[0] - decoded).abs()
    factor = 2 ** math.floor(-math.log2(float(np.quantile(expected, 0.999))))
    assert factor > 1
    torch.testing.assert_close(difference, (factor * expected).clamp(max=1), atol=ROUNDING + factor * 1e-3, rtol=0)
    for column in range(3):  # small pictures keep their pixels, as squares
        whole = panel(drawn, layout, 0, column)
        assert torch.equal(whole, whole[::SCALE, ::SCALE].repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1))
    decibels = -10 * math.log10(float((picture[0] - decoded).square().mean()))
    said = float(text.split("Picture 1 of 1: ")[1].split(" dB")[0])
    assert said == pytest.approx(decibels, abs=0.06)


@pytest.mark.parametrize("of", ["mask", "latent"])
def test_the_mask_is_an_outline_on_the_picture(flow: Bench, vae: Any, picture: Tensor, of: str) -> None:
    """Within it and away from it the pixels are the picture's; the line runs around it."""
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:96, 40:80] = 1
    latent = flow.invert("EasyInv", steps=3)[0]
    if of == "latent":
        latent = {**latent, "noise_mask": mask}
    drawn, _ = report(flow, vae, latent, image=picture, **({"mask": mask} if of == "mask" else {})).args
    for column in (0, 1):
        shown = panel(drawn, layout_of(flow, drawn, 384, 384, 1), 0, column)
        white = (shown == 1).all(-1)
        assert white[32 * SCALE - 3, 40 * SCALE : 80 * SCALE].all()
        assert white[32 * SCALE : 96 * SCALE, 40 * SCALE - 3].all()
    original = panel(drawn, layout_of(flow, drawn, 384, 384, 1), 0, 0)[::SCALE, ::SCALE]
    for part in ((slice(32, 96), slice(40, 80)), (slice(0, 24), slice(0, 128))):
        torch.testing.assert_close(original[part], picture[0][part], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(("method", "grade"), [("FixedPoint", "good"), ("EasyInv", "fair")])
def test_the_verdict_is_a_colour_and_a_sentence(flow: Bench, vae: Any, method: str, grade: str) -> None:
    module, verdict = flow.pack.nodes.report_picture, flow.pack.inversion.verdict
    drawn, text = report(flow, vae, flow.invert(method, steps=10)[0]).args
    decibels = float(text.split("checked: ")[1].split(" dB")[0])
    assert verdict.in_short([decibels])[0] == grade
    colour = torch.tensor(module.COLOURS[grade]) / 255
    assert torch.allclose(drawn[0, 2], colour, atol=ROUNDING)
    assert len(set(module.COLOURS.values())) == 3


@pytest.mark.parametrize(
    ("method", "inputs"),
    [
        ("EasyInv", {"steps": 6}),
        ("FixedPoint", {"steps": 5, "cfg": 2.0}),
        ("GuidedNR", {"steps": 4, "sampler": "euler_ancestral", "seed": 3}),
    ],
)
def test_the_verdict_is_that_of_the_invert_nodes_check(bench: Bench, vae: Any, method: str, inputs: dict) -> None:
    latent, _, _, checked = bench.invert(method, check=True, negative=bench.negative, **inputs)
    text = report(bench, vae, latent, negative=bench.negative).args[1]
    assert text.splitlines()[0] == checked.splitlines()[0]
    assert " dB in the latent" in text
    for line in checked.splitlines():
        if "model calls." in line or "Residual" in line:
            assert line in text.splitlines()


def test_without_an_image_the_vaes_own_picture_is_the_original(flow: Bench, vae: Any, picture: Tensor) -> None:
    latent, _, _, _ = flow.invert("FixedPoint", steps=10)
    drawn, text = report(flow, vae, latent).args
    with torch.inference_mode():
        decoded = nodes.VAEDecode().decode(vae, flow.latent)[0][0]
    original = panel(drawn, layout_of(flow, drawn, 384, 384, 1), 0, 0)[::SCALE, ::SCALE]
    torch.testing.assert_close(original, decoded.clamp(0, 1), atol=ROUNDING + 1e-5, rtol=0)
    assert "the VAE alone" not in text
    ours = -10 * math.log10(float((picture[0] - decoded).square().mean()))
    assert f"the VAE alone {ours:.1f} dB" in report(flow, vae, latent, image=picture).args[1]


@pytest.mark.once
def test_equal_pictures_have_no_difference(flow: Bench, picture: Tensor) -> None:
    module = flow.pack.nodes.report_picture
    drawn = module.draw(picture, picture.clone(), ["no difference"], torch.tensor([0.0, 1e-3]), "Equal.")
    layout = layout_of(flow, drawn, 384, 384, 1)
    assert not panel(drawn, layout, 0, 2).any()
    assert panel(drawn, layout, 0, 1).any()
    assert flow.pack.nodes.report._how_near(picture[0], picture[0], picture[0]) == "no difference"


@pytest.mark.once
def test_a_batch_has_a_row_for_each_of_some(flow: Bench, vae: Any) -> None:
    colours = list(flow.pack.nodes.demo.scenes.WALLS)[:6]
    of = flow.pack.nodes.demo.DemoPicture.execute
    pictures = torch.cat([of("fox", colour, look=0).args[0] for colour in colours])
    with torch.inference_mode():
        samples = nodes.VAEEncode().encode(vae, pictures)[0]["samples"]
    for count, shown in ((2, (0, 1)), (6, (0, 2, 3, 5))):
        latent, _, _, _ = flow.invert("FixedPoint", steps=2, latent={"samples": samples[:count]})
        drawn, text = report(flow, vae, latent, image=pictures[:count]).args
        layout = layout_of(flow, drawn, 384, 384, len(shown))
        for row, i in enumerate(shown):
            original = panel(drawn, layout, row, 0)[::SCALE, ::SCALE]
            torch.testing.assert_close(original, pictures[i], atol=ROUNDING, rtol=0)
        assert text.count(f" of {count}: ") == count


class VideoVAE:
    """Stands in for a video's VAE: three of the latent's channels are the frames' colours."""

    def decode(self, samples: Tensor) -> Tensor:
        return samples[:, :3].movedim(1, -1).sigmoid()  # (B, T, H, W, 3)


def test_a_video_is_shown_by_its_frames(pack: Any) -> None:
    video = FAMILIES["Wan 2.1"].bench(pack)
    latent, _, _, _ = video.invert("FixedPoint", steps=2)
    drawn, text = report(video, VideoVAE(), latent).args
    frames = VideoVAE().decode(video.latent["samples"])[0]
    assert text.count(f" of {len(frames)}: ") == len(frames) == 3
    scale = 320 // frames.shape[2]
    layout = layout_of(video, drawn, 320, 320, 3)
    for row, frame in enumerate(frames):
        original = panel(drawn, layout, row, 0)[::scale, ::scale]
        torch.testing.assert_close(original, frame, atol=ROUNDING + 1e-5, rtol=0)


@pytest.mark.once
@pytest.mark.parametrize(
    ("height", "width", "larger", "smaller"),
    [(64, 64, 5, 1), (512, 512, 1, 1), (1024, 1024, 1, 1), (1536, 2048, 1, 2), (40, 600, 1, 1), (600, 40, 2, 1)],
)
def test_pictures_of_all_sizes_are_drawn_to_be_seen(
    flow: Bench, height: int, width: int, larger: int, smaller: int
) -> None:
    random = torch.Generator().manual_seed(0)
    picture = torch.rand(1, height, width, 3, generator=random)
    words = "A headline of many words. " * 8
    drawn = flow.pack.nodes.report_picture.draw(picture, 1 - picture, ["1 dB"], torch.tensor([1e-9, 1e-3, 50.0]), words)
    layout = layout_of(flow, drawn, width * larger // smaller, height * larger // smaller, 1)
    assert layout.lines > 1
    expected = picture[0].unflatten(0, (-1, smaller)).unflatten(2, (-1, smaller)).mean((1, 3))
    torch.testing.assert_close(panel(drawn, layout, 0, 0)[::larger, ::larger], expected, atol=ROUNDING + 1e-5, rtol=0)


@pytest.mark.once
def test_the_curve_is_at_the_residuals(flow: Bench, picture: Tensor) -> None:
    """Found by its colour: in each step's column as high as the residual's logarithm is, on the scale of the plot."""
    module = flow.pack.nodes.report_picture
    residuals = torch.tensor([1e-3, 1e-1, 1e-2, 1.0, 1e-2])
    drawn = module.draw(picture, picture, [""], residuals, "Words.")
    layout = layout_of(flow, drawn, 384, 384, 1)
    left, top = layout.cell(1, 0)
    plot = drawn[0, top : top + layout.plot[1], left : left + layout.plot[0]]
    colour = torch.tensor(module.LINE) / 255
    rows, columns = ((plot - colour).abs().amax(-1) < 0.2).nonzero().unbind(1)
    assert len(rows)
    begin, end = int(columns.min()), int(columns.max())
    heights = []
    for i in range(5):
        at = round(begin + 1 + (end - begin - 2) * i / 4)
        heights.append(float(rows[(columns - at).abs() <= 1].double().mean()))
    decade = (heights[0] - heights[3]) / 3
    assert decade == pytest.approx((layout.plot[1] - 2 * layout.line) / 3, rel=0.03)  # 1 at the top, 1e-3 at the bottom
    for height, residual in zip(heights, residuals.tolist(), strict=True):
        assert (heights[0] - height) / decade == pytest.approx(3 + math.log10(residual), abs=0.25)


def test_the_preview_is_the_picture(flow: Bench, vae: Any) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    out = report(flow, vae, latent)
    (shown,) = out.ui["images"]
    assert shown["type"] == "temp"
    with Image.open(f"{folder_paths.get_temp_directory()}/{shown['filename']}") as image:
        stored = torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
    torch.testing.assert_close(stored, out.args[0][0], atol=1.01 / 255, rtol=0)
    assert out.ui["text"] == (out.args[1],)


def test_no_preview_of_a_step_covers_the_picture(flow: Bench, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of 0.30.0 keeps the last preview it got on the node, over the picture; the bar moves all the same."""
    seen: list[tuple[int, int, Any]] = []
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *progress, **_: seen.append(progress))
    latent, _, _, _ = flow.invert(steps=3)
    assert all(preview is not None for _, _, preview in seen)
    seen.clear()
    report(flow, vae, latent)
    assert seen[-1] == (3, 3, None)  # the host leaves out some that follow one another closely
    assert {preview for _, _, preview in seen} == {None}


def test_what_cannot_be_reported_is_refused(bench: Bench, vae: Any, picture: Tensor) -> None:
    error = bench.pack.inversion.InversionError
    latent, _, _, _ = bench.invert(steps=2, cfg=2.0, negative=bench.negative)
    given = {"negative": bench.negative}
    with pytest.raises(error, match=r"no inversion record. Connect it straight from an Invert Image node"):
        report(bench, vae, bench.latent)
    with pytest.raises(
        error, match=r"cfg 2.*`negative` is not connected. Connect the one that the picture was inverted with"
    ):
        report(bench, vae, latent)
    with pytest.raises(error, match=r"values were changed.*Connect it straight"):
        report(bench, vae, {**latent, "samples": latent["samples"] * 1.1}, **given)
    with pytest.raises(error, match="`image` is 1 of 64 x 128, the latent 1 of 128 x 128"):
        report(bench, vae, latent, image=picture[:, :, :64], **given)
    with pytest.raises(error, match="`image` is 3 of 128 x 128, the latent 1 of 128 x 128"):
        report(bench, vae, latent, image=picture.repeat(3, 1, 1, 1), **given)


def test_a_picture_that_the_vae_cropped_is_cropped_alike(flow: Bench, vae: Any, picture: Tensor) -> None:
    odd = torch.nn.functional.pad(picture, (0, 0, 2, 1, 1, 0))  # 129 x 131, of which the VAE takes 128 x 128
    with torch.inference_mode():
        samples = nodes.VAEEncode().encode(vae, odd)[0]
    latent, _, _, _ = flow.invert(steps=2, latent=samples)
    drawn, _ = report(flow, vae, latent, image=odd).args
    original = panel(drawn, layout_of(flow, drawn, 384, 384, 1), 0, 0)[::SCALE, ::SCALE]
    torch.testing.assert_close(original, vae.vae_encode_crop_pixels(odd)[0], atol=ROUNDING, rtol=0)
