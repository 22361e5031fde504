"""Inversion and editing of many pictures, on one machine or many, by Ray Data: `pip install ".[many]"`.

    from inversion import FixedPoint
    from inversion.many import Job, Settings, Workers, run

    job = Job("pictures", "inverted", "models/sdxl", Settings("invert", steps=20, method=FixedPoint()))
    rows = run(job, Workers(count=2))                 # a Ray Dataset of the rows written to inverted/shards/
    inversion = record(rows.take(1)[0])               # where they were asked for: Settings(records=True)

`python -m inversion.many --help` is the same as a command. docs/many.md has what is written, and clusters.

    job.py       what is asked for                     inputs.py    where pictures lie, and whether they are any
    model.py     the pipeline's folder                 plan.py      which picture is in which shard; what it costs
    worker.py    a shard of pictures to rows           output.py    the folder that is written, and its schema
    engine.py    Ray: a cluster, a pool of workers     progress.py  what is said meanwhile
    cli.py       the command

Importing this imports no Ray; `run` and `prepare` do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .extra import require
from .job import Job, Settings, Workers

if TYPE_CHECKING:
    from .engine import Prepared
    from .worker import Done

__all__ = ["Job", "Settings", "Workers", "prepare", "record", "run"]


def prepare(job: Job, workers: Workers | None = None) -> "Prepared":
    """Look at the pictures and say what a run would do; nothing is written and no model loaded.

    Raises:
        InversionError: something does not fit; says what, and what to do.
    """
    require()
    from . import engine

    return engine.prepare(job, workers or Workers())


def run(job: Job, workers: Workers | None = None, watch: "Callable[[Done], None] | None" = None) -> Any:
    """Invert or edit all pictures that are not done yet, and write them to the job's output.

    Arguments:
        watch: called with every shard that was done.

    Returns:
        A Ray Dataset of all rows of the output, those of earlier runs too. Pictures that could not be inverted are rows
        with a `problem`.

    Raises:
        InversionError: something does not fit, or shards are left undone; says what, and what to do. What is
            done stays, and the same call goes on from there.
    """
    require()
    from . import engine

    return engine.run(engine.prepare(job, workers or Workers()), watch)


def record(row: dict[str, Any]) -> Any:
    """The `Inversion` in the `record` of a row; the library's own file format."""
    require()
    from . import output

    return output.record(row)
