"""A worker's rows against a plain loop over `invert` and `sample`; without Ray."""

import io
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from catalogue import BROKEN, COUNT, files, plain, plain_edit, rows_of, save_pipeline, settings, write_without_ray
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from PIL import Image

from inversion import EasyInv, FixedPoint, GuidedNewton, InversionError
from inversion.many import Job, record
from inversion.many.output import Output
from inversion.many.worker import TRIES, Batches, Item, Worker, out_of_memory

# A latent of a batch against that of its picture alone, in float32: convolutions and products of other shapes add up in
# another order. Found here: 8e-7 after 5 steps of a network with random weights; other processors add otherwise.
NEAR = 1e-5


def loaded(folder: Path) -> Any:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def distance(row: dict[str, Any], latent: torch.Tensor) -> float:
    found = torch.tensor(row["latent"]).reshape(1, *row["shape"])
    return float((found - latent).norm() / latent.norm())


def test_rows_equal_a_plain_loop_and_bad_pictures_say_why(undisturbed: Output, pipeline: Path, pictures: Path) -> None:
    rows = {row["name"]: row for row in rows_of(undisturbed)}
    assert len(rows) == COUNT
    assert {name for name, row in rows.items() if row["problem"]} == set(BROKEN)
    for name, problem in BROKEN.items():
        assert rows[name]["problem"].startswith(problem)
        assert rows[name]["latent"] is None
    pipe = loaded(pipeline)
    for name, row in rows.items():
        if not row["problem"]:
            expected = plain(pipe, Image.open(pictures / name), "a red heart", 5, FixedPoint())
            assert row["latent"] == expected.latent.flatten().tolist()
            assert row["residuals"] == expected.residuals[:, 0].tolist()
            assert row["verdict"] == expected.verdict
            assert row["calls"] == list(expected.calls)
            again = record(row)
            assert torch.equal(again.slopes, expected.slopes)
            assert again.report() == expected.report()


def test_a_batch_gives_the_same_to_rounding(
    undisturbed: Output, pipeline: Path, pictures: Path, tmp_path: Path
) -> None:
    """The picture that the model fails on changes how the others are batched, too."""
    together = rows_of(write_without_ray(Job(pictures, tmp_path / "out", pipeline, settings()), batch=8))
    alone = rows_of(undisturbed)
    assert [row["name"] for row in alone] == [row["name"] for row in together]
    assert [row["problem"] for row in alone] == [row["problem"] for row in together]
    good = [pair for pair in zip(alone, together, strict=True) if not pair[0]["problem"]]
    worst = max(distance(a, torch.tensor(b["latent"]).reshape(1, *b["shape"])) for a, b in good)
    print(f"batches of 8 against 1: {worst:.1e}")
    assert worst < NEAR


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("method", [EasyInv(), GuidedNewton(iterations=1)])
def test_edits_equal_a_plain_loop_on_every_pipeline(name: str, method: Any, tmp_path: Path) -> None:
    pipe = loaded(save_pipeline(tmp_path / "pipeline", name))
    (tmp_path / "in").mkdir()
    noise = torch.randn(18, 25, 3, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray((noise * 60 + 128).clamp(0, 255).byte().numpy())
    image.save(tmp_path / "in" / "a.png")
    asked = settings(task="edit", method=method, guidance=2.0)
    job = Job(tmp_path / "in", tmp_path / "out", tmp_path / "pipeline", asked, prompt="a red heart", target="green")
    output = write_without_ray(job)
    (row,) = rows_of(output)
    assert row["problem"] is None
    expected = plain(
        pipe, image.resize((row["width"], row["height"]), Image.Resampling.LANCZOS), "a red heart", 5, method
    )
    assert row["latent"] == expected.latent.flatten().tolist()
    edited = plain_edit(pipe, expected, "green", 2.0)
    assert Image.open(io.BytesIO(row["edited"]["bytes"])).tobytes() == edited.tobytes()


def test_a_batch_that_does_not_fit_is_halved_from_then_on() -> None:
    batches, sizes = Batches(8), []

    def work(items: list[Item]) -> None:
        sizes.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    items = [Item({}, {"problem": None}) for _ in range(9)]
    parts = list(batches.each(("kind",), items, work))
    assert [item for part in parts for item in part] == items
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    list(batches.each(("kind",), items, work))
    assert Counter(sizes[7:]) == {2: 4, 1: 1}
    list(batches.each(("other",), items[:3], work))
    assert sizes[-1] == 3


def test_what_is_refused_is_found_and_the_others_are_done() -> None:
    items = [Item({}, {"problem": None}) for _ in range(8)]

    def work(part: list[Item]) -> None:
        if items[5] in part:
            raise InversionError("Not this one.")

    parts = list(Batches(8).each(("kind",), items, work))
    assert [item for part in parts for item in part] == items
    assert [item.row["problem"] for item in items] == [None] * 5 + ["Not this one."] + [None] * 2


def test_a_picture_that_does_not_even_fit_alone_fails_by_itself() -> None:
    items = [Item({}, {"problem": None, "large": large}) for large in (False, True)]

    def work(part: list[Item]) -> None:
        if any(item.row["large"] for item in part):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    assert len(list(Batches(2).each(("kind",), items, work))) == 2
    assert [bool(item.failed) for item in items] == [False, True]


def test_other_errors_are_no_pictures_fault() -> None:
    def work(part: list[Item]) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    assert not out_of_memory(RuntimeError("CUDA error: unspecified launch failure"))
    with pytest.raises(RuntimeError, match="launch failure"):
        list(Batches(2).each(("kind",), [Item({}, {"problem": None})], work))


def test_a_shard_that_fails_is_not_there(
    undisturbed: Output, pipeline: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed.folder, tmp_path / "out")
    output = Output(tmp_path / "out")
    output.begin({})
    output.path(0).unlink()
    worker = Worker(
        str(pictures), str(pipeline), str(output.folder), settings(records=True), gpu=False, threads=1, batch=1
    )

    def broken(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_solve", broken)
        done = worker.shard(0)
        assert "cannot read its plan or write its rows: No space left on device" in done.failure
        assert done.fatal
    assert 0 not in output.done()
    for _ in range(TRIES):  # by workers that died
        output.try_again(0)
    assert f"begun {TRIES} times" in worker.shard(0).failure
    output.begin({})
    assert worker.shard(0).failure == ""
    assert files(output)["shards/00000.parquet"] == files(undisturbed)["shards/00000.parquet"]


def test_a_worker_whose_device_is_lost_ends_and_another_begins(
    undisturbed: Output, pipeline: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed.folder, tmp_path / "out")
    Output(tmp_path / "out").begin({})
    worker = Worker(
        str(pictures), str(pipeline), str(tmp_path / "out"), settings(records=True), gpu=False, threads=1, batch=1
    )
    errors = iter([RuntimeError("CUDA error: unspecified launch failure"), RuntimeError("of the code")])

    def broken(*_: Any) -> None:
        raise next(errors)

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(worker, "_solve", broken)
    monkeypatch.setattr(os, "_exit", ended)
    with pytest.raises(SystemExit):
        worker.shard(0)
    done = worker.shard(0)
    assert (done.failure, done.fatal) == ("RuntimeError: of the code", False)


def test_a_worker_that_cannot_start_says_so(pipeline: Path, tmp_path: Path) -> None:
    def refusal(folder: Path, **changes: Any) -> str:
        done = Worker("unused", str(folder), str(tmp_path), settings(**changes), gpu=False, threads=1, batch=1).shard(0)
        assert done.fatal
        return done.failure

    assert "does not see the output" in refusal(pipeline)
    (tmp_path / "run.json").write_text("{}")
    assert "cannot start" in refusal(tmp_path)
    assert "The scheduler is one of" in refusal(pipeline, scheduler="PNDMScheduler")
    pipe = loaded(pipeline)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "ancestral")
    assert "draws noise at every step" in refusal(tmp_path / "ancestral")
    assert refusal_free(tmp_path / "ancestral", tmp_path)


def refusal_free(folder: Path, output: Path) -> bool:
    """With a scheduler that is asked for, the pipeline's own does not matter."""
    asked = settings(scheduler="DDIMScheduler")
    return Worker("unused", str(folder), str(output), asked, gpu=False, threads=1, batch=1).refusal == ""
