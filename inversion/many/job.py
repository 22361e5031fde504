"""What is asked for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from .. import DDIM, EasyInv, FixedPoint, GuidedNewton, InversionError, Method

Task = Literal["invert", "edit"]
Precision = Literal["float32", "bfloat16", "float16"]
METHODS: dict[str, Any] = {method.__name__: method for method in (DDIM, EasyInv, FixedPoint, GuidedNewton)}


@dataclass(frozen=True)
class Settings:
    """What every picture of an output has in common. Another value makes another output.

    Arguments:
        task: "invert" finds the noise of each picture; "edit" comes down from it under a target prompt as well.
        steps: of the pipeline's scheduler, >= 1.
        method: DDIM, EasyInv, FixedPoint or GuidedNewton.
        source_guidance: of the way up, under the picture's own prompt. 1 is none.
        guidance: of the way down, under the target prompt; not read by "invert".
        negative: the negative prompt of both ways; default the pipeline's own.
        anchor: how much of the picture an edit keeps, 0 to 1, see `Keep`; not read by "invert".
        scheduler: a scheduler of diffusers to take in place of the pipeline's, by the name of its class.
        precision: of the network. Latents and the record are float32 in any case.
        records: whether to write the whole record of each inversion, which makes its way back exact. It is large.
        shard: pictures in a file of the output: the unit that is done, or not, when a run ends; >= 1.
    """

    task: Task
    steps: int = 20
    method: Method = field(default_factory=FixedPoint)
    source_guidance: float = 1.0
    guidance: float = 3.0
    negative: str | None = None
    anchor: float = 1.0
    scheduler: str | None = None
    precision: Precision = "float32"
    records: bool = False
    shard: int = 32

    def __post_init__(self) -> None:
        if self.task not in get_args(Task) or self.precision not in get_args(Precision):
            raise InversionError(
                f"The task is one of {', '.join(get_args(Task))} and the precision one of "
                f"{', '.join(get_args(Precision))}; got {self.task!r} and {self.precision!r}."
            )
        if self.steps < 1 or self.shard < 1:
            raise InversionError(f"steps and shard are 1 or more, got {self.steps} and {self.shard}.")
        if not 0 <= self.anchor <= 1:
            raise InversionError(f"anchor lies between 0 and 1, got {self.anchor:g}.")
        if type(self.method).__name__ not in METHODS:
            raise InversionError(f"The method is one of {', '.join(METHODS)}; got {self.method!r}.")

    @property
    def identity(self) -> dict[str, Any]:
        """All of it as plain values, but for what the task does not read."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.task == "invert":
            del values["guidance"], values["anchor"]
        return values | {"method": repr(self.method)}

    @property
    def calls(self) -> tuple[int, int]:
        """Model calls that a picture takes at most: (up, down)."""
        method: Any = self.method
        while hasattr(method, "base"):  # EasyInv's steps are another method's
            method = method.base
        return self.steps * getattr(method, "iterations", 1), self.steps if self.task == "edit" else 0


@dataclass(frozen=True)
class Job:
    """Which pictures, to where, by which model.

    Arguments:
        input: a folder of pictures, or Parquet or WebDataset (tar) files: one, or a folder of them.
        output: a folder; where there are several machines, one that all of them see.
        pipeline: the folder of a diffusers pipeline, as `save_pretrained` writes it, at this path on every machine.
        settings: how.
        prompts: a table (.csv, .jsonl, .parquet) with the columns picture, prompt, target; it wins over what stands
            beside the pictures. `picture` is the name as the output has it.
        prompt: of the pictures that have none of their own.
        target: of the pictures that have none of their own.
    """

    input: str | Path
    output: str | Path
    pipeline: str | Path
    settings: Settings
    prompts: str | Path | None = None
    prompt: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Workers:
    """Who does it. Nothing of this changes a result, but for rounding.

    Arguments:
        count: of workers, each with a copy of the model; default one for each GPU, or 1 where there are none.
        gpus: of each worker, may be a fraction; default 1 where there are GPUs, else 0.
        cpus: of each worker, which it uses as threads.
        batch: most pictures in a batch; default a whole shard on a GPU, halved where that does not fit, and 1 on a CPU.
        address: of a Ray cluster; default the one that RAY_ADDRESS names, else a Ray of its own on this machine.
    """

    count: int | None = None
    gpus: float | None = None
    cpus: int = 1
    batch: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        for name in ("count", "cpus", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InversionError(f"{name} is 1 or more, got {value}.")
        if self.gpus is not None and self.gpus < 0:
            raise InversionError(f"gpus is 0 or more, got {self.gpus:g}.")
