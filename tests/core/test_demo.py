"""The demo model's scenes, captions, codec and judge are what their documents say."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from demo import judge, scenes, text
from demo.codec import PATCH, LappedCodec, border_mix

FOX = scenes.Scene("fox", "green", x=0.45, base=0.85, size=0.6, light=(0.1, -0.05))


def test_a_description_has_one_picture() -> None:
    a, b = scenes.picture(scenes.training_scene(3)), scenes.picture(scenes.training_scene(3))
    assert a.shape == (128, 128, 3)
    assert a.dtype == np.float32
    assert np.array_equal(a, b)
    assert 0 <= a.min() < a.max() <= 1


@pytest.mark.parametrize("size", [0.5, 0.6321, 0.92])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_tile_keeps_its_content_at_any_place_and_size(size: float, mirrored: bool) -> None:
    first, weights = scenes._weights(0.0123, size, mirrored)
    line = np.linspace(0, 1, scenes.TILE, dtype=np.float32)
    inside = slice(4, len(weights) - 4)
    assert np.allclose(weights[inside].sum(1), 1, atol=1e-5)  # a plain tile stays plain
    at = ((np.arange(len(weights)) + first + 0.5) / scenes.SIZE - 0.0123) / size * scenes.TILE - 0.5
    expected = np.interp(at, np.arange(scenes.TILE), line[::-1] if mirrored else line)
    assert np.allclose((weights @ line)[inside], expected[inside], atol=2e-3)


def test_moving_by_whole_pixels_moves_the_picture() -> None:
    plain = replace(FOX, light=(0.0, 0.0))
    moved = scenes.picture(replace(plain, x=plain.x + 5 / scenes.SIZE))
    assert np.allclose(moved[:, 5:], scenes.picture(plain)[:, :-5], atol=1e-4)


def test_mirroring_the_object_mirrors_the_picture_where_all_else_is_symmetric() -> None:
    plain = replace(FOX, x=0.5, light=(0.0, 0.1))
    assert np.allclose(scenes.picture(replace(plain, mirrored=True)), scenes.picture(plain)[:, ::-1], atol=1e-4)


def test_an_edited_scene_differs_only_where_it_should() -> None:
    differs = np.abs(scenes.picture(FOX) - scenes.picture(replace(FOX, hat="crown"))).max(-1) > 1e-6
    rows, columns = np.nonzero(differs)
    assert 0.01 < differs.mean() < 0.2
    assert rows.max() < 0.6 * scenes.SIZE  # on the head
    assert abs(columns.mean() / scenes.SIZE - FOX.x) < 0.03
    wall = np.abs(scenes.picture(FOX) - scenes.picture(replace(FOX, wall="red"))).max(-1) > 1e-3
    assert 0.3 < wall.mean() < 0.95  # the object itself keeps its colours


def test_training_never_shows_a_held_out_pair_and_rarely_a_rare_thing() -> None:
    pool = [scenes.training_scene(i) for i in range(4000)]
    shown = Counter((scene.thing, scene.wall) for scene in pool)
    assert not [pair for pair in shown if scenes.held_out(*pair)]
    assert len([pair for pair in scenes.pairs() if scenes.held_out(*pair)]) >= 24
    drawn = Counter(scene.thing for scene in pool)
    assert 0 < sum(drawn[name] for name in scenes.index()["rare"]) < 60
    assert drawn["fox"] > 20
    assert not [scene for scene in pool if scene.hat and scene.thing not in scenes.wearers()]


def test_looks_are_wide_and_objects_are_in_the_picture() -> None:
    pool = [scenes.training_scene(i) for i in range(2000)]
    for name, low, high in (("x", 0.3, 0.7), ("size", 0.52, 0.9), ("base", 0.7, 0.97), ("horizon", 0.44, 0.76)):
        values = np.array([getattr(scene, name) for scene in pool])
        assert values.min() < low
        assert values.max() > high, name
    assert all(scene.base - scene.size > -0.25 and scene.base > scene.horizon for scene in pool)
    assert {len(scene.props) for scene in pool} == {0, 1, 2}
    assert 0.4 < np.mean([scene.mirrored for scene in pool]) < 0.6


def test_every_word_is_known_and_no_caption_is_too_long() -> None:
    vocabulary = text.Vocabulary(scenes.vocabulary())
    random = np.random.default_rng(0)
    for i in range(3000):
        caption = scenes.training_caption(scenes.training_scene(i), random)
        assert vocabulary.tokens(caption)[1] == [], caption
    longest = scenes.wording("woman tan skin", "blue", "hat", "small", "on the left")
    assert vocabulary.tokens(longest) == ([vocabulary._token[word] for word in text.words(longest)], [])


def test_captions_say_what_is_asked() -> None:
    assert scenes.caption(replace(FOX, hat="crown")) == "a fox with a crown, green wall"
    assert scenes.wording("elephant", "red") == "an elephant, red wall"
    assert scenes.wording("fox", "red", "", "small", "on the left") == "a small fox on the left, red wall"
    assert scenes.wording("", "red") == "red wall"


def test_captions_in_training_are_often_partial_and_sometimes_wrong() -> None:
    random = np.random.default_rng(1)
    said = [scenes.training_caption(FOX, random) for _ in range(4000)]
    share = {name: np.mean([part in caption for caption in said]) for name, part in
             (("object", "fox"), ("wall", "green wall"), ("other wall", "wall"))}  # fmt: skip
    both = np.mean(["fox" in caption and "green wall" in caption for caption in said])
    full = np.mean([", " in caption for caption in said])
    assert 0.08 < np.mean([caption == "" for caption in said]) < 0.12
    assert 0.7 < share["object"] < 0.8
    assert 0.05 < share["other wall"] - share["wall"] < 0.1  # another colour is named
    assert 0.75 < both / full < 0.88


def test_the_lapped_transform_is_orthonormal_and_keeps_what_is_plain() -> None:
    mix = border_mix(32)
    assert torch.allclose(mix @ mix.T, torch.eye(32, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(mix.sum(1), torch.ones(32, dtype=torch.float64), atol=1e-12)
    assert mix[0, 1:].abs().max() == 0  # half a block at each end is left alone


def test_the_codec_gives_latents_back_and_measures_like_the_picture() -> None:
    shown = torch.from_numpy(np.stack([scenes.picture(scenes.training_scene(i)) for i in range(40)])).movedim(-1, 1)
    codec = LappedCodec()
    assert codec.fit(shown * 2 - 1) > 0.985
    latents = codec.encode(shown * 2 - 1)
    assert latents.shape == (40, 32, 128 // PATCH, 128 // PATCH)
    decoded = codec.decode(latents)
    assert torch.allclose(codec.encode(decoded), latents, atol=1e-4)
    assert (decoded - (shown * 2 - 1)).square().mean() < 0.02
    changed = latents + torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    error, seen = (changed - latents).square().sum(), (codec.decode(changed) - decoded).square().sum()
    assert torch.allclose(error, seen, rtol=1e-4)


def test_smooth_latents_show_no_blocks() -> None:
    """A single latent's picture fades out to all sides, where a block would end at a step."""
    codec = LappedCodec()
    shown = torch.from_numpy(np.stack([scenes.picture(scenes.training_scene(i)) for i in range(40)])).movedim(-1, 1)
    codec.fit(shown * 2 - 1)
    latents = torch.zeros(2, 32, 16, 16)
    latents[1, 0, 8, 8] = 1
    blob = (codec.decode(latents)[1] - codec.decode(latents)[0]).abs().sum(0)
    border = blob[64 - PATCH // 2 : 72 + PATCH // 2, 64 - PATCH // 2 : 72 + PATCH // 2]
    assert border.sum() > 0.999 * blob.sum()
    assert border[[0, -1]].max() < 0.2 * border.max()


def test_the_classifier_names_what_unseen_scenes_show() -> None:
    random = np.random.default_rng(3)
    described = []
    for i in range(60):
        hat = ("", "crown", "hat")[i % 3]
        thing = str(random.choice(scenes.wearers() if hat else scenes.things()))
        described.append(scenes.unseen_scene(900_000 + i, thing, str(random.choice(list(scenes.WALLS))), hat))
    shown = torch.from_numpy(np.stack([scenes.picture(scene) for scene in described])).movedim(-1, 1)
    seen = judge.load().see(shown)
    right = [(s.thing == a.thing) + (s.wall == a.wall) + (s.hat == a.hat) for s, a in zip(described, seen, strict=True)]
    assert np.mean(right) > 2.9
    noise = torch.rand(shown.shape, generator=torch.Generator().manual_seed(0))
    assert len({answer.thing for answer in judge.load().see(noise)}) < 20  # noise is nothing in particular
