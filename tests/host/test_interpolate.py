"""Interpolate Inversions and Seeds From Examples in the host: exact ends, finite frames, any prompts, messages."""

import math
from typing import Any

import comfy.samplers
import comfy_extras.nodes_post_processing  # noqa: F401  newer hosts' nodes_latent has to find it begun
import pytest
import torch
from comfy_extras.nodes_latent import LatentBatch
from families import FAMILIES
from graphs import Bench, defaults, demo, micro, relative
from torch import Tensor

PATHS = ["spherical", "linear", "norm-aware"]
STEPS = 4


@pytest.fixture(scope="module", params=["v-prediction", "flow"])
def pair(request: pytest.FixtureRequest, pack: Any) -> "Pair":
    return Pair.of_demo(pack, request.param)


@pytest.fixture(scope="module")
def flow(pack: Any) -> "Pair":
    return Pair.of_demo(pack, "flow")


@pytest.fixture(scope="module")
def sd(pack: Any) -> "Pair":
    """A small random network: fast, and its prompts may have any length."""
    bench = micro(pack, "EPS")
    other = {"samples": bench.latent["samples"].flip(-1)}
    return Pair(bench, [bench.latent, other], [bench.positive, bench.other])


class Pair:
    """Two pictures and their prompts on one model."""

    def __init__(self, bench: Bench, latents: list[dict], prompts: list[Any], **invert: Any) -> None:
        self.bench, self.latents, self.prompts = bench, latents, prompts
        given = {"method": "FixedPoint", "steps": STEPS, "iterations": 1, "start": "native", **invert}
        self.inverted = [
            bench.invert(latent=latent, positive=prompt, **given)[0]
            for latent, prompt in zip(latents, prompts, strict=True)
        ]

    @classmethod
    def of_demo(cls, pack: Any, version: str) -> "Pair":
        import nodes

        bench = demo(pack, version)
        with torch.inference_mode():
            _, clip, vae = pack.nodes.demo.load(version)
            picture, caption = pack.nodes.demo.DemoPicture.execute("panda", "green").args
            prompt, other = nodes.CLIPTextEncode().encode(clip, caption)[0], nodes.VAEEncode().encode(vae, picture)[0]
        return cls(bench, [bench.latent, other], [bench.positive, prompt])

    def frames(self, **inputs: Any) -> tuple[dict, Any, Any, Tensor, str]:
        """(LATENT, CONDITIONING, NOISE, SIGMAS, report) of Interpolate Inversions."""
        node = self.bench.pack.nodes.interpolate.Interpolate
        sides = {f"latent_{side}": self.inverted[i] for i, side in enumerate(("from", "to"))}
        sides |= {f"positive_{side}": self.prompts[i] for i, side in enumerate(("from", "to"))}
        with torch.inference_mode():
            return node.execute(**{"model": self.bench.model, **defaults(node), **sides, **inputs}).args

    def shown(self, edit: dict[str, Any] | None = None, **inputs: Any) -> Tensor:
        """The frames after Edit From Latent, as latents."""
        latent, positive, *_ = self.frames(**inputs)
        return self.bench.edit(latent=latent, positive=positive, **(edit or {}))[0]["samples"]

    def errors(self, shown: Tensor) -> list[float]:
        ends = [self.bench.pack.nodes.host.samples_for(self.bench.model, latent) for latent in self.latents]
        return [relative(shown[i : i + 1 or None], end) for i, end in zip((0, -1), ends, strict=True)]


def start_of(bench: Bench, noise: Any, latent: dict, sigmas: Tensor) -> Tensor:
    """Where a sampler of the host starts, as a latent."""
    stays = comfy.samplers.KSAMPLER(lambda model, x, sigmas, **others: x)
    guider = comfy.samplers.CFGGuider(bench.model)
    guider.inner_set_conds({"positive": bench.positive})
    guider.set_cfg(1.0)
    with torch.inference_mode():
        return guider.sample(noise.generate_noise(latent), latent["samples"], stays, sigmas, disable_pbar=True, seed=0)


def seeds_of(bench: Bench, latent: dict, **inputs: Any) -> tuple[dict, Any, Tensor, str]:
    """(LATENT, NOISE, SIGMAS, report) of Seeds From Examples."""
    node = bench.pack.nodes.seeds.Seeds
    with torch.inference_mode():
        return node.execute(**{"model": bench.model, "latent": latent, **defaults(node), **inputs}).args


@pytest.mark.parametrize("frames", [2, 3, 8])
@pytest.mark.parametrize("path", PATHS)
def test_the_ends_are_the_two_pictures_and_every_frame_is_finite(pair: Pair, path: str, frames: int) -> None:
    shown = pair.shown(path=path, frames=frames)
    assert shown.shape == (frames, 32, 16, 16)
    assert shown.isfinite().all()
    assert max(pair.errors(shown)) <= 1e-5


@pytest.mark.once
def test_so_with_64_frames(sd: Pair) -> None:
    shown = sd.shown(frames=64)
    assert len(shown) == 64
    assert shown.isfinite().all()
    assert max(sd.errors(shown)) <= 1e-5


@pytest.mark.parametrize("preserve", [0.5, 1.0])
def test_so_however_much_is_preserved(pair: Pair, preserve: float) -> None:
    assert max(pair.errors(pair.shown(frames=3, edit={"preserve": preserve}))) <= 1e-5


def test_so_with_predictions(pair: Pair) -> None:
    shown = pair.shown(frames=3, prompts="predictions")
    assert max(pair.errors(shown)) <= 1e-5
    assert relative(shown[1], pair.shown(frames=3)[1]) > 1e-3


@pytest.mark.once
def test_between_the_pictures_the_frames_go_from_one_to_the_other(pair: Pair) -> None:
    shown = pair.shown(frames=5)
    first, last = ([relative(frame, shown[end]) for frame in shown] for end in (0, -1))
    assert first[1] < first[2] < first[3]
    assert last[1] > last[2] > last[3]


@pytest.mark.parametrize("prompts", ["embeddings", "predictions"])
def test_runs_are_bit_identical(sd: Pair, prompts: str) -> None:
    assert torch.equal(sd.shown(prompts=prompts, path="norm-aware"), sd.shown(prompts=prompts, path="norm-aware"))


def test_inputs_stay_as_they_are(sd: Pair) -> None:
    before = [{**latent["inversion"]} for latent in sd.inverted]
    kept = [{name: value.clone() for name, value in record.items() if isinstance(value, Tensor)} for record in before]
    prompts = [prompt[0][0].clone() for prompt in sd.prompts]
    sd.frames(prompts="predictions")
    sd.frames()
    for latent, record, tensors in zip(sd.inverted, before, kept, strict=True):
        assert latent["inversion"] == record
        assert all(torch.equal(record[name], value) for name, value in tensors.items())
    assert all(torch.equal(prompt[0][0], kept) for prompt, kept in zip(sd.prompts, prompts, strict=True))


@pytest.mark.once
def test_memory_grows_with_the_frames_and_no_faster(sd: Pair) -> None:
    def size(frames: int) -> int:
        record = sd.frames(frames=frames)[0]["inversion"]
        per_frame = [name for name in ("trajectory", "points", "slopes") if name in record]
        return sum(record[name].untyped_storage().nbytes() for name in per_frame)

    one = 4 * (3 * STEPS + 1) * sd.bench.latent["samples"].numel()
    assert [size(frames) for frames in (2, 8, 32)] == [frames * one for frames in (2, 8, 32)]


@pytest.mark.parametrize("path", PATHS)
def test_the_noise_starts_any_sampler_at_the_frames(pair: Pair, path: str) -> None:
    latent, _, noise, sigmas, _ = pair.frames(frames=3, path=path)
    for image in (latent, {"samples": torch.zeros(3, 32, 16, 16)}):
        assert relative(start_of(pair.bench, noise, image, sigmas), latent["samples"]) <= 1e-5
    assert sigmas.tolist() == pair.bench.invert("FixedPoint", steps=STEPS)[2].tolist()


def test_a_sampler_of_the_host_comes_down_near_the_pictures(flow: Pair) -> None:
    near = Pair(flow.bench, flow.latents, flow.prompts, iterations=8, tolerance=1e-3, start="extrapolated")
    latent, positive, noise, sigmas, _ = near.frames(frames=3)
    guider = comfy.samplers.CFGGuider(flow.bench.model)
    guider.inner_set_conds({"positive": positive})
    guider.set_cfg(1.0)
    euler = comfy.samplers.ksampler("euler")
    with torch.inference_mode():
        drawn = noise.generate_noise(latent)
        shown = guider.sample(drawn, latent["samples"], euler, sigmas, disable_pbar=True, seed=0)
    assert shown.isfinite().all()
    assert max(near.errors(shown)) <= 0.05


def test_at_another_cfg_with_a_negative_prompt(sd: Pair) -> None:
    guided = {"cfg": 3.0, "negative": sd.bench.negative}
    three = Pair(sd.bench, sd.latents, sd.prompts, **guided)
    assert max(three.errors(three.shown(frames=3, edit=guided))) <= 1e-5
    assert "with cfg 3 and the negative prompt of the inversions" in three.frames()[4]
    mixed = sd.frames(latent_to=three.inverted[1])[4]
    assert "inverted at cfg 1 and 3" in mixed


def test_with_ancestral_noise(sd: Pair) -> None:
    ancestral = Pair(sd.bench, sd.latents, sd.prompts, sampler="euler_ancestral", seed=5)
    assert max(ancestral.errors(ancestral.shown(frames=3))) <= 1e-5
    assert "Sample with Edit From Latent, because" in ancestral.frames()[4]
    with pytest.raises(ValueError, match=r"4 steps of kind 've' .* and 4 ancestral steps"):
        sd.frames(latent_to=ancestral.inverted[1])


FEW = [
    "SDXL eps",
    "SDXL v, zero terminal SNR",
    "SD3",
    "Flux dev",
    "Qwen-Image",
    "Wan 2.1",
    "Hunyuan-DiT",
    "Stable Audio",
]


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("prompts", ["embeddings", "predictions"])
def test_families(pack: Any, family: str, prompts: str) -> None:
    bench = FAMILIES[family].bench(pack, batch=2)
    both = bench.latent["samples"]
    sigmas = FAMILIES[family].schedule(bench, STEPS)
    found = Pair(bench, [{"samples": both[:1]}, {"samples": both[1:]}], [bench.positive, bench.other], sigmas=sigmas)
    shown = found.shown(frames=3, prompts=prompts)
    assert shown.shape == (3, *both.shape[1:])
    assert shown.isfinite().all()
    assert max(found.errors(shown)) <= 1e-5
    latent, _, noise, sigmas, _ = found.frames(frames=3, prompts=prompts)
    assert relative(start_of(bench, noise, latent, sigmas), latent["samples"]) <= 1e-5


def with_tokens(prompt: Any, count: int, **options: Any) -> list:
    tensor, others = prompt[0]
    random = torch.Generator().manual_seed(count)
    return [[torch.randn(1, count, tensor.shape[2], generator=random), {**others, **options}]]


@pytest.mark.parametrize("counts", [(7, 14), (8, 12), (20, 5)])
def test_prompts_of_other_lengths_are_repeated_as_the_host_does(sd: Pair, counts: tuple[int, int]) -> None:
    found = Pair(sd.bench, sd.latents, [with_tokens(sd.bench.positive, count) for count in counts])
    assert found.frames(frames=3)[1][0][0].shape[1] == math.lcm(*counts)
    assert max(found.errors(found.shown(frames=3))) <= 1e-5


def test_what_does_not_fit_is_for_predictions(sd: Pair) -> None:
    first = sd.bench.positive
    half = torch.cat([torch.ones(1, 128, 64), torch.zeros(1, 128, 64)], -1)
    whole = with_tokens(first, 7, mask=torch.ones(1, 8, 8), mask_strength=1.0, set_area_to_bounds=False)
    others = {
        r"their length \(7 and 9 tokens\)": with_tokens(first, 9),
        r"a number of entries \(1 and 2\)": [*with_tokens(first, 7, mask=half), *whole],
        "guidance": with_tokens(first, 7, guidance=4.0),
        "attention_mask": with_tokens(first, 7, attention_mask=torch.ones(1, 7, dtype=torch.long)),
    }
    for what, other in others.items():
        found = Pair(sd.bench, sd.latents, [first, other])
        with pytest.raises(ValueError, match=f"differ in {what}, .* Set prompts to predictions"):
            found.frames()
        assert max(found.errors(found.shown(frames=3, prompts="predictions"))) <= 1e-5
    area = with_tokens(first, 7, area=(4, 4, 0, 0), strength=1.0)
    with pytest.raises(ValueError, match="Use Conditioning Set Mask"):
        sd.frames(positive_to=area, prompts="predictions")


@pytest.mark.once
def test_embeddings_change_evenly_and_are_exact_at_the_ends(flow: Pair) -> None:
    (tensor, options), t = flow.frames(frames=5)[1][0], torch.linspace(0, 1, 5)
    (first, of_first), (last, of_last) = (prompt[0] for prompt in flow.prompts)
    pooled = [found["pooled_output"] for found in (options, of_first, of_last)]
    for found, x, y in ((tensor, first, last), pooled):
        assert torch.equal(found[:1], x)
        assert torch.equal(found[-1:], y)
        weight = t.reshape(-1, *[1] * (x.ndim - 1))
        torch.testing.assert_close(found, (1 - weight) * x + weight * y)
    same = flow.frames(positive_to=flow.prompts[0])[1]
    assert torch.equal(same[0][0], first)


def test_one_mask_of_the_pictures_is_left_out_and_said(sd: Pair) -> None:
    masked = {**sd.inverted[0], "noise_mask": torch.ones(1, 64, 64), "batch_index": [0], "kind": "kept"}
    latent, *_, report = sd.frames(latent_from=masked)
    assert set(latent) == {"samples", "inversion", "kind"}
    assert "masks were left out" in report


def test_latents_that_make_no_frames_are_refused(sd: Pair) -> None:
    record = sd.inverted[0]["inversion"]
    bare = {"samples": sd.inverted[0]["samples"]}
    with pytest.raises(ValueError, match=r"no inversion record.*Connect latent_to straight from an Invert node"):
        sd.frames(latent_to=bare)
    changed = {**sd.inverted[0], "samples": 2 * sd.inverted[0]["samples"]}
    with pytest.raises(ValueError, match=r"its values were changed.*Connect latent_from straight"):
        sd.frames(latent_from=changed)
    other = {**sd.inverted[0], "inversion": {**record, "model": {**record["model"], "latent format": "SDXL"}}}
    with pytest.raises(ValueError, match="inverted with another kind of model"):
        sd.frames(latent_to=other)
    invert = {"method": "FixedPoint", "iterations": 1}
    longer = sd.bench.invert(steps=STEPS + 1, **invert)[0]
    with pytest.raises(ValueError, match=r"4 steps of kind 've' from sigma .* and 5 steps"):
        sd.frames(latent_to=longer)
    partial = sd.bench.invert(steps=STEPS, denoise=0.5, **invert)[0]
    with pytest.raises(ValueError, match="other noise levels"):
        sd.frames(latent_to=partial)
    wide = sd.bench.invert(steps=STEPS, latent={"samples": torch.ones(1, 4, 8, 10)}, **invert)[0]
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 8\) and \(1, 4, 8, 10\). Resize"):
        sd.frames(latent_to=wide)
    several = sd.bench.invert(steps=STEPS, latent={"samples": torch.ones(2, 4, 8, 8)}, **invert)[0]
    with pytest.raises(ValueError, match="invert each by itself"):
        sd.frames(latent_from=several, latent_to=several)


@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_seeds_start_any_sampler_and_have_the_norm_of_noise(pair: Pair, denoise: float) -> None:
    inverted = [
        pair.bench.invert("FixedPoint", latent=latent, steps=STEPS, iterations=1, denoise=denoise)
        for latent in pair.latents
    ]
    both = {"samples": torch.cat([found[0]["samples"] for found in inverted])}
    latent, noise, sigmas, report = seeds_of(pair.bench, both, count=3, sigmas=inverted[0][2])
    assert latent["samples"].shape == (3, 32, 16, 16)
    assert torch.equal(sigmas, inverted[0][2])
    assert relative(start_of(pair.bench, noise, latent, sigmas), latent["samples"]) <= 1e-5
    assert "3 seeds from 2 examples" in report
    assert "Strength: seeds 1.00 to 1.00, examples 0." in report


def test_seeds_with_a_record_and_without_are_the_same(pair: Pair) -> None:
    latent = {"samples": torch.cat([latent["samples"] for latent in pair.latents])}
    inverted, _, sigmas, _ = pair.bench.invert("FixedPoint", latent=latent, steps=STEPS, iterations=1)
    of_record, _, levels, _ = seeds_of(pair.bench, inverted, seed=3)
    assert torch.equal(levels, sigmas)
    bare, _, _, _ = seeds_of(pair.bench, {"samples": inverted["samples"]}, seed=3, sigmas=sigmas)
    assert relative(bare["samples"], of_record["samples"]) <= 1e-6
    both = seeds_of(pair.bench, inverted, seed=3, sigmas=sigmas)
    assert "The connected SIGMAS were not used" in both[3]


def test_seeds_are_the_same_for_the_same_seed_only(sd: Pair) -> None:
    latent = LatentBatch.execute(*sd.inverted).args[0]  # with the first one's record, which does not fit
    sigmas = sd.bench.invert("FixedPoint", steps=STEPS)[2]
    with pytest.raises(ValueError, match="Connect sigmas of the Invert node"):
        seeds_of(sd.bench, latent)
    one, again, other = (seeds_of(sd.bench, latent, seed=seed, sigmas=sigmas)[0]["samples"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert relative(one, other) > 0.1
    for change in ({"spread": 1.0}, {"fresh": 0.9}):
        assert relative(seeds_of(sd.bench, latent, seed=1, sigmas=sigmas, **change)[0]["samples"], one) > 0.1
    alike = seeds_of(sd.bench, latent, sigmas=sigmas, spread=0.0, fresh=0.0)[0]["samples"]
    assert relative(alike[:-1], alike[1:]) == 0


def test_seeds_come_down_through_edit_from_latent(flow: Pair) -> None:
    latent, _, sigmas, _ = seeds_of(flow.bench, flow.inverted[0], count=2)
    out, report = flow.bench.edit(latent=latent, sigmas=sigmas)
    assert out["samples"].isfinite().all()
    assert "carries no inversion record" in report
