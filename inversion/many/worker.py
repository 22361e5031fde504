"""A shard of pictures to rows: what runs in a process of its own, with a copy of the model."""

import gc
import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import Inversion, InversionError, Keep, invert, sample
from ..adapters import diffusers as adapter
from . import model
from .inputs import NoPicture, Reader, decoded, root
from .job import Settings
from .output import Output, record_bytes

Row = dict[str, Any]
BEGUN = ("name", "key", "problem", "prompt", "target", "width", "height")  # of a row, from the plan
TRIES = 4  # of a shard, in a run; if its worker dies that often, that is taken to be the shard's fault
CALM = "Lower guidance, or take a higher precision."
LANCZOS = 1  # Pillow's, and what encode itself resizes by


@dataclass(frozen=True)
class Done:
    """What a worker says of a shard.

    Arguments:
        shard: which.
        pictures, bad: rows in it, and those of them with a problem.
        seconds: it took.
        ended: when, in Unix time.
        processor: seconds that the worker has had of its processors, since it began.
        memory: of the worker, in bytes.
        worker: process and machine.
        failure: why it is not done; "" where it is.
        fatal: that no other shard will be done either.
    """

    shard: int
    pictures: int = 0
    bad: int = 0
    seconds: float = 0.0
    ended: float = 0.0
    processor: float = 0.0
    memory: int = 0
    worker: str = ""
    failure: str = ""
    fatal: bool = False


class Worker:
    """Loads the model once, then does shard after shard. Ray calls it with batches of one row, {"shard": number}."""

    def __init__(
        self, source: str, pipeline: str, output: str, settings: Settings, gpu: bool, threads: int, batch: int | None
    ) -> None:
        self.settings, self.output, self.refusal = settings, Output(output), ""
        torch.set_num_threads(threads)
        try:
            self.device = _device(gpu)
            self.model = model.inspect(pipeline)
            if not (self.output.folder / "run.json").exists():
                raise InversionError(
                    f"{_where()} does not see the output {self.output.folder}. Give one that all machines see."
                )
            self.pipe = model.load(pipeline, settings, self.device)
            model.rehearse(self.pipe, settings, self.model.channels, self.model.patch)
        # Kept for the first call: raised here, Ray would start the worker anew and wrap what it says.
        except Exception as error:
            self.refusal = f"{_where()} cannot start: {error}"
        self.batches = Batches(batch or (settings.shard if gpu else 1))
        self.reader = Reader(root(source))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        done = self.shard(int(batch["shard"][0]))
        return {name: [value] for name, value in vars(done).items()}

    def shard(self, number: int) -> Done:
        """Do a shard, and write it."""
        started, done = time.monotonic(), Done(number, worker=_where())
        if self.refusal:
            return replace(done, failure=self.refusal, fatal=True)
        counted: list[bool] = []
        try:
            if self.output.try_again(number) > TRIES:
                return replace(done, failure=f"It was begun {TRIES} times, and each time its worker died")
            self.output.write(number, self._counting(self.rows(self.output.pictures(number)), counted), self.settings)
        # What comes here is not the pictures' fault, so it makes no rows.
        except OSError as error:
            return replace(done, failure=f"{_where()} cannot read its plan or write its rows: {error}", fatal=True)
        except Exception as error:
            if "CUDA error" in str(error):  # no later work on this device would do any better in this process
                os._exit(1)
            return replace(done, failure=f"{type(error).__name__}: {error}")
        return replace(
            done,
            pictures=len(counted),
            bad=sum(counted),
            seconds=time.monotonic() - started,
            ended=time.time(),
            processor=time.process_time(),
            memory=memory(),
        )

    def _counting(self, rows: Iterator[Row], into: list[bool]) -> Iterator[Row]:
        for row in rows:
            into.append(row["problem"] is not None)
            yield row

    def rows(self, pictures: list[dict[str, Any]]) -> Iterator[Row]:
        """The rows of pictures of one size, in their order."""
        items = [Item(picture, {name: picture[name] for name in BEGUN}) for picture in pictures]
        size = (pictures[0]["width"], pictures[0]["height"])
        waiting = iter(items)
        for part in self.batches.each(("encode", *size), _good(items), self._encode):
            for solved in self.batches.each(("network", *size), _good(part), self._solve):
                edited = _good(solved) if self.settings.task == "edit" else []
                for _ in self.batches.each(("decode", *size), edited, self._decode):
                    pass
                for item in waiting:  # those that failed before it too
                    yield item.given()
                    if item is solved[-1]:
                        break
        for item in waiting:
            yield item.given()

    def _encode(self, items: "list[Item]") -> None:
        images = []
        for item in items:
            size = (item.picture["width"], item.picture["height"])
            try:
                image = decoded(self.reader.read(item.picture))
                images.append(image if image.size == size else image.resize(size, LANCZOS))
            except NoPicture as error:
                item.fail(str(error))
        if images:
            latents = adapter.encode(self.pipe, images)
            for item, latent in zip(_good(items), latents.split(1), strict=True):
                item.latent = latent

    def _solve(self, items: "list[Item]") -> None:
        """Invert, and for an edit come down again."""
        settings = self.settings
        x0 = torch.cat([item.latent for item in items])
        grid = adapter.grid(self.pipe, settings.steps, like=x0)
        source = self._denoiser([item.row["prompt"] for item in items], settings.source_guidance)
        inversion = invert(source, x0, grid, settings.method)
        if settings.task == "edit":
            target = self._denoiser([item.row["target"] for item in items], settings.guidance)
            edited = sample(target, inversion.latent, grid, source=inversion, keep=Keep(settings.anchor))
            for item, latent in zip(items, edited.split(1), strict=True):
                item.edited = latent
                if not latent.isfinite().all():
                    item.fail(f"The edit gave values that are not finite. {CALM}")
        for i, item in enumerate(items):
            if not item.failed:
                item.row |= self._figures(inversion.pick([i]))

    def _denoiser(self, prompts: list[str], guidance: float) -> Any:
        return adapter.denoiser(self.pipe, prompts, negative=self.settings.negative, guidance=guidance)

    def _figures(self, inversion: Inversion) -> Row:
        latent, residuals = inversion.latent[0], inversion.residuals[:, 0]
        figures = {
            "shape": list(latent.shape),
            "latent": latent.flatten().cpu().numpy().copy(),  # a view would hold the batch's whole record
            "verdict": inversion.verdict,
            "residuals": residuals.numpy(),
            "residual_mean": float(residuals.mean()),
            "residual_worst": float(residuals.max()),
            "converged": inversion.converged,
            "calls": list(inversion.calls),
        }
        return figures | ({"record": record_bytes(inversion)} if self.settings.records else {})

    def _decode(self, items: "list[Item]") -> None:
        images = adapter.decode(self.pipe, torch.cat([item.edited for item in items]))
        for item, image in zip(items, images, strict=True):
            item.row["edited"], item.edited = {"bytes": png(image), "path": None}, None


@dataclass(eq=False)
class Item:
    """A picture on its way through the stages.

    Arguments:
        picture: as the plan has it.
        row: as far as it is made.
        latent, edited: (1, C, H, W), the clean ones before and after the edit.
    """

    picture: dict[str, Any]
    row: Row
    latent: Any = None
    edited: Any = None

    @property
    def failed(self) -> bool:
        return self.row["problem"] is not None

    def fail(self, problem: str) -> None:
        self.row["problem"] = problem

    def given(self) -> Row:
        """The row, to be kept here no longer: with a record it is large."""
        row, self.row, self.latent = self.row, {"problem": self.row["problem"]}, None
        return row


def _good(items: list[Item]) -> list[Item]:
    return [item for item in items if not item.failed]


class Batches:
    """Work in batches, as large as fit: found by trying, for each kind of work."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.fits: dict[tuple[Any, ...], int] = {}

    def each(
        self, kind: tuple[Any, ...], items: list[Item], work: Callable[[list[Item]], None]
    ) -> Iterator[list[Item]]:
        """`work` on the items in batches, each of which is given when it is done.

        A batch that the device has no memory for is halved, and so are all of its kind from then on. One that `work`
        refuses is halved until what it refuses is alone, which then fails with what was said.
        """
        if not items:
            return
        most = self.fits.get(kind, self.most)
        if len(items) > most:
            for start in range(0, len(items), most):
                yield from self.each(kind, items[start : start + most], work)
            return
        try:
            work(items)
            problem = full = None
        except InversionError as error:
            problem, full = str(error), False
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            problem, full = "It does not fit in the device's memory. Take --precision bfloat16, or a smaller one.", True
        if full:  # out of the except block: the error, which holds the tensors, is gone
            self.fits[kind] = max(1, len(items) // 2)
            release()
        if problem is None:
            yield items
        elif len(items) == 1:
            items[0].fail(problem)
            yield items
        else:
            half = len(items) // 2
            yield from self.each(kind, items[:half], work)
            yield from self.each(kind, items[half:], work)


def out_of_memory(error: BaseException) -> bool:
    """Whether it is for want of memory; the CPU's and some devices' errors have no class of their own."""
    said = str(error).lower()
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "out of memory" in said or "can't allocate memory" in said


def release() -> None:
    """Give back the device's memory that nothing uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def png(image: Any) -> bytes:
    """A PIL image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # a quarter of the time, in which a GPU waits, for a sixth more bytes
    return file.getvalue()


def memory() -> int:
    """Of this process, in bytes; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _device(gpu: bool) -> torch.device:
    if not gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InversionError("it was given a GPU, but its torch sees none. Install a torch built for it.")
    return torch.device("cuda")


def _where() -> str:
    return f"{os.getpid()}@{socket.gethostname()}"
