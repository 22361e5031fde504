"""The folder that is written.

    run.json                 the settings and the model that all of it was made with
    plan/00000.parquet       which picture is in which shard; a later run adds a file for pictures that are new
    shards/00000.parquet     the rows of a shard, `schema`; there once the shard is done, and never touched again
    begun/                   what is being written; gone when a run ends

Files are written elsewhere in it and renamed, so one that is there is whole.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import Inversion, InversionError
from .job import Settings
from .plan import PLAN

FORMAT = 1
GROUP = 8  # rows that are held, and stand together in a file
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def schema(settings: Settings) -> pa.Schema:
    """Of the rows. `datasets` reads from its metadata that the edited picture is one."""
    columns = [
        ("name", pa.string()),
        ("key", pa.string()),
        ("problem", pa.string()),
        ("prompt", pa.string()),
        *([("target", pa.string())] if settings.task == "edit" else []),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("shape", pa.list_(pa.int32())),
        ("latent", pa.list_(pa.float32())),
        ("verdict", pa.string()),
        ("residuals", pa.list_(pa.float32())),
        ("residual_mean", pa.float32()),
        ("residual_worst", pa.float32()),
        ("converged", pa.bool_()),
        ("calls", pa.list_(pa.int32())),
        *([("edited", _IMAGE)] if settings.task == "edit" else []),
        *([("record", pa.binary())] if settings.records else []),
    ]
    made = pa.schema(columns)
    features = {field.name: {"_type": "Image"} if field.type == _IMAGE else _feature(field.type) for field in made}
    return made.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.bool_(): "bool"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


class Output:
    """An output in its folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.shards = self.folder / "shards"
        self.begun = self.folder / "begun"

    def check(self, identity: dict[str, Any]) -> None:
        """Raise an InversionError if it cannot be written, or was made with another identity. Writes nothing itself."""
        about, nearest = self.folder / "run.json", self._nearest()
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise InversionError(f"{self.folder} cannot be written: {nearest} is no folder, or not yours to write in.")
        if not about.exists():
            ours = {"plan", "shards", "begun"}  # of a run that was cut off as it began
            if self.folder.exists() and not {path.name for path in self.folder.iterdir()} <= ours:
                raise InversionError(
                    f"{self.folder} is there, and no output of inversion.many: it has no run.json. Give an empty "
                    "folder, or one that is not there yet."
                )
            return
        try:
            found = dict(json.loads(about.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InversionError(f"{about} cannot be read: {error}. Give another output.") from error
        asked = json.loads(json.dumps(identity))
        changed = [name for name in sorted(found.keys() | asked.keys()) if found.get(name) != asked.get(name)]
        if changed:
            differences = "; ".join(f"{name}: {found.get(name)!r} there, {asked.get(name)!r} asked" for name in changed)
            raise InversionError(
                f"{self.folder} was made with other settings. {differences}. Ask for the same, or give another output."
            )

    def begin(self, identity: dict[str, Any]) -> None:
        """Have the folder, and say in it what it is made with. Call `check` first.

        Raises:
            InversionError: it cannot be written.
        """
        try:
            self.end()  # that of a run that was cut off
            for folder in (self.folder / "plan", self.shards, self.begun):
                folder.mkdir(parents=True, exist_ok=True)
            with self._whole(self.folder / "run.json") as path:
                path.write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            raise InversionError(
                f"{self.folder} cannot be written: {error}. Give an output that can be, and that all machines see."
            ) from error

    def end(self) -> None:
        """Leave only what is whole."""
        shutil.rmtree(self.begun, ignore_errors=True)

    def planned(self) -> pa.Table:
        """All rows of `PLAN`."""
        files = sorted((self.folder / "plan").glob("*.parquet"))
        return pa.concat_tables([PLAN.empty_table(), *(pq.read_table(path, schema=PLAN) for path in files)])

    def add(self, plan: pa.Table) -> None:
        """Plan further shards."""
        count = len(list((self.folder / "plan").glob("*.parquet")))
        with self._whole(self.folder / "plan" / f"{count:05}.parquet") as path:
            pq.write_table(plan, path, row_group_size=4096)  # of which a worker reads one

    def pictures(self, shard: int) -> list[dict[str, Any]]:
        """The rows of `PLAN` of a shard."""
        plans = (self.folder / "plan").glob("*.parquet")
        found = [pq.read_table(path, schema=PLAN, filters=[("shard", "=", shard)]) for path in plans]
        rows: list[dict[str, Any]] = pa.concat_tables(found).to_pylist()
        return rows

    def path(self, shard: int) -> Path:
        return self.shards / f"{shard:05}.parquet"

    def done(self) -> set[int]:
        """The shards that are."""
        return {int(path.stem) for path in self.shards.glob("[0-9]*.parquet")}

    def try_again(self, shard: int) -> int:
        """Note that a worker begins with a shard; returns the how manieth it is in this run."""
        (self.begun / f"{shard:05}.{uuid.uuid4().hex}").touch()
        return len(list(self.begun.glob(f"{shard:05}.*")))

    def write(self, shard: int, rows: Iterable[dict[str, Any]], settings: Settings) -> None:
        """The rows of a shard, as they come. Its file is there once all have."""
        columns = schema(settings)
        text = [field.name for field in columns if pa.types.is_string(field.type)]  # numbers do not repeat
        with (
            self._whole(self.path(shard)) as path,
            pq.ParquetWriter(path, columns, compression="zstd", use_dictionary=text) as writer,
        ):
            held: list[dict[str, Any]] = []
            for row in rows:
                held.append(row)
                if len(held) == GROUP:
                    writer.write_table(pa.Table.from_pylist(held, columns))
                    held = []
            if held:
                writer.write_table(pa.Table.from_pylist(held, columns))
        for mark in self.begun.glob(f"{shard:05}.*"):
            mark.unlink(missing_ok=True)

    def summary(self) -> tuple[Counter[str], Counter[str]]:
        """(rows by verdict, bad rows by problem), of all shards that are done."""
        verdicts: Counter[str] = Counter()
        problems: Counter[str] = Counter()
        for shard in sorted(self.done()):
            table = pq.read_table(self.path(shard), columns=["verdict", "problem"])
            verdicts.update(filter(None, table["verdict"].to_pylist()))
            problems.update(filter(None, table["problem"].to_pylist()))
        return verdicts, problems

    @contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """A place to write; what is written comes to `path` when the block ends well, and is gone when it does not."""
        partial = self.begun / f"{uuid.uuid4().hex}.partial"
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def free(self) -> int:
        """Bytes on its disk."""
        return shutil.disk_usage(self._nearest()).free

    def _nearest(self) -> Path:
        """Of its folder and those above, the first that is there."""
        return next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())


def record_bytes(inversion: Inversion) -> bytes:
    """The file that `Inversion.save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.safetensors"
        inversion.save(path)
        return path.read_bytes()


def record(row: dict[str, Any]) -> Inversion:
    """The inversion in the `record` of a row."""
    if not row.get("record"):
        raise InversionError(
            f"The row of {row.get('name')!r} has no record. Records are written with --records, of good pictures."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.safetensors"
        path.write_bytes(row["record"])
        return Inversion.load(path)
