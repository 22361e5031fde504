"""Which picture is in which shard, and what it all costs."""

import hashlib
import json
from collections import Counter
from dataclasses import astuple, dataclass, fields, replace
from itertools import groupby
from typing import Any

import pyarrow as pa

from .. import InversionError
from .inputs import Picture
from .job import Job, Settings
from .model import Model, latent_bytes

PICTURE = pa.schema([(field.name, pa.int64() if field.type is int else pa.string()) for field in fields(Picture)])
PLAN = pa.schema([("shard", pa.int32()), ("key", pa.string()), *PICTURE])


def to_table(pictures: list[Picture]) -> pa.Table:
    """Pictures as rows of `PICTURE`."""
    columns = zip(*map(astuple, pictures), strict=True) if pictures else [[] for _ in PICTURE]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, PICTURE, strict=True)], PICTURE)


def with_prompts(
    pictures: list[Picture], job: Job, table: dict[str, tuple[str | None, str | None]]
) -> tuple[list[Picture], list[str]]:
    """The pictures with the prompts that the job gives them, and what is to be said about that.

    Raises:
        InversionError: pictures that are to be edited have no target.
    """
    made, notes = [], []
    for picture in pictures:
        prompt, target = table.get(picture.name, (None, None))
        prompt = prompt or picture.prompt or job.prompt
        target = (target or picture.target or job.target) if job.settings.task == "edit" else None
        made.append(replace(picture, prompt=prompt or "", target=target))
    aimless = [picture.name for picture in made if job.settings.task == "edit" and not picture.target]
    if aimless:
        raise InversionError(
            f"{len(aimless)} of {len(made)} pictures have no target prompt, the first is {aimless[0]}. Give one for "
            "each in the column `target` of --prompts, or --target for all that have none."
        )
    untold = sum(not picture.prompt for picture in made)
    if untold:
        notes.append(f"{untold:,} pictures have no prompt of their own: they are inverted under the empty one.")
    strangers = table.keys() - {picture.name for picture in made}
    if strangers:
        notes.append(f"{len(strangers):,} pictures of the table of prompts are not there, such as {min(strangers)}.")
    return made, notes


def key(picture: Picture, identity: dict[str, Any]) -> str:
    """What a row depends on, as a digest: the picture's bytes and name, its prompts, the settings, the model."""
    parts = [picture.digest or picture.path, picture.name, picture.prompt, picture.target, identity]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def laid_out(pictures: list[Picture], model: Model, identity: dict[str, Any], first: int, length: int) -> pa.Table:
    """New pictures in shards of up to `length`, numbered from `first`: rows of `PLAN`.

    A shard has pictures of one size, as the network takes it, in the input's order, which keeps what lies together
    together. Those that are no pictures have shards of their own. Pictures that occur twice have a row each.
    """
    resized = []
    for picture in pictures:
        width, height = model.size(picture.width, picture.height)
        problem = picture.problem
        if problem is None and not width * height:
            problem = f"It is {picture.width} x {picture.height}; the model's smallest is a side of " + str(
                model.pixels * model.patch
            )
        resized.append(replace(picture, width=width, height=height, problem=problem))
    resized.sort(key=_size)  # stable
    shards = []
    for _, group in groupby(resized, _size):
        alike = list(group)
        shards += [alike[i : i + length] for i in range(0, len(alike), length)]
    ordered = [picture for shard in shards for picture in shard]
    numbers = [first + i for i, shard in enumerate(shards) for _ in shard]
    table = to_table(ordered)
    keys = [key(picture, identity) for picture in ordered]
    return pa.table([pa.array(numbers, pa.int32()), pa.array(keys, pa.string()), *table.columns], PLAN)


def _size(picture: Picture) -> tuple[bool, int, int]:
    """Those that are no pictures come last."""
    return (True, 0, 0) if picture.problem else (False, picture.width, picture.height)


@dataclass(frozen=True)
class Cost:
    """What a plan takes.

    Arguments:
        sizes: pictures of each (width, height).
        bad: that are no pictures.
        calls: model calls, at most, counted by picture: to invert and to edit.
        shown: pictures that the network is shown in them; with guidance twice as many.
        latents, records: bytes written, exactly but for some hundred a row.
        edited: bytes of edited pictures, at most.
    """

    sizes: dict[tuple[int, int], int]
    bad: int
    calls: int
    shown: int
    latents: int
    records: int
    edited: int

    @property
    def bytes(self) -> int:
        return self.latents + self.records + self.edited


def cost(table: pa.Table, settings: Settings, model: Model) -> Cost:
    """Of the pictures in rows of `PLAN`."""
    good = [row for row in table.select(["width", "height", "problem"]).to_pylist() if row["problem"] is None]
    sizes = dict(sorted(Counter((row["width"], row["height"]) for row in good).items()))
    up, down = settings.calls
    latents = sum(count * latent_bytes(model.latent(*size)) for size, count in sizes.items())
    states = 3 * settings.steps + 1  # of a record: every state, and the point and the slope of every step
    twice = [1 + (guidance != 1 and model.pipeline != "FluxPipeline") for guidance in _guidances(settings)]
    return Cost(
        sizes,
        len(table) - len(good),
        len(good) * (up + down),
        len(good) * (up * twice[0] + down * twice[1]),
        latents,
        latents * states if settings.records else 0,
        sum(3 * width * height * count for (width, height), count in sizes.items()) if down else 0,
    )


def _guidances(settings: Settings) -> tuple[float, float]:
    return settings.source_guidance, settings.guidance


def said(cost: Cost, settings: Settings) -> list[str]:
    """The plan in plain words."""
    good = sum(cost.sizes.values())
    kinds = ", ".join(f"{count:,} of {width} x {height}" for (width, height), count in list(cost.sizes.items())[:8])
    more = f" and {len(cost.sizes) - 8} more sizes" if len(cost.sizes) > 8 else ""
    up, down = settings.calls
    ways = f"{up} to invert" + (f", {down} to edit" if down else "")
    lines = [
        f"{good + cost.bad:,} pictures to {settings.task}" + (f": {kinds}{more}" if good else "") + ".",
        f"At most {cost.calls:,} model calls (for each picture {ways}) and {cost.shown:,} passes through the network.",
        f"To be written: latents {size(cost.latents)}"
        + (f", records {size(cost.records)}" if cost.records else "")
        + (f", edited pictures up to {size(cost.edited)}" if cost.edited else "")
        + ".",
    ]
    if cost.bad:
        lines.insert(1, f"{cost.bad:,} of them cannot be used. Their rows will say why.")
    return lines


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError
