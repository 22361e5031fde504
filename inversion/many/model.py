"""A diffusers pipeline in a folder."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import InversionError
from ..adapters import diffusers as adapter
from .job import Settings


@dataclass(frozen=True)
class Model:
    """What its folder says of a pipeline, without loading it.

    Arguments:
        folder: the pipeline's.
        pipeline: the name of its class.
        channels: of a latent.
        pixels: of the picture, to a side of a latent pixel.
        patch: latent pixels to a side of what the network takes for one.
    """

    folder: Path
    pipeline: str
    channels: int
    pixels: int
    patch: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The largest (width, height) up to this one that the network takes; pictures are resized to it."""
        grain = self.pixels * self.patch
        return width // grain * grain, height // grain * grain

    def latent(self, width: int, height: int) -> tuple[int, int, int]:
        """Shape (C, H, W) of the latent of a picture."""
        return self.channels, height // self.pixels, width // self.pixels

    def fingerprint(self) -> str:
        """A digest of all files. Reads them: seconds for every few gigabytes."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(_digest, files))
        whole = hashlib.sha256()
        for path, digest in zip(files, digests, strict=True):
            whole.update(f"{path.relative_to(self.folder).as_posix()}\0{digest}\n".encode())
        return whole.hexdigest()


def inspect(folder: str | Path) -> Model:
    """What the folder says.

    Raises:
        InversionError: it is no pipeline, or none that is known here.
    """
    folder = Path(folder).absolute()
    index = _json(folder / "model_index.json")
    name, vae = str(index.get("_class_name")), _json(folder / "vae" / "config.json")
    if name not in adapter.PIPELINES:
        raise InversionError(f"{folder} has a {name}; known here are {', '.join(adapter.PIPELINES)}.")
    patch = 1
    if name == "StableDiffusion3Pipeline":
        patch = int(_json(folder / "transformer" / "config.json")["patch_size"])
    elif name == "FluxPipeline":
        patch = 2
    return Model(folder, name, int(vae["latent_channels"]), 2 ** (len(vae["block_out_channels"]) - 1), patch)


def load(folder: str | Path, settings: Settings, device: torch.device) -> Any:
    """The pipeline, on the device, with the settings' scheduler and precision."""
    import diffusers  # seconds, which only workers have to wait

    pipe = diffusers.DiffusionPipeline.from_pretrained(
        str(folder), dtype=getattr(torch, settings.precision), local_files_only=True
    )
    if settings.scheduler is not None:
        if settings.scheduler not in adapter.SCHEDULERS:
            raise InversionError(f"The scheduler is one of {', '.join(adapter.SCHEDULERS)}; got {settings.scheduler}.")
        scheduler = getattr(diffusers, settings.scheduler)
        clipped = {"clip_sample": False} if settings.scheduler == "DDIMScheduler" else {}
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **clipped)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def rehearse(pipe: Any, settings: Settings, channels: int, patch: int) -> None:
    """Raise the InversionError, if there is one, that every picture would meet with these settings."""
    grid = adapter.grid(pipe, settings.steps, like=torch.zeros(1, channels, 8 * patch, 8 * patch))
    if grid.ancestral:
        raise InversionError(
            f"{type(pipe.scheduler).__name__} draws noise at every step, which many pictures would have to keep. Take "
            "another scheduler: --scheduler EulerDiscreteScheduler."
        )
    for guidance in {settings.source_guidance, settings.guidance if settings.task == "edit" else 1.0}:
        adapter.denoiser(pipe, "", negative=settings.negative, guidance=guidance)


def latent_bytes(shape: tuple[int, ...]) -> int:
    """Of a latent in float32."""
    return 4 * math.prod(shape)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InversionError(
            f"{path} cannot be read ({error}). Give the folder of a diffusers pipeline, as "
            "pipe.save_pretrained(FOLDER) writes it."
        ) from error
    return dict(found)
