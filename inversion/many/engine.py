"""Ray: a cluster, tasks that look at the pictures, and a pool of workers that do them."""

import logging
import math
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from .. import InversionError
from . import inputs, model, plan
from .job import Job, Workers
from .output import FORMAT, Output
from .progress import Progress, closing, say
from .worker import Done, Worker


@dataclass(frozen=True)
class Prepared:
    """A run that has not begun.

    Arguments:
        job, workers: what was asked for.
        output: that it writes to.
        identity: the settings and the model, as run.json has them.
        table: all pictures in their shards, rows of `PLAN`.
        new: those of them that no earlier run planned.
        left: the shards that are not done.
        lines: the plan in plain words.
    """

    job: Job
    workers: Workers
    output: Output
    identity: dict[str, Any]
    table: pa.Table
    new: pa.Table
    left: tuple[int, ...]
    lines: tuple[str, ...]


def prepare(job: Job, workers: Workers) -> Prepared:
    """Look at everything, write nothing."""
    about, output, settings = model.inspect(job.pipeline), Output(job.output), job.settings
    chunks = inputs.chunks(job.input)
    table = {} if job.prompts is None else inputs.prompts(job.prompts)
    identity = {"format": FORMAT, **settings.identity, "pipeline": about.pipeline, "model": about.fingerprint()}
    output.check(identity)
    connect(workers.address)
    pictures, notes = plan.with_prompts(look(chunks), job, table)

    planned = output.planned()
    known = set(planned["key"].to_pylist())
    keys = [plan.key(picture, identity) for picture in pictures]
    fresh = [picture for picture, key in zip(pictures, keys, strict=True) if key not in known]
    first = 1 + max(planned["shard"].to_pylist(), default=-1)
    new = plan.laid_out(fresh, about, identity, first, settings.shard)
    whole = pa.concat_tables([planned, new])
    done = output.done()
    left = tuple(sorted(set(whole["shard"].to_pylist()) - done))

    cost = plan.cost(whole.filter(pc.is_in(whole["shard"], pa.array(left, pa.int32()))), settings, about)
    lines = [*plan.said(cost, settings), *notes]
    if len(planned):
        before = sum(shard in done for shard in whole["shard"].to_pylist())
        lines.insert(0, f"{before:,} of {len(whole):,} pictures are done already; this is what is left.")
    gone = len(known - set(keys))
    if gone:
        lines.append(
            f"{gone:,} planned pictures are not in the input any more, or changed; their rows stay, or say so."
        )
    if cost.latents + cost.records > output.free():
        raise InversionError(
            f"There is {plan.size(output.free())} free where {output.folder} is, but latents and records take "
            f"{plan.size(cost.latents + cost.records)}. Give another output, or leave out --records."
        )
    return Prepared(job, workers, output, identity, whole, new, left, tuple(lines))


def run(prepared: Prepared, watch: Callable[[Done], None] | None = None) -> Any:
    """Do the shards that are left; returns the Dataset of all rows."""
    output, table = prepared.output, prepared.table
    for line in prepared.lines:
        say(line)
    output.begin(prepared.identity)
    if len(prepared.new):
        output.add(prepared.new)
    left = set(prepared.left)
    before = sum(shard not in left for shard in table["shard"].to_pylist())
    progress = Progress(len(table), before)
    failures: list[Done] = []
    try:
        for done in pool(prepared):
            if done.fatal:
                raise InversionError(done.failure)
            if done.failure:
                failures.append(done)
                continue
            progress(done)
            if watch is not None:
                watch(done)
    finally:
        output.end()
    undone = sorted(left - output.done())
    for line in closing(*output.summary()):
        say(line)
    if undone:
        said = f"shard {failures[0].shard}: {failures[0].failure}" if failures else "Ray lost them"
        name = output.pictures(undone[0])[0]["name"]
        raise InversionError(
            f"{len(undone)} of {len(prepared.left)} shards are not done ({said}). The first of them begins with the "
            f"picture {name}. What is done stays. Give the same command again to continue."
        )
    return ray.data.read_parquet(str(output.shards), file_extensions=["parquet"])


def pool(prepared: Prepared) -> Iterable[Done]:
    """The shards that are left, done by a pool of workers, in the order in which they end.

    A worker that dies is started anew and its shard tried again, by Ray's own defaults. Those of a machine that is gone
    start where there is room: at the latest when the first of the others has nothing left to do and is ended.
    """
    if not prepared.left:
        return
    job, output = prepared.job, prepared.output
    count, gpus = shares(prepared.workers)
    shards = ray.data.from_items([{"shard": shard} for shard in prepared.left], override_num_blocks=len(prepared.left))
    done = shards.map_batches(
        Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=count, initial_size=count, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=prepared.workers.cpus,
        num_gpus=gpus,
        fn_constructor_args=(
            str(Path(job.input).absolute()),
            str(Path(job.pipeline).absolute()),
            str(output.folder),
            job.settings,
            gpus > 0,
            prepared.workers.cpus,
            prepared.workers.batch,
        ),
    )
    # By default a batch is held back until the next one is there.
    batches: Iterable[Any] = done.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    for batch in batches:
        for row in batch.to_pylist():
            yield Done(**row)


def look(chunks: list[inputs.Chunk]) -> list[inputs.Picture]:
    """All pictures, in the order of the chunks."""

    def seen(batch: dict[str, Any]) -> Any:
        chunk = chunks[int(batch["chunk"][0])]
        table = plan.to_table(list(inputs.look(chunk)))
        return table.append_column("chunk", pa.array([int(batch["chunk"][0])] * len(table), pa.int64()))

    numbers = ray.data.from_items([{"chunk": i} for i in range(len(chunks))], override_num_blocks=len(chunks))
    found: list[tuple[int, int, inputs.Picture]] = []
    for row in numbers.map_batches(seen, batch_size=1, zero_copy_batch=True).iter_rows():
        found.append((row.pop("chunk"), len(found), inputs.Picture(**row)))
    return [picture for _, _, picture in sorted(found, key=lambda each: each[:2])]


def shares(workers: Workers) -> tuple[int, float]:
    """(workers, GPUs of each), with defaults for this cluster.

    Raises:
        InversionError: not even one worker fits.
    """
    has = ray.cluster_resources()
    gpus = workers.gpus if workers.gpus is not None else min(has.get("GPU", 0), 1)
    fits = int(has.get("CPU", 0) // workers.cpus)
    if gpus:
        fits = min(fits, int(has.get("GPU", 0) / gpus + 1e-9))
    if not fits:
        raise InversionError(
            f"A worker takes {workers.cpus} CPUs and {gpus:g} GPUs, but the cluster has {has.get('CPU', 0):g} and "
            f"{has.get('GPU', 0):g}. Ask for less, or start Ray on more machines."
        )
    count = workers.count or (max(1, math.floor(has["GPU"] / gpus)) if gpus else 1)
    if count > fits:
        say(f"There is room for {fits} of {count} workers; the others start when there is more.")
    return count, gpus


def connect(address: str | None) -> None:
    """Have a Ray: the one that this process is in, the one at the address, else one of its own.

    Raises:
        InversionError: there is none at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not ray.is_initialized():
        if address in (None, "", "local"):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a command that edits pictures calls nobody
            # Ray Data itself makes workers of a kind that Ray's core prints a warning about.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _reach(str(address))
            try:
                ray.init(address=address, **quiet)
            except Exception as error:
                raise _unreachable(str(address), error) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _reach(address: str) -> None:
    """Raise at once where nothing listens; Ray itself tries for minutes."""
    if address.startswith("ray://"):
        raise InversionError(
            f"{address} is a Ray Client's address. Start the command on a machine of the cluster with --address auto, "
            "or by `ray job submit`."
        )
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> InversionError:
    return InversionError(
        f"No Ray cluster answers at {address}: {error} Start one with `ray start --head --port 6379`, run the command "
        "on a machine that has joined it (`ray start --address HOST:6379`) and give HOST:6379. Where the cluster has a "
        "token, have the same one in ~/.ray/auth_token here, and set RAY_AUTH_MODE=token. Without --address the "
        "command starts a Ray of its own."
    )
