"""The command `python -m inversion.many`."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from .. import InversionError
from . import prepare, run
from .job import METHODS, Job, Settings, Workers

CODES = """exit code:
  0         every row is good
  1         the run could not begin or be finished; what was said last says why
  2         the arguments are wrong
  100 + n   the run is finished, and n pictures are bad rows (199: 99 or more)
  130       interrupted; give the same command again to continue
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m inversion.many",
        description="Invert or edit many pictures by a diffusers pipeline, on one machine or a Ray cluster. "
        "To continue a run that was cut off, give the same command again.",
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("task", choices=("invert", "edit"), help="edit: invert, then sample under each picture's target prompt")
    add("input", help="a folder of pictures, or Parquet or WebDataset (tar) files: one, or a folder of them")
    add("output", help="a folder; where there are several machines, one that all of them see")
    add("--pipeline", required=True, metavar="FOLDER", help="of a diffusers pipeline, at this path on every machine")

    prompts = made.add_argument_group("prompts")
    add = prompts.add_argument
    add("--prompts", metavar="FILE", help=".csv, .jsonl or .parquet with the columns picture, prompt, target")
    add("--prompt", help="what the pictures show, for all that have no prompt of their own")
    add("--target", help="what they should become, for all that have no target of their own")

    settings = made.add_argument_group("settings: with others, give another output")
    add = settings.add_argument
    add("--method", default="FixedPoint", choices=METHODS)
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="of the method, as in iterations=3")
    add("--steps", type=int, default=20)
    add("--source-guidance", type=float, default=1.0, metavar="G", help="of the inversion; 1 is none (default)")
    add("--guidance", type=float, default=3.0, metavar="G", help="of the edit (default 3)")
    add("--negative", metavar="PROMPT", help="default the pipeline's own")
    add("--anchor", type=float, default=1.0, help="how much of the picture an edit keeps, 0 to 1 (default)")
    add("--scheduler", metavar="CLASS", help="of diffusers, in place of the pipeline's, as in DDIMScheduler")
    add("--precision", default="float32", choices=("float32", "bfloat16", "float16"), help="of the network")
    add("--records", action="store_true", help="write each inversion's whole record too; it is large")
    add("--shard", type=int, default=32, metavar="N", help="pictures in a file of the output (default 32)")

    workers = made.add_argument_group("workers: no result depends on them, but for rounding")
    add = workers.add_argument
    add("--concurrency", type=int, metavar="N", help="workers; default one for each GPU, or 1")
    add("--gpus-per-worker", type=float, metavar="G", help="may be a fraction; default 1 where there are GPUs")
    add("--cpus-per-worker", type=int, default=1, metavar="C", help="threads of each (default 1)")
    add("--batch", type=int, metavar="N", help="most pictures at once; default what fits on a GPU, 1 on a CPU")
    add("--address", metavar="CLUSTER", help="HOST:PORT or auto; default RAY_ADDRESS, else a Ray of its own")
    made.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = parser().parse_args(arguments)
    try:
        return _main(given)
    except InversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. What is done stays. Give the same command again to continue.", file=sys.stderr)
        return 130


def _main(given: argparse.Namespace) -> int:
    settings = Settings(
        given.task,
        given.steps,
        method(given.method, given.option),
        given.source_guidance,
        given.guidance,
        given.negative,
        given.anchor,
        given.scheduler,
        given.precision,
        given.records,
        given.shard,
    )
    job = Job(given.input, given.output, given.pipeline, settings, given.prompts, given.prompt, given.target)
    workers = Workers(given.concurrency, given.gpus_per_worker, given.cpus_per_worker, given.batch, given.address)
    if given.dry_run:
        print("\n".join(prepare(job, workers).lines))
        return 0
    run(job, workers)
    bad = count_bad(given.output)
    return 100 + min(bad, 99) if bad else 0


def count_bad(output: str) -> int:
    """Rows with a problem."""
    from .output import Output

    return sum(Output(output).summary()[1].values())


def method(name: str, options: Sequence[str]) -> Any:
    """The method with its options, each NAME=VALUE with VALUE in JSON, or as it stands."""
    values = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or key not in METHODS[name].__dataclass_fields__ or key == "base":
            taken = ", ".join(field for field in METHODS[name].__dataclass_fields__ if field != "base") or "none"
            raise InversionError(f"{name} takes the options {taken}, as NAME=VALUE; got {option!r}.")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    try:
        return METHODS[name](**values)
    except TypeError as error:
        raise InversionError(f"{name} cannot have {', '.join(options)}: {error}") from error
