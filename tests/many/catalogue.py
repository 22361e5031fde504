"""A small pipeline in a folder, and a catalogue of pictures for it: what the tests here share."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pyarrow import dataset
from tiny_pipelines import WORDS, build

from inversion import Inversion, Method, invert, sample
from inversion.adapters import diffusers as adapter
from inversion.many import Job, Settings
from inversion.many.inputs import chunks, look
from inversion.many.model import inspect
from inversion.many.output import FORMAT, Output
from inversion.many.plan import laid_out, with_prompts
from inversion.many.worker import Worker

SIZES = ((24, 16), (16, 16), (16, 25))  # the last is taken as 16 x 24
COUNT = 60
POISON = "blurry"  # the text encoder of `save_pipeline` has no finite embedding of this word
BROKEN = {
    "001.png": "The file is empty.",
    "002.png": "It is of no format that Pillow knows.",
    "003.png": "It has mode RGBA; RGB, L, P without transparency are taken. Save it as RGB.",
    "004.png": "Pillow cannot decode it: image file is truncated",
    "005.png": "The inversion met values that are not finite at step 1 of ",
}


def save_pipeline(folder: Path, name: str = "sd") -> Path:
    pipe = build(name)
    if name == "sd":
        with torch.no_grad():
            pipe.text_encoder.get_input_embeddings().weight[WORDS[POISON]] = torch.nan
    pipe.save_pretrained(folder)
    return folder


def picture(i: int, size: tuple[int, int]) -> Image.Image:
    noise = torch.randn(size[1], size[0], 3, generator=torch.Generator().manual_seed(i))
    return Image.fromarray((noise * 60 + 128).clamp(0, 255).byte().numpy())


def save_catalogue(folder: Path, count: int = COUNT) -> Path:
    """`count` pictures with captions, those of `BROKEN` broken."""
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i:03}.png"
        picture(i, SIZES[i % 3]).save(path)
        path.with_suffix(".txt").write_text(POISON if i == 5 else "a red heart")
    (folder / "001.png").write_bytes(b"")
    (folder / "002.png").write_bytes(b"no picture at all")
    Image.new("RGBA", (16, 16)).save(folder / "003.png")
    (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:400])
    return folder


def write_without_ray(job: Job, batch: int = 1) -> Output:
    """What an undisturbed run writes, shard after shard in this process."""
    model, output = inspect(job.pipeline), Output(job.output)
    identity = {"format": FORMAT, **job.settings.identity, "pipeline": model.pipeline, "model": model.fingerprint()}
    found = [picture for chunk in chunks(job.input) for picture in look(chunk)]
    pictures, _ = with_prompts(found, job, {})
    output.begin(identity)
    output.add(laid_out(pictures, model, identity, 0, job.settings.shard))
    worker = Worker(str(job.input), str(job.pipeline), str(job.output), job.settings, gpu=False, threads=1, batch=batch)
    for shard in sorted(set(output.planned()["shard"].to_pylist())):
        done = worker.shard(shard)
        assert not done.failure, done.failure
    output.end()
    return output


def plain(pipe: Any, image: Image.Image, prompt: str, steps: int, method: Method) -> Inversion:
    """As one would write it without this package."""
    x0 = adapter.encode(pipe, image)
    return invert(adapter.denoiser(pipe, prompt), x0, adapter.grid(pipe, steps, like=x0), method)


def plain_edit(pipe: Any, inversion: Inversion, target: str, guidance: float) -> Image.Image:
    edited = sample(
        adapter.denoiser(pipe, target, guidance=guidance), inversion.latent, inversion.grid, source=inversion
    )
    found: Image.Image = adapter.decode(pipe, edited)[0]
    return found


def files(output: Output) -> dict[str, bytes]:
    """Every file of an output, by its name."""
    paths = (path for path in output.folder.rglob("*") if path.is_file())
    return {path.relative_to(output.folder).as_posix(): path.read_bytes() for path in paths}


def rows_of(output: Output) -> list[dict[str, Any]]:
    """All rows, read with pyarrow alone."""
    rows: list[dict[str, Any]] = dataset.dataset(output.shards, format="parquet").to_table().to_pylist()
    return rows


def settings(**changes: Any) -> Settings:
    return Settings(**{"task": "invert", "steps": 5, "shard": 8, **changes})
