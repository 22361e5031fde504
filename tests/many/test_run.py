"""Whole runs on a local Ray with two workers: disturbed, resumed, and equal to an undisturbed one to the last byte."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from catalogue import BROKEN, COUNT, SIZES, files, picture, rows_of, settings

from inversion import InversionError
from inversion.many import Job, Workers, run
from inversion.many.cli import main
from inversion.many.output import Output
from inversion.many.worker import Done

pytestmark = pytest.mark.usefixtures("local_ray")
REPOSITORY = Path(__file__).resolve().parents[2]
TWO = Workers(count=2)


@pytest.fixture
def job(pictures: Path, pipeline: Path, tmp_path: Path) -> Job:
    """That of `undisturbed`."""
    return Job(pictures, tmp_path / "out", pipeline, settings(records=True))


def kill_worker(done: Done) -> None:
    os.kill(int(done.worker.split("@")[0]), signal.SIGKILL)


def test_a_worker_that_is_killed_changes_nothing(job: Job, undisturbed: Output) -> None:
    seen: list[Done] = []

    def watch(done: Done) -> None:
        if not seen:
            kill_worker(done)  # it has its next shard in hand
        seen.append(done)

    rows = run(job, TWO, watch)
    assert len({done.worker for done in seen}) >= 2
    assert files(Output(job.output)) == files(undisturbed)
    assert rows.count() == COUNT
    names = {row["name"] for row in rows.select_columns(["name", "problem"]).take_all() if row["problem"]}
    assert names == set(BROKEN)


def settle(output: Output) -> None:
    """Wait until no worker of a run that was left writes any more."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < 1.5:
        now = sorted(output.shards.iterdir())
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.1)


def test_a_command_that_is_killed_goes_on_and_does_nothing_twice(
    job: Job, undisturbed: Output, tmp_path: Path, ray_path: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a Ray of its own, which ends with it; what is left is done on another."""
    output = Output(job.output)
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "inversion.many", *command_line(job)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while not output.done():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    settle(output)
    before = {path: path.stat().st_mtime_ns for path in output.shards.glob("*.parquet")}
    left = undisturbed.done() - output.done()
    assert left

    seen: list[Done] = []
    run(job, TWO, seen.append)
    assert {done.shard for done in seen} == left
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files(output) == files(undisturbed)
    said = capsys.readouterr().err
    assert "pictures are done already; this is what is left." in said
    assert "60 of 60 pictures (100%)" in said

    # Nothing is left; and with other settings it is refused.
    assert main(command_line(job)) == 100 + len(BROKEN)
    assert files(output) == files(undisturbed)
    said = capsys.readouterr().err
    assert "60 rows: 55 good, 5 bad." in said
    assert "bad: It is of no format that Pillow knows." in said
    assert main([*command_line(job), "--steps", "6"]) == 1
    assert "steps: 5 there, 6 asked" in capsys.readouterr().err


def command_line(job: Job) -> list[str]:
    given = ["invert", job.input, job.output, "--pipeline", job.pipeline, "--concurrency", 2]
    return [*map(str, given), "--steps", "5", "--shard", "8", "--records"]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command_line(job), "--dry-run"]) == 0
    assert not Path(job.output).exists()
    said = capsys.readouterr().out
    assert "60 pictures to invert: 19 of 16 x 16, 19 of 16 x 24, 19 of 24 x 16." in said
    assert "3 of them cannot be used." in said
    assert "At most 570 model calls (for each picture 10 to invert) and 570 passes through the network." in said
    assert "latents 77.8 kB, records 1.2 MB." in said


def test_new_pictures_are_added_and_edited_ones_can_be_looked_at(pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        picture(i, SIZES[0]).save(folder / f"{i}.png")
    (tmp_path / "p.csv").write_text("picture,prompt,target\n0.png,a red heart,a green heart\n")
    asked = settings(task="edit", steps=2)
    job = Job(folder, tmp_path / "out", pipeline, asked, tmp_path / "p.csv", prompt="a heart", target="green")
    run(job)
    before = files(Output(job.output))
    picture(3, SIZES[1]).save(folder / "3.png")
    seen: list[Done] = []
    rows = run(job, watch=seen.append)
    assert [(done.shard, done.pictures) for done in seen] == [(1, 1)]
    assert files(Output(job.output)).items() >= before.items()
    found = {row["name"]: (row["prompt"], row["target"]) for row in rows_of(Output(job.output))}
    assert found == {"0.png": ("a red heart", "a green heart")} | {f"{i}.png": ("a heart", "green") for i in (1, 2, 3)}
    assert rows.count() == 4


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_run(job: Job, tmp_path: Path) -> None:
    shutil.copytree(job.pipeline, tmp_path / "pipeline")
    (tmp_path / "pipeline" / "unet" / "config.json").write_text("{}")
    with pytest.raises(InversionError, match="cannot start"):
        run(Job(job.input, job.output, tmp_path / "pipeline", job.settings), TWO)


def test_workers_that_fit_nowhere_are_refused(job: Job) -> None:
    for workers, has in ((Workers(gpus=1), "the cluster has 2 and 0"), (Workers(cpus=9), "takes 9 CPUs")):
        with pytest.raises(InversionError, match=has):
            run(job, workers)


def test_an_output_that_cannot_be_written_ends_the_command(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    arguments: list[Any] = command_line(Job(job.input, tmp_path / "file" / "out", job.pipeline, job.settings))
    assert main(arguments) == 1
    assert "cannot be written" in capsys.readouterr().err
